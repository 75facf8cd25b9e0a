"""Rank tests of two samples for many filters and groups at once, ties included."""

from __future__ import annotations

from functools import lru_cache
from math import comb

import numpy as np
import numpy.typing as npt
from scipy import special

from lavise.storage.array_types import BitArray, DoubleArray, IntArray

_EXACT_UP_TO = 8  # pictures of the smaller group; as scipy


class RankedRows:
    """Rows of values, sorted once: any group of them is then compared with the rest at the cost of that group alone."""

    def __init__(self, bits_CN: BitArray) -> None:
        """`bits_CN`: values as by `order_bits`; at most 65,536 rows."""
        self.num = bits_CN.shape[1]
        self._row_C1 = np.arange(len(bits_CN), dtype=np.uint32)[:, None] << np.uint32(16)
        self._keys = self._sort(bits_CN)
        distinct, counts = np.unique(self._keys, return_counts=True)
        self._ties_C = self._sum_by_row(distinct, counts**3 - counts)

    def compare(self, taken_CM: BitArray, given_CM: BitArray) -> tuple[DoubleArray, DoubleArray]:
        """AUROC of a group's values against the other values of the row, and p of the one-sided Mann-Whitney test.

        As `scipy.stats.mannwhitneyu(alternative="greater")` of each row: exact where the group or the rest has at most
        8 and the row has no equal values, else the normal approximation with corrections for ties and continuity.
        Where all values are equal p is 1.

        Args:
            taken_CM: values of the group in the rows, some but not all; they are no part of the rest.
            given_CM: values that the group is compared with instead; may be the same.

        Returns:
            float64 [C] each.
        """
        inside, outside = taken_CM.shape[1], self.num - taken_CM.shape[1]
        taken, given = self._sort(taken_CM), self._sort(given_CM)
        below = _count_below_twice(self._keys, given) - _count_below_twice(taken, given)
        # Counts include all of the rows above.
        rows = np.arange(len(taken_CM))
        wins = (below.reshape(given_CM.shape).sum(axis=1) - 2 * rows * outside * inside) / 2
        touched, place = np.unique(np.concatenate([taken, given]), return_inverse=True)
        moved = np.bincount(place, np.repeat([-1, 1], len(taken)), minlength=len(touched)).astype(np.int64)
        before = np.searchsorted(self._keys, touched, "right") - np.searchsorted(self._keys, touched, "left")
        after = before + moved
        ties = self._ties_C + self._sum_by_row(touched, (after**3 - after) - (before**3 - before))
        variance = inside * outside / 12 * (self.num + 1 - ties / (self.num * (self.num - 1)))
        spread = np.sqrt(np.where(variance > 1e-9, variance, 1))
        p_value = np.where(variance > 1e-9, special.ndtr(-(wins - inside * outside / 2 - 0.5) / spread), 1.0)
        if min(inside, outside) <= _EXACT_UP_TO:
            exact = ties == 0
            p_value[exact] = _tail_of_wins(min(inside, outside), max(inside, outside))[wins[exact].astype(np.int64)]
        return wins / (inside * outside), p_value

    def _sort(self, bits_CM: BitArray) -> npt.NDArray[np.uint32]:
        """Row and value in one number each, rising; one row after the other."""
        ordered = np.sort(np.ascontiguousarray(bits_CM), axis=1, kind="stable")  # by radix
        return (ordered.astype(np.uint32) | self._row_C1).ravel()

    def _sum_by_row(self, keys: npt.NDArray[np.uint32], values: IntArray) -> IntArray:
        """Sums of whole numbers, exact: int64 [C]."""
        totals = np.concatenate([[0], np.cumsum(values)])
        ends = np.searchsorted(keys >> np.uint32(16), np.arange(len(self._row_C1) + 1, dtype=np.uint32))
        return np.diff(totals[ends])


def _count_below_twice(ordered: npt.NDArray[np.uint32], wanted: npt.NDArray[np.uint32]) -> IntArray:
    """Twice the number of keys below each wanted one, equal ones as half."""
    return np.searchsorted(ordered, wanted, "left") + np.searchsorted(ordered, wanted, "right")


@lru_cache(maxsize=4 * _EXACT_UP_TO)
def _tail_of_wins(few: int, many: int) -> DoubleArray:
    """P(U >= u) for u in 0..few·many, all orders equally likely; exact, in whole numbers up to the last division.

    The number of orders with U = u is a coefficient of the Gaussian binomial, Π over i of (1 - q^(many+i)) / (1 - q^i).
    """
    counts = np.zeros(few * many + 1, dtype=object)
    counts[0] = 1
    for i in range(1, few + 1):
        if many + i < len(counts):
            counts[many + i :] = counts[many + i :] - counts[: -many - i]
        for rest in range(i):
            counts[rest::i] = np.add.accumulate(counts[rest::i])
    tail = np.add.accumulate(counts[::-1])[::-1]
    return (tail / comb(few + many, few)).astype(np.float64)
