"""OpenMoji scenes as an artefact: the demo's reference and target, made on the machine in the COCO layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.coco import load_coco_instances
from lavise.storage.datasets.openmoji import SCENES_VERSION, describe_sources, write_scenes
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.engine.stage import Request, Stage

STAGE = Stage("scenes", version=SCENES_VERSION)
OPENMOJI_ATTRIBUTION = (
    "scenes made of pictures by OpenMoji, the open-source emoji and icon project (openmoji.org, CC BY-SA 4.0), changed"
)
"""Whoever shows the scenes has to say this."""


def request_scenes(splits: Mapping[str, int], size_px: int, seed: int) -> Request:
    """What the scenes depend on.

    Args:
        splits: name of the split -> number of scenes.
    """
    return Request({"splits": dict(splits), "size_px": size_px, "seed": seed, "sources": describe_sources()})


def draw_scenes(
    splits: Mapping[str, int], size_px: int, seed: int, folder: Path, progress: Progress = no_progress
) -> dict[str, Any]:
    """Write all splits below one COCO root."""
    for split, num in splits.items():
        write_scenes(folder, split, num, size_px, seed, progress)
    return {"num_scenes": sum(splits.values())}


def load_scenes(handle: Handle, split: str) -> Dataset:
    """One split as a data set."""
    annotations = handle.path(f"annotations/instances_{split}.json")
    return load_coco_instances(handle.folder / split, annotations, f"openmoji/{split}")
