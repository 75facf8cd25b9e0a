"""Datumaro: Pascal VOC, YOLO and Open Images, written and read by it; ADE20K, written here and read by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datumaro.components.annotation import AnnotationType, Bbox, ExtractedMask, Mask
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image as DatumaroImage
from PIL import Image

from benchmarks.layouts.shared import (
    CATEGORIES,
    BoolArray,
    Shape,
    draw_polygon,
    make_label,
    run_script,
    write_images,
    write_truth,
)

Pictures = dict[str, tuple[Shape, ...]]


def write(folder: Path) -> None:
    """Two of six pictures are the part to evaluate on."""
    drawn = folder / "drawn"
    pictures = write_images(drawn, suffix=".jpg")
    masks = _make_data_set(drawn, pictures, _make_masks)
    boxes = _make_data_set(drawn, pictures, _make_boxes)
    masks.export(str(folder / "voc_masks"), "voc", save_media=True)
    boxes.export(str(folder / "voc_boxes"), "voc", save_media=True)
    boxes.export(str(folder / "voc_boxes_from_1"), "voc", save_media=True, coordinate_mode="voc-one-based")
    _note(folder / "voc_masks", "voc", AnnotationType.mask)
    _note(folder / "voc_boxes", "voc", AnnotationType.bbox)
    _note(folder / "voc_boxes_from_1", "voc", AnnotationType.bbox, coordinate_mode="voc-one-based")
    darknet = _make_data_set(drawn, pictures, _make_boxes, parts=("train", "valid"))
    darknet.export(str(folder / "yolo_darknet"), "yolo", save_media=True)
    _note(folder / "yolo_darknet", "yolo", AnnotationType.bbox)
    boxes.export(str(folder / "yolo_boxes"), "yolo_ultralytics", save_media=True)
    _note(folder / "yolo_boxes", "yolo", AnnotationType.bbox)
    both = _make_data_set(drawn, pictures, _make_both)
    both.export(str(folder / "open_images_masks"), "open_images", save_media=True)
    _note(folder / "open_images_masks", "open_images", AnnotationType.mask)
    boxes.export(str(folder / "open_images_boxes"), "open_images", save_media=True)
    _note(folder / "open_images_boxes", "open_images", AnnotationType.bbox)
    _write_ade(folder / "ade20k_2016", drawn, pictures, described=False)
    _note(folder / "ade20k_2016", "ade20k2017", AnnotationType.mask, below="images")
    _write_ade(folder / "ade20k_2021", drawn, pictures, described=True)
    _note(folder / "ade20k_2021", "ade20k2020", AnnotationType.mask, below="images", objects_only=True)


def _make_boxes(shape: Shape, number: int) -> list[Any]:
    return [Bbox(*shape.box, label=CATEGORIES.index(shape.category), id=number, group=number)]


def _make_masks(shape: Shape, number: int) -> list[Any]:
    mask = draw_polygon(shape.polygon)
    # What Open Images calls a mask's box id is asked for by its exporter.
    attributes = {"box_id": f"{number:08x}"}
    return [Mask(mask, label=CATEGORIES.index(shape.category), id=number, group=number, attributes=attributes)]


def _make_both(shape: Shape, number: int) -> list[Any]:
    return [*_make_boxes(shape, number), *_make_masks(shape, number)]


def _make_data_set(
    drawn: Path, pictures: Pictures, make: Callable[[Shape, int], list[Any]], parts: tuple[str, str] = ("train", "val")
) -> Dataset:
    items = [
        DatasetItem(
            id=Path(name).stem,
            subset=parts[place >= 4],
            media=DatumaroImage.from_file(path=str(drawn / name), size=(96, 128)),
            annotations=[one for number, shape in enumerate(shapes, start=1) for one in make(shape, number)],
        )
        for place, (name, shapes) in enumerate(pictures.items())
    ]
    return Dataset.from_iterable(items, categories=list(CATEGORIES))


def _note(
    data_set: Path, layout: str, wanted: AnnotationType, below: str = "", objects_only: bool = False, **options: Any
) -> None:
    """What Datumaro reads of it; `objects_only`: of masks not those that it makes of whole classes as well."""
    read = Dataset.import_from(str(data_set / below), layout, **options)
    names = read.categories()[AnnotationType.label]
    images, labels = [], []
    for item in read:
        image = f"{Path(item.id).name}.jpg"
        images.append(image)
        for annotation in item.annotations:
            if annotation.type != wanted or (objects_only and isinstance(annotation, ExtractedMask)):
                continue
            concept = names[annotation.label].name
            if wanted == AnnotationType.bbox:
                labels.append(make_label(image, concept, tuple(annotation.get_bbox())))
            else:
                labels.append(make_label(image, concept, np.asarray(annotation.image, dtype=bool)))
    write_truth(data_set, images, labels)


def _write_ade(data_set: Path, drawn: Path, pictures: Pictures, described: bool) -> None:
    """With a part in each object: its upper half, called `top`."""
    for place, (name, shapes) in enumerate(pictures.items()):
        folder = data_set / "images" / ("training" if place < 4 else "validation")
        stem = Path(name).stem
        (folder / stem).mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((drawn / name).read_bytes())
        masks = [draw_polygon(shape.polygon) for shape in shapes]
        tops = [mask & (np.cumsum(mask.any(axis=1))[:, None] <= mask.any(axis=1).sum() // 2) for mask in masks]
        numbers = [260 + CATEGORIES.index(shape.category) for shape in shapes]
        _paint(folder / f"{stem}_seg.png", masks, numbers)
        _paint(folder / f"{stem}_parts_1.png", tops, [7] * len(tops))
        rows = [(i, 0, shape.category, numbers[i - 1], masks[i - 1]) for i, shape in enumerate(shapes, start=1)]
        rows += [(i, 1, "top", 7, top) for i, top in enumerate(tops, start=1)]
        if not described:
            lines = [f'{i:03d} # {level} # 0 # {concept} # {concept} # ""' for i, level, concept, _, _ in rows]
            (folder / f"{stem}_atr.txt").write_text("\n".join(lines), "utf-8")
            continue
        objects = []
        for i, level, concept, number, mask in rows:
            own = f"{stem}/instance_{level}_{i:03d}_{stem}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / own)
            objects.append(
                {
                    "id": i,
                    "name": concept,
                    "raw_name": concept,
                    "name_ndx": number,
                    "attributes": [],
                    "occluded": "no",
                    "crop": False,
                    "parts": {"part_level": level, "hasparts": [], "ispartof": []},
                    "instance_mask": own,
                    "polygon": {"x": [], "y": []},
                }
            )
        content = {"annotation": {"filename": name, "object": objects}}
        (folder / f"{stem}.json").write_text(json.dumps(content), "utf-8")


def _paint(path: Path, masks: list[BoolArray], numbers: list[int]) -> None:
    """Classes in red and green; objects in blue, in numbers that only their order says something about."""
    pixels = np.zeros((*masks[0].shape, 3), dtype=np.uint8)
    for place, (mask, number) in enumerate(zip(masks, numbers, strict=True)):
        pixels[mask] = (number // 256 * 10, number % 256, 40 + 70 * place)
    Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    run_script(write)
