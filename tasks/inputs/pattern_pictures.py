"""Mosaics of patterns as an artefact: a reference for early layers, made on the machine in the COCO layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.readers.coco import load_coco_instances
from lavise.storage.datasets.readers.patterns import PATTERNS_VERSION, describe_sources, write_patterns
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import HOW, Spread, StageInputs

STAGE = Stage("patterns", version=PATTERNS_VERSION)


def _describe_splits(splits: Mapping[str, int]) -> dict[str, Any]:
    """With what the pictures are made of."""
    return {"splits": dict(splits), "sources": describe_sources()}


@dataclass(frozen=True)
class PatternInputs(StageInputs):
    """What mosaics are drawn from.

    Attributes:
        splits: name of the split -> number of pictures.
    """

    splits: Annotated[Mapping[str, int], Spread(_describe_splits)]
    size_px: int
    seed: int
    progress: Annotated[Progress, HOW] = no_progress


def draw_patterns(inputs: PatternInputs, folder: Path) -> Info:
    """Write all splits below one COCO root."""
    for split, num in inputs.splits.items():
        write_patterns(folder, split, num, inputs.size_px, inputs.seed, inputs.progress)
    return {"num_images": sum(inputs.splits.values())}


def load_patterns(handle: Handle, split: str) -> Dataset:
    """One split as a data set."""
    annotations = handle.path(f"annotations/instances_{split}.json")
    return load_coco_instances(handle.folder / split, annotations, f"patterns/{split}")
