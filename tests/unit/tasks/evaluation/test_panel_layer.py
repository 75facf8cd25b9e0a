"""A layer's words as positions of concepts, and the ground truth that they are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.storage.state.artefacts import Handle
from lavise.tasks.activations.top_images import select_top_images
from lavise.tasks.evaluation.ground_truth import find_ground_truth
from lavise.tasks.evaluation.panel_layer import LayerArtefacts, load_panel_layer
from lavise.tasks.masks.agreement import (
    load_agreement,
    measure_agreement_of_shard,
    save_agreement,
)
from lavise.tasks.masks.annotated_shards import annotate_shards
from lavise.tasks.masks.detection import Detection, save_detection
from lavise.tasks.masks.overlaps import count_overlaps_of_shard, load_overlaps, save_overlaps
from lavise.tasks.words.tables import EXPLANATIONS_SCHEMA, FILTERS_SCHEMA
from tests.unit.flows.helpers import make_filters
from tests.unit.tasks.helpers import publish, publish_thresholds, write_image, write_store

CONCEPTS = ("cat", "hot dog", "sky")
SIZE = 16
THRESHOLDS = np.array([0.5, 0.5, 0.5, 0.5], np.float32)


def publish_detection(root: Path) -> Handle:
    right = np.arange(12).reshape(4, 3) % 2 == 0

    def fill(folder: Path) -> None:
        zeros = np.zeros((4, 3), np.float32)
        save_detection(Detection(zeros, zeros, right, np.array([3, 0, 1])), folder)

    return publish(root, "detect", fill)


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


def make_artefacts(root: Path, words: Sequence[Sequence[str]], explained: Sequence[bool]) -> LayerArtefacts:
    """A layer of four filters on six pictures, each with a box of one concept."""
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 4))

    def extract(folder: Path) -> None:
        write_store(folder, maps, shard_images=6)

    activations = publish(root, "extract", extract)
    store = ActivationStore(activations.folder)
    records = [
        ImageRecord(f"{i:03d}.png", write_image(root / f"{i:03d}.png", SIZE, SIZE, i), (annotation,))
        for i, annotation in enumerate([Annotation(CONCEPTS[i % 3], boxes=((0, 0, 8, 12),)) for i in range(6)])
    ]
    (shard,) = annotate_shards(store, Dataset("d", tuple(records), CONCEPTS), Geometry(SIZE))
    measured, _ = measure_agreement_of_shard(THRESHOLDS, shard)
    counted, _ = count_overlaps_of_shard(THRESHOLDS, shard)

    def save_agreement_of_all(folder: Path) -> None:
        save_agreement([measured], [0], folder)

    def save_overlaps_of_all(folder: Path) -> None:
        save_overlaps([counted], [0], folder)

    return LayerArtefacts(
        explained=publish_explained(root, words, explained),
        activations=activations,
        thresholds=publish_thresholds(root, THRESHOLDS),
        agreement=publish(root, "agreement", save_agreement_of_all),
        overlaps=publish(root, "overlaps", save_overlaps_of_all),
        detection=publish_detection(root),
    )


def test_words_become_positions_of_concepts(tmp_path: Path) -> None:
    """By lemma; in the filter's order; a word that is no category keeps its place."""
    words = [["tree", "cats", "sky", "hot dogs"], [], ["hotdog"], ["dog", "skies"]]
    made = make_artefacts(tmp_path, words, [True, False, True, False])
    found = load_panel_layer(made, CONCEPTS, num_words=4, top_images=3, min_iou=0.04)
    assert found.statements.filter.tolist() == [0, 1, 2, 3]
    assert found.statements.words.tolist() == [
        [-1, 0, 2, 1],
        [-1, -1, -1, -1],
        [1, -1, -1, -1],
        [-1, 2, -1, -1],
    ]
    assert found.explained.tolist() == [True, False, True, False]
    assert found.present_K.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.right, np.arange(12).reshape(4, 3) % 2 == 0)


def test_words_are_lemmas_of_their_language(tmp_path: Path) -> None:
    made = make_artefacts(tmp_path, [["chiens", "dogs"], [], [], []], [True, False, False, False])
    concepts = ("chien", *CONCEPTS[1:])
    french = load_panel_layer(made, concepts, num_words=2, top_images=3, min_iou=0.04, language="fr")
    assert french.statements.words[0].tolist() == [0, -1]
    german = load_panel_layer(made, concepts, num_words=2, top_images=3, min_iou=0.04, language="de")
    assert german.statements.words[0].tolist() == [-1, -1]


def test_judged_layer_has_the_evaluation_pictures_ground_truth(tmp_path: Path) -> None:
    made = make_artefacts(tmp_path, [[]] * 4, [False] * 4)
    found = load_panel_layer(made, CONCEPTS, num_words=10, top_images=2, min_iou=0.01)
    pairs = select_top_images(found.store, THRESHOLDS, 2)
    expected = find_ground_truth(pairs, load_overlaps(made.overlaps.folder), 3, 0.01)
    for name in ("filter", "image", "peak"):
        np.testing.assert_array_equal(getattr(found.truth.pairs, name), getattr(expected.pairs, name))
    np.testing.assert_array_equal(found.truth.member, expected.member)
    assert len(expected.pairs) > 0
    stricter = load_panel_layer(made, CONCEPTS, num_words=10, top_images=25, min_iou=0.9)
    assert len(stricter.truth.pairs) < len(expected.pairs)
    kept = load_agreement(made.agreement.folder)
    np.testing.assert_array_equal(found.agreement.region_px, kept.region_px)
