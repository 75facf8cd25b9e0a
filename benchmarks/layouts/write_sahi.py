"""sahi: COCO of polygons and of boxes."""

from __future__ import annotations

from pathlib import Path

from sahi.utils.coco import Coco, CocoAnnotation, CocoCategory, CocoImage
from sahi.utils.file import save_json

from benchmarks.layouts.shared import CATEGORIES, draw_polygon, make_label, run_script, write_images, write_truth


def export(target: Path, with_masks: bool) -> None:
    shapes = write_images(target / "images")
    data = Coco()
    for number, name in enumerate(CATEGORIES):
        data.add_category(CocoCategory(id=number, name=name))
    for name, own in shapes.items():
        image = CocoImage(file_name=name, height=96, width=128)
        for shape in own:
            form = {"segmentation": [list(shape.polygon)]} if with_masks else {"bbox": list(shape.box)}
            image.add_annotation(
                CocoAnnotation(
                    category_id=CATEGORIES.index(shape.category), category_name=shape.category, iscrowd=0, **form
                )
            )
        data.add_image(image)
    save_json(data.json, str(target / "annotations.json"))
    read = Coco.from_coco_dict_or_path(str(target / "annotations.json"), image_dir=str(target / "images"))
    labels = []
    for image in read.images:
        for annotation in image.annotations:
            mask = draw_polygon(annotation.segmentation[0]) if with_masks else tuple(annotation.bbox)
            labels.append(make_label(Path(image.file_name).name, annotation.category_name, mask))
    write_truth(target, [image.file_name for image in read.images], labels)


def write(folder: Path) -> None:
    export(folder / "polygons", with_masks=True)
    export(folder / "boxes", with_masks=False)


if __name__ == "__main__":
    run_script(write)
