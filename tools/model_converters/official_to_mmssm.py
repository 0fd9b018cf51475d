#!/usr/bin/env python
"""Convert an official checkpoint: official_to_mmssm.py OFFICIAL.pth CONVERTED.pth."""

try:
    from mmssm.openmmlab.cli import convert
except ModuleNotFoundError as error:
    raise SystemExit(
        f'tools/model_converters/official_to_mmssm.py: the module {error.name} is not '
        'installed; run pip install -e . in the folder above tools/'
    ) from None

if __name__ == '__main__':
    convert()
