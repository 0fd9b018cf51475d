#!/usr/bin/env python
"""Convert an official checkpoint: official_to_mmssm.py OFFICIAL.pth CONVERTED.pth."""

import sys

from mmssm.openmmlab.commands.convert import main

if __name__ == '__main__':
    sys.exit(main())
