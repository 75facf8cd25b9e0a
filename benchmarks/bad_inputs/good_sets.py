"""A small whole data set in each layout that is read; what is bad is put into one of these."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

H, W = 24, 32
NAMES = tuple(f"p{number}" for number in range(6))
Settings = dict[str, Any]


def write_picture(path: Path, number: int = 0, height: int = H, width: int = W) -> Path:
    """A picture that is not of one shade."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_pictures(folder: Path, ending: str = ".jpg", names: Sequence[str] = NAMES) -> None:
    """One for each name."""
    for number, name in enumerate(names):
        write_picture(folder / f"{name}{ending}", number)


def encode_picture(number: int = 0, form: str = "PNG") -> bytes:
    """The same in bytes."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (H, W, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write_labels(path: Path, *values: int) -> Path:
    """A grey PNG whose rows are labels, from the top."""
    labels = np.zeros((H, W), dtype=np.uint8)
    for row, value in enumerate(values):
        labels[4 * row : 4 * row + 4, 2:20] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)
    return path


def write_colours(path: Path, *colours: tuple[int, int, int]) -> Path:
    """A coloured PNG whose rows have these colours, from the top."""
    pixels = np.zeros((H, W, 3), dtype=np.uint8)
    for row, colour in enumerate(colours):
        pixels[4 * row : 4 * row + 4, 2:20] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_text(path: Path, *lines: str) -> Path:
    """Lines, each with its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    """As Python writes it, NaN and infinity among it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A plain archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_coco() -> dict[str, Any]:
    """Instances: a polygon, run lengths and a box in turn."""
    masks: list[dict[str, Any]] = [
        {"segmentation": [[2, 2, 12, 2, 12, 10, 2, 10]], "bbox": [2, 2, 10, 8]},
        {"segmentation": {"size": [H, W], "counts": [10, 20, H * W - 30]}, "bbox": [0, 10, 1, 20], "iscrowd": 0},
        {"bbox": [4, 4, 8, 8]},
    ]
    return {
        "images": [{"id": i, "file_name": f"{n}.jpg", "height": H, "width": W} for i, n in enumerate(NAMES, 1)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "area": 80, **masks[i % 3]} for i in range(1, 7)
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "hot dog"}],
    }


def write_coco(root: Path) -> Settings:
    """One file, split by picture."""
    write_pictures(root / "images")
    write_json(root / "labels.json", make_coco())
    return {"train_images": "images", "train_annotations": "labels.json", "evaluation_share": 0.5}


def make_panoptic() -> dict[str, Any]:
    """Two segments a picture."""
    segments = [{"id": 7, "category_id": 1, "iscrowd": 0}, {"id": 300, "category_id": 2, "iscrowd": 0}]
    return {
        "images": [{"id": i, "file_name": f"{n}.jpg", "height": H, "width": W} for i, n in enumerate(NAMES, 1)],
        "annotations": [
            {"image_id": i, "file_name": f"{n}.png", "segments_info": segments} for i, n in enumerate(NAMES, 1)
        ],
        "categories": [{"id": 1, "name": "dog", "isthing": 1}, {"id": 2, "name": "grass-merged", "isthing": 0}],
    }


def write_panoptic(root: Path) -> Settings:
    """One file and its PNGs, split by picture."""
    write_pictures(root / "images")
    for name in NAMES:
        write_colours(root / "masks" / f"{name}.png", (7, 0, 0), (44, 1, 0))
    write_json(root / "masks.json", make_panoptic())
    return {"train_images": "images", "train_annotations": "masks.json", "evaluation_share": 0.5}


def write_stuff_maps(root: Path) -> Settings:
    """Maps of ids, split by picture."""
    write_pictures(root / "train2017")
    for name in NAMES:
        write_labels(root / "stuffthingmaps" / "train2017" / f"{name}.png", 92, 182)
    write_text(root / "labels.txt", "92: banner", "182: wood")
    return {"evaluation_images": None, "evaluation_share": 0.5, "values": "ids"}


def make_genome() -> list[dict[str, Any]]:
    """objects.json."""
    objects = [
        {"object_id": 1, "x": 2, "y": 2, "w": 10, "h": 8, "names": ["dog"], "synsets": ["dog.n.01"]},
        {"object_id": 2, "x": 12, "y": 4, "w": 6, "h": 8, "names": ["cup"], "synsets": ["cup.n.01"]},
    ]
    return [{"image_id": i, "objects": objects} for i in range(1, 7)]


def write_genome(root: Path) -> Settings:
    """With attributes, relationships and sizes."""
    write_pictures(root / "VG_100K", names=[str(i) for i in range(1, 7)])
    (root / "VG_100K_2").mkdir()
    write_json(root / "objects.json", make_genome())
    box = {"x": 2, "y": 2, "w": 10, "h": 8}
    attributes = [{**box, "attributes": ["striped"]}]
    relationships = [{"predicate": "on", "subject": box, "object": box}]
    numbers = range(1, 7)
    write_json(root / "attributes.json", [{"image_id": i, "attributes": attributes} for i in numbers])
    write_json(root / "relationships.json", [{"image_id": i, "relationships": relationships} for i in numbers])
    write_json(root / "image_data.json", [{"image_id": i, "width": W, "height": H} for i in numbers])
    optional = {name: f"{name}.json" for name in ("attributes", "relationships", "image_data")}
    return {"min_images": 1, "evaluation_share": 0.5, **optional}


VOC_OBJECT = (
    "<object><name>dog</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>12</xmax><ymax>10</ymax></bndbox></object>"
)


def make_voc(*objects: str) -> str:
    """An XML file of one picture."""
    inner = "".join(objects or (VOC_OBJECT,))
    return f"<annotation><size><width>{W}</width><height>{H}</height><depth>3</depth></size>{inner}</annotation>"


def write_voc(root: Path) -> Settings:
    """As the devkit lies, with masks for two pictures."""
    write_pictures(root / "JPEGImages")
    for name in NAMES:
        write_text(root / "Annotations" / f"{name}.xml", make_voc())
    for name in NAMES[:2]:
        write_labels(root / "SegmentationClass" / f"{name}.png", 12, 8)
        write_labels(root / "SegmentationObject" / f"{name}.png", 1, 2)
    write_text(root / "ImageSets" / "Main" / "train.txt", *NAMES[:4])
    write_text(root / "ImageSets" / "Main" / "val.txt", *NAMES[4:])
    return {}


def write_yolo(root: Path) -> Settings:
    """With data.yaml, boxes and polygons."""
    for part, names in (("train", NAMES[:4]), ("val", NAMES[4:])):
        write_pictures(root / "images" / part, names=names)
        for name in names:
            rows = ("0 0.5 0.5 0.25 0.5", "1 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5")
            write_text(root / "labels" / part / f"{name}.txt", *rows)
    write_text(root / "data.yaml", "train: images/train", "val: images/val", "names: [dog, cup]")
    return {}


OPEN_BOXES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)


def write_open_images(root: Path) -> Settings:
    """Boxes, a mask, labels of pictures, classes above."""
    for part, names in (("train", NAMES[:4]), ("validation", NAMES[4:])):
        write_pictures(root / part, names=names)
        rows = [f"{name},xclick,/m/1,1,0.1,0.5,0.1,0.5,0,0,0,0,0" for name in names]
        write_text(root / f"{part}-boxes.csv", OPEN_BOXES, *rows)
    write_text(root / "classes.csv", "LabelName,DisplayName", "/m/1,Dog", "/m/3,Animal")
    write_labels(root / "masks" / "0" / "p0.png", 255)
    heading = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
    write_text(root / "masks.csv", heading, "p0.png,p0,/m/1,1f,0.1,0.5,0.1,0.5,0.9,")
    write_text(root / "labels.csv", "ImageID,Source,LabelName,Confidence", "p1,v,/m/3,1")
    write_json(root / "hierarchy.json", {"LabelName": "/m/0", "Subcategory": [{"LabelName": "/m/3"}]})
    return {
        "classes": "classes.csv",
        "train_boxes": "train-boxes.csv",
        "evaluation_boxes": "validation-boxes.csv",
        "train_masks": "masks.csv",
        "train_labels": "labels.csv",
        "hierarchy": "hierarchy.json",
        "parents": "use",
    }


def write_ade20k(root: Path) -> Settings:
    """As of 2021; the last picture as of 2016."""
    for part, names in (("training", NAMES[:4]), ("validation", NAMES[4:])):
        folder = root / "images" / part
        write_pictures(folder, names=names)
        for name in names:
            write_colours(folder / f"{name}_seg.png", (10, 1, 40), (20, 2, 80))
            objects = [{"name_ndx": 257, "name": "dog"}, {"name_ndx": 514, "name": "cup"}]
            write_json(folder / f"{name}.json", {"annotation": {"object": objects}})
    last = root / "images" / "validation" / NAMES[-1]
    last.with_suffix(".json").unlink()
    lines = ('1 # 0 # 0 # dog, domestic dog # dog # ""', '2 # 0 # 0 # cup # cup # ""')
    write_text(last.with_name(f"{last.name}_atr.txt"), *lines)
    return {}


def write_scenes(root: Path) -> Settings:
    """SceneParse150."""
    for part, names in (("training", NAMES[:4]), ("validation", NAMES[4:])):
        write_pictures(root / "images" / part, names=names)
        for name in names:
            write_labels(root / "annotations" / part / f"{name}.png", 1, 2)
    write_text(root / "objectInfo150.txt", "Idx\tRatio\tName", "1\t0.1\tdog", "2\t0.1\tcup")
    return {}


def write_broden(root: Path) -> Settings:
    """Objects as PNG files and as numbers."""
    lines = ["image,split,ih,iw,sh,sw,color,object,part"]
    for number, name in enumerate(NAMES):
        write_picture(root / "images" / "ade" / f"{name}.jpg", number)
        write_colours(root / "images" / "ade" / f"{name}.png", (2, 0, 0), (8, 0, 0))
        split = "train" if number < 4 else "val"
        lines.append(f"ade/{name}.jpg,{split},{H},{W},{H},{W},,ade/{name}.png;8,")
    write_text(root / "index.csv", *lines)
    write_text(root / "label.csv", "number,name,category", "2,sky,object(1)", "8,car,object(1)", "9,leg,part(1)")
    write_text(root / "c_object.csv", "code,number,name", "1,2,sky", "2,8,car")
    write_text(root / "c_part.csv", "code,number,name", "1,9,leg")
    return {}


def write_folders(root: Path) -> Settings:
    """A folder for each class."""
    for number, name in enumerate(NAMES):
        write_picture(root / ("dog" if number % 2 else "cup") / f"{name}.png", number)
    return {}


def write_csv(root: Path) -> Settings:
    """A column of labels."""
    write_pictures(root / "pictures")
    lines = [f"{name}.jpg,{'dog|cup' if number % 2 else 'cup'}" for number, name in enumerate(NAMES)]
    write_text(root / "labels.csv", "image,label", *lines)
    return {"root": str(root / "pictures"), "file": str(root / "labels.csv"), "label_column": "label", "separator": "|"}


def list_members(ending: str, labels: Callable[[int], bytes]) -> list[tuple[str, bytes]]:
    """Pictures with a file of labels each."""
    return [
        member
        for number, name in enumerate(NAMES)
        for member in ((f"{name}.png", encode_picture(number)), (f"{name}.{ending}", labels(number)))
    ]


def write_webdataset(root: Path) -> Settings:
    """Boxes in JSON."""
    content = json.dumps({"objects": [{"bbox": [2, 2, 10, 8], "category": "dog"}]}).encode()
    write_tar(root / "000.tar", list_members("json", lambda number: content))
    return {"labels": "json", "json_objects": "objects"}


def write_huggingface(root: Path) -> Settings:
    """A parquet file with boxes."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {
            "image": {"bytes": encode_picture(number), "path": f"{name}.png"},
            "objects": [{"bbox": [2.0, 2.0, 10.0, 8.0], "category": "dog"}],
        }
        for number, name in enumerate(NAMES)
    ]
    (root / "data").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "data" / "train-00000-of-00001.parquet")
    return {"objects": "objects"}


WRITERS: Mapping[str, Callable[[Path], Settings]] = {
    "coco": write_coco,
    "coco_panoptic": write_panoptic,
    "coco_stuff_maps": write_stuff_maps,
    "visual_genome": write_genome,
    "pascal_voc": write_voc,
    "yolo": write_yolo,
    "open_images": write_open_images,
    "ade20k": write_ade20k,
    "scene_parse": write_scenes,
    "broden": write_broden,
    "image_folder": write_folders,
    "csv_labels": write_csv,
    "webdataset": write_webdataset,
    "huggingface": write_huggingface,
}
"""By `kind` of a reference; `scene_parse` is a form of ade20k."""


def write_good(kind: str, root: Path) -> Settings:
    """A whole data set, and its settings."""
    root.mkdir(parents=True, exist_ok=True)
    own = WRITERS[kind](root)
    return {"kind": "ade20k" if kind == "scene_parse" else kind, "root": str(root), **own}
