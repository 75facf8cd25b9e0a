"""Pictures in the explainer's words: what top pictures show and say, by loops, and the word that filters prefer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lavise.storage.activations import ActivationStore
from lavise.tasks.activations.top_images import Pairs, select_top_images
from lavise.tasks.words import named_images as named_images_module
from lavise.tasks.words.named_images import HAS_WORD, NamedImages, name_images, prefer_words
from lavise.tasks.words.naming_precision import KindPrecision, NamingPrecision, Presence
from lavise.tasks.words.word_presence import PresenceWords, Witnesses, list_words, name_regions
from tests.unit.tasks.helpers import AnyArray, write_store
from tests.unit.tasks.words.test_preferred_words import (
    CHANNELS,
    CONCEPTS,
    FOLLOWS,
    NOISE,
    READ,
    THRESHOLDS,
    make_maps,
    make_namer,
)

NUM, FILTERS, WORDS = 20, 5, 4


def make_named(probability_NW: AnyArray) -> NamedImages:
    """Words that are categories, without a head."""
    num, width = probability_NW.shape
    words = PresenceWords(np.arange(width) + 25, ("category",) * width, np.arange(width), np.arange(width), None)
    witnesses = Witnesses(np.zeros((num, width), np.float32), None, None)
    return NamedImages(words, witnesses, Presence(probability_NW, probability_NW / 2))


def make_pairs(seed: int = 0) -> Pairs:
    """Filter 3 has none, filter 4 only one."""
    rng = np.random.default_rng(seed)
    images = [np.sort(rng.choice(NUM, count, replace=False)) for count in (6, 4, 5, 0, 1)]
    units = np.repeat(np.arange(FILTERS), [len(own) for own in images])
    return Pairs(units, np.concatenate(images), np.ones(len(units), np.float32))


def find_shown_by_loops(
    probability: AnyArray, pairs: Pairs, min_share: float, images: Sequence[bool]
) -> list[list[bool]]:
    found = []
    for unit in range(FILTERS):
        own = pairs.image[pairs.filter == unit]
        row = []
        for word in range(probability.shape[1]):
            has_word = probability[:, word] >= 0.5
            shown = sum(has_word[own])
            everywhere = has_word[np.array(images)]
            enough = shown >= min_share * min(len(own), sum(everywhere))
            row.append(bool(shown > 0 and enough and shown >= len(own) * np.mean(everywhere)))
        found.append(row)
    return found


@pytest.mark.parametrize("min_share", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_shown_words_vs_loops(min_share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Of many and of few pictures, and of none.
    probability = np.where(rng.random((NUM, WORDS)) < [0.8, 0.4, 0.1, 0], 0.5, 0.4)
    named, pairs = make_named(probability), make_pairs(seed)
    found = named.find_shown(pairs, FILTERS, min_share)
    assert found.tolist() == find_shown_by_loops(probability, pairs, min_share, [True] * NUM)
    half = rng.random(NUM) < 0.5
    own = pairs.take(np.flatnonzero(half[pairs.image]))
    assert named.find_shown(own, FILTERS, min_share, half).tolist() == find_shown_by_loops(
        probability, own, min_share, half.tolist()
    )


def test_a_rare_word_needs_a_share_of_its_own_pictures_only() -> None:
    """It is on two pictures, both of them top ones of six; a share of all six would be too few."""
    probability = np.zeros((NUM, 1))
    pairs = make_pairs()
    probability[pairs.image[:2]] = 1
    found = make_named(probability).find_shown(pairs, FILTERS, 0.9)
    assert found[0].tolist() == [True]


def test_a_word_counts_from_half_on() -> None:
    probability = np.full((NUM, 2), [HAS_WORD, HAS_WORD - 1 / 1024])
    assert make_named(probability).find_shown(make_pairs(), FILTERS, 0.3)[0].tolist() == [True, False]


@pytest.mark.parametrize("block", [1, 3, 2048])
def test_support_is_the_mean_over_a_filters_regions(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(named_images_module, "_BLOCK", block)
    namer, vocabulary = make_namer()
    words = list_words(namer, vocabulary, CONCEPTS)
    rng = np.random.default_rng(1)
    presence = Presence(np.ones((NUM, len(words))), np.ones((NUM, len(words))))
    named = NamedImages(words, Witnesses(np.zeros((NUM, READ), np.float32), None, None), presence)
    pairs = make_pairs()
    features = rng.uniform(0, 1, (len(pairs), READ)).astype(np.float32)
    found = named.support(pairs, features, namer, FILTERS, 0.3, np.ones(NUM, bool), "cpu")
    for unit in range(FILTERS):
        own = np.flatnonzero(pairs.filter == unit)
        told = [name_regions(namer, torch.from_numpy(features[i : i + 1]), words)[0] for i in own]
        expected = np.mean(told, axis=0) if told else np.zeros(len(words))
        np.testing.assert_allclose(found.regions[unit], expected, atol=1e-5)
    assert found.is_shown.tolist() == [[unit != 3] * len(words) for unit in range(FILTERS)]


def test_some_of_the_words_keep_their_columns() -> None:
    probability = np.random.default_rng(2).random((NUM, WORDS))
    found = make_named(probability).take(np.array([2, 0]))
    assert found.words.row.tolist() == [27, 25]
    np.testing.assert_array_equal(found.presence.probability_NW, probability[:, [2, 0]])
    np.testing.assert_array_equal(found.presence.precision_NW, probability[:, [2, 0]] / 2)


# On a store whose pictures have one concept each


def make_precision(believed: bool = True) -> NamingPrecision:
    """Of categories that were told with more than e^6 : 1, or nothing is believed."""
    kind = KindPrecision((6.0, 0.0), (1.0, 1.0), (9.0, 9.0), (3.0, 0.0), 0.0, 20.0, 100, 98)
    none = KindPrecision((0.0,), (1.0,), (9.0,), (0.0,), 0.0, 20.0, 0, 0, "too few")
    return NamingPrecision(kind if believed else none, none, {})


@pytest.fixture(scope="module")
def concepts() -> AnyArray:
    return np.random.default_rng(5).integers(0, 4, size=96)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, concepts: AnyArray) -> ActivationStore:
    return write_store(tmp_path_factory.mktemp("store"), make_maps(concepts, 7), 32)


def test_pictures_are_named_what_they_show(store: ActivationStore, concepts: AnyArray) -> None:
    namer, vocabulary = make_namer()
    named = name_images(store, namer, list_words(namer, vocabulary, CONCEPTS), make_precision(), "cpu")
    assert [vocabulary.words[row] for row in named.words.row] == list(CONCEPTS)
    told = named.presence.probability_NW
    assert (told.argmax(axis=1) == concepts).mean() > 0.95


def test_what_is_not_believed_is_on_no_picture(store: ActivationStore) -> None:
    namer, vocabulary = make_namer()
    named = name_images(store, namer, list_words(namer, vocabulary, CONCEPTS), make_precision(False), "cpu")
    assert not named.presence.probability_NW.any()


def prefer(store: ActivationStore, named: NamedImages, seed: int = 0) -> tuple[AnyArray, AnyArray]:
    """Word and AUROC of each filter; a region is the whole picture."""
    namer, _ = make_namer()
    pairs = select_top_images(store, THRESHOLDS, 10)
    features = store.read_means()[pairs.image][:, :READ]
    found = prefer_words(store, named, pairs, features, namer, 0.3, seed, "cpu")
    return found.word, found.auroc


def test_filters_prefer_the_word_that_they_follow(store: ActivationStore, concepts: AnyArray) -> None:
    named = make_named(np.eye(4)[concepts])
    word, auroc = prefer(store, named)
    assert word[:READ].tolist() == [0, 1, 2, 3]
    assert word[FOLLOWS] == 1
    assert (auroc[[0, 1, 2, 3, FOLLOWS]] > 0.95).all()
    assert auroc[NOISE] < 0.75
    assert word.shape == (CHANNELS,)


def test_words_on_no_picture_are_preferred_by_none(store: ActivationStore) -> None:
    word, auroc = prefer(store, make_named(np.zeros((96, 4))))
    assert word.tolist() == [-1] * CHANNELS
    np.testing.assert_array_equal(auroc, np.full(CHANNELS, 0.5))


def test_preference_does_not_hang_on_the_order_of_the_words(store: ActivationStore, concepts: AnyArray) -> None:
    named = make_named(np.eye(4)[concepts])
    order = np.array([3, 1, 0, 2])
    # Without the tie that is left to the position.
    follows = [0, 1, 2, 3, FOLLOWS]
    turned, _ = prefer(store, named.take(order))
    assert order[turned[follows]].tolist() == prefer(store, named)[0][follows].tolist()
