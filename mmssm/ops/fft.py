"""Lengths that suit an FFT, and what one costs."""

import math
from functools import lru_cache


@lru_cache(maxsize=256)
def fast_length(least: int) -> int:
    """The smallest even number from `least` on with no prime factor above 7."""
    length = least + least % 2
    while True:
        rest = length
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


def fft_macs(count: int) -> int:
    """Multiply-accumulates of one transform of `count` numbers, 5 n log2(n).

    That is the usual count of operations of a complex FFT, and an upper bound for a
    real one.
    """
    return round(5 * count * math.log2(count))
