"""Outlines of regions: where they lie, and the same paths as from scikit-image, map by map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.measure import approximate_polygon, find_contours

from lavise.storage.array_types import DoubleArray, FloatArray
from lavise.storage.images.geometry import upsample_maps
from lavise.tasks.report import outlines
from lavise.tasks.report.outlines import outline_region, outline_regions
from tests.unit.tasks.helpers import upsample_with_torch
from tests.unit.tasks.report_fixtures import fill_outline, points_of


def test_outline_of_a_known_square() -> None:
    """Cells 2..3 x 1..2 of an 8 x 8 map; half way between the centres of cells lies on the cells' borders."""
    map_hw = np.zeros((8, 8), np.float32)
    map_hw[2:4, 1:3] = 1
    (stroke,) = points_of(outline_region(map_hw, 0.5))
    x, y = np.array(stroke).T
    assert (x.min(), x.max()) == pytest.approx((8, 24), abs=1)
    assert (y.min(), y.max()) == pytest.approx((16, 32), abs=1)


def test_outline_of_a_square_at_the_border_is_closed_there() -> None:
    map_hw = np.zeros((8, 8), np.float32)
    map_hw[:2, 6:] = 1
    (stroke,) = points_of(outline_region(map_hw, 0.5))
    x, y = np.array(stroke).T
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((48, 64, 0, 16), abs=1)


def test_outline_of_the_whole_map_is_its_frame() -> None:
    (stroke,) = points_of(outline_region(np.full((4, 4), 5, np.float32), 1.0))
    x, y = np.array(stroke).T
    assert (x.min(), x.max(), y.min(), y.max()) == (0, 64, 0, 64)
    assert fill_outline(outline_region(np.full((4, 4), 5, np.float32), 1.0)).mean() > 0.97


@pytest.mark.parametrize("threshold", [1.0, 2.0, 0.0])
def test_outline_of_no_region_is_empty(threshold: float) -> None:
    assert outline_region(np.zeros((4, 4), np.float32), threshold) == ""
    assert outline_region(np.full((4, 4), threshold, np.float32), threshold) == ""


@pytest.mark.parametrize("seed", range(4))
def test_outline_encloses_the_upsampled_region(seed: int) -> None:
    """Signed maps, holes and several parts."""
    map_hw = np.random.default_rng(seed).normal(size=(6, 7)).astype(np.float32)
    for threshold in (-0.7, 0.0, 0.8):
        region = upsample_with_torch(map_hw, 64) > threshold
        assert np.mean(fill_outline(outline_region(map_hw, threshold)) == region) > 0.96


def test_a_single_cell_at_the_clip_has_an_outline() -> None:
    """Upsampled, a lone cell that is just above the threshold is above it nowhere, or on a point."""
    below = float(np.nextafter(np.float16(6), np.float16(0)))
    for height, width in ((7, 7), (5, 8), (14, 14), (28, 28)):
        map_hw = np.zeros((height, width), np.float32)
        map_hw[2, 3] = 6
        inside = fill_outline(outline_region(map_hw, below), 64)
        rows, columns = np.nonzero(inside)
        assert len(rows), (height, width)
        assert abs(rows.mean() - (2.5 * 64 / height - 0.5)) < 1.5
        assert abs(columns.mean() - (3.5 * 64 / width - 0.5)) < 1.5
    assert outline_region(np.full((7, 7), 6, np.float32), 6.0) == ""


# ---------------------------------------------------------------- against scikit-image


def outline_by_library(map_hw: FloatArray, threshold: float, grid: int = 64) -> str:
    """One map, all by scikit-image."""
    strokes = trace_by_library(upsample_maps(map_hw[None], grid)[0], threshold)
    if not strokes and (map_hw > threshold).any():
        rows, columns = (np.arange(grid) * cells // grid for cells in map_hw.shape)
        strokes = trace_by_library((map_hw > threshold)[np.ix_(rows, columns)].astype(np.float32), 0.5)
    return strokes


def trace_by_library(fine: FloatArray, threshold: float) -> str:
    framed = np.pad(fine, 1, constant_values=min(float(fine.min()), threshold) - 1.0)
    strokes = []
    for contour in find_contours(framed, threshold):
        points = np.clip(approximate_polygon(contour, 0.5) - 1 + 0.5, 0, len(fine))
        if len(points) > 2:
            strokes.append("M" + "L".join(f"{x:.0f} {y:.0f}" for y, x in points) + "Z")
    return "".join(strokes)


@pytest.mark.parametrize("shape", [(7, 7), (5, 8), (14, 14), (28, 20), (1, 1), (1, 6), (2, 3)], ids=str)
@pytest.mark.parametrize("kind", ["peaks", "small", "signed", "whole", "clipped", "at a cell"])
def test_outlines_are_those_of_the_library(shape: tuple[int, int], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many parts, holes, signs, plateaus, and values exactly on the threshold."""
    rng = np.random.default_rng([*shape, len(kind)])
    drawn = rng.gamma(0.5, size=(12, *shape)) if kind in ("peaks", "small") else rng.normal(size=(12, *shape))
    maps = {"small": drawn * 1e-3, "whole": np.rint(2 * drawn), "clipped": np.clip(drawn, 0, 1)}.get(kind, drawn)
    maps_AHW = maps.astype(np.float16).astype(np.float32)
    thresholds = np.quantile(maps_AHW, 0.8, axis=(1, 2)).astype(np.float32)
    if kind == "whole":
        thresholds = rng.choice([-0.5, 0, 1, 2], 12).astype(np.float32)
    elif kind == "clipped":
        thresholds[:] = np.nextafter(np.float16(1), np.float16(0))
    elif kind == "at a cell":
        thresholds = maps_AHW[:, 0, 0].copy()
    expected = [outline_by_library(m, float(t)) for m, t in zip(maps_AHW, thresholds, strict=True)]
    asked: list[float] = []
    ask = outlines._ask_library

    def watch(framed_GG: FloatArray, threshold: float) -> list[DoubleArray]:
        asked.append(threshold)
        return ask(framed_GG, threshold)

    monkeypatch.setattr(outlines, "_ask_library", watch)
    assert outline_regions(maps_AHW, thresholds) == expected
    if kind == "signed" and shape != (1, 1):
        assert any(expected)
        assert len(asked) <= 3  # else the library would be held against itself
    if kind == "whole" and shape != (1, 1):
        assert asked


@given(
    arrays.arrays(np.float32, (3, 4, 5), elements=st.integers(-3, 3).map(lambda n: np.float32(n / 2))),
    st.sampled_from([-1.25, -0.5, 0.0, 0.3, 1.0, 2.0]),
)
def test_outlines_of_plateaus_are_those_of_the_library(maps_AHW: FloatArray, threshold: float) -> None:
    found = outline_regions(maps_AHW, np.full(3, threshold), grid=16)
    assert found == [outline_by_library(m, threshold, grid=16) for m in maps_AHW]


def test_thinned_lines_keep_what_the_library_keeps() -> None:
    """Random closed walks, whose points are often equally far."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(200):
        steps = rng.integers(-1, 2, size=(rng.integers(3, 60), 2)) / 2
        line = np.cumsum(steps, axis=0)
        lines.append(np.concatenate([line, line[:1]]))
    starts = np.cumsum([0, *map(len, lines)])
    keep = outlines._thin(np.concatenate(lines), starts)
    for line, first, end in zip(lines, starts[:-1], starts[1:], strict=True):
        np.testing.assert_array_equal(line[keep[first:end]], approximate_polygon(line, 0.5))
    assert 0.1 < keep.mean() < 0.9


def test_an_outline_does_not_depend_on_the_others() -> None:
    maps_AHW = np.random.default_rng(3).normal(size=(40, 6, 6)).astype(np.float32)
    thresholds = np.linspace(-1, 2, 40, dtype=np.float32)
    alone = [outline_region(m, float(t)) for m, t in zip(maps_AHW, thresholds, strict=True)]
    assert outline_regions(maps_AHW, thresholds) == alone
    assert outline_regions(maps_AHW[::-1], thresholds[::-1]) == alone[::-1]
    assert outline_regions(maps_AHW[:0], thresholds[:0]) == []
