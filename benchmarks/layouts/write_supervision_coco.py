"""supervision: COCO of masks, some of several pieces, and COCO of boxes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import supervision as sv

from benchmarks.layouts.shared import (
    CATEGORIES,
    draw_polygon,
    make_label,
    run_script,
    write_images,
    write_truth,
)


def export(drawn: Path, target: Path, with_masks: bool) -> None:
    """Every second picture's masks have a hole."""
    shapes = write_images(drawn)
    images, annotations = {}, {}
    for number, (name, own) in enumerate(shapes.items()):
        path = str(drawn / name)
        images[path] = cv2.imread(path)
        # OpenCV takes no array that lies column by column, as those of pycocotools do.
        masks = np.stack([draw_polygon(s.polygon) for s in own]).copy(order="C")
        if number % 2:
            for mask, shape in zip(masks, own, strict=True):
                x, y, width, height = (int(v) for v in shape.box)
                mask[y + height // 2 : y + height // 2 + 4, x + width - 10 : x + width - 5] = False
        annotations[path] = sv.Detections(
            xyxy=np.array([(x, y, x + w, y + h) for x, y, w, h in (s.box for s in own)], dtype=np.float32),
            mask=masks if with_masks else None,
            class_id=np.array([CATEGORIES.index(s.category) for s in own]),
        )
    data = sv.DetectionDataset(list(CATEGORIES), images, annotations)
    data.as_coco(str(target / "images"), str(target / "annotations.json"))
    read = sv.DetectionDataset.from_coco(
        str(target / "images"), str(target / "annotations.json"), force_masks=with_masks
    )
    labels = []
    for path, _, found in read:
        for i in range(len(found)):
            left, top, right, bottom = (float(v) for v in found.xyxy[i])
            mask = found.mask[i] if with_masks else (left, top, right - left, bottom - top)
            labels.append(make_label(Path(path).name, read.classes[found.class_id[i]], mask))
    write_truth(target, [Path(path).name for path in read.image_paths], labels)


def write(folder: Path) -> None:
    export(folder / "drawn", folder / "masks", with_masks=True)
    export(folder / "drawn", folder / "boxes", with_masks=False)


if __name__ == "__main__":
    run_script(write)
