"""Without what other packages print for their own developers."""

import logging
import warnings
from functools import wraps

import mmengine.logging

ALREADY = '_mmssm_quiet'


def use_quiet_imports() -> None:
    """Drop messages of the level DEBUG that have no logger, in this process.

    mmengine's `print_log` prints those like all others; a fork of mmdet tells in this
    way, whenever it is imported, which data of others it does not find.  It also warns
    of a metric that nobody asked for.
    """
    warnings.filterwarnings('ignore', message='faster_coco_eval is not installed')
    plain = mmengine.logging.print_log
    if hasattr(plain, ALREADY):
        return

    @wraps(plain)
    def print_log(
        msg: object, logger: object = None, level: int = logging.INFO
    ) -> None:
        if logger is not None or level > logging.DEBUG:
            plain(msg, logger, level)

    setattr(print_log, ALREADY, True)
    mmengine.logging.print_log = print_log
