"""Masks and boxes of single annotations: checked here, before pycocotools sees them.

A polygon is COCO's list of x, y, x, y, ..., or kwcoco's mapping with `exterior` and `interiors`, its holes, as lists of
[x, y].

Shape legend: H, W pixels of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.storage.datasets.readers.coco_frames import Box, Frame, Size
from lavise.storage.state.text import one_line

_MIN_NUMBERS = 6
# Characters of a compressed number hold five bits each; six are enough for the area of any picture.
_MAX_CHARACTERS = 7
_FIRST_CHARACTER = 48


class MaskError(ValueError):
    """What is wrong with a mask or a box."""


@dataclass(frozen=True)
class _Polygon:
    """Corners x, y, x, y, ... of its outline and of its holes."""

    outline: list[float]
    holes: tuple[list[float], ...] = ()

    @property
    def rings(self) -> tuple[list[float], ...]:
        return (self.outline, *self.holes)


def is_run_lengths(segmentation: Any) -> bool:
    """A mapping that is no polygon of kwcoco's."""
    return isinstance(segmentation, Mapping) and "exterior" not in segmentation


def list_rings(segmentation: Any) -> list[list[Any]]:
    """Coordinates of each outline and hole, as they stand; whatever is none of these is passed over."""
    found: list[list[Any]] = []
    for polygon in _list_polygons(segmentation):
        if isinstance(polygon, list):
            found.append(polygon)
        elif isinstance(polygon, Mapping):
            holes = polygon.get("interiors")
            rings = [polygon.get("exterior"), *(holes if isinstance(holes, list) else [])]
            pairs = [r for r in rings if isinstance(r, list) and all(isinstance(p, list) for p in r)]
            found += [[v for pair in ring for v in pair] for ring in pairs]
    return found


def make_rle(segmentation: Any, frame: Frame, unit: bool = False) -> dict[str, Any] | None:
    """Compressed run lengths on the picture; None where there is no mask at all.

    Args:
        segmentation: polygons or run lengths, in COCO's form.
        unit: coordinates are shares of the picture's size.

    Returns:
        {size: [H, W], counts}; run lengths for another size than the labels' and the picture's are kept as they are.

    Raises:
        MaskError: neither polygons nor run lengths, or of no picture.
    """
    if segmentation is None or (not segmentation and isinstance(segmentation, list | dict | str)):
        return None
    if isinstance(segmentation, list) or (isinstance(segmentation, Mapping) and "exterior" in segmentation):
        polygons = [_read_polygon(p) for p in _list_polygons(segmentation)]
        placed = [_place_polygon(p, frame, unit) for p in polygons if len(p.outline) >= _MIN_NUMBERS]
        return _draw_polygons(placed, frame.shown) if placed else None
    if isinstance(segmentation, Mapping):
        return _move_rle(_check_rle(segmentation), frame)
    raise MaskError(f"segmentation is neither polygons nor run lengths, found {str(segmentation)[:40]!r}")


def read_box(box: Any, frame: Frame, unit: bool = False) -> Box | None:
    """(x, y, width, height) on the picture; None where there is none.

    Raises:
        MaskError: not four finite numbers, turned inside out, or far from the picture.
    """
    if box is None or (isinstance(box, list) and not box):
        return None
    try:
        x, y, width, height = (float(v) for v in box)
    except (TypeError, ValueError, OverflowError):
        x = y = width = height = math.nan
    if not all(map(math.isfinite, (x, y, width, height))):
        raise MaskError(f"bbox is {str(box)[:60]}; allowed: four finite numbers, x, y, width and height")
    if unit:
        x, y, width, height = (v * frame.labelled[1 - i % 2] for i, v in enumerate((x, y, width, height)))
    if width < 0 or height < 0:
        raise MaskError(f"bbox is {str(box)[:60]}, with a negative width or height; allowed: x, y, width, height")
    check_near((x, y, x + width, y + height), frame.labelled, "bbox")
    found = (x, y, width, height)
    return found if frame.is_same else frame.move_box(found)


def check_near(numbers: Sequence[float], size: Size, what: str = "segmentation") -> None:
    """Corners x, y, x, y, ... that are finite and no further from the picture than it is large.

    Raises:
        MaskError: they are not.
    """
    if not all(map(math.isfinite, numbers)):
        raise MaskError(f"{what} has a coordinate that is not finite")
    for limit, those in ((size[1], numbers[0::2]), (size[0], numbers[1::2])):
        low, high = min(those), max(those)
        if low < -limit or high > 2 * limit:
            far = low if low < -limit else high
            raise MaskError(f"{what} has the coordinate {far:g}, far outside of {size[1]} x {size[0]} pixels")


def is_unit(numbers: Iterable[Any]) -> bool | None:
    """Whether coordinates are shares of the picture: all in 0..1, some no whole number; None where nothing tells."""
    found = None
    for number in numbers:
        if isinstance(number, int | float):
            if not 0 <= number <= 1:
                return False
            if number != int(number):
                found = True
    return found


def read_counts(counts: Any) -> IntArray:
    """Run lengths as numbers, int64 [runs], of a list or of COCO's compressed text.

    Raises:
        MaskError: they are neither, or one is negative or too long for any picture.
    """
    if isinstance(counts, str):
        return _decompress(counts)
    if not isinstance(counts, list) or not all(isinstance(v, int | float) for v in counts):
        raise MaskError("segmentation is neither polygons nor run lengths (counts are no list of numbers)")
    numbers = np.array(counts, dtype=np.float64)
    if not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any():
        raise MaskError("segmentation is neither polygons nor run lengths (counts are no whole numbers)")
    return _check_counts(numbers)


def encode_mask(mask_HW: BoolArray) -> dict[str, Any]:
    """Compressed run lengths."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"]}


def decode_mask(rle: Mapping[str, Any]) -> BoolArray:
    """bool [H, W] of run lengths that `make_rle` gave."""
    from pycocotools import mask as coco_mask

    return np.asarray(coco_mask.decode(dict(rle)), dtype=bool)


def _list_polygons(segmentation: Any) -> list[Any]:
    """One polygon of kwcoco's stands by itself."""
    if isinstance(segmentation, list):
        return segmentation
    return [segmentation] if isinstance(segmentation, Mapping) and "exterior" in segmentation else []


def _read_polygon(polygon: Any) -> _Polygon:
    if not isinstance(polygon, Mapping):
        return _Polygon(_read_ring(polygon))
    if "exterior" not in polygon:
        raise MaskError("segmentation has a polygon without exterior; allowed: exterior and interiors")
    holes = polygon.get("interiors")
    rings = [_read_pairs(ring) for ring in (polygon["exterior"], *([] if holes is None else _as_list(holes)))]
    return _Polygon(rings[0], tuple(ring for ring in rings[1:] if len(ring) >= _MIN_NUMBERS))


def _as_list(holes: Any) -> list[Any]:
    if not isinstance(holes, list):
        raise MaskError("segmentation has interiors that are no list; allowed: a list of holes, each a list of [x, y]")
    return holes


def _read_pairs(ring: Any) -> list[float]:
    """x, y, x, y, ... of [x, y], [x, y], ..."""
    if not isinstance(ring, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in ring):
        raise MaskError(f"segmentation has an outline or a hole {str(ring)[:40]!r}; allowed: a list of [x, y]")
    return _read_ring([v for pair in ring for v in pair])


def _place_polygon(polygon: _Polygon, frame: Frame, unit: bool) -> _Polygon:
    """On the picture."""
    rings = list(polygon.rings)
    if unit:
        rings = [[v * frame.labelled[1 - i % 2] for i, v in enumerate(p)] for p in rings]
    for ring in rings:
        check_near(ring, frame.labelled)
    if not frame.is_same:
        rings = [frame.move_points(np.reshape(p, (-1, 2))).ravel().tolist() for p in rings]
    return _Polygon(rings[0], tuple(rings[1:]))


def _read_ring(polygon: Any) -> list[float]:
    """x, y, x, y, ..."""
    try:
        if not isinstance(polygon, list):
            raise TypeError("a polygon is x, y, x, y, ...")
        numbers = [float(v) for v in polygon]
    except (TypeError, ValueError, OverflowError) as err:
        raise MaskError(f"segmentation is neither polygons nor run lengths ({one_line(err)})") from None
    if len(numbers) % 2:
        raise MaskError(f"segmentation has a polygon of {len(numbers)} numbers; allowed: pairs of x and y")
    return numbers


def _draw_polygons(polygons: Sequence[_Polygon], size: Size) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    plain = [p.outline for p in polygons if not p.holes]
    parts = list(coco_mask.frPyObjects(plain, *size)) if plain else []
    for polygon in polygons:
        if polygon.holes:
            outline, holes = (
                decode_mask(coco_mask.merge(coco_mask.frPyObjects(list(rings), *size)))
                for rings in ([polygon.outline], polygon.holes)
            )
            parts.append(encode_mask(outline & ~holes))
    rle = coco_mask.merge(parts)
    return {"size": list(rle["size"]), "counts": rle["counts"]}


def _check_rle(segmentation: Mapping[str, Any]) -> dict[str, Any]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    try:
        height, width = (int(v) for v in size if int(v) == float(v))  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):
        height = width = 0
    if not (0 < height <= 100_000 and 0 < width <= 100_000):
        raise MaskError(f"segmentation is neither polygons nor run lengths (size is {str(size)[:40]})")
    numbers = read_counts(counts)
    if (total := int(numbers.sum())) != height * width:
        raise MaskError(
            f"segmentation has run lengths that add up to {total} pixels; allowed: "
            f"{height} x {width} = {height * width}"
        )
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else numbers.tolist()}


def _move_rle(rle: dict[str, Any], frame: Frame) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    if isinstance(rle["counts"], str):
        rle = {**rle, "counts": rle["counts"].encode("ascii")}
    else:
        rle = coco_mask.frPyObjects(rle, *rle["size"])
    rle = {"size": list(rle["size"]), "counts": rle["counts"]}
    size = tuple(rle["size"])
    if size == frame.shown and (size != frame.labelled or frame.is_same):
        return rle
    return encode_mask(frame.move_pixels(decode_mask(rle))) if size == frame.labelled else rle


def _check_counts(numbers: DoubleArray | IntArray) -> IntArray:
    if len(numbers) == 0 or (numbers < 0).any() or (numbers > 2**31).any():
        raise MaskError("segmentation is neither polygons nor run lengths (a count is negative or too large)")
    return numbers.astype(np.int64)


def _decompress(text: str) -> IntArray:
    """Characters carry five bits each, the lowest first, and whether another one follows; the last one's highest bit is
    the sign. From the fourth number on it is the difference to the last but one (pycocotools, maskApi.c).
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    except UnicodeEncodeError:
        codes = np.full(1, -1)
    if len(codes) == 0 or (codes < 0).any() or (codes > 63).any() or codes[-1] & 32:
        raise MaskError("segmentation is neither polygons nor run lengths (counts are no compressed run lengths)")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise MaskError("segmentation is neither polygons nor run lengths (a count is too large)")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    values -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return _check_counts(values)
