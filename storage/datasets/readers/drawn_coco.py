"""Writes what is drawn on the machine in COCO's layout: entries of objects, and the file of a split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt


class CocoImage(TypedDict):
    """A picture in COCO's annotations."""

    id: int
    file_name: str
    height: int
    width: int


class RunLengths(TypedDict):
    """A mask: [height, width], and COCO's compressed run lengths."""

    size: list[int]
    counts: str


class DrawnObject(TypedDict):
    """An object of a picture, before it has a number; `bbox` is x, y, width, height in pixels."""

    image_id: int
    category_id: int
    iscrowd: int
    area: float
    bbox: list[float]
    segmentation: RunLengths


class CocoAnnotation(DrawnObject):
    """The same in COCO's annotations."""

    id: int


def describe_object(image_id: int, category_id: int, mask: npt.NDArray[np.uint8]) -> DrawnObject:
    """The entry of an object.

    Args:
        mask: uint8 [H, W], 1 where the object is.
    """
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask))
    return {
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "area": float(coco_mask.area(rle)),
        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
        "segmentation": {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")},
    }


def name_picture(index: int) -> str:
    """File name of the picture at this index."""
    return f"{index:06d}.png"


def write_instances(
    file: Path,
    objects: Sequence[Sequence[DrawnObject]],
    size_px: int,
    concepts: Sequence[str],
    supercategory: str,
    description: str,
) -> None:
    """COCO instances of pictures that `name_picture` names.

    Args:
        objects: of each picture, in the order of their indices.
        size_px: height and width of all pictures.
        concepts: names of the categories, whose ids are 1, 2, ... in this order.
    """
    images: list[CocoImage] = []
    annotations: list[CocoAnnotation] = []
    for index, entries in enumerate(objects):
        images.append({"id": index + 1, "file_name": name_picture(index), "height": size_px, "width": size_px})
        annotations += [{"id": len(annotations) + 1 + n, **entry} for n, entry in enumerate(entries)]
    categories = [{"id": i + 1, "name": n, "supercategory": supercategory} for i, n in enumerate(concepts)]
    content = {"info": {"description": description}, "licenses": [], "images": images}
    file.write_text(json.dumps({**content, "annotations": annotations, "categories": categories}), "utf-8")
