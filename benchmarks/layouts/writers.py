"""The writers, each with the versions that its data sets are made with and the settings that these are read with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.environments import Tool


@dataclass(frozen=True)
class Case:
    """A data set that is read.

    Attributes:
        folder: that the script writes, below the writer's own.
        what: it is, for people.
        settings: of `reference` without `root`, or of `target` where there are no labels to read.
        role: reference or target.
    """

    folder: str
    what: str
    settings: Mapping[str, Any]
    role: str = "reference"


@dataclass(frozen=True)
class Writer:
    """A tool with the data sets that `write_NAME.py` has it write."""

    tool: Tool
    cases: tuple[Case, ...]


_ONE_FILE = {
    "kind": "coco",
    "train_images": "images",
    "train_annotations": "annotations.json",
    "evaluation_share": 0.5,
}
_IN_DEFAULT = {
    **_ONE_FILE,
    "train_images": "images/default",
    "train_annotations": "annotations/instances_default.json",
}

_OPEN_IMAGES_BOXES = {
    "kind": "open_images",
    "train_images": "images/train",
    "evaluation_images": "images/val",
    "classes": "annotations/class-descriptions.csv",
    "train_boxes": "annotations/train-annotations-bbox.csv",
    "evaluation_boxes": "annotations/val-annotations-bbox.csv",
}
_OPEN_IMAGES_MASKS = {
    "train_masks": "annotations/train-annotations-object-segmentation.csv",
    "evaluation_masks": "annotations/val-annotations-object-segmentation.csv",
}

WRITERS: tuple[Writer, ...] = (
    Writer(
        Tool("torchvision", "torchvision"),
        (Case("folders", "a folder per class, read by ImageFolder", {"kind": "image_folder"}),),
    ),
    Writer(
        Tool("datumaro_coco", "datumaro", ("datumaro==1.13.12", "pycocotools==2.0.11")),
        (
            Case("masks", "COCO, pixel masks (each iscrowd=1)", _IN_DEFAULT),
            Case("polygons", "COCO, polygons", _IN_DEFAULT),
            Case("boxes", "COCO, boxes", _IN_DEFAULT),
            Case(
                "panoptic",
                "COCO panoptic",
                {
                    "kind": "coco_panoptic",
                    "train_images": "images/default",
                    "train_annotations": "annotations/panoptic_default.json",
                    "evaluation_share": 0.5,
                },
            ),
        ),
    ),
    Writer(
        Tool("supervision_coco", "supervision", ("supervision==0.31.2", "opencv-python<5", "pycocotools==2.0.11")),
        (
            Case("masks", "COCO, polygons and masks with holes (iscrowd=1)", _ONE_FILE),
            Case("boxes", "COCO, boxes", _ONE_FILE),
        ),
    ),
    Writer(
        Tool("lvis", "lvis", ("lvis==0.5.3", "opencv-python-headless<5", "pycocotools==2.0.11")),
        (
            Case(
                "lvis",
                "LVIS, with coco_url and no file_name (written here, read by lvis)",
                {**_ONE_FILE, "train_images": "train2017", "train_annotations": "lvis_v1_train.json"},
            ),
        ),
    ),
    Writer(
        Tool("kwcoco", "kwcoco", ("kwcoco==0.9.1", "pycocotools==2.0.11")),
        (
            Case(
                "relative",
                "polygons, img_root",
                {**_ONE_FILE, "train_images": "assets", "train_annotations": "data.kwcoco.json"},
            ),
            Case(
                "absolute",
                "boxes, absolute paths",
                {**_ONE_FILE, "train_images": ".", "train_annotations": "data.kwcoco.json"},
            ),
        ),
    ),
    Writer(
        Tool("globox", "globox", ("globox==2.9.0", "pycocotools==2.0.11")), (Case("boxes", "COCO, boxes", _ONE_FILE),)
    ),
    Writer(
        Tool("sahi", "sahi", ("sahi==0.12.8", "opencv-python<5", "pycocotools==2.0.11")),
        (
            Case("polygons", "COCO, polygons", _ONE_FILE),
            Case("boxes", "COCO, boxes", _ONE_FILE),
        ),
    ),
    Writer(
        Tool(
            "labelme2coco",
            "labelme2coco",
            ("labelme2coco==0.2.6", "sahi==0.12.8", "opencv-python<5", "pycocotools==2.0.11"),
        ),
        (
            Case(
                "converted",
                "labelme's polygons, absolute paths",
                {**_ONE_FILE, "train_images": ".", "train_annotations": "dataset.json"},
            ),
        ),
    ),
    Writer(
        Tool("voc_devkit", "torchvision"),
        (
            Case(
                "boxes/VOCdevkit/VOC2012",
                "Pascal VOC as its devkit has it, boxes, read by VOCDetection",
                {"kind": "pascal_voc", "masks": "box"},
            ),
            Case(
                "masks/VOCdevkit/VOC2012",
                "the same, objects of SegmentationObject, read by VOCSegmentation",
                {"kind": "pascal_voc", "masks": "segmentation"},
            ),
        ),
    ),
    Writer(
        Tool("datumaro", "datumaro", ("datumaro==1.13.12",)),
        (
            Case("voc_masks", "Pascal VOC with masks", {"kind": "pascal_voc"}),
            Case(
                "voc_boxes",
                "Pascal VOC with boxes, as it writes them",
                {"kind": "pascal_voc", "coordinates": "zero_based"},
            ),
            Case("voc_boxes_from_1", "Pascal VOC with boxes, coordinate_mode voc-one-based", {"kind": "pascal_voc"}),
            Case("yolo_darknet", "YOLO with obj.data", {"kind": "yolo"}),
            Case("yolo_boxes", "YOLO with data.yaml, boxes", {"kind": "yolo"}),
            Case(
                "open_images_masks",
                "Open Images with boxes and their masks",
                {**_OPEN_IMAGES_BOXES, **_OPEN_IMAGES_MASKS},
            ),
            Case("open_images_boxes", "Open Images with boxes", _OPEN_IMAGES_BOXES),
            Case("ade20k_2016", "ADE20K 2016 with parts, its reader ade20k2017", {"kind": "ade20k", "parts": "use"}),
            Case("ade20k_2021", "ADE20K 2021 with parts, its reader ade20k2020", {"kind": "ade20k", "parts": "use"}),
        ),
    ),
    Writer(
        Tool("supervision", "supervision", ("supervision==0.31.2", "opencv-python-headless>=4.10")),
        (
            Case("voc_boxes", "Pascal VOC with boxes", {"kind": "pascal_voc"}),
            Case("yolo_boxes", "YOLO, boxes", {"kind": "yolo"}),
            Case("yolo_masks", "YOLO, masks as polygons", {"kind": "yolo"}),
        ),
    ),
    Writer(
        Tool("ultralytics", "ultralytics", ("opencv-python-headless>=4.10", "polars"), ("ultralytics==8.4.190",)),
        (
            Case("boxes", "YOLO in Roboflow's folders, boxes", {"kind": "yolo"}),
            Case("polygons", "the same, polygons", {"kind": "yolo"}),
            Case("oriented", "the same, oriented boxes", {"kind": "yolo"}),
            Case("poses", "the same, boxes with keypoints", {"kind": "yolo"}),
        ),
    ),
    Writer(
        Tool(
            "pylabel",
            "pylabel",
            ("opencv-python-headless>=4.10", "bbox-visualizer", "jupyter-bbox-widget"),
            ("pylabel==0.1.55",),
        ),
        (
            Case("voc", "Pascal VOC with boxes", {"kind": "pascal_voc", "coordinates": "zero_based"}),
            Case("yolo", "YOLO, boxes", {"kind": "yolo"}),
        ),
    ),
    Writer(
        Tool("webdataset", "webdataset", ("webdataset==1.0.2",)),
        (
            Case(
                "classes",
                "ShardWriter, pictures with .cls",
                {
                    "kind": "webdataset",
                    "shards": "part-{000000..000002}.tar",
                    "classes": ["dog", "cup", "traffic light"],
                },
            ),
            Case("names", "TarWriter, pictures with .txt, folders in keys", {"kind": "webdataset", "labels": "txt"}),
            Case(
                "boxes",
                "TarWriter, pictures with .json, boxes as shares",
                {
                    "kind": "webdataset",
                    "labels": "json",
                    "json_objects": "seen.objects",
                    "object_fields": {"box": "box", "category": "name", "box_format": "relative_xyxy"},
                },
            ),
            Case("target", "ShardWriter, pictures alone", {"kind": "webdataset"}, "target"),
            Case("packed", "TarWriter, compressed", {"kind": "webdataset", "shards": "*.tar.gz"}, "target"),
        ),
    ),
    Writer(
        Tool("datasets", "datasets", ("datasets==5.2.0",)),
        (
            Case("saved", "save_to_disk, ClassLabel", {"kind": "huggingface"}),
            Case(
                "splits",
                "DatasetDict.save_to_disk in parts, a list of objects",
                {"kind": "huggingface", "objects": "objects", "evaluation_split": "test", "key": "file_name"},
            ),
            Case(
                "hub",
                "parquet as on the hub, a mapping of lists, corners",
                {
                    "kind": "huggingface",
                    "objects": "objects",
                    "object_fields": {"box_format": "xyxy"},
                    "key": "file_name",
                },
            ),
            Case(
                "masks",
                "save_to_disk, masks with values of classes",
                {
                    "kind": "huggingface",
                    "mask": "annotation",
                    "mask_ignored": [0],
                    "classes": ["none", "dog", "cup", "traffic light"],
                    "key": "file_name",
                },
            ),
            Case("paths", "to_parquet of paths", {"kind": "huggingface"}, "target"),
            Case("pictures", "to_parquet of bytes", {"kind": "parquet", "key": "file_name"}, "target"),
        ),
    ),
)
