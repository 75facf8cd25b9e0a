"""Words by preference from store to table: filters known by construction, guesses, reasons, advice, and the judge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch

from lavise.configs.schema import ExplainSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.state import file_names
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.layer_maps import LayerMaps
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import take_part
from lavise.tasks.explainer.naming import Namer
from lavise.tasks.explainer.network import Explainer, ExplainerFacts
from lavise.tasks.words.evidence import Evidence
from lavise.tasks.words.explain import explain_filters
from lavise.tasks.words.naming_check import PRECISION_FILE, MeasuredNaming, NamingRule, load_naming, measure_naming
from lavise.tasks.words.naming_precision import KindPrecision, NamingPrecision, WordCount
from lavise.tasks.words.preferred_words import REGIONS, _add_told_by_regions, _advise
from lavise.tasks.words.ranking import WordTruth
from lavise.tasks.words.word_rows import WordRows
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, write_store

CONCEPTS = ("fish", "brick", "moon", "horn")
READ = 4  # channels that the explainer reads: each follows one concept
FOLLOWS, NOISE, DEAD, WEAK, OTHER = range(READ, READ + 5)
CHANNELS = READ + 5
THRESHOLDS = np.array([2, 2, 2, 2, 2, 2, 0, 2, 2], np.float32)


def make_maps(concept_N: AnyArray, seed: int) -> AnyArray:
    """Every picture has one concept, in a square of 2 x 2 cells; filters follow it or do not."""
    rng = np.random.default_rng(seed)
    num = len(concept_N)
    maps = rng.uniform(0, 0.3, size=(num, CHANNELS, 6, 6))
    maps[:, NOISE] = rng.gamma(1.0, 1.0, size=(num, 6, 6))
    maps[:, DEAD] = 0
    for image, concept in enumerate(concept_N):
        top, left = rng.integers(0, 5, size=2)
        place = (slice(top, top + 2), slice(left, left + 2))
        maps[image, concept][place] = rng.uniform(4, 6)
        maps[image, FOLLOWS][place] = rng.uniform(2, 4) + 3 * (concept == 1)
        maps[image, WEAK][place] = rng.uniform(2, 4) + 0.8 * (concept == 2)
        maps[image, OTHER][place] = rng.uniform(2, 4) + 3 * (concept in (0, 3))
    return maps


def make_namer(truthful: bool = True) -> tuple[Namer, Vocabulary]:
    """A classifier that calls a region what the strongest of the four channels stands for; or something else."""
    torch.manual_seed(0)
    vocabulary = make_vocabulary(25, CONCEPTS)
    explainer = Explainer(READ, 6, 0.1, len(CONCEPTS)).eval()
    assert explainer.categories is not None
    rows = torch.eye(READ) if truthful else torch.eye(READ).roll(1, dims=0)
    with torch.no_grad():
        explainer.categories.weight.copy_(rows * 0.6)
        explainer.categories.bias.zero_()
    facts = ExplainerFacts(READ, 6, 0.1, "l2", "softmax", CONCEPTS, (), {}, "fused", 0.5)
    return Namer(explainer, facts, None, vocabulary, "cpu"), vocabulary


@dataclass
class Scene:
    """A target without labels, and a labelled reference."""

    target: ActivationStore
    evaluation: tuple[ActivationStore, Dataset]
    train: tuple[ActivationStore, Dataset]


def make_part(folder: Path, num: int, seed: int) -> tuple[ActivationStore, Dataset]:
    concepts = np.random.default_rng(seed).integers(0, 4, size=num)
    store = write_store(folder, make_maps(concepts, seed + 1), 32)
    records = tuple(
        ImageRecord(key, folder / key, (Annotation(CONCEPTS[c]),)) for key, c in zip(store.keys, concepts, strict=True)
    )
    return store, Dataset("reference", records, CONCEPTS)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    root = tmp_path_factory.mktemp("scene")
    parts = [make_part(root / name, num, seed) for name, num, seed in (("e", 120, 1), ("t", 80, 3), ("d", 160, 5))]
    return Scene(parts[2][0], parts[0], parts[1])


def explain(
    scene: Scene,
    folder: Path,
    truthful: bool = True,
    invalid: str = "",
    target: ActivationStore | None = None,
    **changes: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    namer, _ = make_namer(truthful)
    settings = ExplainSettings.model_validate({"top_images": 10, "num_words": 3, **changes})
    folder.mkdir(parents=True, exist_ok=True)
    (store, labelled), rule = scene.evaluation, take_part(settings, NamingRule)
    measure_naming(LayerMaps(store, THRESHOLDS), labelled, scene.train, namer, rule, folder, Computing())
    right = np.zeros((CHANNELS, 4), dtype=bool)
    info = explain_filters(
        LayerMaps(target or scene.target, THRESHOLDS, saturated_C=np.arange(CHANNELS) == 2),
        namer,
        WordTruth(CONCEPTS, right, np.ones(4, bool), invalid),
        settings,
        "body",
        folder,
        Computing(),
        load_naming(folder),
    )
    filters, words = (parquet.read_table(folder / f"{n}.parquet").to_pylist() for n in ("filters", "explanations"))
    return filters, words, dict(info)


def test_filters_get_what_they_follow(scene: Scene, tmp_path: Path) -> None:
    filters, words, info = explain(scene, tmp_path)
    assert [f["words"][:1] for f in filters[:READ]] == [[c] for c in CONCEPTS]
    assert filters[FOLLOWS]["words"] == ["brick"]
    assert set(filters[OTHER]["words"]) == {"fish", "horn"}
    assert [filters[u]["confidence"] > 0.9 for u in (0, FOLLOWS)] == [True, True]
    assert filters[FOLLOWS]["auroc"] > 0.95
    first = next(w for w in words if w["filter"] == FOLLOWS)
    assert (first["word"], first["kind"], first["significant"], first["rank"]) == ("brick", "category", True, 1)
    assert first["auroc_low"] <= first["auroc"] <= first["auroc_high"]
    assert first["votes"] == 10
    assert 0.15 < first["background"] < 0.4  # about a quarter of the pictures
    assert [f["saturated"] for f in filters] == [u == 2 for u in range(CHANNELS)]
    assert (info["num_explained"], info["advice"]) == (sum(f["explained"] for f in filters), "")


def test_others_are_guesses_with_a_reason(scene: Scene, tmp_path: Path) -> None:
    filters, words, _ = explain(scene, tmp_path)
    assert not filters[NOISE]["explained"]
    assert filters[NOISE]["guess"] in CONCEPTS
    assert "beyond chance" in filters[NOISE]["reason"]
    assert (filters[NOISE]["confidence"], filters[NOISE]["words"]) == (0, [])
    assert 0 <= filters[NOISE]["guess_confidence"] < 0.3
    assert (filters[DEAD]["guess"], filters[DEAD]["reason"]) == ("", "never above its threshold")
    assert filters[WEAK]["guess"] == "moon"
    assert "moon" in filters[WEAK]["reason"]
    assert not any(w["significant"] for w in words if w["filter"] in (NOISE, WEAK))


def test_an_explainer_that_says_the_wrong_words_is_not_believed(scene: Scene, tmp_path: Path) -> None:
    """Its words are consistent, and filters follow them on the other half of the pictures too; labels tell."""
    filters, _, info = explain(scene, tmp_path, truthful=False)
    assert not any(f["explained"] for f in filters)
    assert "where that can be judged" in filters[FOLLOWS]["reason"]
    assert filters[FOLLOWS]["guess"]  # what its regions are called
    assert info["num_untrusted"] > 0
    assert "0 of 9 filters explained" in info["advice"]
    precision = json.loads((tmp_path / PRECISION_FILE).read_text("utf-8"))["precision"]
    assert precision["category"]["num_right"] <= 0.25 * precision["category"]["num_statements"]


def test_an_invalid_explainer_explains_nothing(scene: Scene, tmp_path: Path) -> None:
    filters, _, info = explain(scene, tmp_path, invalid="it is no better than chance")
    assert {f["reason"] for f in filters} == {"never above its threshold", "it is no better than chance"}
    assert "it is no better than chance" in info["advice"]


def test_few_pictures_bring_advice(scene: Scene, tmp_path: Path) -> None:
    few = write_store(tmp_path / "few", make_maps(np.arange(8) % 4, 9))
    filters, _, info = explain(scene, tmp_path / "out", target=few)
    assert not any(f["explained"] for f in filters)
    assert "no word is on enough of the 8 pictures" in filters[FOLLOWS]["reason"]
    assert "give 30 or more pictures of each kind" in info["advice"]
    assert info["num_words_on_pictures"] == 0


def test_reliability_is_of_the_same_rule(scene: Scene, tmp_path: Path) -> None:
    """The chart's statements are the evaluation part's filters with the words that the rule gives them there."""
    explain(scene, tmp_path)
    content = json.loads((tmp_path / file_names.CALIBRATION).read_text("utf-8"))
    assert content["rule"] == "auroc"
    assert content["statements"]["num_judged"] == content["reliability"]["count"] == CHANNELS
    confident = [b for b in content["reliability"]["bins"] if b["count"] and b["confidence"] > 0.8]
    assert confident
    assert all(b["share"] == 1 for b in confident)
    unsure = [b for b in content["reliability"]["bins"] if b["count"] and b["confidence"] < 0.1]
    assert all(b["share"] == 0 for b in unsure)


def make_rows(units: list[int], significant: list[bool]) -> WordRows:
    num = len(units)
    ones = np.ones(num)
    numbers = dict.fromkeys(("score", "share", "share_low", "share_high", "weight", "background"), ones * 0.5)
    numbers |= dict.fromkeys(("p_value", "q_value", "confidence", "auroc", "auroc_low", "auroc_high"), ones * 0.5)
    return WordRows(
        filter=np.array(units),
        word=np.zeros(num, np.int64),
        votes=np.ones(num, np.int64),
        significant=np.array(significant),
        kind=["category"] * num,
        **numbers,
    )


def make_evidence(units: list[int], words: list[int], p_values: list[float]) -> Evidence:
    num = len(units)
    counts: dict[str, Any] = {name: np.full(num, 9) for name in ("votes", "images")}
    shares: dict[str, Any] = {name: np.ones(num) for name in ("score", "share", "share_low", "share_high")}
    shares |= dict.fromkeys(("background", "p_value", "q_value"), np.array(p_values))
    return Evidence(np.array(units), np.array(words), **counts, **shares, num_hypotheses=9)


def test_a_filter_without_a_word_takes_what_its_own_regions_say_beyond_doubt() -> None:
    vocabulary = make_vocabulary(3, CONCEPTS)
    fish, brick, moon, _ = range(3, 7)
    kind = KindPrecision((0.0,), (1.0,), (2.0,), (1.0,), 0.0, 10.0, 99, 90)
    counted = {"fish": WordCount(20, 20), "brick": WordCount(20, 20), "moon": WordCount(20, 0)}
    precision = NamingPrecision(kind, kind, counted)
    rows = make_rows([0, 1, 1, 2, 3, 4], [True, False, True, False, False, False])
    evidence = make_evidence(
        [0, 1, 1, 2, 3, 4], [fish, brick, fish, moon, fish, 1], [1e-12, 1e-9, 1e-8, 1e-12, 1e-5, 1e-12]
    )
    found = _add_told_by_regions(rows, evidence, precision, vocabulary, ExplainSettings(num_words=3))
    # 0 has a word; 1 takes the strongest; moon is never right; 3 leaves doubt; word 1 is no category.
    assert found.filter.tolist() == [0, 1, 1, 1, 2, 3, 4]
    assert [found.word[1], found.kind[1], bool(found.significant[1])] == [brick, REGIONS, True]
    assert found.confidence[1] == pytest.approx((10 * 40 / 60 + 20) / 30)
    assert np.isnan(found.auroc[1])
    assert [k for k in found.kind if k == REGIONS] == [REGIONS]


def test_same_inputs_same_bytes(scene: Scene, tmp_path: Path) -> None:
    for name in ("a", "b"):
        explain(scene, tmp_path / name)
    for name in ("filters.parquet", "explanations.parquet", file_names.CALIBRATION, PRECISION_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("knows_classes", [True, False])
def test_names_of_classes_are_not_asked_for_where_they_are_known(knows_classes: bool) -> None:
    kind = KindPrecision((0.0,), (1.0,), (0.0,), (0.0,), 0.0, 1.0, 0, 0)
    naming = MeasuredNaming(NamingPrecision(kind, kind, {}), {}, {}, None)
    causes = {"untrusted": 9, "without_word": 0, "unclear": 0, "weak": 0}
    advice = _advise(["no"] * 9, causes, 40, 3, naming, "", knows_classes)
    assert "with more of them" in advice
    assert ("model.class_names" in advice) is not knows_classes
