"""Polygons and turned boxes in XML files, held against a reading pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import PascalVocReference
from lavise.storage.array_types import BoolArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.readers.pascal_voc import load_pascal_voc

H, W = 40, 60
Corners = Sequence[tuple[float, float]]
# An L, whose corners lie between pixels.
SHAPE: Corners = [(5, 4), (40, 4), (40, 20), (22, 20), (22, 35), (5, 35)]


def read_one(root: Path, *objects: str, **settings: Any) -> Dataset:
    """The training part of two pictures, of which both have these objects."""
    for name in "ab":
        Image.new("RGB", (W, H), (ord(name), 0, 0)).save(root / f"{name}.png")
        (root / f"{name}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>", "utf-8")
    given = {"kind": "pascal_voc", "root": root, "coordinates": "zero_based", "evaluation_share": 0.5, **settings}
    return load_pascal_voc(PascalVocReference.model_validate(given), 0).train


def make_object(*inside: str, name: str = "cup") -> str:
    return f"<object><name>{name}</name>{''.join(inside)}</object>"


def number_corners(corners: Corners, first: int = 1) -> str:
    pairs = [f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(corners, start=first)]
    return f"<polygon>{''.join(pairs)}</polygon>"


def list_points(corners: Corners, tag: str = "pt") -> str:
    points = [f"<{tag}><x>{x}</x><y>{y}</y></{tag}>" for x, y in corners]
    return f"<polygon><username>me</username>{''.join(points)}</polygon>"


def make_turned(x: float, y: float, width: float, height: float, angle: Any) -> str:
    sides = zip(("cx", "cy", "w", "h", "angle"), (x, y, width, height, angle), strict=True)
    return f"<robndbox>{''.join(f'<{name}>{value}</{name}>' for name, value in sides)}</robndbox>"


BOX = "<bndbox><xmin>5</xmin><ymin>4</ymin><xmax>40</xmax><ymax>35</ymax></bndbox>"


def fill_slowly(corners: Corners) -> BoolArray:
    """bool [H, W]: pixels whose middle is crossed an odd number of times by a ray to the right."""
    mask = np.zeros((H, W), dtype=bool)
    for row in range(H):
        for column in range(W):
            x, y = column + 0.5, row + 0.5
            for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
                if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                    mask[row, column] = not mask[row, column]
    return mask


def masks_of(part: Dataset) -> list[BoolArray]:
    return [a.make_mask(H, W) for a in part.records[0].annotations]


@pytest.mark.parametrize("box", [BOX, ""])
@pytest.mark.parametrize(
    "polygon",
    [
        number_corners(SHAPE),
        number_corners(SHAPE, first=0),
        "<polygon>" + "".join(sorted(number_corners(SHAPE)[9:-10].replace("><", ">\n<").split("\n"))) + "</polygon>",
        list_points(SHAPE),
        list_points(SHAPE, "point"),
    ],
)
def test_polygons_are_filled(tmp_path: Path, polygon: str, box: str) -> None:
    part = read_one(tmp_path, make_object(box, polygon))
    (found,) = masks_of(part)
    np.testing.assert_array_equal(found, fill_slowly(SHAPE))
    assert part.skipped == {}
    (of_masks,) = masks_of(read_one(tmp_path, make_object(box, polygon), masks="segmentation"))
    np.testing.assert_array_equal(of_masks, found)
    (of_box,) = masks_of(read_one(tmp_path, make_object(box, polygon), masks="box"))
    np.testing.assert_array_equal(of_box, fill_slowly([(5, 4), (40, 4), (40, 35), (5, 35)]))


def test_pixels_that_count_from_1(tmp_path: Path) -> None:
    moved = [(x + 1, y + 1) for x, y in SHAPE]
    (found,) = masks_of(read_one(tmp_path, make_object(BOX, number_corners(moved)), coordinates="voc"))
    np.testing.assert_array_equal(found, fill_slowly(SHAPE))


def test_several_polygons_are_one_object(tmp_path: Path) -> None:
    other: Corners = [(45, 20), (55, 20), (55, 30), (45, 30)]
    (found,) = masks_of(read_one(tmp_path, make_object(number_corners(SHAPE), number_corners(other))))
    np.testing.assert_array_equal(found, fill_slowly(SHAPE) | fill_slowly(other))


def turn(x: float, y: float, width: float, height: float, angle: float) -> Corners:
    """As roLabelImg draws it: the angle goes from x to y, which points down."""
    corners = []
    for across, along in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        off_x, off_y = across * width / 2, along * height / 2
        right = math.cos(angle) * off_x - math.sin(angle) * off_y
        down = math.sin(angle) * off_x + math.cos(angle) * off_y
        corners.append((x + right, y + down))
    return corners


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2, 2.5, -0.7])
@pytest.mark.parametrize("coordinates", ["voc", "zero_based"])
def test_turned_boxes_are_turned(tmp_path: Path, angle: float, coordinates: str) -> None:
    given = (30.0, 20.0, 36.0, 12.0, angle)
    part = read_one(tmp_path, make_object(make_turned(*given)), coordinates=coordinates)
    (found,) = masks_of(part)
    expected = fill_slowly(turn(*given))
    if angle in {0.0, math.pi / 2}:
        np.testing.assert_array_equal(found, expected)
    # pycocotools rounds slanted edges.
    assert (found & expected).sum() >= 0.94 * (found | expected).sum()
    (around,) = masks_of(read_one(tmp_path, make_object(make_turned(*given)), masks="box"))
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    box = np.zeros((H, W), dtype=bool)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    np.testing.assert_array_equal(around, box)


def test_a_turned_box_that_leaves_the_picture_keeps_its_sides(tmp_path: Path) -> None:
    given = (3.0, 20.0, 30.0, 10.0, 0.5)
    (found,) = masks_of(read_one(tmp_path, make_object(make_turned(*given))))
    expected = fill_slowly(turn(*given))
    assert (found & expected).sum() >= 0.94 * (found | expected).sum()


def test_angles_in_degrees_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_one(tmp_path, make_object(make_turned(30, 20, 10, 5, 45)))
    assert str(caught.value) == (f"{tmp_path / 'a.xml'}: found the angle 45 of a robndbox; allowed: radians, -2π to 2π")


UNREAD = "polygon in a form that is not read (the box counts)"


@pytest.mark.parametrize(
    "polygon",
    [
        '<polygon points="1,2;3,4;5,6"/>',
        "<polygon><point1>1,2</point1><point2>3,4</point2><point3>5,6</point3></polygon>",
        number_corners(SHAPE).replace("<y3>20</y3>", ""),
        number_corners(SHAPE, first=2),
        number_corners(SHAPE).replace("<x3>40</x3>", "<x3>nan</x3>"),
        number_corners(SHAPE).replace("<x2>40</x2>", "<x1>40</x1>"),
        number_corners(SHAPE[:2]),
        list_points(SHAPE).replace("<x>40</x>", "<x>4O</x>"),
        number_corners([(x / W, y / H) for x, y in SHAPE]),
        "<polygon/>",
    ],
)
def test_polygons_in_other_forms_are_counted(tmp_path: Path, polygon: str) -> None:
    part = read_one(tmp_path, make_object(BOX, polygon))
    assert part.records[0].annotations[0].boxes == ((5, 4, 35, 31),)
    assert part.skipped == {UNREAD: 2}
    with pytest.raises(UserError, match="2 polygon in a form that is not read"):
        read_one(tmp_path, make_object(polygon))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    far = [(1e9, 0), (1e9 + 5, 0), (1e9, 5)]
    part = read_one(
        tmp_path,
        make_object(number_corners(SHAPE)),
        make_object(number_corners(far)),
        make_object(number_corners([(W + 5, 1), (W + 9, 1), (W + 9, 9)])),
        make_object(make_turned(30, 20, 0, 5, 1)),
        make_object(make_turned(30, 20, 5, 5, "x")),
        make_object(number_corners(SHAPE), "<deleted>1</deleted>"),
        make_object(BOX),
        masks="segmentation",
    )
    assert len(part.records[0].annotations) == 1
    assert part.skipped == {
        "outline far outside its picture": 2,
        "outline without a pixel": 2,
        "object without an outline": 6,
        "object that is marked as deleted": 2,
    }


def test_a_picture_with_boxes_alone_has_no_segmentation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 picture without a segmentation"):
        read_one(tmp_path, make_object(BOX), masks="segmentation")
