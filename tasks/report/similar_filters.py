"""Which filters of a layer answer the same pictures: Pearson's correlation of their highest activations on each.

The activations are read a block of pictures at a time, so that memory goes by the number of filters alone.

Shape legend: N pictures, n pictures of a block, C filters.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import DoubleArray, IntArray
from lavise.tasks.numerics.correlation import correlate_spreads

SIMILAR_FILTERS = 5
_BLOCK_IMAGES = 1024
_DIGITS = 3  # which are shown; filters that look equally near come in the order of their numbers
_LEAST_IMAGES = 3  # of two pictures, all filters are perfectly correlated


def correlate_peaks(store: ActivationStore) -> DoubleArray:
    """Correlation of every two filters: float64 [C, C]. A filter that is the same on all pictures has none: 0."""
    count = store.shape[1]
    sums, products = np.zeros(count), np.zeros((count, count))
    first: DoubleArray | None = None
    with threadpool_limits(1):
        for peaks_nC in _read_blocks(store):
            # Less those of the first picture, exactly: a filter that never changes is 0 everywhere.
            first = peaks_nC[0].copy() if first is None else first
            peaks_nC -= first
            sums += peaks_nC.sum(axis=0)
            products += peaks_nC.T @ peaks_nC
    num = store.shape[0]
    spread = np.sqrt(np.clip(num * products.diagonal() - sums * sums, 0, None))
    found = correlate_spreads(num * products - np.outer(sums, sums), spread[:, None], spread[None, :])
    constant = spread == 0
    found[constant[:, None] | constant[None, :]] = 0
    return found


def find_similar_filters(store: ActivationStore, most: int = SIMILAR_FILTERS) -> list[list[tuple[int, float]]]:
    """By filter, those whose peaks go most with its own, nearest first: (filter, correlation above 0).

    Empty for a filter that none resembles, and for all where there are too few pictures to tell.
    """
    if store.shape[0] < _LEAST_IMAGES:
        return [[] for _ in range(store.shape[1])]
    correlation = np.round(correlate_peaks(store), _DIGITS)
    np.fill_diagonal(correlation, -1)
    nearest: IntArray = np.argsort(-correlation, axis=1, kind="stable")[:, :most]
    return [
        [(int(other), float(row[other])) for other in order if row[other] > 0]
        for row, order in zip(correlation, nearest, strict=True)
    ]


def _read_blocks(store: ActivationStore) -> Iterator[DoubleArray]:
    """Peaks of some pictures after the other: float64 [n, C]."""
    for _, peaks_nC in store.iterate("peaks"):
        for start in range(0, len(peaks_nC), _BLOCK_IMAGES):
            yield peaks_nC[start : start + _BLOCK_IMAGES].astype(np.float64)
