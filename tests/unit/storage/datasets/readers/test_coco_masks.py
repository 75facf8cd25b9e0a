"""Masks and boxes of single annotations, held against pycocotools and against loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from lavise.storage.array_types import BoolArray
from lavise.storage.datasets.readers.coco_frames import Frame
from lavise.storage.datasets.readers.coco_masks import (
    MaskError,
    decode_mask,
    encode_mask,
    is_run_lengths,
    is_unit,
    list_rings,
    make_rle,
    read_box,
    read_counts,
)

H, W = 20, 32
HERE = Frame((H, W), (H, W))


def count_runs(mask: BoolArray) -> list[int]:
    counts, value, run = [], False, 0
    for pixel in mask.T.reshape(-1):
        if bool(pixel) != value:
            counts.append(run)
            value, run = not value, 0
        run += 1
    return [*counts, run]


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 300), st.floats(0, 1))
def test_compressed_counts_are_what_was_compressed(seed: int, height: int, width: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    mask = draw.random((height, width)) < share
    mask[:, : width // 2] = draw.random() < 0.5  # long runs, whose numbers take several characters
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")
    assert read_counts(text).tolist() == count_runs(mask)


@given(st.text(alphabet=[chr(c) for c in range(40, 120)], max_size=30))
def test_any_text_is_read_as_pycocotools_reads_it_or_refused(text: str) -> None:
    try:
        counts = read_counts(text)
    except MaskError:
        return
    total = int(counts.sum())
    if 0 < total <= 10_000:
        again = coco_mask.frPyObjects({"size": [total, 1], "counts": counts.tolist()}, total, 1)
        read = {"size": [total, 1], "counts": text.encode("ascii")}
        assert (coco_mask.decode(again) == coco_mask.decode(read)).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [H, W], "counts": [5, 10]}, r"run lengths that add up to 15 pixels; allowed: 20 x 32 = 640"),
        ({"size": [H, W], "counts": [H * W, 1]}, "add up to 641 pixels"),
        ({"size": [H, W], "counts": "0"}, "add up to 0 pixels"),
        ({"size": [H, W], "counts": [-5, H * W + 5]}, "a count is negative or too large"),
        ({"size": [H, W], "counts": [float("nan")]}, "counts are no whole numbers"),
        ({"size": [H, W], "counts": [float("inf"), 1]}, "counts are no whole numbers"),
        ({"size": [H, W], "counts": [0.5, H * W - 0.5]}, "counts are no whole numbers"),
        ({"size": [H, W], "counts": []}, "a count is negative or too large"),
        ({"size": [H, W], "counts": "o"}, "no compressed run lengths"),
        ({"size": [H, W], "counts": "\u00e9"}, "no compressed run lengths"),
        ({"size": [H, W], "counts": " "}, "no compressed run lengths"),
        ({"size": [H, W], "counts": "ooooooooooo0"}, "a count is too large"),
        ({"size": [0, W], "counts": [0]}, r"size is \[0, 32\]"),
        ({"size": [10**9, 10**9], "counts": [10**18]}, "size is"),
        ([[0, 0, 5, float("nan"), 5, 5]], "not finite"),
        ([[0, 0, 5, float("inf"), 5, 5]], "not finite"),
        ([[0, 0, 5, 1e30, 5, 5]], "far outside of 32 x 20 pixels"),
        ([[0, 0, 5, -21, 5, 5]], "coordinate -21, far outside"),
        ([[0, 0, 65, 1, 5, 5]], "coordinate 65, far outside"),
        ([[0, 0, 5, 5, 5, 1, 7]], "a polygon of 7 numbers"),
    ],
)
def test_senseless_masks_are_refused_before_pycocotools_sees_them(segmentation: Any, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        make_rle(segmentation, HERE)


def test_a_polygon_may_leave_the_picture_by_its_size() -> None:
    rle = make_rle([[-W, -H, 2 * W, -H, 2 * W, 2 * H, -W, 2 * H]], HERE)
    assert rle is not None
    assert decode_mask(rle).all()


def test_whole_numbers_written_as_floats_are_counts() -> None:
    rle = make_rle({"size": [H, W], "counts": [5.0, H * W - 5.0]}, HERE)
    assert rle is not None
    assert decode_mask(rle).sum() == H * W - 5


@pytest.mark.parametrize("segmentation", [None, [], "", {}, [[]], [[1, 1, 5, 5]]])
def test_no_mask(segmentation: Any) -> None:
    assert make_rle(segmentation, HERE) is None


def test_masks_are_scaled_with_their_picture() -> None:
    mask = np.zeros((H, W), dtype=bool)
    mask[3:9, 5:17] = True
    double = Frame((H, W), (2 * H, 2 * W))
    expected = np.kron(mask, np.ones((2, 2), dtype=bool))
    forms: list[Any] = [[[5, 3, 17, 3, 17, 9, 5, 9]], {"size": [H, W], "counts": count_runs(mask)}, encode_mask(mask)]
    forms[2] = {**forms[2], "counts": forms[2]["counts"].decode("ascii")}
    for form in forms:
        rle = make_rle(form, double)
        assert rle is not None
        assert (decode_mask(rle) == expected).all()


def test_run_lengths_for_the_picture_itself_stay_as_they_are() -> None:
    """The labels' size in the file is wrong, that of the run lengths is right."""
    mask = np.zeros((2 * H, 2 * W), dtype=bool)
    mask[1:4, 1] = True
    rle = make_rle({"size": [2 * H, 2 * W], "counts": count_runs(mask)}, Frame((H, W), (2 * H, 2 * W)))
    assert rle is not None
    assert (decode_mask(rle) == mask).all()


def test_shares_of_the_size() -> None:
    rle = make_rle([[0.25, 0.5, 0.75, 0.5, 0.75, 1, 0.25, 1]], HERE, unit=True)
    assert rle is not None
    expected = [[y >= 10 and 8 <= x < 24 for x in range(W)] for y in range(H)]
    assert decode_mask(rle).tolist() == expected
    assert read_box([0.25, 0.5, 0.5, 0.25], HERE, unit=True) == (8, 10, 16, 5)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0.1, 0.5, 1, 0], True),
        ([0, 0, 1, 1], None),
        ([0, 1.0, 1], None),
        ([0.5, 1.5], False),
        ([-0.5, 0.5], False),
        ([float("nan"), 0.5], False),
        ([], None),
        (["x"], None),
    ],
)
def test_what_is_a_share_of_the_size(numbers: list[Any], expected: bool | None) -> None:
    assert is_unit(numbers) is expected


@pytest.mark.parametrize("box", [None, []])
def test_no_box(box: Any) -> None:
    assert read_box(box, HERE) is None


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1, 2, 3], "four finite numbers"),
        ([1, 2, 3, 4, 5], "four finite numbers"),
        ([1, 2, 3, "x"], "four finite numbers"),
        ([1, 2, 3, None], "four finite numbers"),
        ([1, 2, 3, float("nan")], "four finite numbers"),
        ([1, 2, float("inf"), 3], "four finite numbers"),
        (5, "four finite numbers"),
        ([5, 5, -2, 2], "negative width or height"),
        ([5, 5, 2, 100], "bbox has the coordinate 105, far outside of 32 x 20 pixels"),
    ],
)
def test_senseless_boxes(box: Any, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        read_box(box, HERE)


def is_in_ring(x: float, y: float, ring: list[list[float]]) -> bool:
    """Whether a ray to the right crosses the ring an odd number of times."""
    inside = False
    for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


def fill_slowly(polygons: list[dict[str, Any]]) -> BoolArray:
    """bool [H, W]: middles of pixels in an outline of which no hole has them."""
    mask = np.zeros((H, W), dtype=bool)
    for y in range(H):
        for x in range(W):
            for polygon in polygons:
                if is_in_ring(x + 0.5, y + 0.5, polygon["exterior"]):
                    holes = polygon.get("interiors") or []
                    mask[y, x] |= not any(is_in_ring(x + 0.5, y + 0.5, hole) for hole in holes)
    return mask


def make_ring(left: int, top: int, width: int, height: int) -> list[list[float]]:
    """An L: a rectangle whose lower right quarter is missing."""
    x, y, middle, centre = left + width, top + height, left + width // 2, top + height // 2
    corners = [(left, top), (x, top), (x, centre), (middle, centre), (middle, y), (left, y)]
    return [[float(a), float(b)] for a, b in corners]


OUTLINE, HOLE, ISLAND = make_ring(2, 1, 28, 18), make_ring(4, 3, 10, 10), make_ring(5, 5, 3, 4)


@pytest.mark.parametrize(
    "polygons",
    [
        [{"exterior": OUTLINE, "interiors": []}],
        [{"exterior": OUTLINE}],
        [{"exterior": OUTLINE, "interiors": None}],
        [{"exterior": OUTLINE, "interiors": [HOLE]}],
        [{"exterior": OUTLINE, "interiors": [HOLE, make_ring(20, 2, 6, 4)]}, {"exterior": ISLAND}],
        [{"exterior": OUTLINE, "interiors": [HOLE, make_ring(8, 3, 12, 6)]}],  # holes that overlap
        [{"exterior": OUTLINE, "interiors": [[[5.0, 5.0], [6.0, 5.0]]]}],  # a hole of two corners is none
    ],
)
def test_polygons_of_kwcoco_keep_their_holes(polygons: list[dict[str, Any]]) -> None:
    expected = fill_slowly([{**p, "interiors": [h for h in p.get("interiors") or [] if len(h) > 2]} for p in polygons])
    rle = make_rle(polygons, HERE)
    assert rle is not None
    np.testing.assert_array_equal(decode_mask(rle), expected)
    if len(polygons) == 1:
        assert make_rle(polygons[0], HERE) == rle
    shares = [
        {
            key: [[[x / W, y / H] for x, y in r] for r in rings]
            for key, rings in (("interiors", p.get("interiors") or []),)
        }
        | {"exterior": [[x / W, y / H] for x, y in p["exterior"]]}
        for p in polygons
    ]
    assert is_unit(list_rings(shares)[0])
    assert len(list_rings(shares)) == sum(1 + len(p.get("interiors") or []) for p in polygons)
    assert make_rle(shares, HERE, unit=True) == rle
    doubled = make_rle(polygons, Frame((H, W), (2 * H, 2 * W)))
    assert doubled is not None
    np.testing.assert_array_equal(decode_mask(doubled), expected.repeat(2, axis=0).repeat(2, axis=1))


def test_a_polygon_of_kwcoco_without_holes_is_the_same_as_cocos() -> None:
    flat = [v for pair in OUTLINE for v in pair]
    assert make_rle([{"exterior": OUTLINE, "interiors": []}], HERE) == make_rle([flat], HERE)
    assert make_rle({"exterior": [[1, 1], [2, 2]], "interiors": []}, HERE) is None
    assert not is_run_lengths({"exterior": []})
    assert is_run_lengths({"counts": [], "size": [1, 1]})


@pytest.mark.parametrize(
    ("segmentation", "line"),
    [
        ({"exterior": 7}, "outline or a hole '7'"),
        ({"exterior": [[1, 2, 3]]}, "outline or a hole '[[1, 2, 3]]'"),
        ({"exterior": [1, 2, 3, 4, 5, 6]}, "outline or a hole"),
        ({"exterior": OUTLINE, "interiors": 3}, "interiors that are no list"),
        ({"exterior": OUTLINE, "interiors": [OUTLINE[0]]}, "outline or a hole"),
        ({"exterior": [["a", 1], [2, 2], [3, 3]]}, "neither polygons nor run lengths"),
        ([{"interiors": []}], "without exterior"),
        ({"exterior": OUTLINE, "interiors": [[[0, 0], [9, 0], [9, 1e9]]]}, "far outside"),
        ({"exterior": OUTLINE, "interiors": [[[0, 0], [9, 0], [9, float("nan")]]]}, "not finite"),
    ],
)
def test_polygons_of_kwcoco_that_are_none(segmentation: Any, line: str) -> None:
    with pytest.raises(MaskError) as caught:
        make_rle(segmentation, HERE)
    assert line in str(caught.value)
    list_rings(segmentation)  # asked before they are checked
