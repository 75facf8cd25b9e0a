"""Region features: the maps of a picture averaged over each annotated mask."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_types import FloatArray, IntArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.images.geometry import Geometry
from lavise.storage.state import file_names
from lavise.storage.state.free_space import reserve_room
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.masks.annotated_shards import AnnotatedShard, annotate_shards, make_masks
from lavise.tasks.masks.mask_inputs import MaskInputs

REGIONS = Stage("regions", version=2)


@dataclass(frozen=True)
class Regions:
    """Pooled features of all pairs (concept, mask) of a data set.

    Attributes:
        features: float32 [R, C], mean over H·W of F ⊙ M (METHOD, training).
        coverage: float32 [R], mean of M over the map, in 0..1.
        image: int64 [R], position of the picture in the store.
        concept: int64 [R], position in the data set's concepts.
        skipped: regions left out, by reason.
    """

    features: FloatArray
    coverage: FloatArray
    image: IntArray
    concept: IntArray
    skipped: Mapping[str, int]


def pool_regions_of_shard(shard: AnnotatedShard) -> Regions:
    """Masks shrunk by area to H x W, then pool(F ⊙ M); a mask that covers no cell is skipped and counted."""
    maps = read_shard_maps(shard.path)
    height, width = maps.shape[2:]
    number_of = {c: i for i, c in enumerate(shard.concepts)}
    features, coverage, image, concept = [], [], [], []
    skipped: Counter[str] = Counter()
    with threadpool_limits(1):
        for position, record in enumerate(shard.records):
            masks, numbers = [], []
            for annotation, mask_hw in make_masks(record, skipped):
                mask = shard.geometry.shrink_mask(mask_hw, height, width)
                if mask.any():
                    masks.append(mask.ravel())
                    numbers.append(number_of[annotation])
                else:
                    skipped["empty mask"] += 1
            if masks:
                masks_RP = np.stack(masks)
                maps_CP = maps[position].reshape(maps.shape[1], -1).astype(np.float32)
                features.append(masks_RP @ maps_CP.T / np.float32(height * width))
                coverage.append(masks_RP.mean(axis=1))
                image.append(np.full(len(masks), position, dtype=np.int64))
                concept.append(np.array(numbers, dtype=np.int64))
    if not features:
        empty = np.zeros(0, np.int64)
        return Regions(np.zeros((0, maps.shape[1]), np.float32), np.zeros(0, np.float32), empty, empty, dict(skipped))
    return Regions(
        np.concatenate(features),
        np.concatenate(coverage),
        np.concatenate(image),
        np.concatenate(concept),
        dict(skipped),
    )


def save_regions_of_shard(folder: Path, item: tuple[int, AnnotatedShard]) -> tuple[int, dict[str, int]]:
    """Pool one shard and leave the result in the folder: features are too large to send around."""
    number, shard = item
    found = pool_regions_of_shard(shard)
    np.savez(
        folder / f"part-{number:06d}.npz",
        features=found.features,
        coverage=found.coverage,
        image=found.image,
        concept=found.concept,
    )
    return len(found.image), dict(found.skipped)


def make_regions(inputs: MaskInputs, folder: Path) -> Info:
    """Write what `pool_regions` writes, and return its facts."""
    store = ActivationStore(inputs.activations.folder)
    return pool_regions(store, inputs.data.value, inputs.geometry, folder, inputs.cluster)


def pool_regions(
    store: ActivationStore, dataset: Dataset, geometry: Geometry, folder: Path, cluster: StatisticsCluster
) -> Info:
    """Pool all regions of a data set into folder/{features,coverage,image,concept}.npy.

    Returns:
        facts: num_regions, num_images_with_regions, skipped by reason.
    """
    items = list(enumerate(annotate_shards(store, dataset, geometry)))
    # A folder of this attempt's own: a worker that outlived an earlier one must not write into it.
    scratch = Path(tempfile.mkdtemp(prefix="parts-", dir=folder))
    results = cluster.map("pool regions", partial(save_regions_of_shard, scratch), items)
    total = sum(count for count, _ in results)
    features = np.lib.format.open_memmap(
        folder / file_names.REGION_FEATURES, mode="w+", dtype=np.float32, shape=(total, store.shape[1])
    )
    reserve_room(folder / file_names.REGION_FEATURES)
    small: dict[str, list[Any]] = {"coverage": [], "image": [], "concept": []}
    start = 0
    for number, (count, _) in enumerate(results):
        part = scratch / f"part-{number:06d}.npz"
        with np.load(part, allow_pickle=False) as arrays:
            features[start : start + count] = arrays["features"]
            small["coverage"].append(arrays["coverage"])
            small["image"].append(arrays["image"] + store.starts[number])
            small["concept"].append(arrays["concept"])
        start += count
    features.flush()
    shutil.rmtree(scratch)
    for name, parts in small.items():
        np.save(folder / f"{name}.npy", np.concatenate(parts))
    skipped = Counter(dataset.skipped)
    for _, counts in results:
        skipped.update(counts)
    num_images = len(np.unique(np.concatenate(small["image"])))
    return {"num_regions": total, "num_images_with_regions": num_images, "skipped": dict(skipped)}
