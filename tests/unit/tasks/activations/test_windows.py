"""Windows of pictures, against loops over areas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.tasks.activations.windows import make_windows, pool_windows
from tests.unit.tasks.helpers import AnyArray, write_store


def windows_by_loops(height: int, width: int) -> list[AnyArray]:
    """Whole map, quarters, ninths; each cell by the share of it that the window covers."""
    windows = []
    for parts in (1, 2, 3):
        for row in range(parts):
            for column in range(parts):
                window = np.zeros((height, width))
                for y in range(height):
                    for x in range(width):
                        high = min((row + 1) * height / parts, y + 1) - max(row * height / parts, y)
                        wide = min((column + 1) * width / parts, x + 1) - max(column * width / parts, x)
                        window[y, x] = max(high, 0) * max(wide, 0)
                windows.append(window)
    return windows


@pytest.mark.parametrize(("height", "width"), [(7, 7), (6, 4), (1, 1), (2, 5)])
def test_windows_vs_loops(height: int, width: int) -> None:
    found = make_windows(height, width)
    np.testing.assert_allclose(found.reshape(-1, height, width), windows_by_loops(height, width), atol=1e-6)
    assert found.max() <= 1
    for first, last in ((0, 1), (1, 5), (5, 14)):
        np.testing.assert_allclose(found[first:last].sum(axis=0), 1, atol=1e-6)


def overlaps_by_loops(height: int, width: int) -> AnyArray:
    """Squares of a part of the sides, every half of one, row by row."""
    windows = []
    for parts in (1, 2, 3, 4):

        def strips(cells: int, parts: int = parts) -> list[AnyArray]:
            starts = [
                *(i * cells / parts for i in range(parts)),
                *((i + 0.5) * cells / parts for i in range(parts - 1)),
            ]
            edges = np.arange(cells)
            return [np.clip(np.minimum(s + cells / parts, edges + 1) - np.maximum(s, edges), 0, 1) for s in starts]

        windows += [np.outer(r, c) for r in strips(height) for c in strips(width)]
    return np.stack(windows)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (6, 4), (1, 1)])
def test_overlapping_windows_vs_loops(height: int, width: int) -> None:
    found = make_windows(height, width, overlapping=True)
    assert len(found) == 1 + 9 + 25 + 49
    np.testing.assert_allclose(found.reshape(-1, height, width), overlaps_by_loops(height, width), atol=1e-6)


def test_features_of_windows_vs_loops(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((5, 3, 4, 6)).astype(np.float16)
    windows = make_windows(4, 6)
    found = np.concatenate([block.numpy() for block in pool_windows(write_store(tmp_path, maps, 2), "cpu")])
    expected = [[(m.astype(np.float64).reshape(3, -1) * w).mean(axis=1) for w in windows] for m in maps]
    np.testing.assert_allclose(found, expected, atol=1e-6)
