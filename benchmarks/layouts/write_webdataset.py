"""WebDataset: tar archives of its writers, read by its own pipeline."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import webdataset
from PIL import Image

from benchmarks.layouts.shared import CATEGORIES, Shape, make_label, run_script, write_images, write_truth


def write(folder: Path) -> None:
    """Samples under the names of the drawn pictures."""
    drawn = folder / "drawn"
    shapes_of = write_images(drawn)
    names = sorted(shapes_of)
    contents = {name: (drawn / name).read_bytes() for name in names}

    classes = folder / "classes"
    classes.mkdir()
    with webdataset.ShardWriter(str(classes / "part-%06d.tar"), maxcount=2, verbose=0) as writer:
        for name in names:
            index = CATEGORIES.index(shapes_of[name][0].category)
            writer.write({"__key__": Path(name).stem, "png": contents[name], "cls": index})
    write_truth(
        classes,
        names,
        [make_label(s["__key__"] + ".png", CATEGORIES[s["cls"]], None) for s in read(classes)],
    )

    named = folder / "names"
    named.mkdir()
    with webdataset.TarWriter(str(named / "all.tar")) as writer:
        for i, name in enumerate(names):
            category = shapes_of[name][0].category
            key = f"camera {i % 2}/{Path(name).stem}"
            writer.write({"__key__": key, "png": contents[name], "txt": category, "meta.json": {"i": i}})
    found = [(Path(s["__key__"]).name + ".png", s["txt"]) for s in read(named)]
    write_truth(named, names, [make_label(name, text, None) for name, text in found])

    boxes = folder / "boxes"
    boxes.mkdir()
    with webdataset.TarWriter(str(boxes / "all.tar")) as writer:
        for name in names:
            objects = [describe(shape) for shape in shapes_of[name]]
            writer.write({"__key__": Path(name).stem, "png": contents[name], "json": {"seen": {"objects": objects}}})
    labels = []
    for sample in read(boxes):
        width, height = Image.open(io.BytesIO(sample["png"])).size
        for entry in sample["json"]["seen"]["objects"]:
            left, top, right, bottom = entry["box"]
            box = (left * width, top * height, (right - left) * width, (bottom - top) * height)
            labels.append(make_label(sample["__key__"] + ".png", entry["name"], box))
    write_truth(boxes, names, labels)

    for case, pattern in (("target", "part-%06d.tar"), ("packed", "part-%06d.tar.gz")):
        alone = folder / case
        alone.mkdir()
        with webdataset.ShardWriter(str(alone / pattern), maxcount=3, verbose=0) as writer:
            for name in names:
                writer.write({"__key__": Path(name).stem, "png": contents[name]})
        write_truth(alone, [s["__key__"] + ".png" for s in read(alone)])


def describe(shape: Shape, width: int = 128, height: int = 96) -> dict[str, Any]:
    """A box by its corners, as shares of the picture."""
    x, y, box_width, box_height = shape.box
    corners = [x / width, y / height, (x + box_width) / width, (y + box_height) / height]
    return {"box": corners, "name": shape.category}


def read(folder: Path) -> list[dict[str, Any]]:
    """Samples as the library groups them; texts decoded."""
    files = [str(path) for path in sorted(folder.iterdir())]
    found = []
    for sample in webdataset.WebDataset(files, shardshuffle=False):
        own = dict(sample)
        if "cls" in own:
            own["cls"] = int(own["cls"])
        if "txt" in own:
            own["txt"] = own["txt"].decode("utf-8")
        if "json" in own:
            own["json"] = json.loads(own["json"])
        found.append(own)
    return found


if __name__ == "__main__":
    run_script(write)
