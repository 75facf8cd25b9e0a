"""Outlines in XML files like Pascal VOC's: polygons, and boxes that are turned.

Read are `<polygon>` with `<x1>`, `<y1>`, `<x2>`, ... (Roboflow, supervision), `<polygon>` with `<pt>` or `<point>`,
each with `<x>` and `<y>` (LabelMe), and `<robndbox>` with `<cx>`, `<cy>`, `<w>`, `<h>` and `<angle>` in radians
(roLabelImg).

Shape legend: K corners.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from lavise.storage.array_types import DoubleArray
from lavise.storage.datasets.readers.xml_files import Element

_NUMBERED = re.compile(r"([xy])([0-9]{1,6})")
_POINTS = frozenset({"pt", "point"})
_LEAST_CORNERS = 3
_CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


class OutlineError(ValueError):
    """What is wrong with an outline."""


def to_number(text: str | None) -> float | None:
    """None where it is none, or not finite."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_polygons(thing: Element) -> list[DoubleArray]:
    """Corners (x, y) of each `<polygon>` of an object as they stand, float64 [K, 2]; none where it has none.

    Raises:
        OutlineError: a form that is not read, or numbers that are none; numbers of 0 to 1 may be shares.
    """
    found = [np.array(_read_corners(polygon), dtype=np.float64) for polygon in thing.findall("polygon")]
    if found and all((corners >= 0).all() and (corners <= 1).all() for corners in found):
        raise OutlineError("all numbers are in 0 to 1")
    return found


def read_turned_box(thing: Element) -> DoubleArray | None:
    """Corners (x, y) of an object's `<robndbox>` in pixels from 0, float64 [4, 2]; None where it has none.

    The angle turns the box's first side, which is w, from x towards y.

    Raises:
        OutlineError: the angle cannot be in radians.
    """
    values = [to_number(thing.findtext(f"robndbox/{name}")) for name in ("cx", "cy", "w", "h", "angle")]
    x, y, width, height, angle = values
    if x is None or y is None or width is None or height is None or angle is None or width <= 0 or height <= 0:
        return None
    if abs(angle) > 2 * math.pi:
        raise OutlineError(f"found the angle {angle:g} of a robndbox; allowed: radians, -2π to 2π")
    cos, sin = math.cos(angle), math.sin(angle)
    corners: DoubleArray = _CORNERS * (width, height) @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    return corners


def _read_corners(polygon: Element) -> Sequence[tuple[float, float]]:
    tags = [child.tag for child in polygon]
    if any(_NUMBERED.fullmatch(tag) for tag in tags):
        pairs = _pair_numbered(polygon)
    else:
        points = [child for child in polygon if child.tag in _POINTS]
        pairs = [(to_number(point.findtext("x")), to_number(point.findtext("y"))) for point in points]
    corners = [(x, y) for x, y in pairs if x is not None and y is not None]
    if len(corners) != len(pairs) or len(corners) < _LEAST_CORNERS:
        raise OutlineError("no corners, or some that are no numbers")
    return corners


def _pair_numbered(polygon: Element) -> list[tuple[float | None, float | None]]:
    """`<x1>`, `<y1>`, `<x2>`, ... in any order; numbers count from 1 or 0, and none is left out."""
    found: dict[tuple[str, int], float | None] = {}
    for child in polygon:
        if match := _NUMBERED.fullmatch(child.tag):
            key = (match[1], int(match[2]))
            if key in found:
                raise OutlineError(f"{child.tag} stands twice")
            found[key] = to_number(child.text)
    numbers = sorted({number for _, number in found})
    if numbers[0] > 1 or numbers != list(range(numbers[0], numbers[-1] + 1)) or len(found) != 2 * len(numbers):
        raise OutlineError("a corner is missing")
    return [(found["x", number], found["y", number]) for number in numbers]
