"""Label maps: PNG files whose pixels say which object or class they belong to.

Shape legend: h x w pixels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lavise.storage.images.images import explain_broken

IntArray = npt.NDArray[np.int64]
Rle = dict[str, Any]


@dataclass(frozen=True)
class LabelPicture:
    """A PNG file as it is stored: no colour is converted.

    Attributes:
        values: int64 [h, w], grey values or indices of the palette; or [h, w, 3], red, green and blue.
        palette: int64 [colours, 3] where the values are indices of it.
    """

    values: IntArray
    palette: IntArray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.values.shape[:2]
        return int(height), int(width)

    def colours(self) -> IntArray:
        """[h, w]: each pixel's colour as one number (`join_colour`)."""
        if self.palette is not None:
            return join_colour(self.palette)[self.values]
        if self.values.ndim == 2:
            return self.values * 0x010101
        return join_colour(self.values)


def join_colour(rgb: npt.NDArray[Any]) -> IntArray:
    """[..., 3], red, green and blue of 0..255 -> [...], one number for each colour."""
    whole = rgb.astype(np.int64)
    return np.asarray((whole[..., 0] << 16) | (whole[..., 1] << 8) | whole[..., 2], dtype=np.int64)


def read_label_picture(path: Path) -> LabelPicture:
    """Read a PNG file of labels.

    Raises:
        BrokenImageError: with the reason.
    """
    with explain_broken("no PNG picture"), Image.open(path, formats=("PNG",)) as file:
        file.load()
        if file.mode == "P":
            palette = np.zeros((256, 3), dtype=np.int64)
            entries = np.array(file.getpalette("RGB") or [], dtype=np.int64).reshape(-1, 3)
            palette[: len(entries)] = entries
            return LabelPicture(np.asarray(file, dtype=np.int64), palette)
        values = np.asarray(file, dtype=np.int64)
    if values.ndim == 3:
        values = values[..., :3] if values.shape[2] >= 3 else values[..., 0]
    return LabelPicture(values)


def resize_labels(labels_hw: IntArray, height: int, width: int) -> IntArray:
    """[height, width]: each pixel has the label that lies at its centre."""
    h, w = labels_hw.shape
    rows = (2 * np.arange(height) + 1) * h // (2 * height)
    columns = (2 * np.arange(width) + 1) * w // (2 * width)
    return labels_hw[rows[:, None], columns[None, :]]


def split_labels(labels_hw: IntArray, without: Collection[int] = (0,)) -> dict[int, Rle]:
    """COCO run lengths of each label's pixels, by label.

    Args:
        labels_hw: int64 [h, w].
        without: labels that are none.
    """
    from pycocotools import mask as coco_mask

    height, width = (int(v) for v in labels_hw.shape)
    flat = labels_hw.ravel(order="F")
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], len(flat))
    order = np.argsort(flat[starts], kind="stable")
    labels, first = np.unique(flat[starts][order], return_index=True)
    found: dict[int, Rle] = {}
    for label, own in zip(labels.tolist(), np.split(order, first[1:]), strict=True):
        if label in without:
            continue
        # Lengths of what is not the label and of what is, in turn; the first may be 0.
        edges = np.stack((starts[own], ends[own]), axis=1).ravel()
        counts = np.diff(edges, prepend=0)
        if edges[-1] < len(flat):
            counts = np.append(counts, len(flat) - edges[-1])
        found[label] = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return found


def draw_polygon(polygon: npt.NDArray[np.float64], height: int, width: int) -> Rle | None:
    """COCO run lengths of a polygon as pycocotools fills it; None where no pixel is in it.

    Args:
        polygon: [corners, 2], x and y in pixels.
    """
    from pycocotools import mask as coco_mask

    rle: Rle = coco_mask.frPyObjects([polygon.ravel().tolist()], height, width)[0]
    return rle if coco_mask.area(rle) else None
