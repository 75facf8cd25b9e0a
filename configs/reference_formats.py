"""Settings of the labelled data sets in published layouts (docs/data.md says how each lies on disk)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from lavise.configs.base import Settings, UserPath
from lavise.configs.pictures import ValueRange

Masks = Literal["auto", "segmentation", "box"]


class LabelledPictures(Settings):
    """What all of these layouts have."""

    root: UserPath
    """Folder of the data set, as it is unpacked; docs/data.md shows what lies in it."""
    evaluation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the pictures kept for evaluation, where the data set has no split of its own; split by picture."""
    max_images: int | None = Field(default=None, ge=2)
    """Take only the first so many pictures of each part, in the order of their names."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white. None: by the format."""


class SplitPictures(LabelledPictures):
    """Layouts whose parts may be named."""

    train: str | None = None
    """None: the part that the layout itself has."""
    evaluation: str | None = None
    """Given together with `train`. None: the part that the layout itself has, else `evaluation_share` of the other."""

    @model_validator(mode="after")
    def _both_parts(self) -> SplitPictures:
        if (self.train is None) != (self.evaluation is None):
            raise ValueError(
                f"train and evaluation must both be given or neither, found {self.train!r} and {self.evaluation!r}"
            )
        return self


class PascalVocReference(SplitPictures):
    """Pascal VOC: boxes in XML files, masks in PNG files; also XML files beside the pictures.

    `train` and `evaluation` are lists below ImageSets (`Main/train`), or folders below root with XML files.
    """

    kind: Literal["pascal_voc"]
    masks: Masks = "auto"
    """segmentation: of SegmentationObject and SegmentationClass, else polygons and turned boxes of the XML files;
    pictures without either are left out. box: boxes of the XML files, where there is none the one around the outline.
    auto: a picture's segmentation where it has one, else polygons, turned boxes and boxes of its XML file."""
    coordinates: Literal["voc", "zero_based"] = "voc"
    """Of boxes and polygons. voc: the first pixel is 1, xmax and ymax are in the box. zero_based: the first pixel's
    edge is 0, as LabelImg, CVAT and others write it."""
    difficult: Literal["use", "skip"] = "use"
    """What to do with objects of the XML files that are marked so."""
    parts: Literal["skip", "use"] = "skip"
    """What to do with parts of objects (head, hand, foot): further pairs, as boxes."""


class YoloReference(SplitPictures):
    """YOLO: a text file for each picture, with a row for each object.

    `train` and `evaluation` are folders of pictures, or text files that list them, below root.
    """

    kind: Literal["yolo"]
    data: str | None = None
    """Below root; None: data.yaml or the only YAML file there, else obj.data, else none."""
    names: tuple[str, ...] | None = None
    """Of the classes, in their order; replaces those of `data`."""
    masks: Masks = "auto"
    """segmentation: polygons only. box: boxes only, of polygons the box around. auto: whichever the row has."""

    @field_validator("names")
    @classmethod
    def _different(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (not names or len(set(names)) != len(names) or not all(n.strip() for n in names)):
            raise ValueError(f"names must be different and not empty, found {list(names)}")
        return names


class OpenImagesReference(LabelledPictures):
    """Open Images V5 to V7: boxes, masks and labels of pictures in CSV files."""

    kind: Literal["open_images"]
    train_images: str = "train"
    """Folder of the pictures, below root."""
    evaluation_images: str | None = "validation"
    """None: there is no such part; a share of the pictures is taken."""
    classes: str = "oidv7-class-descriptions-boxable.csv"
    """Which label is called what; below root, as all files."""
    train_boxes: str | None = "oidv6-train-annotations-bbox.csv"
    """Boxes of the pictures to train on. None: none are read."""
    evaluation_boxes: str | None = "validation-annotations-bbox.csv"
    """Boxes of the pictures kept for evaluation. None: none are read."""
    train_masks: str | None = None
    """For example train-annotations-object-segmentation.csv."""
    evaluation_masks: str | None = None
    """For example validation-annotations-object-segmentation.csv."""
    mask_folders: tuple[str, ...] = ("masks",)
    """Where the PNG files of the masks are looked for, with all that is below."""
    train_labels: str | None = None
    """Of whole pictures, for example oidv7-train-annotations-human-imagelabels.csv."""
    evaluation_labels: str | None = None
    """For example oidv7-val-annotations-human-imagelabels.csv."""
    min_confidence: float = Field(default=1.0, gt=0, le=1)
    """Of labels of whole pictures; people's have 1 or 0 (not in the picture)."""
    masks: Masks = "auto"
    """segmentation: masks only. box: boxes only. auto: masks, and boxes of objects that have none."""
    crowds: Literal["skip", "use"] = "skip"
    """What to do with boxes of a group (IsGroupOf)."""
    leave_out: tuple[Literal["occluded", "truncated", "depiction", "inside"], ...] = ()
    """Boxes with such a mark (IsOccluded, IsTruncated, IsDepiction, IsInside)."""
    hierarchy: str | None = None
    """For example bbox_labels_600_hierarchy.json; read with `parents` only."""
    parents: Literal["skip", "use"] = "skip"
    """use: an object is also one of all classes above its own."""

    @model_validator(mode="after")
    def _complete(self) -> OpenImagesReference:
        if self.parents == "use" and self.hierarchy is None:
            raise ValueError("parents 'use' needs hierarchy, found none")
        if self.masks == "segmentation" and self.train_masks is None:
            raise ValueError("masks 'segmentation' needs train_masks, found none")
        if self.masks == "box" and self.train_boxes is None:
            raise ValueError("masks 'box' needs train_boxes, found none")
        if self.train_boxes is None and self.train_masks is None and self.train_labels is None:
            raise ValueError("one of train_boxes, train_masks and train_labels must be given, found none")
        return self


class Ade20kReference(SplitPictures):
    """ADE20K: pictures with `_seg.png` (2016, 2021), or SceneParse150 (annotations/*.png and objectInfo150.txt).

    `train` and `evaluation` are folders of pictures below root.
    """

    kind: Literal["ade20k"]
    parts: Literal["skip", "use"] = "skip"
    """What to do with parts of objects (`_parts_N.png`): further pairs."""


class CocoStuffMapsReference(LabelledPictures):
    """COCO stuff as pixel maps: a PNG file for each picture, called like it, whose values are categories."""

    kind: Literal["coco_stuff_maps"]
    train_images: str = "train2017"
    """Folder of the pictures, below root."""
    train_masks: str = "stuffthingmaps/train2017"
    """Folder of the PNG files, below root; for example annotations/stuff_train2017_pixelmaps."""
    evaluation_images: str | None = "val2017"
    """None: there is no such part; a share of the pictures is taken."""
    evaluation_masks: str = "stuffthingmaps/val2017"
    """Read with evaluation_images."""
    categories: str = "labels.txt"
    """What categories are called, below root: JSON with categories, or COCO-Stuff's labels.txt (`1: person`)."""
    values: Literal["auto", "ids", "ids_minus_1"] = "auto"
    """ids: pixels are ids of categories, 0 is no label. ids_minus_1: they are one less, 255 is no label. auto: the one
    in which all values of all maps are categories that COCO has labels of; where both or neither do, it is asked."""


class BrodenReference(LabelledPictures):
    """Broden, as Network Dissection uses it: index.csv, label.csv and PNG files of labels."""

    kind: Literal["broden"]
    kinds: tuple[Literal["object", "part", "material", "color", "texture", "scene"], ...] = Field(
        default=("object", "part"), min_length=1
    )
    """Categories of labels that are read."""
