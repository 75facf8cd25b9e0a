"""Labels as they lie in the entries of tables and archives: indices or names of classes, boxes in several forms, and
masks as in COCO."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavise.configs.container_formats import ObjectSettings
from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation
from lavise.storage.datasets.readers.coco_frames import Frame
from lavise.storage.datasets.readers.coco_masks import MaskError, is_unit, list_rings, make_rle
from lavise.storage.state.text import printable

NO_LABEL = "picture without a label"
EMPTY_BOX = "box without area"
_SHOWN = 60
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Classes:
    """What indices and names of labels mean.

    Attributes:
        names: by index; None: not known, so that labels must be names themselves.
    """

    names: tuple[str, ...] | None

    def find(self, value: Any, place: str) -> str | None:
        """The class that a label names; None where it names none (-1, nothing, an empty text).

        Raises:
            UserError: no such class; `place` opens the line.
        """
        if isinstance(value, str):
            name = clean_concept(value)
            if name and self.names is not None and name not in self.names:
                raise UserError(f"{place}: found class {show(value)}; allowed: {self._describe()}")
            return name or None
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:  # also infinity
            raise UserError(f"{place}: found label {show(value)}; allowed: an index or a name of a class")
        index = int(value)
        if index == -1:
            return None
        if self.names is None:
            raise UserError(
                f"{place}: found class {index}, but the data set has no names of classes; set reference.classes to a "
                "list of names or a text file with a name per line"
            )
        if not 0 <= index < len(self.names):
            raise UserError(f"{place}: found class {index}; allowed: {self._describe()}")
        return self.names[index]

    def find_all(self, value: Any, place: str) -> tuple[Annotation, ...]:
        """The classes of a whole picture: a label, or a list of them."""
        values = value if isinstance(value, list | tuple) else [value]
        found = dict.fromkeys(self.find(v, place) for v in values)
        return tuple(Annotation(name) for name in found if name is not None)

    def list_concepts(self, annotations: Sequence[Annotation]) -> tuple[str, ...]:
        """All names by index; where they are not known, those that were found, sorted."""
        return self.names if self.names is not None else tuple(sorted({a.concept for a in annotations}))

    def _describe(self) -> str:
        names = self.names or ()
        listed = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
        return f"0 to {len(names) - 1}, or a name ({listed}); set reference.classes if these are not the names"


def clean_concept(text: str) -> str:
    """A name with spaces for `_`, as those of folders."""
    return " ".join(text.replace("_", " ").split())


def show(value: Any) -> str:
    """A value from data, for a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def read_classes(setting: Sequence[str] | Path | None, otherwise: Sequence[str] | None = None) -> Classes:
    """The classes of `reference.classes`, else those that the data set names itself.

    Raises:
        UserError: the file cannot be read, or a name is empty or stands twice.
    """
    names = otherwise if setting is None else _read_lines(setting) if isinstance(setting, Path) else setting
    if names is None:
        return Classes(None)
    cleaned = tuple(map(clean_concept, names))
    place = f"reference.classes: {setting}" if isinstance(setting, Path) else "reference.classes"
    if not cleaned or not all(cleaned):
        raise UserError(f"{place}: found {'no names' if not cleaned else 'an empty name'}; allowed: a name per class")
    if twice := [name for name, count in Counter(cleaned).items() if count > 1]:
        raise UserError(f"{place}: found {show(twice[0])} twice; allowed: a name per class, all different")
    return Classes(cleaned)


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig").rstrip()
        if path.suffix.lower() != ".json":
            return text.splitlines()
        names = json.loads(text)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("no list of texts")
        return names
    except (OSError, ValueError, RecursionError) as err:
        raise UserError(
            f"reference.classes: cannot read {path} ({err}); allowed: a list of names, or a UTF-8 text file with a "
            "name per line, or a .json file with a list of names"
        ) from None


# ---------------------------------------------------------------- boxes


def read_objects(
    value: Any,
    fields: ObjectSettings,
    classes: Classes,
    find_size: Callable[[], tuple[int, int]],
    place: str,
    skipped: Counter[str],
) -> tuple[Annotation, ...]:
    """Boxes or masks with categories, from a list of mappings or a mapping of lists.

    Args:
        find_size: (height, width) of the picture; asked for where boxes are shares of it, and for masks.
        place: opens the line of an error.
        skipped: boxes that are left out are counted here.

    Raises:
        UserError: it is neither of both, or a box, mask or category makes no sense.
        BrokenImageError: from `find_size`.
    """
    found = []
    size: tuple[int, int] | None = None
    for box, category, segmentation in _list_entries(value, fields, place):
        concept = classes.find(category, f"{place}, {fields.category}")
        if concept is None:
            skipped["box without a category"] += 1
            continue
        if fields.segmentation is not None:
            size = size or find_size()
            rle = _read_mask(segmentation, size, f"{place}, {fields.segmentation}")
            if rle is not None and tuple(rle["size"]) != size:
                skipped["mask of another size"] += 1
                continue
            if rle is not None:
                found.append(Annotation(concept, rle=rle))
                continue
            if box is None:
                skipped["object without a mask or a box"] += 1
                continue
        x, y, width, height = _convert(_check_box(box, f"{place}, {fields.box}"), fields.box_format, find_size)
        if width <= 0 or height <= 0:
            skipped[EMPTY_BOX] += 1
            continue
        if not all(map(math.isfinite, (x, y, width, height))):
            raise UserError(f"{place}, {fields.box}: found {show(box)}, which has no end; allowed: pixels, or shares")
        found.append(Annotation(concept, boxes=((x, y, width, height),)))
    return tuple(found)


def _list_entries(value: Any, fields: ObjectSettings, place: str) -> list[tuple[Any, Any, Any]]:
    """(box, category, mask) of each object; None for what is not there and need not be."""
    if value is None:
        return []
    entries = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else None
    if entries is None or not all(isinstance(entry, Mapping) for entry in entries):
        raise UserError(f"{place}: found {show(value)}; allowed: a list of mappings, or a mapping of lists")
    needed = {"box": fields.box, "category": fields.category}
    if fields.segmentation is not None:
        needed = {"category": fields.category, "segmentation": fields.segmentation}
    for entry in entries:
        for name in needed.values():
            if name not in entry:
                raise UserError(
                    f"{place}: found no {name!r}; allowed: {', '.join(show(k) for k in list(entry)[:10])}; set "
                    + " and ".join(f"reference.object_fields.{setting}" for setting in needed)
                )
    names = (fields.box, fields.category, fields.segmentation)
    if not isinstance(value, Mapping):
        return [(entry.get(names[0]), entry[names[1]], entry.get(names[2])) for entry in entries]
    columns = [value[name] for name in names if name in value]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        raise UserError(f"{place}: found boxes and categories of other numbers; allowed: lists of one length")
    nothing = [None] * len(columns[0])
    box, category, segmentation = (value.get(name, nothing) for name in names)
    return list(zip(box, category, segmentation, strict=True))


def _read_mask(segmentation: Any, size: tuple[int, int], place: str) -> Mapping[str, Any] | None:
    """Run lengths; None where there is no mask."""
    if isinstance(segmentation, list) and segmentation and all(isinstance(v, int | float) for v in segmentation):
        segmentation = [segmentation]  # of a single polygon
    if isinstance(segmentation, Mapping) and isinstance(counts := segmentation.get("counts"), bytes):
        segmentation = {**segmentation, "counts": counts.decode("latin-1")}
    rings = list_rings(segmentation)
    if rings and all(is_unit(ring) for ring in rings):
        raise UserError(f"{place}: found coordinates within the first pixel, as shares are; allowed: pixels")
    try:
        return make_rle(segmentation, Frame(size, size))
    except MaskError as err:
        raise UserError(f"{place}: {printable(str(err))}; allowed: polygons or run lengths, as in COCO") from None


def _check_box(box: Any, place: str) -> Box:
    numbers = list(box) if isinstance(box, list | tuple) else []
    try:
        found = [float(v) for v in numbers if isinstance(v, int | float) and not isinstance(v, bool)]
    except OverflowError:  # a whole number of hundreds of digits
        found = []
    if not len(numbers) == len(found) == 4 or not all(map(math.isfinite, found)):
        raise UserError(f"{place}: found {show(box)}; allowed: four numbers")
    x, y, width, height = found
    return x, y, width, height


def _convert(box: Box, form: str, find_size: Callable[[], tuple[int, int]]) -> Box:
    """Left, top, width and height in pixels."""
    if form.startswith("relative_"):
        picture_height, picture_width = find_size()
        a, b, c, d = box
        box = a * picture_width, b * picture_height, c * picture_width, d * picture_height
    x, y, width, height = box
    if form.endswith("xyxy"):
        return x, y, width - x, height - y
    return (x - width / 2, y - height / 2, width, height) if form.endswith("centre") else box
