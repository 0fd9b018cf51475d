#!/usr/bin/env python
"""Parameters and multiply-accumulates: python tools/analysis/get_flops.py CONFIG."""

try:
    from mmssm.openmmlab.cli import flops
except ModuleNotFoundError as error:
    raise SystemExit(
        f'tools/analysis/get_flops.py: the module {error.name} is not installed; run '
        'pip install -e . in the folder above tools/'
    ) from None

if __name__ == '__main__':
    flops()
