"""Regions as people ask for them: rows of a data frame, each a region feature or a box in a picture.

Shape legend: R rows, C filters, H x W map cells, Y x X input pixels, N pictures.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lavise.storage.array_types import DoubleArray, FloatArray, HalfArray
from lavise.storage.datasets.input_images import InputImage, open_input
from lavise.storage.images.geometry import Geometry
from lavise.storage.images.images import BrokenImageError
from lavise.storage.models.packed_network import PackedNetwork

_BATCH_IMAGES = 32
_CORNERS = "[left, top, right, bottom] in pixels of the picture, left < right and top < bottom"
Box = tuple[float, float, float, float]
RunImages = Callable[[InputImage], HalfArray]


@dataclass(frozen=True)
class Region:
    """A row that is a part of a picture.

    Attributes:
        row: position in the data frame, from 0 on.
        image: an encoded picture.
        box: (left, top, right, bottom) in pixels of the upright picture; None is the whole picture.
    """

    row: int
    image: bytes
    box: Box | None


def read_rows(frame: pd.DataFrame, channels: int) -> tuple[dict[int, FloatArray], list[Region]]:
    """Rows that are features, by position (float32 [C] each), and rows that are parts of pictures.

    Raises:
        ValueError: no column of these, or a row that is neither or both.
    """
    columns = {name: list(frame[name]) for name in ("region_features", "image", "box") if name in frame}
    if not columns.keys() & {"region_features", "image"}:
        raise ValueError(
            "input: found no column that is known; allowed: a data frame with region_features (a list of numbers a "
            "row), or image and box; an array goes in as DataFrame({'region_features': list(array)})"
        )
    features: dict[int, FloatArray] = {}
    regions: list[Region] = []
    for row in range(len(frame)):
        found = {name: values[row] for name, values in columns.items() if not _is_absent(values[row])}
        if ("region_features" in found) == ("image" in found):
            what = "both region_features and image" if "image" in found else "neither region_features nor image"
            raise ValueError(f"row {row}: found {what}; allowed: one of them")
        if "image" in found:
            box = _read_box(found["box"], row) if "box" in found else None
            regions.append(Region(row, _read_image(found["image"], row), box))
        elif "box" in found:
            raise ValueError(f"row {row}: found a box with region_features; allowed: a box with an image")
        else:
            features[row] = _read_feature(found["region_features"], channels, row)
    return features, regions


def pool_images(network: PackedNetwork, regions: Sequence[Region], run: RunImages) -> dict[int, FloatArray]:
    """Region features by row, pooled as those that the explainer was trained on: mean over H·W of F ⊙ M.

    Each picture is decoded and run once, however many rows have a box in it.

    Args:
        run: pictures as the network sees them [N, Y, X, ...] -> float16 [N, C, H, W].

    Raises:
        ValueError: a picture that cannot be read, or a box that is not in what the network sees of it.
    """
    by_image: dict[bytes, list[Region]] = {}
    for region in regions:
        by_image.setdefault(region.image, []).append(region)
    images = list(by_image)
    geometry, channels = network.model.geometry, network.model.channels
    features: dict[int, FloatArray] = {}
    for start in range(0, len(images), _BATCH_IMAGES):
        block = [by_image[image] for image in images[start : start + _BATCH_IMAGES]]
        decoded = [_decode(own, geometry, channels) for own in block]
        maps_NCHW = run(np.stack([picture for picture, _ in decoded]))
        for own, (_, size), maps_CHW in zip(block, decoded, maps_NCHW, strict=True):
            if not np.isfinite(maps_CHW).all():
                raise ValueError(f"row {own[0].row}: image: the layer's activation is not finite or above 65,504")
            height, width = maps_CHW.shape[1:]
            masks_RP = np.stack([shrink_box(r.box, geometry, size, height, width).ravel() for r in own])
            maps_CP = maps_CHW.reshape(len(maps_CHW), -1).astype(np.float32)
            pooled_RC = masks_RP @ maps_CP.T / np.float32(height * width)
            features.update({region.row: feature for region, feature in zip(own, pooled_RC, strict=True)})
    return features


def shrink_box(box: Box | None, geometry: Geometry, size: tuple[int, int], height: int, width: int) -> FloatArray:
    """Box -> float32 [H, W]: the share of each cell's area that it covers, exactly; None covers all.

    What `Geometry.shrink_mask` gives for the box as a mask, where its corners are whole pixels.

    Args:
        size: (height, width) of the picture.
    """
    if box is None:
        return np.ones((height, width), np.float32)
    left, top, right, bottom = box
    seen_top, seen_left, seen_bottom, seen_right = geometry.source_box(*size)
    rows = _cover(top, bottom, seen_top, seen_bottom, height)
    columns = _cover(left, right, seen_left, seen_right, width)
    return np.outer(rows, columns).astype(np.float32)


def _cover(low: float, high: float, start: float, stop: float, cells: int) -> DoubleArray:
    """[cells]: share of each of `cells` equal parts of [start, stop] that [low, high] covers."""
    edges = np.linspace(start, stop, cells + 1)
    overlap = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.clip(overlap, 0, None) * (cells / (stop - start))


def _decode(regions: Sequence[Region], geometry: Geometry, channels: int) -> tuple[InputImage, tuple[int, int]]:
    """The one picture of some regions, as the network sees it, and its (height, width); their boxes are checked."""
    try:
        picture = open_input(regions[0].image, channels)
    except BrokenImageError as err:
        raise ValueError(f"row {regions[0].row}: image: {err}") from None
    height, width = picture.shape
    seen = geometry.source_box(height, width)
    for region in regions:
        if region.box is None:
            continue
        if not _overlaps(region.box, (0, 0, height, width)):
            raise ValueError(
                f"row {region.row}: box {_show(region.box)} is outside the picture of {width} x {height} pixels; "
                f"allowed: {_CORNERS}"
            )
        if not _overlaps(region.box, seen):
            top, left, bottom, right = seen
            raise ValueError(
                f"row {region.row}: box {_show(region.box)} is outside the centre crop, which is all that the network "
                f"sees; allowed: boxes that reach into {_show((left, top, right, bottom))}"
            )
    return picture.resize(geometry), (height, width)


def _overlaps(box: Box, seen: tuple[float, float, float, float]) -> bool:
    """Whether a box shares area with (top, left, bottom, right)."""
    left, top, right, bottom = box
    return min(right, seen[3]) > max(left, seen[1]) and min(bottom, seen[2]) > max(top, seen[0])


def _is_absent(value: Any) -> bool:
    """None, NaN or NA, which a column of a data frame has where nothing was given; or empty bytes or text, since JSON
    has no null for a column of bytes in MLflow."""
    if isinstance(value, bytes | bytearray | str):
        return not value
    return value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA


def _read_feature(value: Any, channels: int, row: int) -> FloatArray:
    try:
        with np.errstate(over="ignore"):
            feature = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"row {row}: region_features is no list of numbers; allowed: {channels} numbers") from None
    if feature.shape != (channels,):
        raise ValueError(
            f"row {row}: region_features has the shape {list(feature.shape)}; allowed: [{channels}], one number for "
            "each filter of the layer"
        )
    if not np.isfinite(feature).all():
        raise ValueError(f"row {row}: region_features are not finite; allowed: finite float32 numbers")
    return feature


def _read_image(value: Any, row: int) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str):
        raise ValueError(f"row {row}: image is {type(value).__name__}; allowed: bytes of a picture file, or base64")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(
            f"row {row}: image is text that is not base64; allowed: bytes of a picture file, or base64"
        ) from None


def _read_box(value: Any, row: int) -> Box:
    try:
        corners = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"row {row}: box is no list of numbers; allowed: {_CORNERS}") from None
    if corners.shape != (4,):
        raise ValueError(f"row {row}: box has the shape {list(corners.shape)}; allowed: {_CORNERS}")
    left, top, right, bottom = (float(v) for v in corners)
    box = (left, top, right, bottom)
    if not np.isfinite(corners).all():
        raise ValueError(f"row {row}: box {_show(box)} is not finite; allowed: {_CORNERS}")
    if left >= right or top >= bottom:
        raise ValueError(f"row {row}: box {_show(box)} is empty; allowed: {_CORNERS}")
    return box


def _show(box: Box) -> str:
    return f"[{', '.join(f'{v:g}' for v in box)}]"
