"""`python -m mmssm.doctor`."""

import sys

from mmssm.doctor import main

sys.exit(main())
