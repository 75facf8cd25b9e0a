"""A few pictures with masks, maps and ground truth, small enough to judge by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.evaluation.ground_truth import GroundTruth
from lavise.tasks.masks.agreement import MaskAgreement, load_agreement, measure_agreement_of_shard, save_agreement
from lavise.tasks.masks.annotated_shards import AnnotatedShard, annotate_shards
from tests.unit.tasks.helpers import AnyArray, write_image, write_store

CONCEPTS = ("cat", "dog", "sky", "unicorn")
SIZE = 16
CELLS = 4
# Boxes of whole cells and parts of cells, in pictures of 16 x 16; "sky" is in every picture.
BOXES: tuple[tuple[str, tuple[float, float, float, float]], ...] = (
    ("cat", (0, 0, 8, 8)),
    ("dog", (4, 4, 9, 7)),
    ("cat", (5, 6, 2, 1)),
)


@dataclass(frozen=True)
class Scene:
    """Pictures, maps, and what the tests work out from them by themselves."""

    store: ActivationStore
    agreement: MaskAgreement
    maps: AnyArray
    coverage: AnyArray
    fine: AnyArray
    thresholds: AnyArray


def make_scene(folder: Path, chosen: list[int] | None = None) -> Scene:
    """Seven pictures, or those chosen (also repeatedly), with five filters: plain, clipped, dead, rare and constant."""
    maps = np.random.default_rng(0).normal(size=(7, 5, CELLS, CELLS)).astype(np.float16)
    maps[:, 1] = np.clip(maps[:, 1] * 3, 0, 1)
    maps[:, 2] = 0
    maps[:, 3] = np.maximum(maps[:, 3] - 1, 0)
    maps[:, 4] = 3.25
    thresholds = np.array([0.9, np.nextafter(np.float16(1), np.float16(0)), 0, 0.3, 3.25], np.float32)
    labels = [[0], [1], [0, 1], [], [2], [1], [0, 2]]
    records, coverage, fine = [], [], []
    for n, i in enumerate(range(7) if chosen is None else chosen):
        path = write_image(folder / f"{n:03d}.png", SIZE, SIZE, seed=i)
        annotations = [Annotation(BOXES[b][0], boxes=(BOXES[b][1],)) for b in labels[i]]
        # Half a picture of sky, wherever it is.
        annotations.append(Annotation("sky", boxes=((0, i, SIZE, SIZE - i),)))
        records.append(ImageRecord(f"{n:03d}.png", path, tuple(annotations)))
        masks = np.zeros((len(CONCEPTS), SIZE, SIZE), bool)
        for annotation in annotations:
            masks[CONCEPTS.index(annotation.concept)] |= annotation.make_mask(SIZE, SIZE)
        fine.append(masks)
        coverage.append(masks.reshape(len(CONCEPTS), CELLS, 4, CELLS, 4).mean(axis=(2, 4)).reshape(len(CONCEPTS), -1))
    taken = maps if chosen is None else maps[chosen]
    store = write_store(folder / "s", taken, shard_images=3)
    shards = annotate_shards(store, Dataset("scene", tuple(records), CONCEPTS), Geometry(SIZE))
    return Scene(store, merge_shards(store, shards, thresholds), taken, np.array(coverage), np.array(fine), thresholds)


def merge_shards(store: ActivationStore, shards: list[AnnotatedShard], thresholds: AnyArray) -> MaskAgreement:
    """What the stage makes of its shards, in the store's folder."""
    save_agreement((measure_agreement_of_shard(thresholds, s)[0] for s in shards), store.starts[:-1], store.folder)
    return load_agreement(store.folder)


def make_truth(seed: int = 0, num: int = 40, num_images: int = 7) -> GroundTruth:
    rng = np.random.default_rng(seed)
    member = rng.random((num, 4)) < 0.4
    member[:, 0] |= ~member.any(axis=1)
    pairs = Pairs(np.sort(rng.integers(0, 5, num)), rng.integers(0, num_images, num), np.ones(num, np.float32))
    return GroundTruth(pairs, member)
