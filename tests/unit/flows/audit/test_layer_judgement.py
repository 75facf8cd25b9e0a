"""What the stages of a layer hand to each other: the verdict on words, and words as positions of concepts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.audit.layer_context import LayerResult
from lavise.flows.audit.layer_judgement import load_judged_layer, load_judgement
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.datasets.geometry import Geometry
from lavise.storage.models.layers import Layer
from lavise.storage.state.artefacts import Handle
from lavise.tasks.activations.top_images import select_top_images
from lavise.tasks.evaluation.ground_truth import find_ground_truth
from lavise.tasks.masks.agreement import (
    AGREEMENT,
    load_agreement,
    measure_agreement_of_shard,
    merge_agreement,
    save_agreement,
)
from lavise.tasks.masks.annotated_shards import annotate_shards
from lavise.tasks.masks.detection import Detection, save_detection
from lavise.tasks.masks.overlaps import OVERLAPS, Overlaps, count_overlaps_of_shard, load_overlaps, save_overlaps
from lavise.tasks.words.tables import EXPLANATIONS_SCHEMA, FILTERS_SCHEMA
from tests.unit.flows.helpers import make_config, make_filters
from tests.unit.tasks.helpers import publish, write_picture, write_store

CONCEPTS = ("cat", "hot dog", "sky")
SIZE = 16
THRESHOLDS = np.array([0.5, 0.5, 0.5, 0.5], np.float32)


def publish_detection(root: Path) -> Handle:
    right = np.arange(12).reshape(4, 3) % 2 == 0

    def fill(folder: Path) -> None:
        zeros = np.zeros((4, 3), np.float32)
        save_detection(Detection(zeros, zeros, right, np.array([3, 0, 1])), folder)

    return publish(root, "detect", fill)


@pytest.mark.parametrize("is_valid", [True, False])
def test_judgement(tmp_path: Path, is_valid: bool) -> None:
    validated = publish(tmp_path, "validate", lambda _: {"is_valid": is_valid, "p_value": 0.25})
    found = load_judgement(publish_detection(tmp_path), validated, Dataset("d", (), CONCEPTS))
    assert found.concepts == CONCEPTS
    assert found.judged_K.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.right, np.arange(12).reshape(4, 3) % 2 == 0)
    reason = "the explainer names held-out regions no better than chance (p = 0.250)"
    assert found.invalid == ("" if is_valid else reason)


def publish_explained(root: Path, words: Sequence[Sequence[str]], explained: Sequence[bool]) -> Handle:
    """Tables as they are written: words of a filter in their order, whether it is explained or not."""

    def fill(folder: Path) -> None:
        rows = make_filters("tail", [own[0] if yes else None for own, yes in zip(words, explained, strict=True)])
        parquet.write_table(pa.Table.from_pylist(rows, FILTERS_SCHEMA), folder / "filters.parquet")
        named = [
            {"layer": "tail", "filter": unit, "rank": rank, "word": word}
            for unit, own in enumerate(words)
            for rank, word in enumerate(own, start=1)
        ]
        parquet.write_table(pa.Table.from_pylist(named, EXPLANATIONS_SCHEMA), folder / "explanations.parquet")

    return publish(root, "explain", fill)


def make_result(root: Path, config: Config, words: Sequence[Sequence[str]], explained: Sequence[bool]) -> LayerResult:
    """A layer of four filters on six pictures, each with a box of one concept."""
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 4))

    def extract(folder: Path) -> None:
        write_store(folder, maps, shard_images=6)

    activations = publish(root, "extract", extract)
    store = ActivationStore(activations.folder)
    records = [
        ImageRecord(f"{i:03d}.png", write_picture(root / f"{i:03d}.png", SIZE, SIZE, i), (annotation,))
        for i, annotation in enumerate([Annotation(CONCEPTS[i % 3], boxes=((0, 0, 8, 12),)) for i in range(6)])
    ]
    (shard,) = annotate_shards(store, Dataset("d", tuple(records), CONCEPTS), Geometry(SIZE))
    measured = merge_agreement([measure_agreement_of_shard(THRESHOLDS, shard)[0]], store.starts[:-1])
    overlaps = Overlaps(*count_overlaps_of_shard(THRESHOLDS, shard)[0].T)
    result = LayerResult(
        Layer("tail", "Conv2d", 4, 4, 4),
        {Role.EVALUATION: activations},
        thresholds={
            Role.EVALUATION: publish(root, "thresholds", lambda folder: np.save(folder / "thresholds.npy", THRESHOLDS))
        },
    )
    for handle in (
        publish(root, "overlaps", lambda folder: save_overlaps(overlaps, folder)),
        publish(root, "agreement", lambda folder: save_agreement(measured, folder)),
        publish_detection(root),
        publish_explained(root, words, explained),
    ):
        result.keep(handle)
    return result


def test_words_become_positions_of_concepts(tmp_path: Path) -> None:
    """By lemma; in the filter's order; a word that is no category keeps its place."""
    config = make_config(tmp_path, explain={"num_words": 4, "top_images": 3})
    words = [["tree", "cats", "sky", "hot dogs"], [], ["hotdog"], ["dog", "skies"]]
    result = make_result(tmp_path / "r", config, words, [True, False, True, False])
    found = load_judged_layer(result, CONCEPTS, config)
    assert found.statements.filter.tolist() == [0, 1, 2, 3]
    assert found.statements.words.tolist() == [
        [-1, 0, 2, 1],
        [-1, -1, -1, -1],
        [1, -1, -1, -1],
        [-1, 2, -1, -1],
    ]
    assert found.explained.tolist() == [True, False, True, False]
    assert found.judged_K.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.right, np.arange(12).reshape(4, 3) % 2 == 0)


def test_judged_layer_has_the_evaluation_pictures_ground_truth(tmp_path: Path) -> None:
    config = make_config(tmp_path, explain={"top_images": 2}, evaluate={"min_iou": 0.01})
    result = make_result(tmp_path / "r", config, [[]] * 4, [False] * 4)
    found = load_judged_layer(result, CONCEPTS, config)
    pairs = select_top_images(found.store, THRESHOLDS, 2)
    expected = find_ground_truth(pairs, load_overlaps(result.of(OVERLAPS).folder), 3, 0.01)
    for name in ("filter", "image", "peak"):
        np.testing.assert_array_equal(getattr(found.truth.pairs, name), getattr(expected.pairs, name))
    np.testing.assert_array_equal(found.truth.member, expected.member)
    assert len(expected.pairs) > 0
    stricter = load_judged_layer(result, CONCEPTS, make_config(tmp_path, evaluate={"min_iou": 0.9}))
    assert len(stricter.truth.pairs) < len(expected.pairs)
    kept = load_agreement(result.of(AGREEMENT).folder)
    np.testing.assert_array_equal(found.agreement.region_px, kept.region_px)


def test_a_stage_that_has_not_run_is_named(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    result = make_result(tmp_path / "r", config, [[]] * 4, [False] * 4)
    del result.made["agreement"]
    with pytest.raises(KeyError, match="stage agreement of layer tail has not run"):
        load_judged_layer(result, CONCEPTS, config)
