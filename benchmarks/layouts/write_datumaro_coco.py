"""datumaro: COCO instances of pixel masks, of polygons and of boxes, and COCO panoptic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datumaro import Dataset, DatasetItem
from datumaro.components.annotation import AnnotationType, Bbox, Mask, Polygon
from datumaro.components.media import Image

from benchmarks.layouts.shared import (
    CATEGORIES,
    Shape,
    draw_polygon,
    make_label,
    run_script,
    write_images,
    write_truth,
)


def make_mask(shape: Shape, number: int) -> Mask:
    return Mask(draw_polygon(shape.polygon), label=CATEGORIES.index(shape.category), group=number, id=number)


def make_polygon(shape: Shape, number: int) -> Polygon:
    return Polygon(list(shape.polygon), label=CATEGORIES.index(shape.category), group=number, id=number)


def make_box(shape: Shape, number: int) -> Bbox:
    return Bbox(*shape.box, label=CATEGORIES.index(shape.category), group=number, id=number)


def export(
    drawn: Path, shapes: Mapping[str, tuple[Shape, ...]], target: Path, form: str, make: Callable[[Shape, int], Any]
) -> None:
    """Write a data set, have datumaro read it, and note what it found."""
    items, number = [], 0
    for name, own in shapes.items():
        annotations = []
        for shape in own:
            number += 1
            annotations.append(make(shape, number))
        items.append(DatasetItem(Path(name).stem, media=Image.from_file(str(drawn / name)), annotations=annotations))
    Dataset.from_iterable(items, categories=list(CATEGORIES)).export(str(target), form, save_media=True)
    read = Dataset.import_from(str(target), form)
    # Beside each mask it reads the box that it wrote for it.
    other = AnnotationType.bbox if make is not make_box else None
    names = [c.name for c in read.categories()[AnnotationType.label]]
    found = [(f"{item.id}.png", a) for item in read for a in item.annotations if a.type != other]
    labels = [make_label(image, names[a.label], _find_mask(a)) for image, a in found]
    write_truth(target, [f"{item.id}.png" for item in read], labels)


def _find_mask(annotation: Any) -> Any:
    if isinstance(annotation, Mask):
        return np.asarray(annotation.image).astype(bool)
    return draw_polygon(annotation.points) if isinstance(annotation, Polygon) else tuple(annotation.get_bbox())


def write(folder: Path) -> None:
    shapes = write_images(folder / "drawn")
    for name, form, make in (
        ("masks", "coco_instances", make_mask),
        ("polygons", "coco_instances", make_polygon),
        ("boxes", "coco_instances", make_box),
        ("panoptic", "coco_panoptic", make_mask),
    ):
        export(folder / "drawn", shapes, folder / name, form, make)


if __name__ == "__main__":
    run_script(write)
