"""Average precision of maps against masks, ties included, and corrected for chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lavise.storage.array_types import BitArray, BoolArray, DoubleArray, IntArray

_DENSE_ENTRIES = 1 << 16
_PICTURES = 4096  # counted at a time


class PrecisionSteps:
    """The steps at which recall grows, counted once: average precision under any weighting of the pictures follows.

    Σ (R_n - R_{n-1}) · P_n over the distinct scores from high to low, as scikit-learn's `average_precision_score`:
    equal scores are one step. Only scores that a marked cell has are steps at which recall grows, so cells are counted
    per such step and picture; each weighting is then a weighted sum of whole numbers.
    """

    def __init__(self, bits_NP: BitArray, positive_image: IntArray, positive_MP: BoolArray) -> None:
        """
        Args:
            bits_NP: scores as by `order_bits`.
            positive_image: pictures with marked cells, int64 [M]; others have none.
            positive_MP: which of their cells are marked.
        """
        num = len(bits_NP)
        which, cell = np.nonzero(positive_MP)
        owner = positive_image[which]
        scores = bits_NP[owner, cell]
        levels = np.unique(scores)
        self._steps = steps = len(levels)
        # Step of every possible score: 0 from the highest level up, `steps` below the lowest.
        ends = np.concatenate([[0], levels.astype(np.int64), [1 << 16]])
        step_of = np.repeat(np.arange(steps, -1, -1, dtype=np.int32), np.diff(ends))
        self._true = _count_by_step(step_of[scores], owner, steps, num)
        found = []
        for start in range(0, num if steps else 0, _PICTURES):
            step_nP = step_of[bits_NP[start : start + _PICTURES]]
            image, place = np.nonzero(step_nP < steps)
            found.append(_count_by_step(step_nP[image, place], image, steps, len(step_nP)))
        self._found = found

    def weigh(self, weights_NB: DoubleArray) -> DoubleArray:
        """Average precision under each weighting: float64 [B]; NaN where no marked cell has a weight."""
        if not self._steps:
            return np.full(weights_NB.shape[1], np.nan)
        true = np.cumsum(self._true @ weights_NB, axis=0)
        found = np.zeros_like(true)
        for number, counts in enumerate(self._found):
            found += counts @ weights_NB[number * _PICTURES : (number + 1) * _PICTURES]
        found = np.cumsum(found, axis=0)
        gained = np.diff(true, axis=0, prepend=0)
        total = true[-1]
        precision: DoubleArray = (gained * true / np.where(found > 0, found, 1)).sum(axis=0)
        return np.where(total > 0, precision / np.where(total > 0, total, 1), np.nan)


def average_precision(
    bits_NP: BitArray, positive_image: IntArray, positive_MP: BoolArray, weights_NB: DoubleArray
) -> DoubleArray:
    """Average precision of scores for marked cells under weightings of the pictures: float64 [B] (`PrecisionSteps`)."""
    return PrecisionSteps(bits_NP, positive_image, positive_MP).weigh(weights_NB)


def _count_by_step(step: npt.NDArray[np.integer[Any]], image: IntArray, steps: int, num: int) -> Any:
    """Number of cells of each picture in each step: float64 [steps, num], dense or sparse."""
    if steps * num <= max(_DENSE_ENTRIES, 2 * len(step)):
        counts = np.bincount(step.astype(np.int64) * num + image, minlength=steps * num).reshape(steps, num)
        return counts.astype(np.float64)
    return sparse.csr_matrix((np.ones(len(step)), (step, image)), shape=(steps, num))


def sum_tied_shares(bits: BitArray) -> float:
    """Σ over cells of (1 / rank), where equal scores share the last of their ranks: H_n if there are no equal ones."""
    counts = np.bincount(bits.ravel(), minlength=1 << 16)[::-1]
    counts = counts[counts > 0]
    return float((counts / np.cumsum(counts)).sum())


def expect_precision(num_marked: DoubleArray, total: int, tied_shares: DoubleArray) -> DoubleArray:
    """Mean average precision over all ways of dealing marks to `total` cells of given scores; exact, equal scores too.

    A marked cell has precision (1 + other marked cells of its rank or above) / rank; each other cell is marked with
    probability (n - 1) / (total - 1). Without equal scores this is Bestgen's formula (2015).

    Args:
        num_marked: n, at least 1.
        tied_shares: of the scores, see `sum_tied_shares`.
    """
    others = (num_marked - 1) / max(total - 1, 1)
    return (others * (total - tied_shares) + tied_shares) / total


def correct_for_chance(precision: DoubleArray, chance: DoubleArray) -> DoubleArray:
    """(precision - chance) / (1 - chance); 0 where everything is marked, which no order can tell."""
    room = 1 - chance
    return np.where(room > 1e-9, (precision - chance) / np.where(room > 1e-9, room, 1), precision * 0)
