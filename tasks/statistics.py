"""Statistics on the activation store: exact thresholds, peaks, pooled region features, overlaps of masks and regions.

Each is a function of one shard (`*_of_shard`, runs on any worker) and a separate merge. All of them give the same bits
whatever the number of workers: counts are integers, and each picture is computed whole, by one thread.

Shape legend: N pictures, C filters, H x W cells, S input pixels, R regions (pairs of concept and mask).
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from storage.activations import ActivationStore, HalfArray, read_shard_maps
from storage.datasets.base import Dataset, ImageRecord
from storage.geometry import BoolArray, FloatArray, Geometry, find_regions
from storage.images import BrokenImageError, read_size
from tasks.cluster import StatisticsCluster
from tasks.stage import Stage

THRESHOLDS = Stage("thresholds", version=1)
REGIONS = Stage("regions", version=2)
OVERLAPS = Stage("overlaps", version=2)

IntArray = npt.NDArray[np.int64]
_CHANNEL_BLOCK = 128
_REGION_BLOCK = 256
_SIGN = np.uint16(0x8000)
_FIRST_NONNEGATIVE_BIN = 128


# ---------------------------------------------------------------- thresholds


def order_bits(values: HalfArray) -> npt.NDArray[np.uint16]:
    """Bit patterns of float16 as integers that sort like the values; -0 counts as 0, negative ones are flipped."""
    # Adding 0 makes -0 the same value as 0, which it is.
    bits = np.ascontiguousarray(values + np.float16(0)).view(np.uint16)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def restore_bits(ordered: npt.NDArray[np.uint16]) -> HalfArray:
    """The inverse of `order_bits`; -0 becomes 0."""
    ordered = np.ascontiguousarray(ordered, dtype=np.uint16)
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
    with np.errstate(invalid="ignore"):  # the patterns of NaN
        return bits.astype(np.uint16).view(np.float16) + np.float16(0)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of all filters of a layer.

    Attributes:
        value: T_u, float32 [C]; each is a float16 number.
        saturated: bool [C]; the asked share of the activations or more is at the filter's maximum (a clip).
        histogram: int64 [C, 256], activations by the upper byte of their bit pattern (see `bin_edges`).
    """

    value: FloatArray
    saturated: BoolArray
    histogram: IntArray

    def count_signed(self) -> int:
        """Number of filters with negative activations."""
        return int((self.histogram[:, :_FIRST_NONNEGATIVE_BIN].sum(axis=1) > 0).sum())


def count_high_bytes(path: Path) -> IntArray:
    """Histogram of the upper byte of every activation of a shard: int64 [C, 256], by ascending value."""
    return _count_bytes(read_shard_maps(path), None)


def count_low_bytes(high_C: npt.NDArray[np.int64], path: Path) -> IntArray:
    """Histogram of the lower byte, among activations of filter u whose upper byte is high_C[u]: int64 [C, 256]."""
    return _count_bytes(read_shard_maps(path), high_C)


def find_rank(counts_CB: IntArray, rank_C: IntArray) -> tuple[IntArray, IntArray]:
    """Bin of the rank-th largest entry of each row, and the rank that it has inside that bin (both from 1 on)."""
    from_top = np.cumsum(counts_CB[:, ::-1], axis=1)
    position = np.argmax(from_top >= rank_C[:, None], axis=1)
    rows = np.arange(len(counts_CB))
    above = np.where(position > 0, from_top[rows, position - 1], 0)
    return counts_CB.shape[1] - 1 - position, rank_C - above


def compute_thresholds(store: ActivationStore, quantile: float, cluster: StatisticsCluster) -> Thresholds:
    """T_u with P(a_u > T_u) = 1 - quantile over all positions of all pictures (METHOD, threshold).

    Exact, by radix selection on the 16 bits of a float16: two passes of integer histograms. T_u is the k-th largest of
    the n = N·H·W activations, k = floor((1 - quantile)·n), at least 1. The region is what lies strictly above.

    A filter that is clipped (ReLU6) can have its k-th largest activation at its maximum: no T has the asked share above
    it, and strictly above the maximum is nothing. There T_u is the next smaller float16, so that the region is where
    the filter is at its maximum; such filters are marked. A constant filter keeps T_u = its value and has no region.

    Returns:
        the thresholds, which of them are at the clip, and a histogram of the activations.
    """
    num, channels, height, width = store.shape
    rank = max(math.floor(round((1 - quantile) * num * height * width, 6)), 1)
    paths = [store.shard_path(s) for s in range(store.num_shards)]
    high_counts = sum_counts(cluster.map("thresholds, upper byte", count_high_bytes, paths))
    high, rank_inside = find_rank(high_counts, np.full(channels, rank))
    low_counts = sum_counts(cluster.map("thresholds, lower byte", partial(count_low_bytes, high), paths))
    low, _ = find_rank(low_counts, rank_inside)
    values = restore_bits((high << 8 | low).astype(np.uint16))
    one = np.ones(channels, dtype=np.int64)
    at_maximum = (find_rank(high_counts, one)[0] == high) & (find_rank(low_counts, one)[0] == low)
    num_equal = low_counts[np.arange(channels), low]
    constant = num_equal == num * height * width
    saturated = at_maximum & (rank <= num_equal) & ~constant
    below = np.nextafter(values, np.float16(-np.inf))
    return Thresholds(np.where(saturated, below, values).astype(np.float32), saturated, high_counts)


def sum_counts(parts: Sequence[IntArray]) -> IntArray:
    """Merge of histograms of shards."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def bin_edges() -> FloatArray:
    """Lowest value of each of the 256 bins of `count_high_bytes` (those of infinities and NaN included): float32."""
    return restore_bits((np.arange(256) << 8).astype(np.uint16)).astype(np.float32)


def _count_bytes(maps_NCHW: HalfArray, high_C: IntArray | None) -> IntArray:
    num, channels = maps_NCHW.shape[:2]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, channels if num else 0, _CHANNEL_BLOCK):
        ordered = order_bits(maps_NCHW[:, start : start + _CHANNEL_BLOCK])
        block = ordered.shape[1]
        row = np.arange(block, dtype=np.int32)[None, :, None, None] << 8
        if high_C is None:
            keys = (row | (ordered >> 8)).ravel()
        else:
            inside = (ordered >> 8) == high_C[start : start + block].astype(np.uint16)[None, :, None, None]
            keys = np.broadcast_to(row, ordered.shape)[inside] | (ordered[inside] & 0xFF)
        counts[start : start + block] = np.bincount(keys, minlength=block * 256).reshape(block, 256)
    return counts


# ---------------------------------------------------------------- regions


@dataclass(frozen=True)
class AnnotatedShard:
    """A shard and the records of its pictures, in its order."""

    path: Path
    records: tuple[ImageRecord, ...]
    concepts: tuple[str, ...]
    geometry: Geometry


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


def pool_regions(
    store: ActivationStore, dataset: Dataset, geometry: Geometry, folder: Path, cluster: StatisticsCluster
) -> dict[str, Any]:
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
        folder / "features.npy", mode="w+", dtype=np.float32, shape=(total, store.shape[1])
    )
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


# ---------------------------------------------------------------- overlaps


@dataclass(frozen=True)
class Overlaps:
    """Pixel counts, at the input's size, of masks and regions R_u that share a picture; int64 [K] each.

    Only pairs of filter and picture with a peak above the threshold are there (the region is empty otherwise), and of
    these only the masks that the region touches.

    Attributes:
        image: position in the store.
        filter: u.
        concept: position in the data set's concepts.
        intersection, region, mask: pixels of S x S.
    """

    image: IntArray
    filter: IntArray
    concept: IntArray
    intersection: IntArray
    region: IntArray
    mask: IntArray

    def compute_iou(self) -> npt.NDArray[np.float64]:
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


def annotate_shards(store: ActivationStore, dataset: Dataset, geometry: Geometry) -> list[AnnotatedShard]:
    """Pair each shard with the records of its pictures.

    Raises:
        ValueError: the store holds a picture that the data set does not know.
    """
    by_key = {r.key: r for r in dataset.records}
    unknown = [k for k in store.keys if k not in by_key]
    if unknown:
        raise ValueError(f"the activation store {store.folder} is of other pictures: {unknown[:3]}")
    return [
        AnnotatedShard(
            store.shard_path(s),
            tuple(by_key[k] for k in store.keys[store.starts[s] : store.starts[s + 1]]),
            dataset.concepts,
            geometry,
        )
        for s in range(store.num_shards)
    ]


def make_masks(record: ImageRecord, skipped: Counter[str]) -> list[tuple[str, BoolArray]]:
    if not record.annotations:
        return []
    try:
        height, width = read_size(record.path)
    except BrokenImageError as err:
        # Extraction has read it, so it is gone or out of reach from this worker: nothing to count, something to mend.
        raise ConnectionError(f"{record.path} cannot be read any more, from this worker at least: {err}") from None
    masks = []
    for annotation in record.annotations:
        try:
            masks.append((annotation.concept, annotation.make_mask(height, width)))
        except ValueError:
            skipped["mask of another size"] += 1
    return masks


def save_overlaps(overlaps: Overlaps, folder: Path) -> None:
    """Write folder/overlaps.npz."""
    np.savez(folder / "overlaps.npz", **vars(overlaps))


def load_overlaps(folder: Path) -> Overlaps:
    """Read what `save_overlaps` wrote."""
    with np.load(folder / "overlaps.npz", allow_pickle=False) as arrays:
        return Overlaps(**{name: arrays[name] for name in arrays.files})
