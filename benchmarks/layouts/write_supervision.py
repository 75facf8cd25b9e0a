"""supervision: Pascal VOC and YOLO, written and read by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import supervision
from PIL import Image

from benchmarks.layouts.shared import (
    CATEGORIES,
    draw_polygon,
    make_label,
    run_script,
    write_images,
    write_truth,
)


def write(folder: Path) -> None:
    """All pictures in one folder, as it writes them."""
    drawn = folder / "drawn"
    pictures = write_images(drawn, suffix=".jpg")
    for kind in ("boxes", "masks"):
        detections = {}
        for name, shapes in pictures.items():
            corners = [(x, y, x + w, y + h) for x, y, w, h in (shape.box for shape in shapes)]
            masks = np.stack([draw_polygon(shape.polygon) for shape in shapes])
            detections[str(drawn / name)] = supervision.Detections(
                xyxy=np.array(corners, dtype=np.float32),
                class_id=np.array([CATEGORIES.index(shape.category) for shape in shapes]),
                mask=masks if kind == "masks" else None,
            )
        made = supervision.DetectionDataset(list(CATEGORIES), [str(drawn / name) for name in pictures], detections)
        if kind == "boxes":
            voc = folder / "voc_boxes"
            made.as_pascal_voc(str(voc / "images"), str(voc / "Annotations"))
            _note(voc, supervision.DetectionDataset.from_pascal_voc(str(voc / "images"), str(voc / "Annotations")))
        yolo = folder / f"yolo_{kind}"
        places = (str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"))
        made.as_yolo(*places)
        _note(yolo, supervision.DetectionDataset.from_yolo(*places, force_masks=kind == "masks"))


def _note(data_set: Path, read: supervision.DetectionDataset) -> None:
    labels, images = [], []
    for path, _, found in read:
        name = Path(path).name
        images.append(name)
        height, width = Image.open(path).size[::-1]
        for i in range(len(found)):
            left, top, right, bottom = (float(v) for v in found.xyxy[i])
            mask = found.mask[i] if found.mask is not None else None
            if mask is not None and mask.shape != (height, width):
                raise ValueError(f"{name}: a mask of {mask.shape}")
            concept = read.classes[int(found.class_id[i])]
            labels.append(make_label(name, concept, (left, top, right - left, bottom - top) if mask is None else mask))
    write_truth(data_set, images, labels)


if __name__ == "__main__":
    run_script(write)
