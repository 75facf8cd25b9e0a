"""The audits whose run folders are in a state folder: a line for each, and finding one by the start of its id."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lavise.configs.errors import UserError
from lavise.flows.past_audits.gate import GATE_FILE
from lavise.storage.state import file_names
from lavise.storage.state.environment import find_state_root

LATEST = "latest"
_RUNS = "runs"
_PREFIX = re.compile(r"[0-9a-f]{4,31}")
_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ListedRun:
    """An audit's run folder, in short.

    Attributes:
        written: when the audit ended, UTC.
        layers: their names; num_filters, num_explained: over all of them.
        gate: `passed`, `failed`, or empty where no policy was applied.
        damage: why the folder cannot be read; then the fields about its contents are empty.
    """

    run_id: str
    folder: Path
    written: datetime
    name: str = ""
    arch: str = ""
    checkpoint: str = ""
    layers: tuple[str, ...] = ()
    num_filters: int = 0
    num_explained: int = 0
    gate: str = ""
    damage: str = ""

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "folder": str(self.folder), "written": self.written.isoformat(timespec="seconds")}


def list_runs(root: Path) -> list[ListedRun]:
    """All audits of a state folder, the newest first."""
    folders = [f for f in (root / _RUNS).glob("*") if f.is_dir() and _RUN_ID.fullmatch(f.name)]
    return sorted((_read_run(folder) for folder in folders), key=lambda run: (run.written, run.run_id), reverse=True)


def resolve_run(run: str, root: Path | None = None) -> str:
    """The whole id of an audit, where `run` is `latest` or the start of an id; anything else as it is.

    Args:
        root: the state folder; None takes that of the environment.

    Raises:
        UserError: no audit has such an id, or several have; or there is none at all.
    """
    if run != LATEST and not _PREFIX.fullmatch(run):
        return run
    if Path(run).is_dir():  # a run folder with such a name, in the current folder
        return run
    listed = list_runs(root or find_state_root(None))
    runs = [own for own in listed if not own.damage]
    where = (root or find_state_root(None)) / _RUNS
    if run == LATEST:
        if not runs:
            raise UserError(f"run: found 'latest', but there is no audit in {where}; make one with `lavise run CONFIG`")
        return runs[0].run_id
    found = [own.run_id for own in listed if own.run_id.startswith(run)]
    if len(found) != 1:
        problem = f"{len(found)} audits in {where} begin with {run!r}" if found else f"none in {where} begins so"
        raise UserError(f"run: found {run!r}; {problem}; allowed: an id, or enough of its start (see `lavise runs`)")
    return found[0]


def _read_run(folder: Path) -> ListedRun:
    written = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    try:
        config = yaml.safe_load((folder / file_names.CONFIG).read_text("utf-8"))
        inputs = json.loads((folder / file_names.INPUTS).read_text("utf-8"))
        measured = json.loads((folder / file_names.METRICS).read_text("utf-8"))["layers"]
        gate = folder / GATE_FILE
        return ListedRun(
            run_id=folder.name,
            folder=folder,
            written=_read_time(folder),
            name=str(config["name"]),
            arch=str(inputs["arch"]),
            checkpoint=inputs.get("checkpoint_name") or _shorten(str(config["model"]["weights"])),
            layers=tuple(measured),
            num_filters=_sum(list(measured.values()), "num_filters"),
            num_explained=_sum(list(measured.values()), "num_explained"),
            gate=str(json.loads(gate.read_text("utf-8"))["outcome"]) if gate.is_file() else "",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as err:
        reason = " ".join(f"{type(err).__name__}: {err}".split())
        return ListedRun(run_id=folder.name, folder=folder, written=written, damage=reason)


def _read_time(folder: Path) -> datetime:
    """As it was written down; of audits before that was, the time of a file, which is another one after copying."""
    said = json.loads((folder / file_names.ENVIRONMENT).read_text("utf-8")).get(file_names.WRITTEN)
    if said is None:
        return datetime.fromtimestamp((folder / file_names.METRICS).stat().st_mtime, UTC)
    return datetime.fromisoformat(said).astimezone(UTC)


def _shorten(weights: str) -> str:
    """A file's name without its folder."""
    return weights if weights.startswith("package:") else Path(weights).name


def _sum(layers: Sequence[dict[str, Any]], key: str) -> int:
    return sum(int(layer[key]) for layer in layers)
