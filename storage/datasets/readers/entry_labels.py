"""Labels as they lie in the entries of tables and archives: indices or names of classes, and boxes in several forms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavise.configs.container_formats import ObjectSettings
from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation

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
        return path.read_text("utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(
            f"reference.classes: cannot read {path} ({err}); allowed: a list of names, or a UTF-8 text file with a "
            "name per line"
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
    """Boxes with categories, from a list of mappings or a mapping of lists.

    Args:
        find_size: (height, width) of the picture; asked for where boxes are shares of it.
        place: opens the line of an error.
        skipped: boxes that are left out are counted here.

    Raises:
        UserError: it is neither of both, or a box or category makes no sense.
        BrokenImageError: from `find_size`.
    """
    found = []
    for box, category in _pair(value, fields, place):
        concept = classes.find(category, f"{place}, {fields.category}")
        if concept is None:
            skipped["box without a category"] += 1
            continue
        x, y, width, height = _convert(_check_box(box, f"{place}, {fields.box}"), fields.box_format, find_size)
        if width <= 0 or height <= 0:
            skipped[EMPTY_BOX] += 1
            continue
        found.append(Annotation(concept, boxes=((x, y, width, height),)))
    return tuple(found)


def _pair(value: Any, fields: ObjectSettings, place: str) -> list[tuple[Any, Any]]:
    if value is None:
        return []
    entries = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else None
    if entries is None or not all(isinstance(entry, Mapping) for entry in entries):
        raise UserError(f"{place}: found {show(value)}; allowed: a list of mappings, or a mapping of lists")
    for entry in entries:
        for name in (fields.box, fields.category):
            if name not in entry:
                raise UserError(
                    f"{place}: found no {name!r}; allowed: {', '.join(show(k) for k in list(entry)[:10])}; set "
                    "reference.object_fields.box and reference.object_fields.category"
                )
    if not isinstance(value, Mapping):
        return [(entry[fields.box], entry[fields.category]) for entry in entries]
    boxes, categories = value[fields.box], value[fields.category]
    if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
        raise UserError(f"{place}: found boxes and categories of other numbers; allowed: lists of one length")
    return list(zip(boxes, categories, strict=True))


def _check_box(box: Any, place: str) -> Box:
    if (
        not isinstance(box, list | tuple)
        or len(box) != 4
        or not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in box)
    ):
        raise UserError(f"{place}: found {show(box)}; allowed: four numbers")
    x, y, width, height = map(float, box)
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
