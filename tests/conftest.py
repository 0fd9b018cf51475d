"""Where there is no GPU, Triton's kernels run by its interpreter.

Triton looks at the variable when it is imported, which any test may cause.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')
