"""How pictures fall into groups: by folder, by columns of a CSV file, or by what is annotated in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from lavise.configs.base import Settings, UserPath

_FORMS = "'folder', 'folder:LEVEL', 'csv:FILE:COLUMN', 'csv:FILE:COLUMN,COLUMN' or 'annotations:PREDICATE'"
Column = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class FolderGroups(Settings):
    """A group for each folder."""

    kind: Literal["folder"]
    level: int = Field(default=1, ge=1)
    """1: the first folder below the data set's root; 2: the folder in that."""


class CsvGroups(Settings):
    """A group for each value of a column; of two columns, for each pair of values that occurs."""

    kind: Literal["csv"]
    file: UserPath
    """With a header line; one line for each picture."""
    columns: tuple[Column, ...] = Field(min_length=1, max_length=2)
    """Names of one column, or of two, as they stand in the header line."""
    image_column: Column | None = None
    """Holds the pictures' paths below the data set's root, or their file names, with or without ending; None takes the
    first column, but for an index without a name."""


class AnnotationGroups(Settings):
    """Pictures whose annotations fulfil a predicate, and the others."""

    kind: Literal["annotations"]
    predicate: str = Field(min_length=1)
    """Category names with `and`, `or`, `not`, parentheses and counts: `person and not "hot dog"`, `car >= 2`."""


def _read_short_form(value: Any) -> Any:
    """`csv:FILE:COLUMN` and the like, as they are given on the command line."""
    if not isinstance(value, str):
        return value
    kind, _, rest = value.partition(":")
    if kind == "folder":
        return {"kind": kind, "level": rest or 1}
    if kind == "annotations" and rest.strip():
        return {"kind": kind, "predicate": rest.strip()}
    file, separator, columns = rest.rpartition(":")
    if kind == "csv" and separator and file and columns.strip():
        return {"kind": kind, "file": file, "columns": columns.split(",")}
    raise ValueError(f"groups must be {_FORMS}, found {value!r}")


Groups = Annotated[
    Annotated[FolderGroups | CsvGroups | AnnotationGroups, Field(discriminator="kind")],
    BeforeValidator(_read_short_form),
]
"""A mapping with a `kind`, or its short form."""
