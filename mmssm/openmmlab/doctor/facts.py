"""What is installed here and what works, found without trusting any of it.

Every package is imported in a process of its own, so that one that crashes, hangs or
prints a page of warnings becomes a line of the report.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT = 180
MARK = '<<doctor>>'
# Each sets `result`.  The names say what is probed, not always what is imported.
PROBES = {
    'numpy': 'import numpy; result = {"version": numpy.__version__}',
    'torch': """
import torch
result = {
    'version': torch.__version__,
    'cuda': torch.version.cuda,
    'threads': torch.get_num_threads(),
    'gpus': [],
}
try:
    torch.zeros(1).numpy()
except RuntimeError as error:
    result['numpy_bridge'] = str(error)
for index in range(torch.cuda.device_count()):
    properties = torch.cuda.get_device_properties(index)
    gpu = {
        'name': properties.name,
        'gigabytes': round(properties.total_memory / 1e9, 1),
        'capability': f'{properties.major}.{properties.minor}',
        'bfloat16': torch.cuda.is_bf16_supported(),
        'error': None,
    }
    try:
        torch.ones(8, device=f'cuda:{index}').sum().item()
    except RuntimeError as error:
        gpu['error'] = str(error).split(chr(10))[0]
    result['gpus'].append(gpu)
""",
    'cv2': 'import cv2; result = {"version": cv2.__version__}',
    'mmengine': """
import mmengine, mmengine.runner
result = {'version': mmengine.__version__}
""",
    'mmcv': 'import mmcv; result = {"version": mmcv.__version__}',
    'mmcv.ops': """
import torch
from mmcv.ops import get_compiling_cuda_version, nms
result = {'cuda': get_compiling_cuda_version()}
boxes = torch.tensor([[0., 0., 8., 8.], [0., 0., 8., 7.], [9., 9., 12., 12.]])
kept = nms(boxes, torch.tensor([.9, .8, .7]), .5)[1]
assert kept.tolist() == [0, 2], f'nms keeps boxes {kept.tolist()} instead of [0, 2]'
""",
    'mmdet': """
import mmdet, mmdet.models, mmdet.datasets, mmdet.evaluation
result = {'version': mmdet.__version__}
""",
    'mmseg': """
import mmseg, mmseg.models, mmseg.datasets, mmseg.evaluation
result = {'version': mmseg.__version__}
""",
    'pycocotools': 'import pycocotools.mask; result = {}',
    'pkg_resources': 'import pkg_resources; result = {}',
    'torchvision': 'import torchvision; result = {"version": torchvision.__version__}',
    'triton': 'import triton; result = {"version": triton.__version__}',
    'mmssm': """
from pathlib import Path
import mmssm
mim = Path(mmssm.__file__).parent / '.mim'
names = ('configs', 'tools', 'model-index.yml')
result = {
    'version': mmssm.__version__,
    'missing': [name for name in names if not (mim / name).exists()],
}
""",
    'backends': """
import mmssm.ops
from mmssm.ops.dispatch import registered
result = {
    op: [[candidate.name, candidate.requires()] for candidate in candidates]
    for op, candidates in registered().items()
}
""",
}


class Probe(NamedTuple):
    """What came of one probe: its result, or the error; and what it said besides."""

    result: Mapping[str, Any]
    error: str | None = None
    messages: str = ''

    def is_missing(self, module: str) -> bool:
        """The module itself is not there, rather than broken."""
        return self.error == f"ModuleNotFoundError: No module named '{module}'"


@dataclass(frozen=True)
class Facts:
    """The material of the report."""

    python: str
    executable: str
    system: str
    cpus: int
    nvidia_driver: bool
    installed: Mapping[str, str]  # distribution, in lower case -> version
    compilers: Mapping[str, str]  # command -> the first line of its --version
    probes: Mapping[str, Probe]

    def version(self, name: str) -> tuple[int, ...]:
        """(major, minor) of an installed distribution; (0, 0) when it is not."""
        found = re.match(r'(\d+)\.(\d+)', self.installed.get(name, ''))
        return tuple(map(int, found.groups())) if found else (0, 0)

    @property
    def gpus(self) -> list[Mapping[str, Any]]:
        """The CUDA devices that torch sees."""
        return self.probes['torch'].result.get('gpus', [])


def run_probe(code: str) -> Probe:
    """Run one probe in its own process."""
    wrapped = f'import json\n{code}\nprint("{MARK}" + json.dumps(result))'
    try:
        done = subprocess.run(
            [sys.executable, '-c', wrapped],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return Probe({}, f'no answer after {TIMEOUT} s')
    answer = done.stdout.rpartition(MARK)[2].strip() if MARK in done.stdout else ''
    if answer and done.returncode == 0:
        return Probe(json.loads(answer), None, done.stderr)
    lines = [line for line in done.stderr.split('\n') if line.strip()]
    if done.returncode < 0:
        lines.append(f'the process ended by signal {-done.returncode}')
    return Probe({}, lines[-1] if lines else f'exit {done.returncode}', done.stderr)


def compiler_versions() -> dict[str, str]:
    """The compilers on the PATH."""
    found = {}
    for name in ('g++', 'clang++', 'nvcc'):
        path = shutil.which(name)
        if path:
            shown = subprocess.run([path, '--version'], capture_output=True, text=True)
            lines = shown.stdout.strip().split('\n')
            found[name] = lines[3 if name == 'nvcc' and len(lines) > 3 else 0]
    return found


def gather(probe: Callable[[str], Probe] = run_probe) -> Facts:
    """Look at everything; takes several seconds."""
    installed = {
        re.sub(r'[-_.]+', '-', found.metadata['Name']).lower(): found.version
        for found in distributions()
        if found.metadata['Name']
    }
    cpus = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(max_workers=min(4, cpus)) as pool:
        probes = dict(zip(PROBES, pool.map(probe, PROBES.values()), strict=True))
    return Facts(
        python=platform.python_version(),
        executable=sys.executable,
        system=platform.platform(),
        cpus=cpus,
        nvidia_driver=Path('/dev/nvidiactl').exists(),
        installed=installed,
        compilers=compiler_versions(),
        probes=probes,
    )
