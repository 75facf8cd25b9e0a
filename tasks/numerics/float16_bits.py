"""The bit patterns of float16 values in an order that is theirs: counting them is sorting them."""

from __future__ import annotations

import numpy as np

from lavise.storage.array_types import BitArray, HalfArray

_SIGN = np.uint16(0x8000)


def order_bits(values: HalfArray) -> BitArray:
    """Bit patterns of float16 as integers that sort like the values; -0 counts as 0, negative ones are flipped."""
    # Adding 0 makes -0 the same value as 0, which it is.
    bits = np.ascontiguousarray(values + np.float16(0)).view(np.uint16)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def restore_bits(ordered: BitArray) -> HalfArray:
    """The inverse of `order_bits`; -0 becomes 0."""
    ordered = np.ascontiguousarray(ordered, dtype=np.uint16)
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
    with np.errstate(invalid="ignore"):  # the patterns of NaN
        return bits.astype(np.uint16).view(np.float16) + np.float16(0)
