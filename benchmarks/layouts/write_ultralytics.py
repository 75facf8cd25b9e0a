"""Ultralytics' own reader of YOLO, on files that are written here: boxes, polygons, oriented boxes, poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from ultralytics.data.utils import check_det_dataset, img2label_paths, verify_image_label

from benchmarks.layouts.shared import CATEGORIES, Shape, draw_polygon, make_label, run_script, write_images, write_truth


def write(folder: Path) -> None:
    """A data set for each kind of row."""
    for kind in ("boxes", "polygons", "oriented", "poses"):
        _write_kind(folder / kind, kind)
        _note(folder / kind, kind)


def _write_kind(root: Path, kind: str) -> None:
    drawn = write_images(root / "drawn", suffix=".jpg")
    for place, (name, shapes) in enumerate(drawn.items()):
        part = "train" if place < 4 else "valid"
        for what in ("images", "labels"):
            (root / part / what).mkdir(parents=True, exist_ok=True)
        (root / "drawn" / name).rename(root / part / "images" / name)
        lines = [" ".join(map(repr, (CATEGORIES.index(s.category), *_make_row(s, kind)))) for s in shapes]
        (root / part / "labels" / name).with_suffix(".txt").write_text("\n".join(lines) + "\n", "utf-8")
    (root / "drawn").rmdir()
    # As Roboflow writes it: folders that are one level too high.
    content = {"train": "../train/images", "val": "../valid/images", "nc": 3, "names": list(CATEGORIES)}
    if kind == "poses":
        content["kpt_shape"] = [3, 2]
    (root / "data.yaml").write_text(yaml.safe_dump(content), "utf-8")


def _make_row(shape: Shape, kind: str) -> tuple[float, ...]:
    x, y, width, height = shape.box
    box = ((x + width / 2) / 128, (y + height / 2) / 96, width / 128, height / 96)
    if kind == "boxes":
        return box
    if kind == "poses":
        return (*box, *(v for i in range(3) for v in ((x + i) / 128, (y + i) / 96)))
    points = shape.polygon
    if kind == "oriented":
        middle_x, middle_y = x + width / 2, y + height / 2
        points = (middle_x, y, x + width, middle_y, middle_x, y + height, x, middle_y)
    return tuple(v / (96 if i % 2 else 128) for i, v in enumerate(points))


def _note(root: Path, kind: str) -> None:
    """As its data set reads rows; polygons in pixels are filled by pycocotools."""
    said = check_det_dataset(str(root / "data.yaml"), autodownload=False)
    shape = said.get("kpt_shape", (0, 0))
    images, labels = [], []
    for part in ("train", "val"):
        paths = sorted(str(path) for path in Path(said[part]).iterdir())
        for path, file in zip(paths, img2label_paths(paths), strict=True):
            images.append(Path(path).name)
            given = (path, file, "", kind == "poses", len(said["names"]), *shape, False)
            _, rows, size, polygons, _, _, _, _, broken, message = verify_image_label(given)
            if broken:
                raise ValueError(message)
            height, width = size
            for i, (index, x, y, w, h) in enumerate(rows.tolist()):
                concept = said["names"][int(index)]
                if polygons:
                    points = (np.asarray(polygons[i], dtype=np.float64) * (width, height)).ravel().tolist()
                    labels.append(make_label(images[-1], concept, draw_polygon(points, height, width)))
                else:
                    box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
                    labels.append(make_label(images[-1], concept, box))
    write_truth(root, images, labels)


if __name__ == "__main__":
    run_script(write)
