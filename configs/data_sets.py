"""Data sets that an audit can have: labelled ones as the reference, others as the target. Each kind has its settings; a
reader with the same kind is in lavise.storage.datasets.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lavise.configs.base import SINCE_DEFAULT, Settings, UserPath
from lavise.configs.coco_references import CocoPanopticReference, CocoReference
from lavise.configs.combined import CombinedSettings
from lavise.configs.container_formats import (
    HuggingFaceReference,
    HuggingFaceTarget,
    ParquetTarget,
    WebDatasetReference,
    WebDatasetTarget,
)
from lavise.configs.drawn_pictures import OpenMojiReference, OpenMojiTarget, PatternsReference, PatternsTarget
from lavise.configs.pictures import ClassFrom, CsvLabelsReference, FollowLinks, PathListTarget, ValueRange
from lavise.configs.reference_formats import (
    Ade20kReference,
    BrodenReference,
    CocoStuffMapsReference,
    OpenImagesReference,
    PascalVocReference,
    YoloReference,
)


class VisualGenomeReference(Settings):
    """Visual Genome objects (1.0, 1.2, 1.4): boxes filled with 1, categories merged by synset."""

    kind: Literal["visual_genome"]
    root: UserPath
    """Folder of the JSON files and of the folders of pictures."""
    objects: str = "objects.json"
    """JSON file of the objects, below root."""
    image_folders: tuple[str, ...] = ("VG_100K", "VG_100K_2")
    """Folders of the pictures, below root; a picture is looked for in each."""
    without_synset: Annotated[Literal["skip", "name"], SINCE_DEFAULT] = "skip"
    """What to do with objects that have no synset: leave them out, or take the first of their names."""
    attributes: Annotated[str | None, SINCE_DEFAULT] = None
    """File of attributes (`attributes.json`): each attribute, for example *striped*, is a category too, with the box of
    its object."""
    relationships: Annotated[str | None, SINCE_DEFAULT] = None
    """File of relationships (`relationships.json`): each predicate, for example *riding*, is a category too, with the
    boxes of its subject and its object."""
    image_data: Annotated[str | None, SINCE_DEFAULT] = None
    """File of the pictures' sizes (`image_data.json`): boxes that lie outside their picture are left out and counted,
    and a picture of another size is refused."""
    min_images: int = Field(default=100, ge=1)
    """Categories found in fewer training pictures are dropped."""
    evaluation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the pictures kept for evaluation; split by picture."""
    max_images: int | None = Field(default=None, ge=2)
    """Take only the first so many pictures, in the order of their ids."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white. None: by the format."""


class ImageFolderReference(Settings):
    """A folder per class; the mask is the whole picture. ImageNet's numbers (n01440764) get their names. Where the only
    folders are `train` and `val` (or valid, validation, test), these are the two parts, and classes are below them."""

    kind: Literal["image_folder"]
    root: UserPath
    """Folder of the folders of classes."""
    evaluation_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the pictures kept for evaluation; split by picture. Not read where the folders are split already."""
    class_from: ClassFrom = None
    """Of nested folders: `first`, `last`, or `path`, all of them. None: the first, with a line that says so."""
    follow_links: FollowLinks = False
    """Whether links that lead out of root are read, too."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white, for example [0, 4095]. None: by
    the format (16 bits, 12 bits in a TIFF that says so, floating point from 0 to 1)."""


class ImageFolderTarget(Settings):
    """All pictures below a folder; folder names and label files are not read."""

    kind: Literal["image_folder"] = "image_folder"
    root: UserPath
    """Folder of the pictures, with all folders below it."""
    max_images: int | None = Field(default=None, ge=1)
    """Take only the first so many pictures, in the order of their paths."""
    follow_links: FollowLinks = False
    """Whether links that lead out of root are read, too."""
    value_range: ValueRange = None
    """As in the reference."""


LabelledReference = (
    CocoReference
    | CocoPanopticReference
    | CocoStuffMapsReference
    | VisualGenomeReference
    | ImageFolderReference
    | CsvLabelsReference
    | PascalVocReference
    | YoloReference
    | OpenImagesReference
    | Ade20kReference
    | BrodenReference
    | WebDatasetReference
    | HuggingFaceReference
)
SourceSettings = Annotated[LabelledReference, Field(discriminator="kind")]


class CombinedReference(CombinedSettings):
    """Several labelled data sets as one: train with train, evaluation with evaluation."""

    sources: tuple[SourceSettings, ...] = Field(min_length=2)
    """Any kind but `combined` and those that are drawn; counted from 0: `--set reference.sources.0.root=FOLDER`."""


ReferenceSettings = Annotated[
    LabelledReference | OpenMojiReference | PatternsReference | CombinedReference, Field(discriminator="kind")
]
TargetSettings = Annotated[
    ImageFolderTarget
    | OpenMojiTarget
    | PatternsTarget
    | PathListTarget
    | WebDatasetTarget
    | HuggingFaceTarget
    | ParquetTarget,
    Field(discriminator="kind"),
]
