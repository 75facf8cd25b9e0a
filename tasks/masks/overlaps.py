"""Overlaps of concept masks and activation regions: what IoU_{u,t} is computed from."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_files import append_arrays, join_arrays, map_arrays
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
    """Write what `count_overlaps` writes, and return its facts."""
    return count_overlaps(
        ActivationStore(inputs.activations.folder),
        inputs.data.value,
        inputs.geometry,
        load_thresholds(inputs.thresholds),
        inputs.cluster,
        folder,
    )


def count_overlaps(
    store: ActivationStore,
    dataset: Dataset,
    geometry: Geometry,
    thresholds_C: FloatArray,
    cluster: StatisticsCluster,
    folder: Path,
) -> Info:
    """Overlaps of all masks with the regions of all filters, into folder/overlaps.npz.

    Returns:
        facts: num_overlaps, skipped by reason.
    """
    shards = annotate_shards(store, dataset, geometry)
    skipped = Counter(dataset.skipped)

    def take_parts() -> Iterator[IntArray]:
        for part, counts in cluster.stream("overlaps", partial(count_overlaps_of_shard, thresholds_C), shards):
            skipped.update(counts)
            yield part

    return {"num_overlaps": save_overlaps(take_parts(), store.starts[:-1], folder), "skipped": dict(skipped)}


def save_overlaps(parts: Iterable[IntArray], starts: Sequence[int], folder: Path) -> int:
    """Write folder/overlaps.npz from those of the shards, each as it comes.

    Args:
        parts: int64 [K, 6] each, as by `count_overlaps_of_shard`.
        starts: positions of the shards' first pictures.

    Returns:
        how many there are.
    """
    names = [field.name for field in fields(Overlaps)]
    with tempfile.TemporaryDirectory(prefix="overlaps-", dir=folder) as scratch:
        with append_arrays(Path(scratch), dict.fromkeys(names, (np.int64, ()))) as written:
            for part, start in zip(parts, starts, strict=True):
                for name, column in zip(names, part.T, strict=True):
                    written[name].append(column + start if name == "image" else column)
        join_arrays(folder / file_names.OVERLAPS, {name: file.path for name, file in written.items()})
    return written["image"].num_rows


def load_overlaps(folder: Path) -> Overlaps:
    """Read what `save_overlaps` wrote; the numbers stay in the file until they are used."""
    return Overlaps(**map_arrays(folder / file_names.OVERLAPS))
