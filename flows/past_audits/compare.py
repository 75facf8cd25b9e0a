"""Comparing two audits: what changed since the last one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from lavise.configs.errors import UserError
from lavise.configs.loading import with_overrides
from lavise.configs.roles import Role
from lavise.configs.schema import Config, DiffSettings
from lavise.flows.past_audits.past_runs import PastRun, open_past_run
from lavise.flows.shared.extraction import extract_layers
from lavise.flows.shared.inputs import open_target
from lavise.storage.datasets.base import Dataset
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.state.digest import digest_of, short
from lavise.storage.state.environment import choose_device
from lavise.storage.state.files import make_private_folder, write_atomically, write_json
from lavise.storage.state.housekeeping import hold_state
from lavise.storage.state.progress import Progress
from lavise.storage.tracking import Tracker
from lavise.tasks.activations import extract
from lavise.tasks.charts.figures import draw_diff
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import Executor, StageRunner, describe_artefacts
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.history import filter_matching
from lavise.tasks.history.filter_matching import AuditedLayer, DiffSummary
from lavise.tasks.report.page import DiffPart, render_diff_page
from lavise.tasks.report.summary import Compared

CHART_FILE, PAGE_FILE = "diff.png", "diff.html"


@dataclass(frozen=True)
class TargetImages:
    """The pictures on which two audits are compared; they are only opened where activations are missing."""

    digest: str
    open: Callable[[], Dataset]


@dataclass(frozen=True)
class Comparison:
    """What came of it, by layer of the newer audit."""

    old: PastRun
    handles: Mapping[str, Handle]

    @property
    def digest(self) -> str:
        """Of what the report's page shows of it, the earlier audit's name included."""
        layers = {layer: handle.digest for layer, handle in self.handles.items()}
        return digest_of({"run": self.old.run_id, "title": self.old.title, "layers": layers})

    def read_table(self) -> pa.Table:
        """Rows of all layers."""
        return pa.concat_tables([filter_matching.load_diff(h.folder)[0] for h in self.handles.values()])

    def read_summary(self) -> dict[str, DiffSummary]:
        """By layer."""
        return {layer: filter_matching.load_diff(h.folder)[1] for layer, h in self.handles.items()}

    @property
    def compared(self) -> Compared:
        """For the description of the newer run."""
        return Compared(self.old.run_id, self.old.title, self.read_summary())

    def to_report_part(self, settings: DiffSettings) -> DiffPart:
        checkpoint = short(str(self.old.inputs["checkpoint"]))
        rows, summary = self.read_table().to_pylist(), self.read_summary()
        return DiffPart(self.old.run_id, self.old.title, checkpoint, rows, summary, settings)

    def write(self, folder: Path) -> None:
        """diff.parquet, diff.json and diff.png."""
        table, summary = self.read_table(), self.read_summary()
        parquet.write_table(table, folder / filter_matching.TABLE_FILE)
        write_json(folder / filter_matching.SUMMARY_FILE, {"old_run": self.old.run_id, "layers": summary})
        (folder / CHART_FILE).write_bytes(draw_diff(table.to_pylist(), summary))

    def measure(self) -> dict[str, float]:
        """Metrics, by LAYER/diff/NAME."""
        return {
            f"{layer}/diff/{name}": float(value)
            for layer, found in self.read_summary().items()
            for name, value in found.items()
            if isinstance(value, int | float)
        }


def compare_audits(
    old: PastRun,
    new: Sequence[AuditedLayer],
    pictures: TargetImages,
    config: Config,
    runner: StageRunner,
    cluster: StatisticsCluster,
    device: str,
    progress: Progress,
) -> Comparison:
    """Compare an earlier audit with a newer one, layer by layer.

    Args:
        pictures: of the newer audit's target domain; the older network is run on them where it has not been.

    Raises:
        UserError: no layer in common, or what the comparison needs of the older audit is gone.
    """
    pairs = pair_layers(old.layers, [layer.name for layer in new])
    before = locate_layers(old, [o for o, _ in pairs], pictures, runner, device, progress)
    by_name = {layer.name: layer for layer in new}
    handles = {}
    for first, (_, name) in zip(before, pairs, strict=True):
        second = by_name[name]
        inputs = filter_matching.DiffInputs(first, second, config.diff, config.seed, cluster)
        handles[name] = runner.run_one(filter_matching.STAGE, f"diff {name}", inputs, filter_matching.compare_layer)
    return Comparison(old, handles)


def pair_layers(old: Sequence[str], new: Sequence[str]) -> list[tuple[str, str]]:
    """Layers with the same name; or the only layer of each.

    Raises:
        UserError: there are none.
    """
    shared = [(name, name) for name in new if name in old]
    if not shared and len(old) == len(new) == 1:
        return [(old[0], new[0])]
    if not shared:
        raise UserError(
            f"diff: the audits have no layer in common ({', '.join(old)} and {', '.join(new)}); "
            "audit the same layers (model.layers)"
        )
    return shared


def locate_layers(
    past: PastRun,
    names: Sequence[str],
    pictures: TargetImages,
    runner: StageRunner,
    device: str,
    progress: Progress,
) -> list[AuditedLayer]:
    """Layers of an audit that has ended, with their activations on the given pictures.

    Raises:
        UserError: the activations are not stored and the checkpoint is not what it was.
    """
    found = [past.find_artefact(runner.store, extract.STAGE, Role.TARGET, past.layers.index(name)) for name in names]
    handles = [h for h in found if h is not None and h.inputs["pictures"] == pictures.digest]
    if len(handles) < len(names):
        model = load_target_model(past.config.model, past.config.seed)
        if model.digest != past.inputs["checkpoint"]:
            raise UserError(
                f"diff: the activations of run {past.run_id} on these pictures are not stored, and its checkpoint "
                f"{past.config.model.weights} is another one now (sha256 {short(model.digest)} instead of "
                f"{short(str(past.inputs['checkpoint']))}); put that file back, or audit it again"
            )
        title = f"extract target of {short(past.run_id)}"
        inputs = extract.ExtractionInputs(
            model=model,
            layers=tuple(names),
            pictures=Given(pictures.open(), pictures.digest),
            settings=past.config.extract,
            device=device,
            progress=progress,
        )
        handles = list(extract_layers(runner, title, inputs, role=Role.TARGET, subject=past.run_id))
    arch = str(past.inputs["arch"])
    return [AuditedLayer(n, arch, h, past.read_filters(n)) for n, h in zip(names, handles, strict=True)]


@dataclass(frozen=True)
class DiffResult:
    """What `lavise diff --json` prints."""

    old_run: str
    new_run: str
    folder: Path
    layers: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**vars(self), "folder": str(self.folder)}, allow_nan=False)


def diff_runs(
    old_run: str,
    new_run: str,
    overrides: Sequence[str],
    tracker: Tracker,
    root: Path,
    progress: Progress,
    execute: Executor,
) -> DiffResult:
    """Compare two audits that have ended; write ROOT/diffs/OLD..NEW and log it to the newer one's run.

    Args:
        overrides: settings of the comparison, `diff.key=value`; the others are those of the newer audit.

    Raises:
        UserError: no such runs, or nothing to compare.
    """
    with hold_state(root, exclusive=False):  # or gc could take what is fetched here
        old, new = open_past_run(old_run, tracker, root), open_past_run(new_run, tracker, root)
        config = with_overrides(new.config, overrides)
        device = choose_device(config.device)
        runner = StageRunner(ArtefactStore(root), progress=progress, execute=execute)

        def open_images() -> Dataset:
            target = open_target(config, runner, progress)
            if target.digest_images(progress) != new.inputs["pictures"][Role.TARGET]:
                raise UserError(
                    f"diff: the target pictures ({target.name}) are not those of run {new.run_id} any more; "
                    "put them back, or audit again"
                )
            return target

        pictures = TargetImages(new.inputs["pictures"][Role.TARGET], open_images)
        with StatisticsCluster(config.statistics, progress) as cluster:
            names = [name for _, name in pair_layers(old.layers, new.layers)]
            layers = locate_layers(new, names, pictures, runner, device, progress)
            found = compare_audits(old, layers, pictures, config, runner, cluster, device, progress)
            folder = _write_folder(found, new, config, runner, root)
        run = tracker.resume(new.run_id)
        if tracker.get(new.run_id) is not None:
            run.log_folder(folder, f"diffs/{old.run_id}")
            run.log_table(not_same(found.read_table().to_pylist()), f"diffs/{old.run_id}/changes.json")
        return DiffResult(old.run_id, new.run_id, folder, found.read_summary())


def not_same(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What people want to read of a comparison, the least alike first."""
    return sorted(
        (r for r in rows if r["status"] != "same"),
        key=lambda r: (r["layer"], -2.0 if r["similarity"] is None else r["similarity"]),
    )


def _write_folder(found: Comparison, new: PastRun, config: Config, runner: StageRunner, root: Path) -> Path:
    final = make_private_folder(root / "diffs") / f"{found.old.run_id}..{new.run_id}"
    folder = final.with_name(final.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    found.write(folder)
    heading = {
        "Audit": new.title,
        "Run": new.run_id,
        "Compared with": f"{found.old.title}, run {found.old.run_id}",
    }
    write_atomically(folder / PAGE_FILE, render_diff_page(heading, found.to_report_part(config.diff)))
    write_json(folder / file_names.ARTEFACTS, {**describe_artefacts(runner.outcomes), "checkpoint_file": None})
    shutil.rmtree(final, ignore_errors=True)
    os.replace(folder, final)
    return final
