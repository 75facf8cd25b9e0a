"""labelme2coco: labelme's files turned into COCO, whose pictures have absolute paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import labelme2coco
from pycocotools.coco import COCO

from benchmarks.layouts.shared import make_label, run_script, write_images, write_truth


def write(folder: Path) -> None:
    target = folder / "converted"
    for name, own in write_images(target / "labelme").items():
        labelled: dict[str, Any] = {
            "version": "5.0.1",
            "flags": {},
            "shapes": [
                {
                    "label": s.category,
                    "points": [list(s.polygon[i : i + 2]) for i in range(0, len(s.polygon), 2)],
                    "group_id": None,
                    "shape_type": "polygon",
                    "flags": {},
                }
                for s in own
            ],
            "imagePath": name,
            "imageData": None,
            "imageHeight": 96,
            "imageWidth": 128,
        }
        (target / "labelme" / name).with_suffix(".json").write_text(json.dumps(labelled))
    labelme2coco.convert(str(target / "labelme"), str(target))
    read = COCO(str(target / "dataset.json"))
    labels = [
        make_label(
            Path(read.imgs[a["image_id"]]["file_name"]).name,
            read.cats[a["category_id"]]["name"],
            read.annToMask(a).astype(bool),
        )
        for a in read.anns.values()
    ]
    write_truth(target, [Path(i["file_name"]).name for i in read.imgs.values()], labels)


if __name__ == "__main__":
    run_script(write)
