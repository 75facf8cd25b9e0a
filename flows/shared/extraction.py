"""Activation stores of several layers, made or found: used by audits and by comparisons of audits."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavise.configs.roles import Role
from lavise.configs.schema import ExtractSettings
from lavise.storage.activations import INDEX_FILE
from lavise.storage.datasets.base import Dataset
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.progress import Progress
from lavise.tasks.activations import extract
from lavise.tasks.engine.stage import Request, StageRunner

log = logging.getLogger("lavise")


def extract_layers(
    runner: StageRunner,
    title: str,
    model: TargetModel,
    layers: Sequence[str],
    data: Dataset,
    pictures: str,
    settings: ExtractSettings,
    device: str,
    progress: Progress,
    *,
    role: Role,
    subject: str = "",
) -> tuple[Handle, ...]:
    """Activation stores of several layers on one data set, in the order of the layers.

    Args:
        pictures: digest of the pictures.
        role, subject: see StageOutcome.
    """
    requests = [
        Request(
            extract.describe_extraction(model, layer, settings, device),
            {"checkpoint": model.digest, "pictures": pictures},
        )
        for layer in layers
    ]

    def compute(folders: Mapping[int, Path]) -> dict[int, Mapping[str, Any]]:
        by_name = {layers[i]: folder for i, folder in folders.items()}
        infos = extract.extract_activations(model, data, by_name, settings, device, progress)
        return {i: infos[layers[i]] for i in folders}

    handles = runner.run(extract.STAGE, title, requests, compute, role=role, subject=subject)
    broken = json.loads(handles[0].path(INDEX_FILE).read_text("utf-8"))["broken"]
    extract.check_broken(broken, len(data.records), settings.max_broken_share, data.name)
    for key, reason in broken.items():
        log.warning("  skipped picture %r: %s", key, reason)
    return handles
