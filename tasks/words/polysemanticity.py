"""How many things a filter means: groups of its top regions; one meaning is the usual answer.

Two words of a filter are two meanings if they exclude each other: fewer of its pictures name both than chance would
have it, by Fisher's exact test over its words. The regions are then clustered in semantic space around the pictures
that name just one of these words. Clusters of the vectors alone mostly follow the pictures' backgrounds: on planted
filters of one concept they found two meanings in two of three (docs/results.md).

Shape legend: n regions, s words per region, E embedding, W words of the filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from lavise.storage.array_types import BoolArray, FloatArray, IntArray

MAX_P_VALUE = 0.05
_MIN_REGIONS = 3


@dataclass(frozen=True)
class Meaning:
    """One group of a filter's regions.

    Attributes:
        share: of its top pictures, 0..1.
        words: rows of the vocabulary, best first: the word that makes it a meaning, then other words of the filter
            that at least half of the group names.
        members: int64 [m], rising positions among the filter's regions; as these come by falling peak, strongest first.
    """

    share: float
    words: tuple[int, ...]
    members: IntArray


def find_meanings(
    words_ns: IntArray, vectors_nE: FloatArray, names: Sequence[int], max_meanings: int = 3
) -> list[Meaning]:
    """The meanings of a filter, the largest first.

    Args:
        words_ns: the words of each region.
        vectors_nE: its semantic vector, length 1.
        names: the filter's words, best first; at least one.
        max_meanings: at least 1.
    """
    says_nW = (words_ns[:, :, None] == np.asarray(names, dtype=np.int64)).any(axis=1)
    seeds = _find_excluding(says_nW, max_meanings)
    label_n = _cluster_around(says_nW[:, seeds], vectors_nE) if len(seeds) > 1 else np.zeros(len(words_ns), np.int64)
    found = []
    for label, seed in enumerate(seeds):
        members = np.flatnonzero(label_n == label)
        counts = says_nW[members].sum(axis=0)
        others = [w for w in np.argsort(-counts, kind="stable") if w not in seeds and 2 * counts[w] >= len(members)]
        words = tuple(int(names[w]) for w in (seed, *others))
        found.append(Meaning(len(members) / max(len(words_ns), 1), words, members))
    return sorted(found, key=lambda m: -len(m.members))


def _find_excluding(says_nW: BoolArray, max_meanings: int) -> list[int]:
    """The first word, and words that exclude it and each other, those that do so most clearly first."""
    num, num_words = says_nW.shape
    counts = says_nW.sum(axis=0)
    chosen = [0]
    while len(chosen) < max_meanings:
        p_values = {}
        for word in range(num_words):
            if word in chosen or counts[word] < _MIN_REGIONS:
                continue
            both = [int((says_nW[:, word] & says_nW[:, other]).sum()) for other in chosen]
            p_values[word] = max(
                hypergeom.cdf(b, num, counts[word], counts[o]) for b, o in zip(both, chosen, strict=True)
            )
        best = min(p_values, key=lambda w: (p_values[w], w), default=None)
        if best is None or p_values[best] * num_words > MAX_P_VALUE:
            break
        alone = says_nW[:, [*chosen, best]]
        if ((alone.sum(axis=1) == 1)[:, None] & alone).sum(axis=0).min() < _MIN_REGIONS:
            break
        chosen.append(best)
    return chosen


def _cluster_around(says_nS: BoolArray, vectors_nE: FloatArray) -> IntArray:
    """Group of each region: that of the one word it names, else that whose mean vector is nearest."""
    alone_n = says_nS.sum(axis=1) == 1
    label_n = says_nS.argmax(axis=1).astype(np.int64)
    means = np.stack([vectors_nE[alone_n & (label_n == s)].mean(axis=0) for s in range(says_nS.shape[1])])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.where(alone_n, label_n, (vectors_nE @ means.T).argmax(axis=1))
