"""Precision of the explainer's words: known by construction, beyond chance, and never beyond what was judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.tasks.words.naming_precision import (
    MIN_STATEMENTS,
    NamingPrecision,
    Presence,
    find_truth,
    measure_precision,
    state_presence,
    to_odds,
    trust_words,
)
from lavise.tasks.words.word_presence import PresenceWords, Witnesses
from tests.unit.tasks.helpers import AnyArray, write_store

NAMES = tuple("abcdefgh")
VOCABULARY = (*NAMES, "spaniel", "animal")


def make_words(with_head: bool = True) -> PresenceWords:
    """Eight categories, all of which the head's classes name, a name of class 0 alone, and what all are a kind of."""
    matrix = np.zeros((8, 10), np.float32)
    matrix[np.arange(8), np.arange(8)] = 1
    matrix[0, 8] = matrix[:, 9] = 1
    kinds = (*("category",) * 8, "class", "hypernym")
    category = np.array([*range(8), -1, -1])
    return PresenceWords(np.arange(10), kinds, category, category.copy(), matrix if with_head else None)


def make_told(
    truth: AnyArray, skill: float, seed: int, words: PresenceWords, head_skill: float | None = None
) -> Witnesses:
    """Probabilities that follow the truth with a share `skill`, and are drawn anew otherwise."""
    rng = np.random.default_rng(seed)

    def tell(share: float) -> AnyArray:
        kept = rng.random(truth.shape) < share
        said = np.where(kept, truth, rng.random(truth.shape) < truth.mean(axis=0))
        return np.where(said, rng.uniform(0.6, 0.99, truth.shape), rng.uniform(0.001, 0.3, truth.shape))

    windows = tell(skill).astype(np.float32)
    if words.class_KW is None:
        return Witnesses(windows, None, None)
    own = tell(skill if head_skill is None else head_skill)
    answers = np.concatenate([own, own[:, :1], own.max(axis=1, keepdims=True)], axis=1).astype(np.float32)
    answers[answers < 0.02] = 0
    return Witnesses(windows, sparse.csr_matrix(answers), 0.7)


def make_truth(num: int, seed: int, rate: float = 0.2) -> AnyArray:
    return np.random.default_rng(seed).random((num, 8)) < rate


def measure(skill: float, rate: float = 0.2, head_skill: float | None = None, num: int = 150) -> NamingPrecision:
    words = make_words()
    truths = [make_truth(num, seed, rate) for seed in (1, 2)]
    told = [make_told(t, skill, seed, words, head_skill) for t, seed in zip(truths, (3, 4), strict=True)]
    return measure_precision(words, (told[0], truths[0]), (told[1], truths[1]), NAMES)


def test_a_good_explainer_is_believed_where_it_is_sure() -> None:
    found = measure(0.95)
    for kind, witnesses in ((found.category, 2), (found.class_name, 1)):
        sure, unsure = (kind.predict(np.full((1, witnesses), odds))[0] for odds in (3.0, -3.0))
        assert sure > 0.8
        assert unsure < 0.2
        assert kind.note == ""
    assert found.category.num_statements >= MIN_STATEMENTS


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.6])
def test_what_is_right_by_chance_is_no_merit(rate: float) -> None:
    """An explainer that knows nothing is right as often as the words are common; its precision is 0."""
    found = measure(0.0, rate)
    assert found.category.predict(np.array([[3.0, 3.0]]))[0] < 0.15
    assert found.class_name.predict(np.array([[3.0]]))[0] < 0.15
    assert sum(c.right for c in found.counted.values()) <= 0.15 * sum(c.carried for c in found.counted.values()) + 3


def test_both_kinds_are_judged_apart() -> None:
    found = measure(0.95, head_skill=0.0)
    assert found.class_name.predict(np.array([[3.0]]))[0] < 0.15
    assert found.category.predict(np.array([[3.0, -3.0]]))[0] > 0.7


def test_nothing_is_stated_beyond_what_was_judged() -> None:
    found = measure(0.95).class_name
    edge = found.predict(np.array([[found.cut_off[0]]]))
    assert (found.predict(np.array([[99.0], [found.cut_off[0] + 1]])) == edge).all()


def test_too_few_statements_are_not_believed() -> None:
    found = measure(0.95, num=1)
    assert "at least 30 are needed" in found.class_name.note
    assert (found.class_name.predict(np.array([[3.0]])) == 0).all()


def test_without_a_head_class_names_are_not_judged() -> None:
    words = make_words(with_head=False)
    truth = make_truth(150, 1)
    told = make_told(truth, 0.95, 3, words)
    found = measure_precision(words, (told, truth), (told, truth), NAMES)
    assert found.class_name.num_statements == 0
    assert "0 statements" in found.class_name.note
    assert found.category.predict(np.array([[3.0, 0.0]]))[0] > 0.7


def test_left_out_concepts_are_not_looked_at() -> None:
    words, truth = make_words(), make_truth(150, 1)
    told = make_told(truth, 0.95, 3, words)
    part = (told, truth)
    spoiled = truth.copy()
    spoiled[:, :3] = ~spoiled[:, :3]
    found = measure_precision(words, part, part, NAMES, frozenset({0, 1, 2}))
    assert measure_precision(words, (told, spoiled), (told, spoiled), NAMES, frozenset({0, 1, 2})) == found
    assert set(found.counted) == set(NAMES[3:])


def test_precision_comes_back_from_json() -> None:
    found = measure(0.9)
    assert NamingPrecision.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_presence_is_in_steps_and_of_the_right_kind() -> None:
    words, truth = make_words(), make_truth(80, 5)
    precision, told = measure(0.95), make_told(truth, 0.95, 6, words)
    found = state_presence(told, words, precision)
    assert ((found.probability_NW * 1024) % 1 == 0).all()
    # Class names: the head's own probability, believed as far as its precision goes; categories: the precision.
    np.testing.assert_allclose(found.probability_NW[:, 8], told.answers([8])[:, 0], atol=1 / 1024)
    expected = precision.class_name.predict(to_odds(told.answers([8]))[..., None])[:, 0]
    np.testing.assert_allclose(found.precision_NW[:, 8], np.where(told.answers([8])[:, 0] > 0, expected, 0))
    np.testing.assert_allclose(found.probability_NW[:, :8], found.precision_NW[:, :8], atol=1 / 1024)
    assert found.precision_NW[:, :8][truth].mean() > 0.7
    assert found.precision_NW[:, :8][~truth].mean() < 0.1


def test_trust_by_hand() -> None:
    """With precision 0.9 a word is right more often than not; with 0.3 it is not; on no picture it is not."""
    words, precision = make_words(), measure(0.95)
    believed = np.zeros((10, 10))
    believed[:, 8], believed[:, 9] = 0.9, 0.3
    probability = np.where(believed > 0, 0.5, 0.0)
    mean, trust = trust_words(Presence(probability, believed), words, precision, VOCABULARY)
    np.testing.assert_allclose(mean[8:], [0.9, 0.3])
    assert trust[8] > 0.85
    assert trust[9] < 0.3
    assert (trust[:8] == 0).all()


def test_counts_of_a_category_move_its_trust() -> None:
    words, precision = make_words(), measure(0.95)
    believed = np.zeros((10, 10))
    believed[:, 0] = 0.5
    presence = Presence(believed, believed)
    with_counts = trust_words(presence, words, precision, VOCABULARY)[1][0]
    without = trust_words(presence, words, precision, VOCABULARY, counts=False)[1][0]
    assert without == pytest.approx(0.5, abs=0.05)
    assert with_counts > 0.9  # it was right on nearly all evaluation pictures that carry it


def test_expected_share_of_a_category_is_held_to_that_of_all() -> None:
    precision = measure(0.95)
    total = sum(c.right for c in precision.counted.values()) / sum(c.carried for c in precision.counted.values())
    weight, own = precision.category.concentration, precision.counted["a"]
    expected = (total * weight + own.right) / (weight + own.carried)
    assert precision.expect_right("a") == pytest.approx(expected)


def test_truth_of_the_pictures_of_a_store(tmp_path: Path) -> None:
    store = write_store(tmp_path, np.zeros((3, 1, 2, 2)), keys=["x", "y", "z"])

    def annotate(*concepts: str) -> tuple[Annotation, ...]:
        return tuple(Annotation(c) for c in concepts)

    records = (
        ImageRecord("z", tmp_path / "z.png", annotate("b", "b")),
        ImageRecord("x", tmp_path / "x.png", annotate("a", "b")),
        ImageRecord("y", tmp_path / "y.png", ()),
    )
    data = Dataset("d", records, ("a", "b"))
    assert find_truth(store, data).tolist() == [[True, True], [False, False], [False, True]]


def test_statements_are_judged_where_their_word_was_looked_for() -> None:
    """What is said or annotated where a word was not looked for changes nothing; elsewhere it counts as before."""
    words, truth = make_words(), make_truth(150, 1)
    told = make_told(truth, 0.9, 3, words)
    known = np.random.default_rng(7).random(truth.shape) < 0.6
    known[:, 0] = False  # nowhere
    spoiled = np.where(known, truth, ~truth)
    both = (known, known)
    found = measure_precision(words, (told, truth), (told, truth), NAMES, looked_for=both)
    assert measure_precision(words, (told, spoiled), (told, spoiled), NAMES, looked_for=both) == found
    assert found.counted["a"].carried == 0
    # Missing labels that count as absence make good words look bad.
    hidden = truth & known
    blamed = measure_precision(words, (told, hidden), (told, hidden), NAMES)
    said = np.array([[3.0, 3.0]])
    assert found.category.predict(said)[0] > blamed.category.predict(said)[0] + 0.1
    everything = (np.ones_like(known), None)
    plain = measure_precision(words, (told, truth), (told, truth), NAMES)
    assert measure_precision(words, (told, truth), (told, truth), NAMES, looked_for=everything) == plain
