"""Windows of pictures as region features: the whole, and parts of a half, a third and a quarter of its sides.

Shape legend: N pictures, C filters, H x W cells, B windows of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_types import FloatArray
from lavise.storage.images.geometry import area_weights

TILES, OVERLAPPING = (1, 2, 3), (1, 2, 3, 4)
"""Parts of a side."""


def make_windows(height: int, width: int, overlapping: bool = False) -> FloatArray:
    """[B, H·W]: windows in the scale of an area-shrunk mask.

    Args:
        overlapping: windows of 1, a half, a third and a quarter of the map's sides, that also begin half of their side
            further on (1 + 9 + 25 + 49 of them); else they tile the map in 1, 2 x 2 and 3 x 3 parts.
    """
    windows = []
    for parts in OVERLAPPING if overlapping else TILES:
        rows, columns = (_make_strips(cells, parts, overlapping) for cells in (height, width))
        windows += [np.outer(r, c).ravel() for r in rows for c in columns]
    return np.stack(windows).astype(np.float32)


def _make_strips(cells: int, parts: int, overlapping: bool) -> FloatArray:
    """[strips, cells]: the share of each cell that lies in the strip."""
    strips = area_weights(cells, 0, cells, parts)
    if overlapping and parts > 1:
        half = cells / (2 * parts)
        strips = np.concatenate([strips, area_weights(cells, half, cells - half, parts - 1)])
    return strips * (cells / parts)


def pool_windows(store: ActivationStore, device: str, overlapping: bool = False) -> Iterator[torch.Tensor]:
    """Region features [n, B, C] of the windows of each shard's pictures, float32, on the device."""
    height, width = store.shape[2:]
    windows = torch.from_numpy(make_windows(height, width, overlapping)).to(device)
    for shard in range(store.num_shards):
        maps = torch.from_numpy(read_shard_maps(store.shard_path(shard))).to(device).float().flatten(2)
        yield torch.einsum("wp,ncp->nwc", windows, maps) / (height * width)
