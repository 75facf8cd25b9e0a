"""kwcoco: bundles with paths below img_root, and with absolute ones; masks as polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kwcoco

from benchmarks.layouts.shared import CATEGORIES, draw_polygon, make_label, run_script, write_images, write_truth


def export(target: Path, absolute: bool, with_masks: bool) -> None:
    shapes = write_images(target / "assets")
    data = kwcoco.CocoDataset()
    data.fpath = str(target / "data.kwcoco.json")
    if not absolute:
        data.dataset["img_root"] = "assets"
    ids = {name: data.add_category(name) for name in CATEGORIES}
    for name, own in shapes.items():
        file_name = str(target / "assets" / name) if absolute else name
        image = data.add_image(file_name=file_name, height=96, width=128)
        for shape in own:
            form: dict[str, Any] = {"segmentation": [list(shape.polygon)]} if with_masks else {}
            data.add_annotation(image, category_id=ids[shape.category], bbox=list(shape.box), **form)
    data.dump(data.fpath, newlines=True)
    read = kwcoco.CocoDataset(data.fpath)
    labels = []
    for annotation in read.annots().objs:
        name = Path(read.get_image_fpath(annotation["image_id"])).name
        mask = draw_polygon(annotation["segmentation"][0]) if with_masks else tuple(annotation["bbox"])
        labels.append(make_label(name, read.cats[annotation["category_id"]]["name"], mask))
    write_truth(target, [Path(p).name for p in read.images().gpath], labels)


def write(folder: Path) -> None:
    export(folder / "relative", absolute=False, with_masks=True)
    export(folder / "absolute", absolute=True, with_masks=False)


if __name__ == "__main__":
    run_script(write)
