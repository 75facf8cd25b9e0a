"""Settings of data sets in COCO's form."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lavise.configs.base import SINCE_DEFAULT, Settings, UserPath
from lavise.configs.pictures import ValueRange


class CocoFiles(Settings):
    """Where pictures and labels of a data set in COCO's form are."""

    root: UserPath
    train_images: str
    train_annotations: str
    evaluation_images: str | None
    evaluation_annotations: str | None
    evaluation_share: Annotated[float | None, SINCE_DEFAULT] = Field(default=None, gt=0, lt=1)
    """Share of the pictures of train_annotations that is kept for evaluation; split by picture, with no second file.
    None: 0.2 where evaluation_annotations is null or the same file and folder, else the second file is read."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white. None: by the format."""

    @property
    def is_split(self) -> bool:
        """The training file holds both parts."""
        return self.evaluation_share is not None or self.evaluation_annotations is None

    @model_validator(mode="after")
    def _one_or_two_files(self) -> CocoFiles:
        for name in ("annotations", "images"):
            value = getattr(self, f"evaluation_{name}")
            own = (None, getattr(self, f"train_{name}"), type(self).model_fields[f"evaluation_{name}"].default)
            if self.evaluation_share is not None and value not in own:
                raise ValueError(
                    f"evaluation_share splits train_annotations by picture, found evaluation_{name} {value!r} beside "
                    "it; set one of them"
                )
        return self


class CocoReference(CocoFiles):
    """COCO instances, and what is written like them (LVIS, exports of other tools): polygons, RLE, crowds, boxes."""

    kind: Literal["coco"]
    root: UserPath
    """Folder that the other paths of this section are below."""
    train_images: str = "train2017"
    """Folder of the pictures, below root."""
    train_annotations: str = "annotations/instances_train2017.json"
    """JSON file of the objects to train on, below root."""
    evaluation_images: str | None = "val2017"
    """null: as train_images."""
    evaluation_annotations: str | None = "annotations/instances_val2017.json"
    """null: none; the pictures of train_annotations are split (evaluation_share)."""
    masks: Annotated[Literal["auto", "segmentation", "box"], SINCE_DEFAULT] = "auto"
    """segmentation: objects without a mask are left out. box: the box of every object, filled. auto: the mask, and
    where there is none, the box."""
    crowds: Literal["skip", "use"] = "skip"
    """What to do with crowds, which iscrowd=1 marks."""
    crowd_marks: Annotated[Literal["auto", "believe"], SINCE_DEFAULT] = "auto"
    """believe: iscrowd=1 is a crowd. auto: it is not where the file marks run lengths of single objects so, as datumaro
    and supervision do (storage/datasets/readers/coco_crowds.py)."""
    max_images: int | None = Field(default=None, ge=1)
    """Take only the first so many pictures of each file, in the order of their ids."""


class CocoPanopticReference(CocoFiles):
    """COCO panoptic: a JSON file, and a PNG per picture whose colours are the numbers of its segments."""

    kind: Literal["coco_panoptic"]
    root: UserPath
    """Folder that the other paths of this section are below."""
    train_images: str = "train2017"
    """Folder of the pictures, below root."""
    train_annotations: str = "annotations/panoptic_train2017.json"
    """JSON file of the segments to train on, below root."""
    train_masks: str | None = None
    """Folder of the PNGs, below root. null: beside the annotations, called as their file without `.json`."""
    evaluation_images: str | None = "val2017"
    """null: as train_images."""
    evaluation_annotations: str | None = "annotations/panoptic_val2017.json"
    """null: none; the pictures of train_annotations are split (evaluation_share)."""
    evaluation_masks: str | None = None
    """As train_masks, of the pictures kept for evaluation."""
    crowds: Literal["skip", "use"] = "skip"
    """What to do with segments of iscrowd=1."""
    max_images: int | None = Field(default=None, ge=1)
    """Take only the first so many pictures of each file, in the order of their ids."""
