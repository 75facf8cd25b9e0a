"""Whether an explainer can be believed: trained on regions that can be learned, and on labels dealt at random."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lavise.configs.schema import EvaluateSettings, TrainSettings
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.word_vectors import PhraseMatch, Vocabulary
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.explainer.naming import load_namer
from lavise.tasks.explainer.permutation_test import compare_with_chance
from lavise.tasks.explainer.training import TrainingInputs, train_explainer
from lavise.tasks.explainer.validation import (
    MAX_P_VALUE,
    MIN_CATEGORIES,
    VALIDATION_FILE,
    ValidationInputs,
    compare_categories,
    load_validation,
    validate_explainer,
)
from lavise.tasks.numerics.bootstrap import ImageBootstrap
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, publish, publish_regions, write_store

CONCEPTS = tuple(f"category {letter}" for letter in "abcdefghij")
UNKNOWN = "nothing"
# The evaluation part has its own order of categories, and one that no vector is known of.
EVALUATED = (UNKNOWN, *CONCEPTS[::-1])
VOCABULARY = make_vocabulary(60, CONCEPTS, dimensions=12)
WITH_UNKNOWN = replace(VOCABULARY, matches=(*VOCABULARY.matches, PhraseMatch(UNKNOWN, "missing")))
SETTINGS = EvaluateSettings(recall_at=(1, 5, 20), bootstrap_samples=200)


def regions_of(root: Path, concepts: tuple[str, ...], num_images: int, seed: int) -> Handle:
    """Pictures of one to three regions; a category's features lie around a centre of its own."""
    rng = np.random.default_rng(seed)
    centres = dict(zip((*CONCEPTS, UNKNOWN), np.random.default_rng(9).normal(size=(11, 16)), strict=True))
    counts = rng.integers(1, 4, size=num_images)
    image = np.repeat(np.arange(num_images), counts)
    concept = rng.integers(0, len(concepts), size=len(image))
    centre = np.array([centres[c] for c in concepts])[concept]
    return publish_regions(root, centre + rng.normal(scale=0.5, size=centre.shape), image, concept)


def train(root: Path, shuffled: bool = False, seed: int = 0, **changes: Any) -> Handle:
    """The artefact of an explainer."""
    inputs = TrainingInputs(
        regions=regions_of(root, CONCEPTS, 120, seed=1),
        concepts=CONCEPTS,
        vocabulary=Given(VOCABULARY, "v" * 64),
        settings=TrainSettings(max_epochs=30, **changes),
        computing=Computing(seed),
        shuffled_labels=shuffled,
    )
    return publish(root, "train", lambda folder: train_explainer(inputs, folder))


def validate(
    folder: Path,
    explainer: Handle,
    regions: Handle,
    concepts: tuple[str, ...] = EVALUATED,
    vocabulary: Vocabulary = WITH_UNKNOWN,
    settings: EvaluateSettings = SETTINGS,
    seed: int = 0,
    **labelled: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is returned, and what the file has."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = ValidationInputs(
        regions=regions,
        concepts=concepts,
        explainer=explainer,
        vocabulary=Given(vocabulary, "v" * 64),
        recall_at=settings.recall_at,
        bootstrap_samples=settings.bootstrap_samples,
        computing=Computing(seed),
        **labelled,
    )
    found = dict(validate_explainer(inputs, folder))
    written = dict(load_validation(folder))
    assert written == json.loads((folder / VALIDATION_FILE).read_text("utf-8"))
    assert found == {k: v for k, v in written.items() if k != "recall"}
    return found, written


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Handle:
    return train(tmp_path_factory.mktemp("explainer") / "e", supervised_share=0.8)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Handle:
    return regions_of(tmp_path_factory.mktemp("evaluation"), EVALUATED, 60, seed=2)


def test_explainer_that_learned_is_valid(tmp_path: Path, trained: Handle, evaluation: Handle) -> None:
    found, _ = validate(tmp_path, trained, evaluation)
    assert found["is_valid"] is True
    assert max(found["p_value"], found["p_value_categories"]) <= MAX_P_VALUE
    assert found["hit_rate"] > 0.5 > 0.3 > found["chance_rate"]


def test_explainer_of_shuffled_labels_is_not(tmp_path: Path, evaluation: Handle) -> None:
    found, _ = validate(tmp_path / "v", train(tmp_path / "e", shuffled=True), evaluation)
    assert found["is_valid"] is False
    assert min(found["p_value"], found["p_value_categories"]) > MAX_P_VALUE
    assert found["hit_rate"] < 0.35


def test_pictures_alone_do_not_make_it_valid(tmp_path: Path, trained: Handle) -> None:
    """Two names of ten are right, and the others those of other categories."""
    called = (*CONCEPTS[:2], *CONCEPTS[4:], *CONCEPTS[2:4])
    found, _ = validate(tmp_path / "v", trained, regions_of(tmp_path, CONCEPTS, 300, seed=2), called)
    assert found["p_value"] <= MAX_P_VALUE < found["p_value_categories"]
    assert found["is_valid"] is False


def test_figures_vs_loops(tmp_path: Path, trained: Handle, evaluation: Handle) -> None:
    """Only regions whose category has a vector; open vocabulary; trained on, held out, and all."""
    found, written = validate(tmp_path, trained, evaluation)
    namer = load_namer(trained.folder, VOCABULARY, "cpu")
    concept, image, features = (np.load(evaluation.path(f"{n}.npy")) for n in ("concept", "image", "features"))
    with torch.inference_mode():
        scores = namer.explainer(torch.nn.functional.normalize(torch.from_numpy(features), dim=1)).numpy()
    order = np.argsort(-(scores @ VOCABULARY.matrix.T), axis=1)
    rows = [n for n in range(len(concept)) if EVALUATED[concept[n]] != UNKNOWN]
    assert found["num_regions"] == len(rows) < len(concept)
    true = {n: VOCABULARY.words.index(EVALUATED[concept[n]]) for n in rows}
    groups = {
        "all": rows,
        "supervised": [n for n in rows if EVALUATED[concept[n]] in namer.facts.supervised],
        "held_out": [n for n in rows if EVALUATED[concept[n]] in namer.facts.held_out],
    }
    assert {name: cell["num_regions"] for name, cell in written["recall"].items()} == {
        name: len(own) for name, own in groups.items()
    }
    assert all(groups.values())
    for name, own in groups.items():
        for s in (1, 5, 20):
            hits = np.array([float(true[n] in order[n, :s]) for n in own])
            expected = ImageBootstrap(image[own], 200, 0).summarise(hits)
            assert written["recall"][name][str(s)] == pytest.approx(expected)
    test = compare_with_chance(order[rows, :5], np.array([true[n] for n in rows]), image[rows], seed=0)
    assert [found[k] for k in ("hit_rate", "chance_rate", "p_value")] == pytest.approx(
        [test.hit_rate, test.chance_rate, test.p_value]
    )
    trues = np.array([true[n] for n in rows])
    assert found["p_value_categories"] == compare_categories(order[rows, :5], trues, image[rows])


def test_test_looks_at_five_words_whatever_recall_is_asked_for(
    tmp_path: Path, trained: Handle, evaluation: Handle
) -> None:
    plain, _ = validate(tmp_path / "a", trained, evaluation)
    other, written = validate(
        tmp_path / "b", trained, evaluation, settings=SETTINGS.model_copy(update={"recall_at": (1,)})
    )
    assert plain == other
    assert set(written["recall"]["all"]) == {"num_regions", "1"}


def test_validation_repeats(tmp_path: Path, trained: Handle, evaluation: Handle) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        validate(tmp_path / name, trained, evaluation, seed=seed)
    first, again, other = ((tmp_path / n / VALIDATION_FILE).read_bytes() for n in "abc")
    assert first == again
    assert first != other


def test_group_without_regions_is_absent(tmp_path: Path, evaluation: Handle) -> None:
    everything = train(tmp_path / "e")
    _, written = validate(tmp_path / "v", everything, evaluation)
    assert set(written["recall"]) == {"all", "supervised"}


@pytest.mark.parametrize("known", [True, False])
def test_nothing_to_judge_by_is_not_valid(tmp_path: Path, trained: Handle, known: bool) -> None:
    """No regions at all; and regions of categories that the vocabulary lacks."""
    if known:
        regions, concepts = regions_of(tmp_path, EVALUATED, 0, seed=0), EVALUATED
    else:
        regions, concepts = regions_of(tmp_path, (UNKNOWN,), 9, seed=0), (UNKNOWN,)
    found, written = validate(tmp_path / "v", trained, regions, concepts)
    assert found == {"num_regions": 0, "p_value": 1.0, "is_valid": False}
    assert written["recall"] == {}


def test_too_few_categories_are_judged_by_pictures_alone(tmp_path: Path, trained: Handle) -> None:
    concepts = CONCEPTS[: MIN_CATEGORIES - 1]
    found, _ = validate(tmp_path / "v", trained, regions_of(tmp_path, concepts, 60, seed=2), concepts)
    assert found["p_value_categories"] is None
    assert (found["is_valid"], found["p_value"] <= MAX_P_VALUE) == (True, True)


# ---------------------------------------------------------------- categories have to agree


def see_regions(seed: int, num_categories: int = 10, share: float = 0.6) -> tuple[AnyArray, AnyArray, AnyArray]:
    """The category that is seen in each region, right in this share of them; the true one; and the picture.

    600 pictures of scenes: neighbouring categories come together.
    """
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(600), rng.integers(1, 4, 600))
    scene = rng.integers(0, num_categories, 600)[image]
    true = (scene + rng.integers(0, 3, len(image))) % num_categories
    return np.where(rng.random(len(image)) < share, true, rng.integers(0, num_categories, len(image))), true, image


def name_seen(seen: AnyArray, called: AnyArray) -> AnyArray:
    """What is seen, by the name it is called; beside it a word that is no category."""
    return np.stack([np.full(len(seen), 99), called[seen]], axis=1)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_categories_that_were_learned_agree(share: float) -> None:
    for seed in range(5):
        seen, true, image = see_regions(seed, share=share)
        found = compare_categories(name_seen(seen, np.arange(10)), true, image)
        # All ten are named more often where they are: one of 2^10 signs.
        assert found == pytest.approx(1 / 2**10)


def test_categories_by_wrong_names_do_not() -> None:
    found = []
    for seed in range(20):
        seen, true, image = see_regions(seed)
        found.append(compare_categories(name_seen(seen, np.random.default_rng(seed).permutation(10)), true, image))
    values = np.array(found, np.float64)
    assert (values <= MAX_P_VALUE).sum() <= 2
    assert np.median(values) > 0.2


def test_two_right_names_of_ten_convince_by_pictures_but_not_by_categories() -> None:
    """Why there are two tests: by luck some wrong names fit, and 600 pictures are many."""
    called = np.array([0, 1, 4, 5, 6, 7, 8, 9, 2, 3])
    for seed in range(5):
        seen, true, image = see_regions(seed)
        words = name_seen(seen, called)
        assert compare_with_chance(words, true, image).p_value <= MAX_P_VALUE
        by_category = compare_categories(words, true, image)
        assert by_category is not None
        assert by_category > MAX_P_VALUE


def test_categories_vs_all_signs() -> None:
    """The exact test: of all signs of the differences, the share with a sum of ranks as high."""
    rng = np.random.default_rng(1)
    for share in (0.0, 0.1, 0.2):
        seen, true, image = see_regions(7, 9, share)
        words = np.stack([seen, rng.integers(0, 9, len(seen))], axis=1)
        differences = []
        for category in range(9):
            own = [category in w for w, t in zip(words, true, strict=True) if t == category]
            pictures = {i for i, t in zip(image, true, strict=True) if t == category}
            without = [category in w for w, i in zip(words, image, strict=True) if i not in pictures]
            differences.append(sum(own) / len(own) - sum(without) / len(without))
        ranks = np.argsort(np.argsort(np.abs(differences))) + 1
        observed = sum(r for r, d in zip(ranks, differences, strict=True) if d > 0)
        sums = [sum(r for r, up in zip(ranks, signs, strict=True) if up) for signs in product((0, 1), repeat=9)]
        expected = np.mean([s >= observed for s in sums])
        assert compare_categories(words, true, image) == pytest.approx(expected)


def test_fewer_categories_than_eight_are_not_judged() -> None:
    for num, judged in ((MIN_CATEGORIES - 1, False), (MIN_CATEGORIES, True)):
        seen, true, image = see_regions(0, num)
        assert (compare_categories(name_seen(seen, np.arange(num)), true, image) is not None) == judged
    # One that is in every picture has nothing to be compared with, and does not count.
    seen, true, image = see_regions(0, MIN_CATEGORIES)
    everywhere = np.unique(image)
    true, image = np.append(true, np.full(600, 50)), np.append(image, everywhere)
    words = name_seen(np.append(seen, np.zeros(600, np.int64)), np.arange(MIN_CATEGORIES))
    assert compare_categories(words, true, image) is not None
    few = true != 3
    assert compare_categories(words[few], true[few], image[few]) is None


def test_nothing_named_is_no_agreement() -> None:
    _, true, image = see_regions(0)
    assert compare_categories(np.full((len(true), 5), 99), true, image) == 1.0
    # Nor are the same words everywhere.
    assert compare_categories(np.tile(np.arange(10), (len(true), 1)), true, image) == 1.0


def test_regions_of_pictures_on_which_a_category_was_not_looked_for_do_not_count() -> None:
    """Named as often where it is as where nobody looked, and never where it is known to be absent."""
    true, image = np.arange(10), np.arange(10)
    words = np.tile(np.arange(10), (10, 1))
    assert compare_categories(words, true, image) == 1
    known = np.eye(10, dtype=bool)
    absent = (np.arange(10) + 1) % 10
    known[absent, np.arange(10)] = True
    words[absent, np.arange(10)] = -1
    assert compare_categories(words, true, image, true, known) == pytest.approx(1 / 2**10)
    # Where it was looked for nowhere else, there is nothing to compare with.
    assert compare_categories(words, true, image, true, np.eye(10, dtype=bool)) is None


def test_what_was_looked_for_is_read_from_the_pictures(tmp_path: Path, trained: Handle, evaluation: Handle) -> None:
    image = np.load(evaluation.path("image.npy"))
    num = int(image.max()) + 1
    store = write_store(tmp_path / "store", np.zeros((num, 1, 1, 1)))
    handle = evaluation.model_copy(update={"folder": store.folder})
    plain, _ = validate(tmp_path / "a", trained, evaluation)
    found = {}
    for name, asked in (("all", None), ("some", frozenset(EVALUATED[:6]))):
        records = tuple(
            ImageRecord(key, Path(key), looked_for=asked if n % 2 else None) for n, key in enumerate(store.keys)
        )
        data = Dataset("x", records, EVALUATED)
        found[name], _ = validate(tmp_path / name, trained, evaluation, activations=handle, pictures=data)
    assert found["all"] == plain
    assert found["some"] != plain
