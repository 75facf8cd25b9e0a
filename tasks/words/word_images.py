"""Which pictures carry the word of a filter, and which speak against it.

For it: top pictures that have the word. Against it: top pictures that have it not, and pictures that have it while the
filter stays below its threshold. Whether a picture has a word is what the explainer says, not a label: with the ranking
by preference of whole pictures (tasks.words.word_presence), else of the filter's own regions, which there are on top
pictures only.

Shape legend: N pictures, C filters, W words, P pairs (filter, top picture), s words of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, HalfArray, IntArray
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.words.named_images import HAS_WORD

MOST_SILENT = 12
"""Pictures of a filter that have its word, and on which it stays below its threshold, which are kept."""

_PEAK_ENTRIES = 1 << 22


@dataclass(frozen=True)
class ToldWords:
    """What the explainer says of whole pictures.

    Attributes:
        probability_NW: float64 [N, W], that a picture has a word.
        row: int64 [W], of each word, in the vocabulary.
    """

    probability_NW: DoubleArray
    row: IntArray


@dataclass(frozen=True)
class ImagesOfWord:
    """The pictures for and against the word of a filter.

    Attributes:
        has_word: of each top picture, in their order.
        num_with_word: pictures of all N that have the word, of which the filter is above its threshold on num_above;
            None where whole pictures were not asked about.
        silent: positions of those that it is not above its threshold on, the lowest peaks first; at most MOST_SILENT.
        silent_peaks: its peaks there.
    """

    has_word: Sequence[bool] = ()
    num_with_word: int | None = None
    num_above: int | None = None
    silent: Sequence[int] = ()
    silent_peaks: Sequence[float] = ()


def find_word_images(
    store: ActivationStore,
    thresholds_C: FloatArray,
    pairs: Pairs,
    words_Ps: IntArray,
    word_C: IntArray,
    told: ToldWords | None,
    of_whole_C: BoolArray,
) -> list[ImagesOfWord]:
    """The pictures of every filter's word.

    Args:
        words_Ps: of the pairs, rows of the vocabulary.
        word_C: row of each filter's word; -1 where it has none.
        told: None where whole pictures were not asked about.
        of_whole_C: filters whose word is told of whole pictures; the others' words are told of their regions.
    """
    first = np.searchsorted(pairs.filter, np.arange(len(word_C) + 1))
    found = [ImagesOfWord()] * len(word_C)
    for unit in np.flatnonzero((word_C >= 0) & ~of_whole_C).tolist():
        own = slice(first[unit], first[unit + 1])
        found[unit] = ImagesOfWord((words_Ps[own] == word_C[unit]).any(axis=1).tolist())
    chosen = np.flatnonzero((word_C >= 0) & of_whole_C)
    if told is None or not len(chosen):
        return found
    column_of = {int(row): column for column, row in enumerate(told.row)}
    step = max(_PEAK_ENTRIES // max(store.shape[0], 1), 1)
    with store.turn_peaks() as turned:
        for start in range(0, len(word_C), step):
            stop = min(start + step, len(word_C))
            peaks = turned.read_rows(start, stop)
            for unit in chosen[(start <= chosen) & (chosen < stop)].tolist():
                probability_N = told.probability_NW[:, column_of[int(word_C[unit])]]
                top = pairs.image[first[unit] : first[unit + 1]]
                found[unit] = _look_at_images(probability_N, peaks[unit - start], float(thresholds_C[unit]), top)
    return found


def _look_at_images(probability_N: DoubleArray, peak_N: HalfArray, threshold: float, top: IntArray) -> ImagesOfWord:
    has_word = probability_N >= HAS_WORD
    is_above = peak_N.astype(np.float32) > np.float32(threshold)
    silent = np.flatnonzero(has_word & ~is_above)
    # Of equal peaks (many are 0) the surest pictures first, then in their order.
    order = silent[np.lexsort((silent, -probability_N[silent], peak_N[silent].astype(np.float64)))][:MOST_SILENT]
    return ImagesOfWord(
        has_word[top].tolist(),
        int(has_word.sum()),
        int((has_word & is_above).sum()),
        order.tolist(),
        [float(p) for p in peak_N[order]],
    )
