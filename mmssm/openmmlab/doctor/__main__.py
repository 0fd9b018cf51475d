"""`python -m mmssm.openmmlab.doctor`."""

import sys

from mmssm.openmmlab.doctor import main

sys.exit(main())
