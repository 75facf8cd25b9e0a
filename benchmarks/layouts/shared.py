"""What the scripts of writers share: pictures with planted objects, and the truth that readers are held against.

They run in virtual environments of their own, where lavise's code is not imported.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

CATEGORIES = ("dog", "cup", "traffic light")
BoolArray = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shape:
    """An object of a picture.

    Attributes:
        category: of CATEGORIES.
        box: x, y, width, height in pixels; whole numbers.
        polygon: x, y, x, y, ... in pixels; inside the box.
    """

    category: str
    box: Box
    polygon: tuple[float, ...]


def run_script(write: Callable[[Path], None]) -> None:
    """Call `write` with the folder that is to be filled, given on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    write(folder)


def write_images(folder: Path, number: int = 6, suffix: str = ".png") -> dict[str, tuple[Shape, ...]]:
    """Pictures of 96 x 128 with one to three objects each: file name -> its objects."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    found: dict[str, tuple[Shape, ...]] = {}
    for i in range(number):
        picture = draw.integers(0, 80, (96, 128, 3), dtype=np.uint8)
        shapes = []
        for k in range(1 + i % 3):
            left, top = 4 + 40 * k, int(draw.integers(4, 40))
            width, height = 30, int(draw.integers(20, 50))
            picture[top : top + height, left : left + width] = (250, 60 * k, 120)
            middle = left + width // 2
            polygon = (left, top, left + width, top, left + width, top + height, middle, top + height, left, top + 10)
            box = (float(left), float(top), float(width), float(height))
            shapes.append(Shape(CATEGORIES[(i + k) % 3], box, tuple(map(float, polygon))))
        name = f"picture_{i}{suffix}"
        Image.fromarray(picture).save(folder / name)
        found[name] = tuple(shapes)
    return found


def draw_polygon(polygon: Sequence[float], height: int = 96, width: int = 128) -> BoolArray:
    """bool [height, width], by pycocotools."""
    from pycocotools import mask as coco_mask

    rle = coco_mask.merge(coco_mask.frPyObjects([list(polygon)], height, width))
    return np.asarray(coco_mask.decode(rle), dtype=bool)


def make_label(image: str, concept: str, mask: BoolArray | Box | None) -> dict[str, Any]:
    """A label as the library's own reader gives it: a mask [height, width], a box in pixels, or the whole picture."""
    from pycocotools import mask as coco_mask

    label: dict[str, Any] = {"image": image, "concept": concept}
    if isinstance(mask, np.ndarray):
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        label["rle"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    elif mask is not None:
        label["box"] = [float(v) for v in mask]
    return label


def write_truth(data_set: Path, images: Sequence[str], labels: Sequence[dict[str, Any]] = ()) -> None:
    """Beside the data set's folder: names of all its pictures, and all labels (`make_label`)."""
    truth = {"images": sorted(Path(name).name for name in images), "labels": list(labels)}
    data_set.with_name(f"{data_set.name}.truth.json").write_text(json.dumps(truth, indent=1), "utf-8")
