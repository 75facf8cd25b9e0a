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
