"""Crowds, and the marks of exporters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from lavise.configs.errors import UserError
from lavise.storage.array_types import BoolArray
from lavise.storage.datasets.readers.coco_crowds import is_marked, marks_are_habit
from lavise.storage.datasets.readers.coco_file import CocoFile

H, W = 20, 32
POLYGON = [5, 3, 17, 3, 17, 9, 5, 9]


def encode(mask: BoolArray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [H, W], "counts": rle["counts"].decode("ascii")}


def draw_solid() -> BoolArray:
    mask = np.zeros((H, W), dtype=bool)
    mask[3:9, 5:17] = True
    return mask


def draw_with_hole() -> BoolArray:
    mask = draw_solid()
    mask[5, 8] = False
    return mask


def draw_two_pieces() -> BoolArray:
    mask = draw_solid()
    mask[15:18, 20:25] = True
    return mask


def make_entry(number: int, segmentation: Any, crowd: Any = 0, image: int | None = None) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": number if image is None else image,
        "category_id": 1,
        "segmentation": segmentation,
        "iscrowd": crowd,
    }


def make_file(*entries: dict[str, Any]) -> CocoFile:
    return CocoFile(Path("a.json"), (), entries, ())


def plain(num: int, segmentation: Any = None) -> list[dict[str, Any]]:
    return [make_entry(1000 + i, segmentation or [POLYGON]) for i in range(num)]


@pytest.mark.parametrize("mark", [0, False, "0", None, "", 0.0, "false"])
def test_no_mark(mark: Any) -> None:
    assert not is_marked({"iscrowd": mark}, Path("a.json"))


@pytest.mark.parametrize("mark", [1, True, "1", 1.0, "True"])
def test_mark(mark: Any) -> None:
    assert is_marked({"iscrowd": mark}, Path("a.json"))


@pytest.mark.parametrize("mark", [2, -1, "x", [1], 0.5, float("nan")])
def test_mark_that_is_none(mark: Any) -> None:
    with pytest.raises(UserError, match=r"^a\.json: annotation 7: iscrowd is .*; allowed: 0 or 1$"):
        is_marked({"id": 7, "iscrowd": mark}, Path("a.json"))


def test_crowds_as_coco_has_them() -> None:
    """A small share, once per picture and category, beside objects of several polygons."""
    several = [POLYGON, [20, 10, 24, 10, 24, 14, 20, 14]]
    crowds = [make_entry(i, encode(draw_two_pieces()), 1) for i in range(6)]
    assert not marks_are_habit([make_file(*crowds, *plain(90), *plain(10, several))])


def test_crowds_of_coco_itself_whatever_their_share() -> None:
    """Somebody took the pictures with crowds alone."""
    crowds = [
        {**make_entry(0, encode(draw_solid()), 1), "id": 9_001_00_262_145 + i, "image_id": 262_145 + i}
        for i in range(20)
    ]
    assert [c["id"] for c in crowds[:1]] == [900100262145]
    assert not marks_are_habit([make_file(*crowds, *plain(5))])
    renumbered = [{**c, "id": i} for i, c in enumerate(crowds)]
    assert marks_are_habit([make_file(*renumbered, *plain(5))])


def test_every_mask_is_marked() -> None:
    """datumaro."""
    masks = [make_entry(i, encode(draw_solid()), 1) for i in range(12)]
    assert marks_are_habit([make_file(*masks)])
    assert marks_are_habit([make_file(*masks[:3]), make_file(*masks[3:])])
    assert marks_are_habit([make_file(*masks, *plain(40))])


def test_several_marked_masks_of_one_picture_and_category() -> None:
    """datumaro, where polygons and a few masks are mixed."""
    masks = [make_entry(i, encode(draw_solid()), 1, image=i // 2) for i in range(10)]
    assert marks_are_habit([make_file(*masks, *plain(500))])


@pytest.mark.parametrize(("draw", "expected"), [(draw_with_hole, True), (draw_two_pieces, True), (draw_solid, False)])
def test_what_polygons_cannot_say_is_marked(draw: Any, expected: bool) -> None:
    """supervision: marked where there is a hole or several pieces, and nothing else has several polygons."""
    masks = [make_entry(i, encode(draw()), 1) for i in range(6)]
    assert marks_are_habit([make_file(*masks, *plain(60))]) is expected
    assert not marks_are_habit([make_file(*masks, *plain(40))])
    assert not marks_are_habit([make_file(*masks, *plain(60), *plain(1, [POLYGON, POLYGON]))])


def test_marks_that_are_deliberate() -> None:
    masks = [make_entry(i, encode(draw_solid()), 1) for i in range(12)]
    assert not marks_are_habit([make_file(*masks, make_entry(50, encode(draw_solid())))])
    assert not marks_are_habit([make_file(*masks, make_entry(50, [POLYGON], 1))])
    assert not marks_are_habit([make_file(*masks, make_entry(50, [], 1))])


def test_too_few_to_tell() -> None:
    masks = [make_entry(i, encode(draw_solid()), 1) for i in range(4)]
    assert not marks_are_habit([make_file(*masks)])
    assert not marks_are_habit([make_file(*plain(100))])
    assert not marks_are_habit([make_file()])
