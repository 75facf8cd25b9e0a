"""Which annotations are crowds: iscrowd=1 as COCO means it, or as exporters set it on every run-length mask.

COCO marks at most one crowd per picture and category, as run lengths, about one annotation in a hundred. datumaro marks
every pixel mask, and supervision every mask with a hole or of several pieces, each of which is one object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lavise.configs.errors import UserError
from lavise.storage.array_types import BoolArray
from lavise.storage.datasets.readers.coco_file import CocoFile, Entry
from lavise.storage.datasets.readers.coco_frames import Frame
from lavise.storage.datasets.readers.coco_masks import MaskError, decode_mask, is_run_lengths, make_rle

_LEAST_MARKED = 5
_HABIT_SHARE = 0.2
_REPEATED_SHARE = 0.1
_LEAST_POLYGONS = 50
_COCO_ID_DIGITS = 8


def is_marked(entry: Mapping[str, Any], path: Path) -> bool:
    """Its iscrowd: a number, true or false, or either of them as text; nothing is no crowd.

    Raises:
        UserError: it is something else.
    """
    mark = entry.get("iscrowd")
    if mark is None or mark == "":
        return False
    text = str(mark).strip().lower()
    if text in {"0", "1", "0.0", "1.0", "true", "false"}:
        return text in {"1", "1.0", "true"}
    raise UserError(f"{path}: annotation {entry.get('id')}: iscrowd is {str(mark)[:40]!r}; allowed: 0 or 1")


def marks_are_habit(files: Sequence[CocoFile]) -> bool:
    """Whether iscrowd=1 says how a mask is written, not what it shows.

    It does where exactly the run lengths are marked, their ids are not those that COCO gives to crowds, and: more than
    a fifth of all masks is marked; or a tenth of the marked ones share picture and category with another one; or no
    other object of many has several polygons, while every marked one has a hole or several pieces.

    Raises:
        UserError: an iscrowd that says neither.
    """
    marked: list[tuple[int, Entry]] = []
    plain: list[tuple[int, Entry]] = []
    for number, file in enumerate(files):
        for entry in file.annotations:
            (marked if is_marked(entry, file.path) else plain).append((number, entry))
    with_mask = [e for _, e in plain if e.get("segmentation")]
    if (
        len(marked) < _LEAST_MARKED
        or not all(is_run_lengths(e.get("segmentation")) for _, e in marked)
        or any(is_run_lengths(e["segmentation"]) for e in with_mask)
        or all(_has_coco_id(e) for _, e in marked)
    ):
        return False
    if len(marked) > _HABIT_SHARE * (len(marked) + len(with_mask)):
        return True
    groups = Counter((number, e["image_id"], e["category_id"]) for number, e in marked)
    if sum(n for n in groups.values() if n > 1) > _REPEATED_SHARE * len(marked):
        return True
    return (
        len(with_mask) >= _LEAST_POLYGONS
        and all(isinstance(e["segmentation"], list) and len(e["segmentation"]) == 1 for e in with_mask)
        and _all_are_broken(e for _, e in marked)
    )


def _has_coco_id(entry: Entry) -> bool:
    """9, the category, and the picture in eight digits."""
    try:
        return str(entry["id"]) == f"9{int(entry['category_id']):03d}{int(entry['image_id']):0{_COCO_ID_DIGITS}d}"
    except (TypeError, ValueError, OverflowError):
        return False


def _all_are_broken(entries: Iterable[Entry]) -> bool:
    return all(_is_broken(e["segmentation"]) for e in entries)


def _is_broken(segmentation: Mapping[str, Any]) -> bool:
    """The mask has a hole, or several pieces."""
    from scipy import ndimage

    try:
        height, width = segmentation["size"]
        rle = make_rle(segmentation, Frame((height, width), (height, width)))
    except (MaskError, KeyError, TypeError, ValueError):
        return False
    mask_HW: BoolArray = np.zeros((0, 0), dtype=bool) if rle is None else decode_mask(rle)
    pieces = ndimage.label(mask_HW)[1]
    # Everything around the mask is one piece; what else is 0 is a hole. Diagonal neighbours join what is around.
    around = ndimage.label(np.pad(~mask_HW, 1, constant_values=True), structure=np.ones((3, 3)))[1]
    return bool(pieces > 1 or around > 1)
