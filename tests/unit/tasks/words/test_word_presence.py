"""Who says what is on a picture: priors fitted to the pictures, windows against loops, the head's classes in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.windows import make_windows
from lavise.tasks.explainer.class_head import ClassifierHead, HeadFacts
from lavise.tasks.explainer.naming import Namer
from lavise.tasks.explainer.network import Explainer, ExplainerFacts
from lavise.tasks.words.word_presence import (
    LEAST_PROBABILITY,
    apply_prior,
    ask_witnesses,
    fit_prior,
    keep_frequent,
    list_words,
    name_regions,
)
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, write_store

CHANNELS, CLASSES = 6, 4
CATEGORIES = ("cat", "hot dog", "sky")
# class, row of the vocabulary, whether it is a name: word 0 names two classes, word 2 is a category, 5 a hypernym.
NAMES = ((0, 0, 1), (1, 0, 1), (1, 5, 0), (2, 5, 0), (2, 3, 1), (3, 25, 1))


def make_head() -> ClassifierHead:
    head = ClassifierHead(CLASSES, CHANNELS, 6, 0, len(NAMES), 3.0)
    generator = torch.Generator().manual_seed(5)
    head.weight.copy_(torch.randn(CLASSES, CHANNELS, generator=generator) * 2)
    head.bias.copy_(torch.randn(CLASSES, generator=generator))
    head.name_M3.copy_(torch.tensor(NAMES))
    return head.eval()


def make_namer(kind: str = "fused", with_head: bool = True) -> tuple[Namer, Vocabulary]:
    torch.manual_seed(0)
    vocabulary = make_vocabulary(25, CATEGORIES)
    explainer = Explainer(CHANNELS, 6, 0.1, 2).eval()
    head = make_head() if with_head else None
    facts = ExplainerFacts(
        CHANNELS, 6, 0.1, "l2", "softmax", ("cat", "hot dog"), ("sky",), {}, kind, 0.5, _facts() if head else None
    )
    return Namer(explainer, facts, head, vocabulary, "cpu"), vocabulary


def _facts() -> HeadFacts:
    return HeadFacts(3.0, "settings", CLASSES, CLASSES, 0, len(NAMES))


def make_maps(num: int = 12, channels: int = CHANNELS) -> AnyArray:
    return np.random.default_rng(0).gamma(1.0, 1.0, size=(num, channels, 5, 6)).astype(np.float16)


# ---------------------------------------------------------------- the prior


def test_prior_finds_which_classes_there_are() -> None:
    """Pictures of three classes of fifty, by a classifier that is right half of the time and unsure otherwise."""
    rng = np.random.default_rng(0)
    true = rng.choice([4, 17, 33], size=600)
    logits = rng.normal(size=(600, 50)) * 1.5
    logits[np.arange(600), true] += 4
    answers = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ratio = fit_prior(answers)
    assert set(np.argsort(-ratio)[:3]) == {4, 17, 33}
    assert ratio[[4, 17, 33]].min() > 8
    before = (answers.argmax(axis=1) == true).mean()
    after = (apply_prior(answers, ratio).argmax(axis=1) == true).mean()
    assert after > before
    assert after > 0.93


def test_few_pictures_say_little_about_the_prior() -> None:
    answers = np.full((2, 100), 0.1 / 99)
    answers[:, 7] = 0.9
    ratio = fit_prior(answers)
    assert ratio.max() < 3.1  # (2 + 1) / (2 + 100) * 100
    assert ratio.sum() == pytest.approx(100)


def test_prior_of_pictures_like_those_trained_on_changes_nothing() -> None:
    answers = np.eye(20)[np.arange(400) % 20] * 0.9 + 0.1 / 20
    np.testing.assert_allclose(fit_prior(answers), 1, atol=1e-6)
    np.testing.assert_allclose(apply_prior(answers, np.ones(20)), answers / answers.sum(axis=1, keepdims=True))


# ---------------------------------------------------------------- words


def test_words_of_categories_and_classes() -> None:
    namer, vocabulary = make_namer()
    words = list_words(namer, vocabulary, CATEGORIES)
    assert words.row.tolist() == [0, 3, 5, 25, 26]
    assert words.kind == ("class", "class", "hypernym", "category", "category")
    assert words.category.tolist() == [-1, -1, -1, 0, 1]
    assert words.truth.tolist() == [-1, -1, -1, 0, 1]
    assert words.class_KW.tolist() == [[1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]
    assert words.has_classes.tolist() == [True, True, True, True, False]


def test_without_a_head_there_are_categories_only() -> None:
    namer, vocabulary = make_namer(with_head=False)
    words = list_words(namer, vocabulary, CATEGORIES)
    assert (words.kind, words.class_KW) == (("category", "category"), None)
    assert not words.has_classes.any()


def test_a_head_explainer_has_no_categories_of_its_own(tmp_path: Path) -> None:
    namer, vocabulary = make_namer("head")
    words = list_words(namer, vocabulary, CATEGORIES)
    assert words.kind == ("class", "class", "hypernym", "class")
    told = ask_witnesses(write_store(tmp_path, make_maps()), namer, words, "cpu")
    assert told.window_NS.shape == (12, 0)


@pytest.mark.parametrize("kind", ["fused", "learned"])
def test_windows_vs_loops(tmp_path: Path, kind: str) -> None:
    """The highest probability of a category over the overlapping windows of each picture."""
    namer, vocabulary = make_namer(kind)
    maps = make_maps()
    told = ask_witnesses(write_store(tmp_path, maps, 5), namer, list_words(namer, vocabulary, CATEGORIES), "cpu")
    windows = make_windows(5, 6, overlapping=True)
    assert len(windows) == 1 + 9 + 25 + 49
    for image in range(12):
        own = maps[image].astype(np.float64).reshape(CHANNELS, -1)
        features = torch.tensor(np.stack([(own * w).mean(axis=1) for w in windows]), dtype=torch.float32)
        expected = namer.categories(features).amax(dim=0).numpy()
        np.testing.assert_allclose(told.window_NS[image], expected, atol=1e-5)


def test_answers_are_the_heads_on_whole_pictures(tmp_path: Path) -> None:
    namer, vocabulary = make_namer()
    assert namer.head is not None
    maps = make_maps(30)
    store = write_store(tmp_path, maps)
    words = list_words(namer, vocabulary, CATEGORIES)
    told = ask_witnesses(store, namer, words, "cpu")
    means = maps.astype(np.float64).mean(axis=(2, 3))
    logits = means @ namer.head.weight.numpy().T.astype(np.float64) + namer.head.bias.numpy()
    answers = np.exp(logits - logits.max(axis=1, keepdims=True))
    answers /= answers.sum(axis=1, keepdims=True)
    expected = apply_prior(answers, fit_prior(answers)) @ words.class_KW
    expected[expected < LEAST_PROBABILITY] = 0
    np.testing.assert_allclose(told.answers(np.arange(5)), np.minimum(expected, 1), atol=2e-3)
    assert told.certainty == pytest.approx(answers.max(axis=1).mean(), abs=1e-3)


def test_added_filters_are_not_read(tmp_path: Path) -> None:
    namer, vocabulary = make_namer()
    words = list_words(namer, vocabulary, CATEGORIES)
    maps = make_maps()
    added = np.concatenate([maps, make_maps(12, 2) * 3], axis=1)
    plain = ask_witnesses(write_store(tmp_path / "a", maps), namer, words, "cpu")
    planted = ask_witnesses(write_store(tmp_path / "b", added), namer, words, "cpu")
    np.testing.assert_array_equal(plain.window_NS, planted.window_NS)
    np.testing.assert_array_equal(plain.answers(np.arange(5)), planted.answers(np.arange(5)))


def test_rare_words_are_dropped_and_categories_stay(tmp_path: Path) -> None:
    namer, vocabulary = make_namer()
    words = list_words(namer, vocabulary, CATEGORIES)
    told = ask_witnesses(write_store(tmp_path, make_maps(30)), namer, words, "cpu")
    expected = told.answers(np.arange(5)).sum(axis=0)
    kept_told, kept = keep_frequent(told, words, float(np.sort(expected[:3])[1]))
    assert kept.is_category.sum() == 2
    assert len(kept) == 4
    np.testing.assert_array_equal(kept_told.answers(np.arange(4)), told.answers(np.searchsorted(words.row, kept.row)))


def test_regions_are_called_what_the_surer_witness_says() -> None:
    namer, vocabulary = make_namer()
    assert namer.head is not None
    words = list_words(namer, vocabulary, CATEGORIES)
    features = torch.rand(7, CHANNELS, generator=torch.Generator().manual_seed(1))
    found = name_regions(namer, features, words)
    posterior = namer.head.posterior(features).numpy() @ words.class_KW
    categories = namer.categories(features).numpy()
    np.testing.assert_allclose(found[:, :3], np.minimum(posterior[:, :3], 1), atol=1e-6)
    np.testing.assert_allclose(found[:, 3], np.maximum(posterior[:, 3], categories[:, 0]), atol=1e-6)
    np.testing.assert_allclose(found[:, 4], categories[:, 1], atol=1e-6)
