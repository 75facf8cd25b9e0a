"""Outlines of regions as SVG paths, of many maps at once.

The lines are those of marching squares (Lorensen and Cline 1987, in two dimensions, with linear interpolation), thinned
by Douglas and Peucker's rule. The points are the very ones that scikit-image gives for one map after the other; here
all maps of a block go through each step together. Where a value lies exactly on its threshold, lines may touch, and
scikit-image itself is asked.

Shape legend: A maps of a block, H x W cells of a map, G x G points of a grid with its frame, S line segments, P points,
I intervals of lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, IntArray
from lavise.storage.images.geometry import upsample_maps

OUTLINE_GRID = 64
BLOCK_MAPS = 64
_TOLERANCE = 0.5
_NONE, _TOP, _BOTTOM, _LEFT, _RIGHT = -1, 0, 1, 2, 3
# Of a square, by which of its corners are above the threshold (1 upper left, 2 upper right, 4 lower left, 8 lower
# right): the sides where its lines begin and end. What is above lies to the right of a line; corners that are above and
# lie across from each other are apart.
_SIDES = {
    1: ((_TOP, _LEFT),),
    2: ((_RIGHT, _TOP),),
    3: ((_RIGHT, _LEFT),),
    4: ((_LEFT, _BOTTOM),),
    5: ((_TOP, _BOTTOM),),
    6: ((_RIGHT, _TOP), (_LEFT, _BOTTOM)),
    7: ((_RIGHT, _BOTTOM),),
    8: ((_BOTTOM, _RIGHT),),
    9: ((_TOP, _LEFT), (_BOTTOM, _RIGHT)),
    10: ((_BOTTOM, _TOP),),
    11: ((_BOTTOM, _LEFT),),
    12: ((_LEFT, _RIGHT),),
    13: ((_TOP, _RIGHT),),
    14: ((_LEFT, _TOP),),
}
_NUM_LINES = np.array([len(_SIDES.get(corners, ())) for corners in range(16)])
_FROM, _TO = (
    np.array([[lines[n][end] if n < len(lines) else _NONE for n in range(2)] for lines in
              (_SIDES.get(corners, ()) for corners in range(16))])
    for end in range(2)
)  # fmt: skip


def outline_region(map_hw: FloatArray, threshold: float, grid: int = OUTLINE_GRID) -> str:
    """`outline_regions` of one map."""
    return outline_regions(map_hw[None], np.array([threshold]), grid)[0]


def outline_regions(
    maps_AHW: FloatArray, thresholds_A: FloatArray | DoubleArray, grid: int = OUTLINE_GRID
) -> list[str]:
    """Outline of {upsampled map > threshold} of each map as an SVG path on a grid x grid square, which is stretched
    over the picture; empty where no cell is above it.

    A single cell at the clip of a saturated filter is above the threshold, but its upsampled map is hardly anywhere:
    then the cells themselves are outlined.
    """
    strokes = _trace(upsample_maps(maps_AHW, grid), thresholds_A.astype(np.float64))
    above_AHW = maps_AHW > thresholds_A[:, None, None]
    lost = np.array([n for n in np.flatnonzero(above_AHW.any(axis=(1, 2))) if not strokes[n]], np.int64)
    if len(lost):
        rows, columns = (np.arange(grid) * cells // grid for cells in maps_AHW.shape[1:])
        cells = above_AHW[lost][:, rows[:, None], columns].astype(np.float32)
        for n, own in zip(lost, _trace(cells, np.full(len(lost), 0.5)), strict=True):
            strokes[n] = own
    return strokes


def _trace(fine_AYX: FloatArray, thresholds_A: DoubleArray) -> list[str]:
    """SVG paths around what is above the thresholds; empty where that is nothing, or too small for an area."""
    num, height, width = fine_AYX.shape
    # A frame below the threshold closes the outlines that run into the border.
    framed_AGG = np.empty((num, height + 2, width + 2), np.float32)
    framed_AGG[:] = (np.minimum(fine_AYX.min(axis=(1, 2)), thresholds_A) - 1.0)[:, None, None]
    framed_AGG[:, 1:-1, 1:-1] = fine_AYX
    lines_A = _list_lines(framed_AGG, thresholds_A)
    return ["".join(_write_path(line, height) for line in lines if len(line) > 2) for lines in lines_A]


def _write_path(points_P2: DoubleArray, grid: int) -> str:
    """Of [row, column] in the framed grid, whose numbers are those of centres."""
    rows, columns = np.rint(np.clip(points_P2 - 1 + 0.5, 0, grid)).astype(np.int64).T
    texts = _list_texts(grid)
    return "M" + "L".join([texts[place] for place in (columns * (grid + 1) + rows).tolist()]) + "Z"


@lru_cache(maxsize=4)
def _list_texts(grid: int) -> list[str]:
    return [f"{x} {y}" for x in range(grid + 1) for y in range(grid + 1)]


def _list_lines(framed_AGG: FloatArray, thresholds_A: DoubleArray) -> list[list[DoubleArray]]:
    """Of each map the closed lines around what is above, thinned: points [row, column], float64 [P, 2], the first one
    again as the last. The lines are in the order of their uppermost squares."""
    lines_A: list[list[DoubleArray]] = [[] for _ in framed_AGG]
    found = _cross_squares(framed_AGG, thresholds_A)
    if not len(found.map):
        return lines_A
    order, starts = _follow(found.following)
    points, keep = found.points[order], _thin(found.points[order], starts)
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        lines_A[found.map[order[first]]].append(points[first:end][keep[first:end]])
    for number in found.touching.tolist():
        lines_A[number] = _ask_library(framed_AGG[number], float(thresholds_A[number]))
    return lines_A


def _ask_library(framed_GG: FloatArray, threshold: float) -> list[DoubleArray]:
    """The same of one map by scikit-image."""
    from skimage.measure import approximate_polygon, find_contours

    return [approximate_polygon(contour, _TOLERANCE) for contour in find_contours(framed_GG, threshold)]


@dataclass(frozen=True)
class _Segments:
    """Pieces of lines, one or two in a square, in the order of maps and of squares by rows.

    Attributes:
        map: int64 [S], whose it is.
        points: float64 [S, 2], where it begins.
        following: int64 [S], the segment that begins where it ends.
        touching: int64, maps with a line through a point of the grid, where several may meet.
    """

    map: IntArray
    points: DoubleArray
    following: IntArray
    touching: IntArray


def _cross_squares(framed_AGG: FloatArray, thresholds_A: DoubleArray) -> _Segments:
    height, width = framed_AGG.shape[1:]
    above = (framed_AGG > thresholds_A[:, None, None]).view(np.uint8)
    corners = above[:, :-1, :-1] + 2 * above[:, :-1, 1:] + 4 * above[:, 1:, :-1] + 8 * above[:, 1:, 1:]
    squares = np.flatnonzero(_NUM_LINES[corners])
    square, own_corners = squares, corners.ravel()[squares]
    counts = _NUM_LINES[own_corners]
    square, own_corners = np.repeat(squares, counts), np.repeat(own_corners, counts)
    which = np.zeros(len(square), np.int64)
    which[1:] = square[1:] == square[:-1]
    number, row, column = np.unravel_index(square, corners.shape)
    begins, ends = (
        _number_edges(number, row, column, sides[own_corners, which], framed_AGG.shape) for sides in (_FROM, _TO)
    )
    segment_of = np.full(2 * framed_AGG.size, _NONE, np.int64)
    segment_of[begins] = np.arange(len(begins))
    place, is_upright = begins // 2, begins % 2
    values = framed_AGG.ravel()
    low = values[place].astype(np.float64)
    high = values[place + np.where(is_upright, width, 1)].astype(np.float64)
    share = (thresholds_A[number] - low) / (high - low)
    rest = place % (height * width)
    points = np.stack([rest // width, rest % width], axis=1).astype(np.float64)
    points[np.arange(len(points)), 1 - is_upright] += share
    on_grid = (points == np.rint(points)).all(axis=1)
    return _Segments(number.astype(np.int64), points, segment_of[ends], np.unique(number[on_grid]))


def _number_edges(
    number: IntArray, row: IntArray, column: IntArray, side: IntArray, shape: tuple[int, ...]
) -> IntArray:
    """An edge of the grid by its upper or left end: even numbers lie along a row, odd ones along a column."""
    place = (number * shape[1] + row + (side == _BOTTOM)) * shape[2] + column + (side == _RIGHT)
    return np.asarray(2 * place + (side >= _LEFT), np.int64)


def _follow(following_S: IntArray) -> tuple[IntArray, IntArray]:
    """Segments along each line, and where lines start among them, with the end; a line begins after its last segment
    (as scikit-image's do, which are closed by it), and that segment's end is the first point again."""
    following, seen = following_S.tolist(), bytearray(len(following_S))
    order: list[int] = []
    starts = [0]
    for first in range(len(following)):
        if seen[first]:
            continue
        line, segment = [], first
        while not seen[segment]:
            seen[segment] = 1
            line.append(segment)
            segment = following[segment]
        turn = line.index(max(line)) + 1
        order += line[turn:]
        order += line[:turn]
        order.append(line[turn % len(line)])
        starts.append(len(order))
    return np.array(order, np.int64), np.array(starts, np.int64)


def _thin(points_P2: DoubleArray, starts: IntArray) -> BoolArray:
    """Which points stay: those that lie further than the tolerance from the line between their neighbours that stay,
    the furthest first (Douglas and Peucker 1973). All intervals of all lines are split at once."""
    keep = np.zeros(len(points_P2), dtype=bool)
    first_I, last_I = starts[:-1], starts[1:] - 1
    keep[first_I] = keep[last_I] = True
    y_P, x_P = np.ascontiguousarray(points_P2.T)
    while True:
        has_inner = last_I - first_I > 1
        first_I, last_I = first_I[has_inner], last_I[has_inner]
        if not len(first_I):
            return keep
        counts = last_I - first_I - 1
        offsets = np.cumsum(counts) - counts
        own = np.repeat(np.arange(len(counts)), counts)
        inner = np.arange(len(own)) + (first_I + 1 - offsets)[own]
        distances = _measure_distances(y_P, x_P, first_I, last_I, own, inner)
        furthest = np.maximum.reduceat(distances, offsets)
        is_furthest = np.where(distances == furthest[own], np.arange(len(own)), len(own))
        splits = inner[np.minimum.reduceat(is_furthest, offsets)]
        is_split = furthest > _TOLERANCE
        first_I, last_I, splits = first_I[is_split], last_I[is_split], splits[is_split]
        keep[splits] = True
        first_I, last_I = np.concatenate([first_I, splits]), np.concatenate([splits, last_I])


def _measure_distances(
    y_P: DoubleArray, x_P: DoubleArray, first_I: IntArray, last_I: IntArray, own: IntArray, inner: IntArray
) -> DoubleArray:
    """Of inner points from the line between the ends of their interval; beyond its ends, from the nearer end.

    Each step is the one of scikit-image's `approximate_polygon`, so that equal distances stay equal.
    """
    y0, x0, y1, x1 = y_P[first_I], x_P[first_I], y_P[last_I], x_P[last_I]
    high, wide = y1 - y0, x1 - x0
    angle = -np.arctan2(high, wide)
    sine, cosine = np.sin(angle), np.cos(angle)
    offset = x0 * sine + y0 * cosine
    y, x = y_P[inner], x_P[inner]
    from_y, from_x, to_y, to_x = y - y0[own], x - x0[own], y - y1[own], x - x1[own]
    high_own, wide_own = high[own], wide[own]
    is_beside = (from_y * high_own + from_x * wide_own > 0) & (-to_y * high_own - to_x * wide_own > 0)
    distances = np.abs(y * cosine[own] + x * sine[own] - offset[own])
    beyond = np.flatnonzero(~is_beside)
    distances[beyond] = np.minimum(
        np.sqrt(from_x[beyond] ** 2 + from_y[beyond] ** 2), np.sqrt(to_x[beyond] ** 2 + to_y[beyond] ** 2)
    )
    return distances
