"""Layers of two audits, for tests of their comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lavise.configs.schema import DiffSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.history.filter_matching import (
    SCHEMA,
    AuditedLayer,
    DiffInputs,
    PairMoments,
    align_images,
    compare_layer,
    load_diff,
    merge_moments,
    sum_moments,
)
from tests.unit.tasks.helpers import AnyArray, write_store

SETTINGS = DiffSettings(bootstrap_samples=100)
# What a store holds of these numbers.
HALF = np.float16


def make_maps(num_images: int, num_filters: int, seed: int = 0, side: int = 5, active: float = 0.4) -> AnyArray:
    """Maps as a ReLU leaves them: above 0 at a share `active` of the positions."""
    rng = np.random.default_rng(seed)
    shape = (num_images, num_filters, side, side)
    return np.where(rng.random(shape) < active, rng.gamma(2, size=shape), 0).astype(HALF)


def make_filters(num_filters: int, words: Mapping[int, Sequence[str]] | None = None) -> list[dict[str, Any]]:
    """Rows of filters.parquet; a filter without words is unexplained."""
    found = dict.fromkeys(range(num_filters), ("thing",)) if words is None else words
    return [{"filter": u, "explained": u in found, "words": list(found.get(u, ()))} for u in range(num_filters)]


def make_layer(
    store: ActivationStore,
    words: Mapping[int, Sequence[str]] | None = None,
    name: str = "conv",
    arch: str = "timm:net",
) -> AuditedLayer:
    activations = Handle(
        stage="extract",
        version=1,
        digest=digest_of(store.folder),
        folder=store.folder,
        settings={},
        inputs={},
        files={},
        info={},
    )
    return AuditedLayer(name, arch, activations, make_filters(store.shape[1], words))


def compare(
    folder: Path,
    old: AuditedLayer,
    new: AuditedLayer,
    cluster: StatisticsCluster,
    settings: DiffSettings = SETTINGS,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    summary = dict(compare_layer(DiffInputs(old, new, settings, seed, cluster), folder))
    table, stored = load_diff(folder)
    assert dict(stored) == summary
    assert table.schema == SCHEMA
    return table.to_pylist(), summary


def compare_maps(
    root: Path, old: AnyArray, new: AnyArray, cluster: StatisticsCluster, settings: DiffSettings = SETTINGS
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    first, second = write_store(root / "old", old), write_store(root / "new", new)
    return compare(root / "diff", make_layer(first), make_layer(second), cluster, settings)


def by_position(maps: AnyArray) -> AnyArray:
    """[N, C, H, W] -> float64 [C, N·H·W]."""
    return maps.astype(HALF).astype(np.float64).transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)


def correlate_with_numpy(old: AnyArray, new: AnyArray) -> AnyArray:
    both = np.corrcoef(by_position(old), by_position(new))
    found: AnyArray = both[: old.shape[1], old.shape[1] :]
    return found


def moments_of(old: ActivationStore, new: ActivationStore) -> PairMoments:
    return merge_moments([sum_moments(block) for block in align_images(old, new)])


def number_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {status: sum(r["status"] == status for r in rows) for status in ("same", "changed", "lost", "new")}
