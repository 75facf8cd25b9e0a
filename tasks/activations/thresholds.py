"""Exact activation thresholds T_u: the quantile of each filter over all cells of all pictures, by counting bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_types import BoolArray, FloatArray, HalfArray, IntArray
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import HOW, StageInputs
from lavise.tasks.numerics.float16_bits import order_bits, restore_bits

THRESHOLDS = Stage("thresholds", version=1)
_CHANNEL_BLOCK = 128
_FIRST_NONNEGATIVE_BIN = 128


@dataclass(frozen=True)
class ThresholdInputs(StageInputs):
    """What the thresholds of a layer are made from."""

    activations: Handle
    quantile: float
    cluster: Annotated[StatisticsCluster, HOW]


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


def make_thresholds(inputs: ThresholdInputs, folder: Path) -> Info:
    """Write what `save_thresholds` writes.

    Returns:
        facts: num_filters, num_saturated, num_signed.
    """
    found = compute_thresholds(ActivationStore(inputs.activations.folder), inputs.quantile, inputs.cluster)
    save_thresholds(found, folder)
    return {
        "num_filters": len(found.value),
        "num_saturated": int(found.saturated.sum()),
        "num_signed": found.count_signed(),
    }


def count_high_bytes(path: Path) -> IntArray:
    """Histogram of the upper byte of every activation of a shard: int64 [C, 256], by ascending value."""
    return _count_bytes(read_shard_maps(path), None)


def count_low_bytes(high_C: IntArray, path: Path) -> IntArray:
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
    high_counts = sum_counts(cluster.stream("thresholds, upper byte", count_high_bytes, paths))
    high, rank_inside = find_rank(high_counts, np.full(channels, rank))
    low_counts = sum_counts(cluster.stream("thresholds, lower byte", partial(count_low_bytes, high), paths))
    low, _ = find_rank(low_counts, rank_inside)
    values = restore_bits((high << 8 | low).astype(np.uint16))
    one = np.ones(channels, dtype=np.int64)
    at_maximum = (find_rank(high_counts, one)[0] == high) & (find_rank(low_counts, one)[0] == low)
    num_equal = low_counts[np.arange(channels), low]
    constant = num_equal == num * height * width
    saturated = at_maximum & (rank <= num_equal) & ~constant
    below = np.nextafter(values, np.float16(-np.inf))
    return Thresholds(np.where(saturated, below, values).astype(np.float32), saturated, high_counts)


def sum_counts(parts: Iterable[IntArray]) -> IntArray:
    """Merge of histograms of shards, each as it comes; at least one."""
    rest = iter(parts)
    total = next(rest).copy()
    for part in rest:
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


def save_thresholds(found: Thresholds, folder: Path) -> None:
    """As arrays of their own, each of which something else reads."""
    np.save(folder / file_names.THRESHOLDS, found.value)
    np.save(folder / file_names.SATURATED, found.saturated)
    np.save(folder / file_names.HISTOGRAM, found.histogram)


def load_thresholds(handle: Handle) -> FloatArray:
    """T_u of all filters: float32 [C]."""
    values: FloatArray = np.load(handle.path(file_names.THRESHOLDS), allow_pickle=False)
    return values
