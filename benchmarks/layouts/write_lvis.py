"""LVIS's form, written here since it has no writer; its own package reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lvis import LVIS

from benchmarks.layouts.shared import CATEGORIES, make_label, run_script, write_images, write_truth


def write(folder: Path) -> None:
    target = folder / "lvis"
    shapes = write_images(target / "train2017", suffix=".jpg")
    categories = [
        {
            "id": number,
            "name": name.replace(" ", "_"),
            "synset": f"{name.replace(' ', '_')}.n.01",
            "synonyms": [name],
            "def": "a thing",
            "frequency": "f",
            "image_count": 1,
            "instance_count": 1,
        }
        for number, name in enumerate((*CATEGORIES, "cap_(headwear)"), start=1)
    ]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, own) in enumerate(shapes.items(), start=1):
        images.append(
            {
                "id": number,
                "coco_url": f"http://images.cocodataset.org/train2017/{name}",
                "flickr_url": "",
                "height": 96,
                "width": 128,
                "license": 1,
                "date_captured": "",
                "neg_category_ids": [4],
                "not_exhaustive_category_ids": [],
            }
        )
        for shape in own:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORIES.index(shape.category) + 1,
                    "segmentation": [list(shape.polygon)],
                    "bbox": list(shape.box),
                    "area": shape.box[2] * shape.box[3],
                }
            )
    file = target / "lvis_v1_train.json"
    file.write_text(
        json.dumps({"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories})
    )
    read = LVIS(str(file))
    names = {c["id"]: c["name"] for c in read.load_cats(read.get_cat_ids())}
    paths = {i["id"]: Path(i["coco_url"]).name for i in read.load_imgs(read.get_img_ids())}
    labels = [
        make_label(paths[a["image_id"]], names[a["category_id"]], read.ann_to_mask(a).astype(bool))
        for a in read.load_anns(read.get_ann_ids())
    ]
    write_truth(target, list(paths.values()), labels)


if __name__ == "__main__":
    run_script(write)
