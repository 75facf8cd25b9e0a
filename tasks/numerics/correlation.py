"""Pearson's correlation from sums.

A constant series has none, and rounding must not give it one. Where the extremes of a series are known, it is constant
if these are equal; where only its sums are known, if its spread is rounding.
"""

from __future__ import annotations

import numpy as np

from lavise.storage.array_types import DoubleArray

_ROUNDING = 1e-12  # of a perfect correlation
_CONSTANT = 1e-13  # of the squares: a spread below that is rounding


def correlate(
    total: float | DoubleArray, x: DoubleArray, xx: DoubleArray, y: DoubleArray, yy: DoubleArray, xy: DoubleArray
) -> DoubleArray:
    """Pearson's r from sums over `total` places: of x, x², y, y² and x·y; 0 where x or y is constant."""
    spread_x, spread_y = xx - x * x / total, yy - y * y / total
    varied = (spread_x > _CONSTANT * xx) & (spread_y > _CONSTANT * yy)
    product = np.where(varied, spread_x * spread_y, 1)
    return np.where(varied, np.clip((xy - x * y / total) / np.sqrt(product), -1, 1), 0)


def correlate_spreads(covariance: DoubleArray, spread_x: DoubleArray, spread_y: DoubleArray) -> DoubleArray:
    """Pearson's r from a covariance and both spreads in the same scale; a spread of 0 is that of a constant series.

    Two constant series say the same, which is nothing: 1; one with one that varies: 0.
    """
    scale = spread_x * spread_y
    both_constant = (spread_x == 0) & (spread_y == 0)
    found = np.divide(covariance, scale, out=np.zeros(np.broadcast(covariance, scale).shape), where=scale > 0)
    return np.where(both_constant | (found > 1 - _ROUNDING), 1.0, np.clip(found, -1, 1))
