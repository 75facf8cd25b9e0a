"""A file of COCO's form: JSON with images, annotations and categories, checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError
from lavise.storage.datasets.readers.json_lists import read_json_lists
from lavise.storage.packed_list import PackedList
from lavise.storage.state.text import one_line, printable

INSTANCES = "COCO instances"
_MAX_PX = 100_000
_MAX_AREA_PX = 2**31 - 1
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class CocoFile:
    """What a file says.

    Attributes:
        path: of the file; messages begin with it.
        images: with id, and a name (`name_image`); by id.
        annotations: those of all images, as they stand in the file.
        categories: with id and name; by id.
    """

    path: Path
    images: Sequence[Entry]
    annotations: Sequence[Entry]
    categories: Sequence[Entry]

    def name_categories(self, left_out: frozenset[Any] = frozenset()) -> dict[Any, str]:
        """Their names by id.

        Raises:
            UserError: a name stands twice.
        """
        concepts = {c["id"]: str(c["name"]) for c in self.categories if c["id"] not in left_out}
        if twice := [n for n, k in Counter(concepts.values()).items() if k > 1]:
            raise UserError(f"{self.path}: category names stand twice: {', '.join(map(repr, twice[:3]))}")
        return concepts


def read_coco_file(path: Path, what: str = INSTANCES) -> CocoFile:
    """Read and check one file.

    Args:
        what: it ought to be, for messages. Of anything but instances annotations need no id and no category.

    Raises:
        UserError: not such a file, an id that stands twice, or a picture without a name.
    """
    needed = ("id", "image_id", "category_id") if what == INSTANCES else ("image_id",)
    try:
        content = read_json_lists(path)
        found = {}
        for key, required in (("images", ("id",)), ("annotations", needed), ("categories", ("id", "name"))):
            entries = content[key]
            if not isinstance(entries, PackedList) or not all(isinstance(e, dict) for e in entries):
                raise TypeError(f"{key} is no list of objects")
            if lacking := next((k for e in entries for k in required if k not in e), None):
                raise KeyError(f"{lacking} in {key}")
            order = _order_by_id([e[required[0]] for e in entries], required[0], key, path)
            found[key] = entries if order is None or key == "annotations" else _take(entries, order)
        for image in found["images"]:
            name_image(image)
        for pointer in set(needed) - {"id"}:
            hash(frozenset(e[pointer] for e in found["annotations"]))  # a list is no id
        return CocoFile(path, found["images"], found["annotations"], found["categories"])
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise UserError(
            f"{path}: not {what} ({one_line(err)}); allowed: JSON with images, annotations, categories"
        ) from None


def name_image(image: Entry) -> str:
    """Its file_name; where there is none, as in LVIS, the last folder and the name in its coco_url.

    Raises:
        KeyError: neither is there.
        TypeError: it is no text.
    """
    name = image.get("file_name")
    if name is None and isinstance(url := image.get("coco_url"), str):
        return "/".join(url.split("/")[-2:])
    if name is None and "file_name" not in image:
        raise KeyError("file_name in images")
    if not isinstance(name, str) or not name:
        raise TypeError(f"file_name {name!r} is no text")
    return name


def read_labelled_size(image: Entry, path: Path) -> tuple[int, int] | None:
    """(height, width) that the labels are for; None where the file does not say.

    Raises:
        UserError: they are no size of a picture.
    """
    given = image.get("height"), image.get("width")
    if all(v in (None, 0) for v in given):
        return None
    try:
        height, width = (
            int(v) if float(v) == int(v) else 0 for v in given if not isinstance(v, bool) and v is not None
        )
    except (TypeError, ValueError, OverflowError):
        height = width = 0
    if not (0 < height <= _MAX_PX and 0 < width <= _MAX_PX and height * width <= _MAX_AREA_PX):
        raise UserError(
            f"{path}: {printable(name_image(image))!r} has the height {given[0]!r} and the width {given[1]!r}; "
            "allowed: both in whole pixels, or neither"
        )
    return height, width


def find_root_categories(files: Sequence[CocoFile]) -> dict[Any, str]:
    """Roboflow's first category: it has the data set's name, is what all others belong to, and no object has it."""
    used = {e.get("category_id") for file in files for e in file.annotations}
    found = {}
    for category in files[0].categories:
        others = [c for c in files[0].categories if c["id"] != category["id"]]
        if (
            category.get("supercategory") == "none"
            and category["id"] not in used
            and others
            and all(c.get("supercategory") == category["name"] for c in others)
        ):
            found[category["id"]] = str(category["name"])
    return found


def _order_by_id(ids: list[Any], by: str, key: str, path: Path) -> list[int] | None:
    """Positions in the order of the ids; None where they lie so."""
    if len({type(i) for i in ids}) > 1 and not all(isinstance(i, int | float) for i in ids):
        raise TypeError(f"ids of several types in {key}")
    if by == "id" and len(set(ids)) != len(ids):
        raise UserError(f"{path}: an id stands twice in {key}")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return None if order == list(range(len(ids))) else order


def _take(entries: Sequence[Entry], order: Sequence[int]) -> Sequence[Entry]:
    found = list(entries)
    return PackedList(found[i] for i in order)
