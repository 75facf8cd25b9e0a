"""PyLabel: Pascal VOC and YOLO, written and read by it; its boxes in XML files are edges from 0."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pylabel import importer

from benchmarks.layouts.shared import CATEGORIES, make_label, run_script, write_images, write_truth


def write(folder: Path) -> None:
    """What it reads first is written here."""
    given = folder / "given"
    pictures = write_images(given / "images", suffix=".jpg")
    (given / "Annotations").mkdir()
    for name, shapes in pictures.items():
        objects = []
        for shape in shapes:
            x, y, width, height = (int(v) for v in shape.box)
            box = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax>"
            objects.append(f"<object><name>{shape.category}</name><bndbox>{box}</bndbox></object>")
        size = "<size><width>128</width><height>96</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>"
        (given / "Annotations" / f"{Path(name).stem}.xml").write_text(text, "utf-8")
    read = importer.ImportVOC(str(given / "Annotations"), path_to_images="../images/")
    read.export.ExportToVoc(output_path=str(folder / "voc" / "Annotations"))
    shutil.copytree(given / "images", folder / "voc" / "images")
    again = importer.ImportVOC(str(folder / "voc" / "Annotations"), path_to_images="../images/")
    _note(folder / "voc", again.df)
    read.export.ExportToYoloV5(
        output_path=str(folder / "yolo" / "labels"), yaml_file="data.yaml", copy_images=True, cat_id_index=0
    )
    names = [name for _, name in sorted((int(row.cat_id), row.cat_name) for row in read.df.itertuples())]
    again = importer.ImportYoloV5(
        str(folder / "yolo" / "labels"), cat_names=list(dict.fromkeys(names)), path_to_images="../images/"
    )
    _note(folder / "yolo", again.df)


def _note(data_set: Path, table: Any) -> None:
    labels = []
    for row in table.itertuples():
        x, y = float(row.ann_bbox_xmin), float(row.ann_bbox_ymin)
        box = (x, y, float(row.ann_bbox_width), float(row.ann_bbox_height))
        if row.cat_name not in CATEGORIES:
            raise ValueError(f"{row.img_filename}: {row.cat_name!r}")
        labels.append(make_label(row.img_filename, row.cat_name, box))
    write_truth(data_set, sorted(set(table.img_filename)), labels)


if __name__ == "__main__":
    run_script(write)
