"""Transfer of the explainer to a target domain without labels.

`renormalise` re-estimates the running statistics of the explainer's two normalisations (adaptive batch normalisation)
on pooled windows of the target's maps: windows of the whole map, of halves and of thirds stand in for the masks that
the target does not have. The weights stay as trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from storage.activations import ActivationStore, read_shard_maps
from storage.artefacts import Handle
from storage.geometry import FloatArray, area_weights
from storage.progress import Progress, no_progress
from tasks.explainer import deterministic, load_explainer, save_explainer, scale_features
from tasks.stage import Stage

STAGE = Stage("transfer", version=1, uses_device=True)
_WINDOW_DIVISIONS = (1, 2, 3)


def make_windows(height: int, width: int) -> FloatArray:
    """[Wn, H·W]: windows that tile the map in 1, 2x2 and 3x3 parts, in the scale of an area-shrunk mask."""
    windows = []
    for parts in _WINDOW_DIVISIONS:
        rows = area_weights(height, 0, height, parts) * (height / parts)
        columns = area_weights(width, 0, width, parts) * (width / parts)
        windows += [np.outer(r, c).ravel() for r in rows for c in columns]
    return np.stack(windows).astype(np.float32)


def renormalise_explainer(
    explainer_handle: Handle, store: ActivationStore, device: str, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write a copy of the explainer whose normalisations fit the target's windows.

    Returns:
        facts: num_windows, and how far the first normalisation moved (mean |difference of means| / std).
    """
    explainer, facts = load_explainer(explainer_handle.folder, device)
    mean, variance = _statistics(explainer.norm1)
    old, scale = mean.clone(), (variance + explainer.norm1.eps).sqrt()
    with deterministic(0), torch.inference_mode(), progress("transfer", 2 * store.num_shards) as bar:
        num = _set_statistics(explainer.norm1, _features(store, facts.region_feature, device, bar))
        hidden = (explainer.hidden(f) for f in _features(store, facts.region_feature, device, bar))
        _set_statistics(explainer.norm2, hidden)
        shift = float(((mean - old).abs() / scale).mean())
    save_explainer(explainer, facts, folder)
    return {"num_windows": num, "shift": shift}


def _features(store: ActivationStore, how: str, device: str, bar: Any) -> Iterator[torch.Tensor]:
    height, width = store.shape[2:]
    windows = torch.from_numpy(make_windows(height, width)).to(device)
    for shard in range(store.num_shards):
        maps = torch.from_numpy(read_shard_maps(store.shard_path(shard))).to(device).float().flatten(2)
        pooled = torch.einsum("wp,ncp->nwc", windows, maps) / (height * width)
        yield scale_features(pooled.flatten(0, 1), how)
        bar.advance()


def _set_statistics(norm: nn.BatchNorm1d, parts: Iterator[torch.Tensor]) -> int:
    """Mean and unbiased variance over all rows, summed in float64."""
    count = 0
    total = torch.zeros(norm.num_features, dtype=torch.float64)
    squares = torch.zeros(norm.num_features, dtype=torch.float64)
    for part in parts:
        rows = part.double().cpu()
        count += len(rows)
        total += rows.sum(dim=0)
        squares += (rows * rows).sum(dim=0)
    mean = total / count
    variance = (squares / count - mean * mean).clamp_min(0) * (count / max(count - 1, 1))
    own_mean, own_variance = _statistics(norm)
    own_mean.copy_(mean)
    own_variance.copy_(variance)
    return count


def _statistics(norm: nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    """The running mean and variance themselves, not copies."""
    assert isinstance(norm.running_mean, torch.Tensor)
    assert isinstance(norm.running_var, torch.Tensor)
    return norm.running_mean, norm.running_var
