"""What is said of the filters of a layer, whichever rule has found it: the rows of both tables before they are written.

Shape legend: S rows (filter, word), C filters, P pairs (filter, picture), s words of a pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.words.word_images import ToldWords


@dataclass(frozen=True)
class WordRows:
    """Words of filters, sorted by filter, best first.

    Attributes:
        filter: int64 [S], u; word: int64 [S], row of the vocabulary.
        score: float64 [S]; see the rule.
        votes: int64 [S], top pictures of u that have the word; share, share_low, share_high: of all its top pictures.
        weight: float64 [S], share of the peaks of the top pictures that have it.
        background: float64 [S], how often a picture has it anyway.
        p_value, q_value: float64 [S].
        confidence: float64 [S]; significant: bool [S], the word is one of the filter's.
        kind: of each word: category, class, hypernym; empty where it is not told.
        auroc, auroc_low, auroc_high: float64 [S] with their 95 % interval; NaN where they are not measured.
    """

    filter: IntArray
    word: IntArray
    score: DoubleArray
    votes: IntArray
    share: DoubleArray
    share_low: DoubleArray
    share_high: DoubleArray
    weight: DoubleArray
    background: DoubleArray
    p_value: DoubleArray
    q_value: DoubleArray
    confidence: DoubleArray
    significant: BoolArray
    kind: Sequence[str]
    auroc: DoubleArray
    auroc_low: DoubleArray
    auroc_high: DoubleArray

    def rows_of(self, num_filters: int) -> list[slice]:
        """Rows of each filter."""
        first = np.searchsorted(self.filter, np.arange(num_filters + 1))
        return [slice(first[u], first[u + 1]) for u in range(num_filters)]


@dataclass(frozen=True)
class FoundWords:
    """All that a rule has found.

    Attributes:
        rows: of all filters.
        reasons: of each filter, why it is unexplained; empty where it is explained.
        guesses: of each unexplained filter the best word all the same, row of the vocabulary; -1 where there is none
            or where it is not needed.
        calibration: what the confidence rests on, for calibration.json.
        facts: numbers for metrics, and `advice`, what would help where little is explained.
        told: of whole pictures, where the rule asks about them: words with an AUROC are among these.
    """

    rows: WordRows
    reasons: Sequence[str]
    guesses: IntArray
    calibration: Mapping[str, Any]
    facts: Mapping[str, Any]
    told: ToldWords | None = None


def find_shortage(num_qualified: int, min_images: int, invalid: str) -> str:
    """Why nothing can be said of a filter, whatever the rule; empty otherwise.

    Args:
        num_qualified: pictures above its threshold.
        invalid: why the explainer cannot be believed.
    """
    if num_qualified == 0:
        return "never above its threshold"
    if num_qualified < min_images:
        return f"only {num_qualified} pictures above the threshold (explain.min_images is {min_images})"
    return invalid


def weigh_peaks(pairs: Pairs) -> DoubleArray:
    """Share of each pair in the peaks of its filter's top pictures: float64 [P]."""
    above_P = np.clip(pairs.peak.astype(np.float64), 0, None)  # a signed layer can have top pictures below 0
    num_filters = int(pairs.filter.max()) + 1 if len(pairs) else 0
    sums = np.bincount(pairs.filter, above_P, minlength=num_filters)
    counts = np.bincount(pairs.filter, minlength=num_filters)
    return np.where(sums[pairs.filter] > 0, above_P / np.maximum(sums[pairs.filter], 1e-300), 1 / counts[pairs.filter])
