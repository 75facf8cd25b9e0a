"""The top pictures of a filter: those with the highest peaks; among equal ones, those with the larger region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_types import FloatArray, IntArray


@dataclass(frozen=True)
class Pairs:
    """Pairs of a filter and one of its top pictures, sorted by filter, then by falling peak.

    Attributes:
        filter: int64 [P], u.
        image: int64 [P], position in the activation store.
        peak: float32 [P], max activation of u on the picture.
    """

    filter: IntArray
    image: IntArray
    peak: FloatArray

    def __len__(self) -> int:
        return len(self.filter)

    def take(self, chosen: IntArray) -> Pairs:
        return Pairs(self.filter[chosen], self.image[chosen], self.peak[chosen])


def select_top_images(store: ActivationStore, thresholds_C: FloatArray, num: int) -> Pairs:
    """The `num` pictures with the highest peak of each filter, among those whose peak is above the threshold.

    A picture on which a filter stays below T_u has an empty region and is no evidence. Equal peaks, which clipped
    activations (ReLU6) have many of, go by the number of cells above the threshold, then by the mean over the map, then
    by position.
    """
    tied, channels = _find_ties(store, thresholds_C, num), np.arange(store.shape[1])
    peaks: FloatArray = np.zeros((0, len(channels)), np.float32)
    means = peaks
    areas: npt.NDArray[np.int32] = peaks.astype(np.int32)
    images: IntArray = peaks.astype(np.int64)
    for own, peaks_nC, means_nC, areas_nC in _read_shards(store, thresholds_C, tied):
        peaks = np.concatenate([peaks, peaks_nC])
        areas = np.concatenate([areas, areas_nC])
        means = np.concatenate([means, means_nC])
        images = np.concatenate([images, np.broadcast_to(np.arange(own.start, own.stop)[:, None], peaks_nC.shape)])
        # Stable, and earlier pictures stand first: the best of the best so far are the best of all.
        order = np.lexsort((-means, -areas, -peaks), axis=0)[:num]
        peaks, areas, means = peaks[order, channels], areas[order, channels], means[order, channels]
        images = images[order, channels]
    qualified = thresholds_C[:, None] < peaks.T
    filters = np.broadcast_to(channels[:, None], qualified.shape)
    return Pairs(filters[qualified].astype(np.int64), images.T[qualified], peaks.T[qualified])


def _read_shards(
    store: ActivationStore, thresholds_C: FloatArray, tied: IntArray
) -> Iterator[tuple[slice, FloatArray, FloatArray, npt.NDArray[np.int32]]]:
    """Of each shard which pictures it has, and of each of them and each filter the peak, the mean over the map and, of
    the `tied` filters, the number of cells above the threshold; else 0."""
    shards = zip(store.iterate("peaks"), store.iterate("means"), strict=True)
    for shard, ((own, peaks_nC), (_, means_nC)) in enumerate(shards):
        areas_nC = np.zeros(peaks_nC.shape, np.int32)
        if len(tied):
            maps = read_shard_maps(store.shard_path(shard))[:, tied]
            areas_nC[:, tied] = (maps > thresholds_C[tied, None, None]).sum(axis=(2, 3))
        yield own, peaks_nC.astype(np.float32), means_nC, areas_nC


def _find_ties(store: ActivationStore, thresholds_C: FloatArray, num: int) -> IntArray:
    """Filters whose highest peaks are not all different, so that something else decides between these pictures."""
    highest = np.zeros((0, store.shape[1]), np.float32)
    for _, peaks_nC in store.iterate("peaks"):
        highest = -np.sort(-np.concatenate([highest, peaks_nC.astype(np.float32)]), axis=0)[: num + 1]
    if num < 1 or len(highest) < 2:
        return np.zeros(0, np.int64)
    return np.flatnonzero((highest[1:] == highest[:-1]).any(axis=0) & (highest[0] > thresholds_C))
