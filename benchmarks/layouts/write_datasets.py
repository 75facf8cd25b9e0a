"""Hugging Face's datasets: folders of save_to_disk and parquet files, read by the library itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PillowImage

from benchmarks.layouts.shared import (
    CATEGORIES,
    Shape,
    draw_polygon,
    make_label,
    run_script,
    write_images,
    write_truth,
)

KINDS = ClassLabel(names=list(CATEGORIES))
OBJECTS = List({"bbox": List(Value("float32"), length=4), "category": KINDS})
COLUMNS = {"bbox": List(List(Value("float32"), length=4)), "category": List(KINDS)}


def write(folder: Path) -> None:
    """Rows in the order of the drawn pictures; pictures without a column of names are numbered."""
    datasets.disable_progress_bars()
    drawn = folder / "drawn"
    shapes_of = write_images(drawn)
    names = sorted(shapes_of)
    paths = [str(drawn / name) for name in names]
    first = [CATEGORIES.index(shapes_of[name][0].category) for name in names]

    saved = Dataset.from_dict({"image": paths, "label": first}, Features({"image": Image(), "label": KINDS}))
    saved.save_to_disk(str(folder / "saved"))
    read = datasets.load_from_disk(str(folder / "saved"))
    labels = [make_label(number(i), read.features["label"].int2str(row["label"]), None) for i, row in enumerate(read)]
    write_truth(folder / "saved", [label["image"] for label in labels], labels)

    features = Features({"file_name": Value("string"), "image": Image(), "objects": OBJECTS})
    table = {"file_name": names, "image": paths, "objects": [[describe(s) for s in shapes_of[name]] for name in names]}
    whole = Dataset.from_dict(table, features)
    both = DatasetDict({"train": whole.select([5, 0, 3]), "test": whole.select([1, 2])})
    both.save_to_disk(str(folder / "splits"), num_shards={"train": 2, "test": 1})
    loaded = datasets.load_from_disk(str(folder / "splits"))
    labels, images = [], []
    for split in ("train", "test"):
        for row in loaded[split]:
            images.append(row["file_name"])
            labels += [label_box(row["file_name"], o["category"], o["bbox"]) for o in row["objects"]]
    write_truth(folder / "splits", images, labels)

    features = Features({"file_name": Value("string"), "image": Image(), "objects": COLUMNS})
    table = {
        "file_name": names,
        "image": [{"bytes": Path(path).read_bytes(), "path": None} for path in paths],
        "objects": [
            {
                "bbox": [[x, y, x + w, y + h] for x, y, w, h in (s.box for s in shapes_of[name])],
                "category": [CATEGORIES.index(s.category) for s in shapes_of[name]],
            }
            for name in names
        ],
    }
    (folder / "hub" / "data").mkdir(parents=True)
    whole = Dataset.from_dict(table, features)
    for part in range(2):
        whole.shard(2, part, contiguous=True).to_parquet(
            str(folder / "hub" / "data" / f"train-0000{part}-of-00002.parquet"), batch_size=2
        )
    labels = []
    for row in load_parquet(sorted((folder / "hub" / "data").iterdir()), ["file_name", "objects"]):
        for (left, top, right, bottom), category in zip(
            row["objects"]["bbox"], row["objects"]["category"], strict=True
        ):
            labels.append(label_box(row["file_name"], category, (left, top, right - left, bottom - top)))
    write_truth(folder / "hub", names, labels)

    write_masks(folder / "masks", folder / "drawn_masks", paths, shapes_of)

    plain = Dataset.from_dict(
        {"file_name": names, "image": paths}, Features({"file_name": Value("string"), "image": Image()})
    )
    for case, rows in (("paths", plain), ("pictures", whole.remove_columns("objects"))):
        (folder / case).mkdir()
        rows.to_parquet(str(folder / case / "train.parquet"))
        read = load_parquet([folder / case / "train.parquet"], ["file_name"])
        write_truth(folder / case, [row["file_name"] for row in read])


def write_masks(folder: Path, drawn: Path, paths: list[str], shapes_of: dict[str, tuple[Shape, ...]]) -> None:
    """Values from 1 for the categories, 0 for none; what is drawn later covers."""
    drawn.mkdir()
    for path in paths:
        values = np.zeros((96, 128), np.uint8)
        for shape in shapes_of[Path(path).name]:
            values[draw_polygon(shape.polygon)] = CATEGORIES.index(shape.category) + 1
        PillowImage.fromarray(values).save(drawn / Path(path).name)
    names = [Path(path).name for path in paths]
    features = Features({"file_name": Value("string"), "image": Image(), "annotation": Image()})
    table = {"file_name": names, "image": paths, "annotation": [str(drawn / name) for name in names]}
    Dataset.from_dict(table, features).save_to_disk(str(folder))
    labels = []
    for row in datasets.load_from_disk(str(folder)):
        values = np.asarray(row["annotation"])
        for value in np.unique(values[values > 0]):
            labels.append(make_label(row["file_name"], CATEGORIES[value - 1], values == value))
    write_truth(folder, names, labels)


def load_parquet(files: Iterable[Path], columns: list[str]) -> Iterable[dict[str, Any]]:
    """Rows by the library."""
    parts = [Dataset.from_parquet(str(path)) for path in files]
    return datasets.concatenate_datasets(parts).select_columns(columns)


def describe(shape: Shape) -> dict[str, Any]:
    """An object as COCO has its box."""
    return {"bbox": list(shape.box), "category": CATEGORIES.index(shape.category)}


def label_box(image: str, category: int, box: Iterable[float]) -> dict[str, Any]:
    """Of an index; the box as in COCO."""
    x, y, width, height = box
    return make_label(image, KINDS.int2str(int(category)), (x, y, width, height))


def number(row: int) -> str:
    """What lavise calls a row without a name of its own, below its split."""
    return f"{row:06d}"


if __name__ == "__main__":
    run_script(write)
