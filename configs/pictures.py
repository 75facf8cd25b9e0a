"""Pictures and labels as people keep them: settings that several kinds of data sets share, and kinds made of them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from lavise.configs.base import SINCE_DEFAULT, Settings, UserPath

_Column = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _check_range(value: tuple[float, float] | None) -> tuple[float, float] | None:
    if value is not None and not (math.isfinite(value[0]) and math.isfinite(value[1]) and value[0] < value[1]):
        raise ValueError(f"value_range must be two numbers [LOW, HIGH] with LOW < HIGH, found {list(value)}")
    return value


ValueRange = Annotated[tuple[float, float] | None, AfterValidator(_check_range), SINCE_DEFAULT]
"""Of grey pictures with more than 8 bits: the values that become black and white, for example [0, 4095]. None: by the
format (16 bits: 0 to 65535; 12 bits in a TIFF that says so: 0 to 4095; floating point: 0 to 1)."""
FollowLinks = Annotated[bool, SINCE_DEFAULT]
"""Whether links that lead out of root are read, too; a folder is read once."""
ClassFrom = Annotated[Literal["first", "last", "path"] | None, SINCE_DEFAULT]
"""Which of nested folders is the class: the first below root (or below train, val, test), the last, or all of them."""


class PicturesSettings(Settings):
    """What every kind of this module has."""

    root: UserPath
    """Folder of the pictures."""
    follow_links: FollowLinks = False
    """Whether links that lead out of root are read, too."""
    value_range: ValueRange = None
    """Of grey pictures with more than 8 bits: the values that become black and white. None: by the format."""


class CsvLabelsReference(PicturesSettings):
    """Pictures with a table of labels; the mask is the whole picture, which may have several."""

    kind: Literal["csv_labels"]
    file: UserPath
    """CSV with a header line; a picture may stand in several lines."""
    image_column: _Column | None = None
    """Holds the pictures' paths below root, or their file names, with or without ending; None: the first column, but
    for an index without a name."""
    label_column: _Column | None = None
    """Holds a label, or several with `separator`."""
    separator: str | None = Field(default=None, min_length=1)
    """Between the labels of a cell, for example `|` or a space; None: a cell is one label."""
    label_columns: tuple[_Column, ...] = ()
    """Columns of 1 and 0, a label each. With neither this nor `label_column`: all columns but the pictures', if they
    hold nothing but 1, 0, -1 (uncertain) and nothing."""
    evaluation_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the pictures kept for evaluation; split by picture."""

    @model_validator(mode="after")
    def _one_way(self) -> CsvLabelsReference:
        if self.label_column and self.label_columns:
            raise ValueError("label_column and label_columns are two ways to give labels; set one of them")
        if self.separator is not None and not self.label_column:
            raise ValueError(f"separator is read only with label_column, found {self.separator!r} without it")
        if len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError(f"label_columns must be different columns, found {list(self.label_columns)}")
        return self


class PathListTarget(PicturesSettings):
    """Pictures that a text file names, in its order."""

    kind: Literal["path_list"]
    file: UserPath
    """A path per line, below root: relative to it, or absolute."""
    max_images: int | None = Field(default=None, ge=1)
    """Take only the first so many pictures."""
