"""Which word a filter prefers: pictures that have it against pictures that have not, by the filter's peaks.

The measure is the AUROC, as in INVERT (Bykov et al., *Labeling Neural Representations with Inverse Recognition*,
NeurIPS 2023), with the explainer's words in place of labels: of a picture that has the word and one that has not, the
probability that the filter's peak is higher on the first; equal peaks count half. A picture has a word with a
probability p, so that pair (i, j) counts p_i (1 - p_j):

    A = Σ_ij p_i (1 - p_j) [a_i > a_j] / Σ_ij p_i (1 - p_j),    i ≠ j

All pictures take part, not the top ones alone. The word is chosen on one half of the pictures and its A measured on the
other, both ways round; what is stated comes from pictures that played no part in choosing.

Peaks are ranked, ranks are halves and p multiples of 1/1024: every sum is exact, whatever the processor.

Shape legend: N pictures, C filters, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import ndtr

from lavise.storage.array_files import ColumnFile
from lavise.storage.array_types import BoolArray, DoubleArray, HalfArray, IntArray
from lavise.tasks.numerics.float16_bits import order_bits
from lavise.tasks.numerics.random_streams import Stream, make_rng
from lavise.tasks.words.word_presence import HYPERNYM

LEAST_IN_HALF, LEAST_IMAGES = 0.75, 3.0
"""Pictures with a word that each half, and both together, must be expected to have, for the word to be chosen."""
_CAUTION = 1.5  # standard deviations
_ALIKE = 0.5  # standard errors within which two words cannot be told apart
_SUPPORT = 0.8  # of the highest support
_SAME_WORD = 0.9  # correlation of two words over pictures from which on they are one
_HALVES_APART = 0.01  # standard error between the mean of two halves and the whole
_RANK_ENTRIES = 1 << 20
_ALIKE_ERRORS = 2.0  # design effect of labels that are wrong together


@dataclass(frozen=True)
class Ranked:
    """Peaks of some pictures as ranks.

    Attributes:
        below_NC: float64 [N, C], pictures with a lower peak, and half of those with an equal one, itself included.
    """

    below_NC: DoubleArray

    @classmethod
    def of(cls, peaks_NC: HalfArray) -> Ranked:
        return cls(stats.rankdata(order_bits(peaks_NC), axis=0, method="average") - 0.5)


@dataclass(frozen=True)
class Contrast:
    """How well each filter tells the pictures of each word from the others.

    Attributes:
        auroc: float64 [C, W]; 0.5 where no pair of pictures counts.
        error: float64 [C, W], its standard error over pictures (Hanley and McNeil, Radiology 143, 1982).
        chance: float64 [C, W], standard deviation of the AUROC if the filter knew nothing (all orders of the pictures
            equally likely; exact moments, with ties); infinite where no pair of pictures counts.
        z: float64 [C, W], distance from 0.5 in these.
    """

    auroc: DoubleArray
    error: DoubleArray
    chance: DoubleArray
    z: DoubleArray


@dataclass(frozen=True)
class Preferences:
    """The word of each filter; -1 where there is none.

    Attributes:
        word: int64 [C], column of the presence.
        auroc: float64 [C], on pictures that played no part in choosing.
        error: float64 [C], standard error of it as an estimate of the AUROC with true labels on these pictures.
        p_value: float64 [C], one-sided, that the filter does not prefer the word, on the same pictures.
        is_same: bool [C], both halves chose the same word (or one that is on the same pictures).
    """

    word: IntArray
    auroc: DoubleArray
    error: DoubleArray
    p_value: DoubleArray
    is_same: BoolArray


def split_halves(num: int, seed: int) -> BoolArray:
    """bool [N]: which pictures are in the first half."""
    first = np.zeros(num, dtype=bool)
    first[make_rng(seed, Stream.PREFERENCE_HALVES).permutation(num)[: num // 2]] = True
    return first


@dataclass(frozen=True)
class _Presence:
    """What a contrast needs of the words alone, made once for all filters.

    Attributes:
        presence_NW: float64 [N, W].
        some, itself, dispersion: float64 [W].
    """

    presence_NW: DoubleArray
    some: DoubleArray
    itself: DoubleArray
    dispersion: DoubleArray

    @classmethod
    def of(cls, presence_NW: DoubleArray) -> _Presence:
        some = presence_NW.sum(axis=0)
        itself = (presence_NW * (1 - presence_NW)).sum(axis=0)
        dispersion = (presence_NW**2).sum(axis=0) - some * some / max(len(presence_NW), 1)
        return cls(presence_NW, some, itself, dispersion)

    def contrast(self, ranked: Ranked) -> Contrast:
        num, some, itself = len(self.presence_NW), self.some, self.itself
        pairs = some * (num - some) - itself
        wins = ranked.below_NC.T @ self.presence_NW - (some * some / 2 + itself / 2)
        auroc = np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1), 0.5)
        auroc = np.clip(auroc, 0, 1)
        # Under the null wins are a linear rank statistic.
        spread = ((ranked.below_NC - num / 2) ** 2).sum(axis=0)
        deviation = np.sqrt(np.maximum(np.multiply.outer(spread, self.dispersion), 0) / max(num - 1, 1))
        chance = np.divide(deviation, pairs, out=np.full_like(deviation, np.inf), where=(pairs > 0) & (deviation > 0))
        return Contrast(auroc, estimate_error(auroc, some, num - some), chance, (auroc - 0.5) / chance)


def contrast(ranked: Ranked, presence_NW: DoubleArray) -> Contrast:
    """Every filter against every word.

    Args:
        presence_NW: float64 [N, W], probabilities that are multiples of 1/1024.
    """
    return _Presence.of(presence_NW).contrast(ranked)


def contrast_turned(
    peaks: ColumnFile, presence_NW: DoubleArray, images: BoolArray | IntArray | None = None
) -> Contrast:
    """The same with ranks of few filters in memory at a time; since all sums are exact, it makes no difference.

    Args:
        peaks: float16 [C, all pictures].
        presence_NW: of `images`.
        images: those that count; None: all.
    """
    presence, parts = _Presence.of(presence_NW), []
    step = max(_RANK_ENTRIES // max(len(presence_NW), 1), 1)
    for start in range(0, peaks.shape[0], step):
        rows = peaks.read_rows(start, min(start + step, peaks.shape[0]))
        parts.append(presence.contrast(Ranked.of((rows if images is None else rows[:, images]).T)))
    return Contrast(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])})


def estimate_error(auroc: DoubleArray, some: DoubleArray, rest: DoubleArray) -> DoubleArray:
    """Standard error of an AUROC by Hanley and McNeil (1982); the arguments broadcast."""
    first, second = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (some - 1) * (first - auroc**2) + (rest - 1) * (second - auroc**2)
    return np.asarray(np.sqrt(np.maximum(variance, 0) / np.maximum(some * rest, 1e-9)), np.float64)


@dataclass(frozen=True)
class Support:
    """What the top pictures of each filter on some pictures say for each word.

    Attributes:
        regions: float64 [C, W], how much the filter's regions are called the word.
        is_shown: bool [C, W], enough of the top pictures have it.
    """

    regions: DoubleArray
    is_shown: BoolArray


def choose_words(
    found: Contrast, in_first: DoubleArray, in_second: DoubleArray, support: Support, kinds: Sequence[str]
) -> IntArray:
    """The word that each filter prefers on a half of the pictures: int64 [C].

    The highest lower bound leads: AUROC less one and a half standard deviations of chance, so that of many rare words
    none wins by luck. Of the words that cannot be told apart from it (half of a standard error) names come before what
    they are a kind of, then those that the filter's own regions are called, then the more frequent word. Words that the
    top pictures do not show come last. -1 where no word is on enough pictures.

    Args:
        in_first, in_second: float64 [W], expected pictures of each half with the word.
        support: of the top pictures of this half.
    """
    usable = (np.minimum(in_first, in_second) >= LEAST_IN_HALF) & (in_first + in_second >= LEAST_IMAGES)
    is_shown = support.is_shown & usable
    candidates = np.where(is_shown.any(axis=1, keepdims=True), is_shown, usable)
    low = np.where(candidates, bound_below(found), -np.inf)
    if not usable.any():
        return np.full(len(low), -1, dtype=np.int64)
    best = low.argmax(axis=1)
    rows = np.arange(len(low))
    alike = low >= (low[rows, best] - _ALIKE * found.error[rows, best])[:, None]
    is_name = np.array([kind != HYPERNYM for kind in kinds])
    named = alike & is_name
    alike = np.where(named.any(axis=1)[:, None], named, alike)
    regions = np.where(alike, support.regions, -1)
    alike &= regions >= _SUPPORT * regions.max(axis=1)[:, None]
    return alike.argmax(axis=1).astype(np.int64)  # by rising row, that is by falling frequency


def bound_below(found: Contrast) -> DoubleArray:
    """What words are compared by: float64 [C, W]."""
    return found.auroc - _CAUTION * np.maximum(found.error, np.minimum(found.chance, 1))


def find_preferences(
    halves: tuple[Contrast, Contrast],
    presence_NW: DoubleArray,
    supports: tuple[Support, Support],
    kinds: Sequence[str],
    seed: int,
) -> Preferences:
    """The word of every filter, chosen on each half of the pictures and measured on the other.

    If the halves agree, the AUROC is the mean of both, weighted by the pictures that have the word. Else there are two
    candidates, each with its AUROC on the half that did not choose it; the one with the higher lower bound there is
    taken. p is the smaller of both tests, doubled.

    Args:
        halves: contrasts on the pictures of each half (`split_halves`).
        presence_NW: see `contrast`; of all pictures.
        supports: of each half's top pictures.
        kinds: of the W words.
    """
    num, num_filters = len(presence_NW), len(halves[0].auroc)
    first = split_halves(num, seed)
    expected = [presence_NW[half].sum(axis=0) for half in (first, ~first)]
    word_a, word_b = (
        choose_words(found, expected[0], expected[1], support, kinds)
        for found, support in zip(halves, supports, strict=True)
    )
    if not len(kinds) or (word_a < 0).all():
        nothing = np.zeros(num_filters)
        return Preferences(
            np.full(num_filters, -1), nothing + 0.5, nothing, nothing + 1, np.zeros(num_filters, dtype=bool)
        )
    rows = np.arange(num_filters)
    is_same = _correlate(presence_NW)[word_a, word_b] >= _SAME_WORD
    bound_a, bound_b = bound_below(halves[1])[rows, word_a], bound_below(halves[0])[rows, word_b]
    from_a = bound_a >= bound_b
    word = np.where(from_a, word_a, word_b)
    other_a, other_b = halves[1].auroc[rows, word_a], halves[0].auroc[rows, word_b]
    # Of what half a chose, half b tells, and the other way round.
    weight_a, weight_b = np.maximum(expected[1][word_a], 1e-9), np.maximum(expected[0][word_b], 1e-9)
    both = (weight_a * other_a + weight_b * other_b) / (weight_a + weight_b)
    auroc = np.where(is_same, both, np.where(from_a, other_a, other_b))
    # Each p is valid by itself, but where the halves agree by luck both are small: they are not combined as if they
    # were independent.
    z_a, z_b = halves[1].z[rows, word_a], halves[0].z[rows, word_b]
    z = np.where(is_same, np.maximum(z_a, z_b), np.where(from_a, z_a, z_b))
    total = presence_NW.sum(axis=0)[word]
    sampling = np.where(is_same, _HALVES_APART, estimate_error(auroc, total, num - total))
    error = np.sqrt(sampling**2 + estimate_label_error(presence_NW)[word] ** 2)
    return Preferences(word, auroc, error, np.minimum(2 * ndtr(-z), 1), is_same)


def estimate_label_error(presence_NW: DoubleArray) -> DoubleArray:
    """Standard error of an AUROC because labels are probabilities: float64 [W].

    If picture i has the word with probability p_i, the AUROC varies by (F(a_i) - A) / n, F the share of pictures
    without it that are below; F(a_i) is about uniform, with variance 1/12. Labels are wrong together rather than one by
    one, which doubles the variance here.
    """
    some = np.maximum(presence_NW.sum(axis=0), 1e-9)
    unsure = (presence_NW * (1 - presence_NW)).sum(axis=0)
    return np.asarray(np.sqrt(_ALIKE_ERRORS * unsure / 12) / some, np.float64)


def _correlate(presence_NW: DoubleArray) -> DoubleArray:
    """Pearson's correlation of all words over the pictures, rounded so that no bound on it hangs on the last bits."""
    centred = presence_NW - presence_NW.mean(axis=0)
    lengths = np.sqrt((centred**2).sum(axis=0))
    unit = centred / np.where(lengths > 0, lengths, 1)
    return np.asarray(np.round(unit.T @ unit, 9), np.float64)
