"""Whether an explainer can be believed: trained on regions that can be learned, and on labels dealt at random."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.schema import EvaluateSettings, TrainSettings
from storage.artefacts import Handle
from storage.word_vectors import PhraseMatch, Vocabulary
from tasks.evaluate import ImageBootstrap
from tasks.evidence import judge_explainer
from tasks.naming import Namer, load_namer
from tasks.train import train_explainer
from tasks.validate import MAX_P_VALUE, VALIDATION_FILE, load_validation, validate_explainer
from tests.unit.tasks.helpers import make_vocabulary, publish_regions

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


def train(folder: Path, shuffled: bool = False, seed: int = 0, **changes: Any) -> Namer:
    folder.mkdir(parents=True)
    regions = regions_of(folder / "artefacts", CONCEPTS, 120, seed=1)
    settings = TrainSettings(max_epochs=30, **changes)
    train_explainer(regions, CONCEPTS, VOCABULARY, settings, seed, "cpu", folder, shuffled_labels=shuffled)
    return load_namer(folder, VOCABULARY, "cpu")


def validate(
    folder: Path,
    namer: Namer,
    regions: Handle,
    concepts: tuple[str, ...] = EVALUATED,
    vocabulary: Vocabulary = WITH_UNKNOWN,
    settings: EvaluateSettings = SETTINGS,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is returned, and what the file has."""
    folder.mkdir(parents=True, exist_ok=True)
    found = validate_explainer(regions, concepts, namer, vocabulary, settings, seed, "cpu", folder)
    written = dict(load_validation(folder))
    assert written == json.loads((folder / VALIDATION_FILE).read_text("utf-8"))
    assert found == {k: v for k, v in written.items() if k != "recall"}
    return found, written


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Namer:
    return train(tmp_path_factory.mktemp("explainer") / "e", supervised_share=0.8)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Handle:
    return regions_of(tmp_path_factory.mktemp("evaluation"), EVALUATED, 60, seed=2)


def test_explainer_that_learned_is_valid(tmp_path: Path, trained: Namer, evaluation: Handle) -> None:
    found, _ = validate(tmp_path, trained, evaluation)
    assert found["is_valid"] is True
    assert found["p_value"] <= MAX_P_VALUE
    assert found["hit_rate"] > 0.5 > 0.3 > found["chance_rate"]


def test_explainer_of_shuffled_labels_is_not(tmp_path: Path, evaluation: Handle) -> None:
    found, _ = validate(tmp_path / "v", train(tmp_path / "e", shuffled=True), evaluation)
    assert found["is_valid"] is False
    assert found["p_value"] > MAX_P_VALUE
    assert found["hit_rate"] < 0.35


def test_figures_vs_loops(tmp_path: Path, trained: Namer, evaluation: Handle) -> None:
    """Only regions whose category has a vector; open vocabulary; trained on, held out, and all."""
    found, written = validate(tmp_path, trained, evaluation)
    concept, image, features = (np.load(evaluation.path(f"{n}.npy")) for n in ("concept", "image", "features"))
    with torch.inference_mode():
        scores = trained.explainer(torch.nn.functional.normalize(torch.from_numpy(features), dim=1)).numpy()
    order = np.argsort(-(scores @ VOCABULARY.matrix.T), axis=1)
    rows = [n for n in range(len(concept)) if EVALUATED[concept[n]] != UNKNOWN]
    assert found["num_regions"] == len(rows) < len(concept)
    true = {n: VOCABULARY.words.index(EVALUATED[concept[n]]) for n in rows}
    groups = {
        "all": rows,
        "supervised": [n for n in rows if EVALUATED[concept[n]] in trained.facts.supervised],
        "held_out": [n for n in rows if EVALUATED[concept[n]] in trained.facts.held_out],
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
    test = judge_explainer(order[rows, :5], np.array([true[n] for n in rows]), image[rows], seed=0)
    assert [found[k] for k in ("hit_rate", "chance_rate", "p_value")] == pytest.approx(
        [test.hit_rate, test.chance_rate, test.p_value]
    )


def test_test_looks_at_five_words_whatever_recall_is_asked_for(
    tmp_path: Path, trained: Namer, evaluation: Handle
) -> None:
    plain, _ = validate(tmp_path / "a", trained, evaluation)
    other, written = validate(
        tmp_path / "b", trained, evaluation, settings=SETTINGS.model_copy(update={"recall_at": (1,)})
    )
    assert plain == other
    assert set(written["recall"]["all"]) == {"num_regions", "1"}


def test_validation_repeats(tmp_path: Path, trained: Namer, evaluation: Handle) -> None:
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
def test_nothing_to_judge_by_is_not_valid(tmp_path: Path, trained: Namer, known: bool) -> None:
    """No regions at all; and regions of categories that the vocabulary lacks."""
    if known:
        regions, concepts = regions_of(tmp_path, EVALUATED, 0, seed=0), EVALUATED
    else:
        regions, concepts = regions_of(tmp_path, (UNKNOWN,), 9, seed=0), (UNKNOWN,)
    found, written = validate(tmp_path / "v", trained, regions, concepts)
    assert found == {"num_regions": 0, "p_value": 1.0, "is_valid": False}
    assert written["recall"] == {}
