"""Mistakes of the user and missing packages, told apart from bugs."""

import sys
from typing import NoReturn


class UserError(Exception):
    """What the user can put right; the commands show its text without a traceback."""

    status = 1
    everybody = False  # whether every process of a run says it, not the first alone


class MissingPackage(UserError):
    """A package that is not installed; the text says how to install it."""

    status = 2

    def __init__(self, module: str) -> None:
        super().__init__(
            f"the module {module} is not installed; pip install '{INSTALLS[module]}' "
            'installs all that is needed'
        )


def stop_without(command: str, error: ModuleNotFoundError) -> NoReturn:
    """Exit with a line about the package that is missing, where it is one of these.

    Raises the error again for any other.
    """
    module = (error.name or '').partition('.')[0]
    if module not in INSTALLS:
        raise error
    print(f'{command}: {MissingPackage(module)}', file=sys.stderr)
    sys.exit(MissingPackage.status)


# module -> what brings it
INSTALLS = {
    **dict.fromkeys(('torch', 'numpy'), 'mmssm'),
    **dict.fromkeys(
        ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'cv2', 'pycocotools', 'PIL'),
        'mmssm[onedl]',
    ),
    **dict.fromkeys(('mmpretrain', 'torchvision'), 'mmssm[pretrain]'),
    'gdown': 'mmssm[download]',
    'safetensors': 'mmssm[safetensors]',
    **dict.fromkeys(('onnx', 'onnxscript', 'onnxruntime'), 'mmssm[onnx]'),
    'matplotlib': 'mmssm[look]',
}
