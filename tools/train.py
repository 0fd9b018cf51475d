#!/usr/bin/env python
"""Train a detector or a segmenter: python tools/train.py CONFIG [options]."""

try:
    from mmssm.openmmlab.cli import train
except ModuleNotFoundError as error:
    raise SystemExit(
        f'tools/train.py: the module {error.name} is not installed; run '
        "pip install -e '.[onedl]' in the folder above tools/"
    ) from None

if __name__ == '__main__':
    train()
