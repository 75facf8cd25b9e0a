"""What is measured of the explainer's words where there are labels: the file, its facts, and who is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lavise.configs.schema import ExplainSettings
from lavise.storage.activations import ActivationStore
from lavise.tasks.activations.layer_maps import LayerMaps
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import take_part
from lavise.tasks.words import naming_check
from lavise.tasks.words.naming_check import PRECISION_FILE, MeasuredNaming, NamingRule, load_naming, measure_naming
from tests.unit.tasks.helpers import write_store
from tests.unit.tasks.words.test_preferred_words import (
    CHANNELS,
    CONCEPTS,
    READ,
    THRESHOLDS,
    Scene,
    make_namer,
    make_part,
)

Part = tuple[ActivationStore, Any]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    root = tmp_path_factory.mktemp("scene")
    parts = [make_part(root / name, num, seed) for name, num, seed in (("e", 120, 1), ("t", 60, 3))]
    return Scene(parts[0][0], parts[0], parts[1])


def measure(
    scene: Scene, folder: Path, truthful: bool = True, seed: int = 0
) -> tuple[Mapping[str, Any], MeasuredNaming]:
    namer, _ = make_namer(truthful)
    (store, labelled), rule = scene.evaluation, take_part(ExplainSettings(top_images=10), NamingRule)
    folder.mkdir(exist_ok=True)
    maps = LayerMaps(store, THRESHOLDS)
    facts = measure_naming(maps, labelled, scene.train, namer, rule, folder, Computing(seed))
    return facts, load_naming(folder)


def test_facts_are_those_of_the_file(scene: Scene, tmp_path: Path) -> None:
    facts, found = measure(scene, tmp_path / "out")
    assert facts == {
        "num_category_statements": found.precision.category.num_statements,
        "num_class_statements": 0,
        "num_judged": found.statements["num_judged"],
        "num_right": found.statements["num_right"],
        "calibration_error": found.reliability["expected_calibration_error"],
    }
    assert found.reliability["count"] == facts["num_judged"]
    assert sum(b["count"] for b in found.reliability["bins"]) == facts["num_judged"]


def test_a_truthful_explainer_is_believed(scene: Scene, tmp_path: Path) -> None:
    """Every filter that the explainer reads follows one concept; those that follow none are stated, too."""
    facts, found = measure(scene, tmp_path / "out")
    assert found.precision.category.best > 0.9
    assert facts["num_judged"] == CHANNELS
    assert READ <= facts["num_right"] < CHANNELS
    sure = [b for b in found.reliability["bins"] if b["count"] and b["low"] >= 0.8]
    assert sure
    assert all(b["share"] == 1 for b in sure)


def test_an_explainer_that_says_the_wrong_words_is_not(scene: Scene, tmp_path: Path) -> None:
    facts, found = measure(scene, tmp_path / "out", truthful=False)
    truthful, _ = measure(scene, tmp_path / "truthful")
    assert facts["num_category_statements"] > 30
    assert found.precision.category.best < 0.3
    assert facts["num_right"] < truthful["num_right"]
    # Nothing that it says is stated with confidence.
    assert all(b["count"] == 0 for b in found.reliability["bins"] if b["low"] >= 0.5)


def test_each_concept_is_counted_on_the_evaluation_part(scene: Scene, tmp_path: Path) -> None:
    """What is told of a concept cannot be right more often than it is said, and almost all pictures are told."""
    _, found = measure(scene, tmp_path / "out")
    counted = found.precision.counted
    assert set(counted) == set(CONCEPTS)
    has = scene.evaluation[1].count_images_with()
    for concept, count in counted.items():
        assert count.right <= count.carried
        assert abs(count.carried - has[concept]) <= 3


def test_without_a_head_there_is_no_certainty_of_it(scene: Scene, tmp_path: Path) -> None:
    _, found = measure(scene, tmp_path / "out")
    assert found.certainty is None
    assert found.precision.class_name.num_statements == 0
    assert found.precision.class_name.note


def test_the_same_again_to_the_byte_and_the_seed_counts(scene: Scene, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        measure(scene, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / PRECISION_FILE).read_bytes() for name in "abc")
    assert a == b
    # The halves on which words are chosen are others; the witnesses and their precision are not.
    first, other = json.loads(a), json.loads(c)
    assert first["precision"] == other["precision"]
    assert first["reliability"] != other["reliability"]


def test_filters_above_no_threshold_are_judged_by_their_peaks_alone(scene: Scene, tmp_path: Path) -> None:
    """No top pictures, no regions: the words are stated all the same, and nothing breaks."""
    namer, _ = make_namer()
    (tmp_path / "out").mkdir()
    (store, labelled), rule = scene.evaluation, take_part(ExplainSettings(), NamingRule)
    never = LayerMaps(store, np.full(CHANNELS, 1e4, np.float32))
    facts = measure_naming(never, labelled, scene.train, namer, rule, tmp_path / "out", Computing())
    assert facts["num_judged"] == CHANNELS


def test_auroc_by_labels_goes_by_the_pictures_on_which_a_concept_was_looked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    peaks, truth = rng.normal(size=(40, 3)).astype(np.float16), rng.random((40, 4)) < 0.4
    known = (rng.random(truth.shape) < 0.5) | truth
    known[:, 2], known[:, 3] = True, False
    with write_store(tmp_path, peaks[:, :, None, None], shard_images=7).turn_peaks() as turned:
        found, plain = (naming_check._measure_auroc(turned, truth, own) for own in (known, None))
    for t in range(3):
        own = known[:, t]
        for u in range(3):
            expected = roc_auc_score(truth[own, t], peaks[own, u].astype(np.float64))
            assert found[u, t] == pytest.approx(expected, abs=1e-12)
    assert (found[:, 3] == 0.5).all()
    np.testing.assert_array_equal(found[:, 2], plain[:, 2])
    assert (found[:, 0] != plain[:, 0]).all()
