"""Activation stores of several layers, made or found: used by audits and by comparisons of audits."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.storage.activations import INDEX_FILE
from lavise.storage.images.images import LITTLE_SHARE
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.progress import Progress
from lavise.tasks.activations import extract
from lavise.tasks.activations.worker_extraction import extract_on_workers
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import Info, StageRunner

log = logging.getLogger("lavise")


@contextmanager
def open_workers(config: Config, cluster: StatisticsCluster, progress: Progress) -> Iterator[StatisticsCluster | None]:
    """Who extracts (`extract.scheduler`); None where that is this process.

    Args:
        cluster: that statistics run on.
    """
    chosen, shared = config.extract.scheduler, config.statistics.scheduler
    if chosen == "here" or (chosen is None and not shared):
        yield None
    elif chosen in (None, "local", shared):
        yield cluster
    else:
        settings = config.statistics.model_copy(update={"scheduler": chosen})
        with StatisticsCluster(settings, progress, "extract.scheduler") as own:
            yield own


def extract_layers(
    runner: StageRunner,
    title: str,
    inputs: extract.ExtractionInputs,
    *,
    role: Role,
    subject: str = "",
    workers: StatisticsCluster | None = None,
) -> tuple[Handle, ...]:
    """Activation stores of several layers on one data set, in the order of the layers.

    Args:
        role, subject: see StageOutcome.
        workers: who extracts; None: this process.
    """
    make_blocks = extract.extract_here if workers is None else partial(extract_on_workers, workers)
    layers, data, settings = inputs.layers, inputs.pictures.value, inputs.settings

    def compute(folders: Mapping[int, Path]) -> dict[int, Info]:
        infos = extract.extract_activations(inputs, {layers[i]: folder for i, folder in folders.items()}, make_blocks)
        return {i: infos[layers[i]] for i in folders}

    handles = runner.run(extract.STAGE, title, inputs.list_requests(), compute, role=role, subject=subject)
    index = json.loads(handles[0].path(INDEX_FILE).read_text("utf-8"))
    broken, flat = index["broken"], index.get("flat", [])
    extract.check_broken(broken, len(data.records), settings.max_broken_share, data.name)
    for key, reason in broken.items():
        log.warning("  skipped picture %r: %s", key, reason)
    if flat:
        log.warning(
            "  %d of %d pictures of %s use under %g %% of the range from black to white (as %r); where they are "
            "grey with more than 8 bits, set %s to the values that are black and white, as [0, 4095]",
            len(flat),
            len(data.records),
            data.name,
            100 * LITTLE_SHARE,
            flat[0],
            f"{'target' if role == Role.TARGET else 'reference'}.value_range",
        )
    return handles
