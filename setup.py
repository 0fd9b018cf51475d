"""Package mmssm."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
COMMANDS = (
    'train',
    'test',
    'doctor',
    'check-data',
    'flops',
    'convert',
    'download',
    'predict',
    'export',
    'analyse',
    'report',
    'look',
    'evaluate',
)
MIM = ('configs', 'tools', 'model-index.yml')


def version() -> str:
    """`__version__` of mmssm/__init__.py, read without importing it."""
    text = (ROOT / 'mmssm/__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE).group(1)


def requirements(name: str) -> list[str]:
    """The requirements of requirements/NAME.txt."""
    lines = (ROOT / f'requirements/{name}.txt').read_text(encoding='utf-8').split('\n')
    return [line for line in lines if line and not line.startswith('#')]


def link_mim() -> None:
    """Link mmssm/.mim/{configs,tools,model-index.yml} to their originals.

    An editable install uses the links; building a wheel copies what they point to.
    """
    folder = ROOT / 'mmssm/.mim'
    folder.mkdir(exist_ok=True)
    for name in MIM:
        if not (ROOT / name).exists():
            raise FileNotFoundError(f'{ROOT / name} is missing; the package needs it')
        link, original = folder / name, os.path.join('..', '..', name)
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        fresh = folder / f'.{name}.{os.getpid()}'
        fresh.symlink_to(original)
        os.replace(fresh, link)


link_mim()
setup(
    name='mmssm',
    version=version(),
    description='State-space vision backbones, with PyTorch alone or OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=('mmssm', 'mmssm.*')),
    package_data={'mmssm': ['.mim/*', '.mim/**/*']},
    exclude_package_data={'': ['*.py[cod]']},
    install_requires=['torch>=2.6', 'numpy'],
    extras_require={
        **{
            name: requirements(name)
            for name in ('onedl', 'openmmlab', 'dev', 'pretrain')
        },
        'download': ['gdown'],  # weights that are released on Google Drive
        'safetensors': ['safetensors'],  # weights in this format
        'onnx': ['onnx', 'onnxscript>=0.5', 'onnxruntime'],  # files for other runtimes
        'look': ['matplotlib'],  # pictures of models; OpenMMLab brings it too
    },
    entry_points={
        'console_scripts': [
            f'mmssm-{name} = mmssm.openmmlab.cli:{name.replace("-", "_")}'
            for name in COMMANDS
        ]
    },
    classifiers=[
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
