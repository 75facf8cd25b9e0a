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


WRITERS: tuple[Writer, ...] = (
    Writer(
        Tool("torchvision", "torchvision"),
        (Case("folders", "a folder per class, read by ImageFolder", {"kind": "image_folder"}),),
    ),
)
