"""What holds for all tests, and has to before they import anything.

Where there is no GPU, Triton's kernels run by its interpreter; Triton looks at the
variable when it is imported, which any test may cause.  Tests in several processes
(`pytest -n`) share the cores: each process, and what it starts, computes in one thread.
"""

import contextlib
import importlib.util
import os
import pathlib
import sys

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    torch.set_num_threads(1)
# where the set-up puts timm, which processes that the tests start do not need
sys.path.append(str(pathlib.Path(sys.prefix, 'hosts')))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: a process for each core that may be used, 4 at most.

    The tests of a file stay together, so that more would wait for the longest file.
    """
    return min(len(os.sched_getaffinity(0)), 4)


def _declare_torchvision_ops() -> list[torch.library.Library]:
    """The signatures of two operators that torchvision registers gradients for.

    Its wheel is built for CUDA; where its library does not load, `import torchvision`,
    and with it timm, stops at the first of them.  None of our tests calls them.
    """
    found = importlib.util.find_spec('torchvision')
    if found is None or torch.cuda.is_available():
        return []
    with contextlib.suppress(OSError):
        for file in pathlib.Path(found.origin).parent.glob('_C*.so'):
            torch.ops.load_library(file)
    names = ('nms', 'qnms')
    absent = [n for n in names if not hasattr(torch.ops.torchvision, n)]
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in absent:
        library.define(
            f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
        )
    return [library]


_LIBRARIES = _declare_torchvision_ops()  # what a library declares lives as long as it
