"""The pictures of a store in the explainer's words, and the word that each filter prefers on them.

Shape legend: N pictures, C filters, W words whose presence is told, P pairs (filter, top picture).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, FloatArray, IntArray
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.explainer.naming import Namer
from lavise.tasks.words.naming_precision import NamingPrecision, Presence, state_presence
from lavise.tasks.words.preference import (
    LEAST_IMAGES,
    Preferences,
    Support,
    contrast_turned,
    find_preferences,
    split_halves,
)
from lavise.tasks.words.word_presence import PresenceWords, Witnesses, ask_witnesses, keep_frequent, name_regions

HAS_WORD = 0.5
"""Probability from which on a picture counts as one that has a word."""

_BLOCK = 2048


@dataclass(frozen=True)
class NamedImages:
    """What the explainer says is on the pictures of a store, in words that are on enough of them."""

    words: PresenceWords
    witnesses: Witnesses
    presence: Presence

    def support(
        self,
        pairs: Pairs,
        features_PC: FloatArray,
        namer: Namer,
        num_filters: int,
        min_share: float,
        images: BoolArray,
        device: str,
    ) -> Support:
        """What the filters' top pictures say for each word.

        Args:
            min_share, images: see `find_shown`.
        """
        total = np.zeros((num_filters, len(self.words)))
        for start in range(0, len(pairs), _BLOCK):
            told = name_regions(namer, torch.from_numpy(features_PC[start : start + _BLOCK]).to(device), self.words)
            np.add.at(total, pairs.filter[start : start + _BLOCK], told.astype(np.float64))
        count = np.bincount(pairs.filter, minlength=num_filters)
        return Support(total / np.maximum(count, 1)[:, None], self.find_shown(pairs, num_filters, min_share, images))

    def find_shown(
        self, pairs: Pairs, num_filters: int, min_share: float, images: BoolArray | None = None
    ) -> BoolArray:
        """bool [C, W]: words that a share of at least `min_share` of the filter's top pictures have, and no smaller a
        share than of all pictures. Of a word on fewer pictures than a filter has top ones, the share is of these.

        Args:
            images: bool [N], the pictures that the pairs were taken from; all unless given.
        """
        has_word = (self.presence.probability_NW >= HAS_WORD).astype(np.float64)
        seen = has_word if images is None else has_word[images]
        ones = np.ones(len(pairs))
        tops = sparse.csr_matrix((ones, (pairs.filter, pairs.image)), shape=(num_filters, len(has_word)))
        count = np.bincount(pairs.filter, minlength=num_filters)[:, None]
        shown = tops @ has_word
        enough = shown >= min_share * np.minimum(count, seen.sum(axis=0))
        return np.asarray(enough & (shown >= seen.mean(axis=0) * count) & (shown > 0), bool)

    def take(self, columns: IntArray) -> NamedImages:
        """Some of the words."""
        presence = Presence(self.presence.probability_NW[:, columns], self.presence.precision_NW[:, columns])
        return NamedImages(self.words.take(columns), self.witnesses, presence)


def name_images(
    store: ActivationStore, namer: Namer, words: PresenceWords, precision: NamingPrecision, device: str
) -> NamedImages:
    """What is on the pictures of a store."""
    witnesses, frequent = keep_frequent(ask_witnesses(store, namer, words, device), words, LEAST_IMAGES)
    return NamedImages(frequent, witnesses, state_presence(witnesses, frequent, precision))


def prefer_words(
    store: ActivationStore,
    named: NamedImages,
    pairs: Pairs,
    features_PC: FloatArray,
    namer: Namer,
    min_share: float,
    seed: int,
    device: str,
) -> Preferences:
    """The word of every filter (see tasks.words.preference).

    Args:
        pairs: filters and their top pictures; features_PC: their region features.
    """
    first = split_halves(store.shape[0], seed)
    supports = []
    for half in (first, ~first):
        own = np.flatnonzero(half[pairs.image])
        supports.append(
            named.support(pairs.take(own), features_PC[own], namer, store.shape[1], min_share, half, device)
        )
    presence = named.presence.probability_NW
    with store.turn_peaks() as peaks:
        halves = tuple(contrast_turned(peaks, presence[half], half) for half in (first, ~first))
    return find_preferences((halves[0], halves[1]), presence, (supports[0], supports[1]), named.words.kind, seed)
