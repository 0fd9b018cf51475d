"""Whole numbers that say how work is divided.

Triton has both; its functions take ten times as long, at every launch of a kernel.
"""


def covering(size: int, part: int) -> int:
    """How many parts cover a size."""
    return -(-size // part)


def power_of_2(size: int) -> int:
    """The least power of two that is not below a size from 1."""
    return 1 << (size - 1).bit_length()
