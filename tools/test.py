#!/usr/bin/env python
"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT [options]."""

try:
    from mmssm.openmmlab.cli import test
except ModuleNotFoundError as error:
    raise SystemExit(
        f'tools/test.py: the module {error.name} is not installed; run '
        "pip install -e '.[onedl]' in the folder above tools/"
    ) from None

if __name__ == '__main__':
    test()
