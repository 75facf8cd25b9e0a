"""Pearson's correlation of a map with a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lavise.storage.array_types import DoubleArray

if TYPE_CHECKING:
    pass

_CONSTANT = 1e-13  # of the squares: a spread below that is rounding


def correlate(
    total: float, x: DoubleArray, xx: DoubleArray, y: DoubleArray, yy: DoubleArray, xy: DoubleArray
) -> DoubleArray:
    """Pearson's r from sums over `total` places: of x, x², y, y² and x·y; 0 where x or y is constant."""
    spread_x, spread_y = xx - x * x / total, yy - y * y / total
    varied = (spread_x > _CONSTANT * xx) & (spread_y > _CONSTANT * yy)
    product = np.where(varied, spread_x * spread_y, 1)
    return np.where(varied, np.clip((xy - x * y / total) / np.sqrt(product), -1, 1), 0)
