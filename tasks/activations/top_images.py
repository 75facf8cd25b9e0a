"""The top pictures of a filter: those with the highest peaks; among equal ones, those with the larger region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_types import FloatArray, HalfArray, IntArray


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
    peaks_NC = store.read_peaks()
    areas_NC = _count_cells_of_ties(store, peaks_NC, thresholds_C, num)
    keys = (-store.read_means(), -areas_NC, -peaks_NC.astype(np.float32))
    order = np.lexsort(keys, axis=0)[:num].T
    channels = np.arange(peaks_NC.shape[1])[:, None]
    top = peaks_NC[order, channels].astype(np.float32)
    qualified = top > thresholds_C[:, None]
    return Pairs(np.broadcast_to(channels, order.shape)[qualified].astype(np.int64), order[qualified], top[qualified])


def _count_cells_of_ties(
    store: ActivationStore, peaks_NC: HalfArray, thresholds_C: FloatArray, num: int
) -> npt.NDArray[np.int32]:
    """Cells above the threshold, int32 [N, C], of the filters whose highest peaks are not all different; else 0."""
    areas = np.zeros(peaks_NC.shape, np.int32)
    if num < 1 or len(peaks_NC) < 2:
        return areas
    highest = -np.sort(-peaks_NC.astype(np.float32), axis=0)[: num + 1]
    tied = np.flatnonzero((highest[1:] == highest[:-1]).any(axis=0) & (highest[0] > thresholds_C))
    if len(tied):
        for shard in range(store.num_shards):
            maps = read_shard_maps(store.shard_path(shard))[:, tied]
            above = maps > thresholds_C[tied, None, None]
            areas[store.starts[shard] : store.starts[shard + 1], tied] = above.sum(axis=(2, 3))
    return areas
