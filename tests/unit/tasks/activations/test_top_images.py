"""Top pictures against loops, and what decides between equal peaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.tasks.activations.top_images import Pairs, select_top_images
from tests.unit.tasks.activations.feature_maps import THRESHOLDS, make_maps
from tests.unit.tasks.helpers import AnyArray, write_store


def top_by_loops(maps: AnyArray, thresholds: AnyArray, num: int) -> list[tuple[int, int, float]]:
    rows = []
    for u in range(maps.shape[1]):
        own = maps[:, u].astype(np.float64)
        areas = (own > float(thresholds[u])).sum(axis=(1, 2))
        ranked = sorted(range(len(maps)), key=lambda i: (-own[i].max(), -areas[i], -own[i].mean(), i))
        rows += [(u, i, own[i].max()) for i in ranked[:num] if own[i].max() > thresholds[u]]
    return rows


@pytest.mark.parametrize("num", [1, 3, 7, 50])
@pytest.mark.parametrize("shard_images", [2, 100])
def test_top_images_vs_loops(tmp_path: Path, num: int, shard_images: int) -> None:
    maps = make_maps()
    pairs = select_top_images(write_store(tmp_path, maps, shard_images), THRESHOLDS, num)
    found = list(zip(pairs.filter.tolist(), pairs.image.tolist(), pairs.peak.tolist(), strict=True))
    assert found == top_by_loops(maps, THRESHOLDS, num)
    assert len(pairs) == len(found)


def test_equal_peaks_go_by_the_size_of_the_region_first(tmp_path: Path) -> None:
    """At a clip every picture has the same peak; the one with most of it shows best what the filter looks for."""
    maps = np.zeros((4, 2, 2, 2), np.float16)
    maps[:, 0, 0, 0] = 6
    maps[1, 0] = [[6, 5], [5, 5]]  # the highest mean
    maps[2, 0] = [[6, 6], [0, 0]]
    maps[3, 0] = [[6, 6], [6, 0]]
    maps[:, 1, 0, 0] = [1, 2, 3, 4]
    pairs = select_top_images(write_store(tmp_path, maps, 3), np.array([5.5, 0], np.float32), 3)
    assert pairs.image[pairs.filter == 0].tolist() == [3, 2, 1]
    assert pairs.image[pairs.filter == 1].tolist() == [3, 2, 1]


def test_equal_peaks_go_by_mean_then_by_position(tmp_path: Path) -> None:
    maps = np.zeros((5, 1, 2, 2), np.float16)
    maps[:, 0, 0, 0] = [6, 6, 5, 6, 6]
    maps[:, 0, 1, 1] = [1, 3, 4, 1, 3]
    pairs = select_top_images(write_store(tmp_path, maps), np.zeros(1, np.float32), 5)
    assert pairs.image.tolist() == [1, 4, 0, 3, 2]


def test_peak_equal_to_the_threshold_is_no_evidence(tmp_path: Path) -> None:
    maps = np.array([1, 2, 3], np.float16).reshape(3, 1, 1, 1)
    pairs = select_top_images(write_store(tmp_path, maps), np.array([2], np.float32), 3)
    assert (pairs.image.tolist(), pairs.peak.tolist()) == ([2], [3])


def test_filter_that_never_passes_has_no_pairs(tmp_path: Path) -> None:
    pairs = select_top_images(write_store(tmp_path, np.zeros((3, 2, 2, 2))), np.zeros(2, np.float32), 5)
    assert len(pairs) == 0
    assert pairs.filter.dtype == pairs.image.dtype == np.int64


def test_taken_pairs_keep_their_rows() -> None:
    pairs = Pairs(np.array([0, 1, 2]), np.array([5, 6, 7]), np.array([1, 2, 3], np.float32))
    taken = pairs.take(np.array([2, 0]))
    assert (taken.filter.tolist(), taken.image.tolist(), taken.peak.tolist()) == ([2, 0], [7, 5], [3, 1])
