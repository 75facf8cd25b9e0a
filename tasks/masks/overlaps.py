"""Overlaps of concept masks and activation regions: what IoU_{u,t} is computed from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_types import DoubleArray, FloatArray, IntArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.images.geometry import Geometry, find_regions
from lavise.storage.state import file_names
from lavise.tasks.activations.thresholds import load_thresholds
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.masks.annotated_shards import AnnotatedShard, annotate_shards, make_masks
from lavise.tasks.masks.mask_inputs import MaskedRegionInputs

OVERLAPS = Stage("overlaps", version=2)
_REGION_BLOCK = 256


@dataclass(frozen=True)
class Overlaps:
    """Pixel counts, at the input's size, of masks and regions R_u that share a picture; int64 [K] each.

    Only pairs of filter and picture with a peak above the threshold are there (the region is empty otherwise), and of
    these only the masks that the region touches.

    Attributes:
        image: position in the store.
        filter: u.
        concept: position in the data set's concepts.
        intersection, region, mask: pixels of Y x X.
    """

    image: IntArray
    filter: IntArray
    concept: IntArray
    intersection: IntArray
    region: IntArray
    mask: IntArray

    def compute_iou(self) -> DoubleArray:
        """IoU(M_j, R_u) of each entry, in 0..1."""
        return self.intersection / (self.region + self.mask - self.intersection)


def count_overlaps_of_shard(thresholds_C: FloatArray, shard: AnnotatedShard) -> tuple[IntArray, dict[str, int]]:
    """int64 [K, 6], columns as the fields of Overlaps, image counted within the shard; masks skipped, by reason."""
    skipped: Counter[str] = Counter()
    maps = read_shard_maps(shard.path)
    number_of = {c: i for i, c in enumerate(shard.concepts)}
    size = shard.geometry.size_px
    rows = []
    with threadpool_limits(1):
        for position, record in enumerate(shard.records):
            masks, numbers = [], []
            for annotation, mask_hw in make_masks(record, skipped):
                mask = shard.geometry.mask_at_input(mask_hw)
                if mask.any():
                    masks.append(mask.ravel())
                    numbers.append(number_of[annotation])
                else:
                    skipped["empty mask"] += 1
            if not masks:
                continue
            masks_RP = np.stack(masks).astype(np.float32)
            mask_px = masks_RP.sum(axis=1, dtype=np.float64).astype(np.int64)
            maps_CHW = maps[position].astype(np.float32)
            active = np.flatnonzero(maps_CHW.max(axis=(1, 2)) > thresholds_C)
            for start in range(0, len(active), _REGION_BLOCK):
                block = active[start : start + _REGION_BLOCK]
                regions = find_regions(maps_CHW[block], thresholds_C[block], size)
                regions_AP = regions.reshape(len(block), -1)
                region_px = regions_AP.sum(axis=1)
                # Sums of ones in float32 are exact up to 2^24 pixels.
                shared = (regions_AP.astype(np.float32) @ masks_RP.T).astype(np.int64)
                which, mask_number = np.nonzero(shared)
                rows.append(
                    np.stack(
                        [
                            np.full(len(which), position),
                            block[which],
                            np.array(numbers)[mask_number],
                            shared[which, mask_number],
                            region_px[which],
                            mask_px[mask_number],
                        ],
                        axis=1,
                    ).astype(np.int64)
                )
    return (np.concatenate(rows) if rows else np.zeros((0, 6), np.int64)), dict(skipped)


def make_overlaps(inputs: MaskedRegionInputs, folder: Path) -> Info:
    """Write what `save_overlaps` writes.

    Returns:
        facts: num_overlaps, skipped by reason.
    """
    found, skipped = count_overlaps(
        ActivationStore(inputs.activations.folder),
        inputs.data.value,
        inputs.geometry,
        load_thresholds(inputs.thresholds),
        inputs.cluster,
    )
    save_overlaps(found, folder)
    return {"num_overlaps": len(found.image), "skipped": skipped}


def count_overlaps(
    store: ActivationStore, dataset: Dataset, geometry: Geometry, thresholds_C: FloatArray, cluster: StatisticsCluster
) -> tuple[Overlaps, dict[str, int]]:
    """Overlaps of all masks with the regions of all filters; and masks skipped, by reason."""
    shards = annotate_shards(store, dataset, geometry)
    results = cluster.map("overlaps", partial(count_overlaps_of_shard, thresholds_C), shards)
    skipped = Counter(dataset.skipped)
    for number, (part, counts) in enumerate(results):
        part[:, 0] += store.starts[number]
        skipped.update(counts)
    return Overlaps(*np.ascontiguousarray(np.concatenate([part for part, _ in results]).T)), dict(skipped)


def save_overlaps(overlaps: Overlaps, folder: Path) -> None:
    """Write folder/overlaps.npz."""
    np.savez(folder / file_names.OVERLAPS, **vars(overlaps))


def load_overlaps(folder: Path) -> Overlaps:
    """Read what `save_overlaps` wrote."""
    with np.load(folder / file_names.OVERLAPS, allow_pickle=False) as arrays:
        return Overlaps(**{name: arrays[name] for name in arrays.files})
