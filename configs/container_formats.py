"""Settings of data sets whose pictures lie inside other files: tar archives and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lavise.configs.base import SINCE_DEFAULT, Settings, UserPath
from lavise.configs.pictures import ValueRange

Ending = Annotated[str, Field(pattern=r"^[^./\s][^/\s]*$")]
Endings = Annotated[tuple[Ending, ...], Field(min_length=1)]
MaxImages = Annotated[int | None, Field(ge=1)]
EvaluationShare = Annotated[float, Field(gt=0, lt=1)]


def _check_names(value: object) -> object:
    """One fault instead of one for each kind of value."""
    is_list = isinstance(value, list | tuple) and value and all(isinstance(v, str) and v.strip() for v in value)
    if value is not None and not is_list and (not isinstance(value, str | Path) or not str(value).strip()):
        raise ValueError(f"classes must be a list of names or a text file, found {value!r}")
    return value


def _check_inside(pattern: str) -> str:
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ValueError(f"must be names below root, found {pattern!r}")
    return pattern


Names = Annotated[tuple[str, ...] | UserPath | None, BeforeValidator(_check_names)]
FilePattern = Annotated[str, Field(min_length=1), AfterValidator(_check_inside)]


class ObjectSettings(Settings):
    """How boxes lie in an entry: a list of mappings, or a mapping of lists."""

    box: str = "bbox"
    """Name of the boxes, four numbers each."""
    category: str = "category"
    """Name of the categories: an index, or a name."""
    box_format: Literal["xywh", "xyxy", "relative_xywh", "relative_xyxy", "relative_centre"] = "xywh"
    """xywh: left, top, width and height in pixels, as in COCO. xyxy: left, top, right and bottom in pixels, as in VOC.
    relative_...: the same as shares of the picture's width and height. relative_centre: as shares, the box's centre,
    width and height, as in YOLO."""
    segmentation: Annotated[str | None, SINCE_DEFAULT] = None
    """Name of the masks: polygons in pixels or run lengths, as in COCO. An object without one has its box, which need
    not be there then. None: boxes only."""


class WebDatasetReference(Settings):
    """Tar archives in which a picture and its labels have the same name but for the ending (WebDataset)."""

    kind: Literal["webdataset"]
    root: UserPath
    """Folder of the archives."""
    shards: FilePattern = "*.tar"
    """Archives below root, in order: `{000..127}` counts, `*` is any name."""
    evaluation_shards: FilePattern | None = None
    """Archives of the pictures kept for evaluation; None: `evaluation_share` of the others."""
    evaluation_share: EvaluationShare = 0.2
    """Share of the pictures kept for evaluation; split by picture."""
    images: Endings = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif")
    """Endings of pictures; all after the first dot of a name is its ending."""
    labels: Ending = "cls"
    """Ending of labels: of a class's index (cls), of its name (txt), of JSON (json), or of a picture whose values are
    indices of classes (png, as in seg.png)."""
    classes: Names = None
    """By index: a list, or a text file with a name per line (.json: a list)."""
    mask_ignored: Annotated[tuple[Annotated[int, Field(ge=0)], ...], SINCE_DEFAULT] = (255,)
    """With labels that end in png: values that are no class."""
    json_label: str = "label"
    """Where the class is in the JSON, an index, a name or a list of these; dots go deeper."""
    json_objects: str | None = None
    """Where boxes are in the JSON, instead of classes of the whole picture."""
    object_fields: ObjectSettings = ObjectSettings()
    max_images: MaxImages = None
    """Take only the first so many pictures of each part."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white. None: by the format."""

    @model_validator(mode="after")
    def _known_labels(self) -> WebDatasetReference:
        if self.labels.rpartition(".")[2] not in ("cls", "txt", "json", "png"):
            raise ValueError(f"labels must end in cls, txt, json or png, found {self.labels!r}")
        if self.labels in self.images:
            raise ValueError(f"labels {self.labels!r} must not be among images, found {list(self.images)}")
        if self.json_objects is not None and self.labels.rpartition(".")[2] != "json":
            raise ValueError(f"json_objects needs labels that end in json, found {self.labels!r}")
        return self


class WebDatasetTarget(Settings):
    """Pictures in tar archives; nothing else in them is read."""

    kind: Literal["webdataset"]
    root: UserPath
    """Folder of the archives."""
    shards: FilePattern = "*.tar"
    """Archives below root, in order: `{000..127}` counts, `*` is any name."""
    images: Endings = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif")
    """Endings of pictures; all after the first dot of a name is its ending."""
    max_images: MaxImages = None
    """Take only the first so many pictures."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white. None: by the format."""


class HuggingFaceReference(Settings):
    """What `datasets` of Hugging Face saves (save_to_disk), or parquet files as on its hub."""

    kind: Literal["huggingface"]
    root: UserPath
    """Folder that save_to_disk wrote, or that holds the parquet files."""
    image: str = "image"
    """Column of the pictures."""
    label: str | None = "label"
    """Column of the whole picture's class: an index, a name or a list of these. Not read with `objects` or `mask`."""
    objects: str | None = None
    """Column of boxes with categories."""
    object_fields: ObjectSettings = ObjectSettings()
    mask: str | None = None
    """Column of pictures whose values are indices of classes."""
    mask_ignored: tuple[Annotated[int, Field(ge=0)], ...] = (255,)
    """Values of the mask that are no class."""
    classes: Names = None
    """By index: a list, or a text file with a name per line (.json: a list). None: what the data set's features say."""
    key: str | None = None
    """Column of the pictures' names, all different. None: the split's name and the number of the row."""
    train_split: str | None = None
    """None: `train`, or the only split that there is."""
    evaluation_split: str | None = None
    """Split of the pictures kept for evaluation; None: `evaluation_share` of the other one."""
    evaluation_share: EvaluationShare = 0.2
    """Share of the pictures kept for evaluation; split by picture."""
    max_images: MaxImages = None
    """Take only the first so many pictures of each part."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white. None: by the format."""

    @model_validator(mode="after")
    def _one_kind_of_labels(self) -> HuggingFaceReference:
        if self.objects is not None and self.mask is not None:
            raise ValueError("objects and mask must not both be given")
        if self.label is None and self.objects is None and self.mask is None:
            raise ValueError("one of label, objects and mask must be given")
        return self


class HuggingFaceTarget(Settings):
    """Pictures of such a data set; no label is read."""

    kind: Literal["huggingface"]
    root: UserPath
    """Folder that save_to_disk wrote, or that holds the parquet files."""
    image: str = "image"
    """Column of the pictures."""
    key: str | None = None
    """Column of the pictures' names, all different. None: the split's name and the number of the row."""
    split: str | None = None
    """None: the only split that there is."""
    max_images: MaxImages = None
    """Take only the first so many pictures."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white. None: by the format."""


class ParquetTarget(Settings):
    """Pictures in a column of parquet files."""

    kind: Literal["parquet"]
    root: UserPath
    """Folder of the files."""
    files: FilePattern = "*.parquet"
    """Files below root, in order: `{000..127}` counts, `*` is any name."""
    image: str = "image"
    """Column of the pictures: bytes, or a struct with a field `bytes`."""
    key: str | None = None
    """Column of the pictures' names, all different. None: the file's name and the number of the row."""
    max_images: MaxImages = None
    """Take only the first so many pictures."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white. None: by the format."""
