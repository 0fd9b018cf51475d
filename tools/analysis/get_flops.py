#!/usr/bin/env python
"""Parameters and multiply-accumulates: python tools/analysis/get_flops.py CONFIG."""

import sys

from mmssm.openmmlab.commands.flops import main, sizes

__all__ = ['main', 'sizes']

if __name__ == '__main__':
    sys.exit(main())
