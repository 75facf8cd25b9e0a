"""Audits that have ended: read from MLflow, or from a run folder on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.paths import expand_home
from lavise.configs.schema import Config, TrackingSettings
from lavise.flows.past_audits.run_tables import check_tables
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.files import make_private_folder
from lavise.storage.tracking import Tracker, open_tracker
from lavise.storage.tracking_addresses import hide_credentials
from lavise.tasks.engine.stage import Stage

_RUN_ID = re.compile(r"[0-9a-f]{32}")
# What MLflow's client makes itself known with, to whichever server it asks.
_CREDENTIALS = tuple(
    f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN", "AUTH", "AWS_SIGV4", "CLIENT_CERT_PATH")
)
_KEYS = {
    file_names.ARTEFACTS: ("stages",),
    file_names.INPUTS: ("arch", "checkpoint", "checkpoint_name", "layers", "data", "pictures", "vectors"),
    file_names.ENVIRONMENT: ("device", "packages", "git"),
}
_NEEDED = (file_names.CONFIG, *_KEYS, file_names.METRICS, file_names.FILTERS)


@dataclass(frozen=True)
class PastRun:
    """An audit that has ended, with the files that it left.

    Attributes:
        folder: with the files of a run folder.
        config: as it was resolved then.
        artefacts: title of a stage -> what it made, a {stage, digest, files: {name: sha256}} for each layer.
        inputs: digests of what was read: checkpoint, data and pictures by role, word vectors.
        layers: names, in the order of the audit.
    """

    run_id: str
    folder: Path
    config: Config
    artefacts: Mapping[str, Sequence[Mapping[str, Any]]]
    inputs: Mapping[str, Any]
    environment: Mapping[str, Any]
    layers: tuple[str, ...]

    @property
    def title(self) -> str:
        """For people: the audit's name and its checkpoint's, where that has one."""
        checkpoint = self.inputs.get("checkpoint_name")
        return f"{self.config.name}, {checkpoint}" if checkpoint else self.config.name

    def read_filters(self, layer: str) -> list[dict[str, Any]]:
        """Rows of filters.parquet that belong to a layer, by filter."""
        rows = parquet.read_table(self.folder / file_names.FILTERS).to_pylist()
        return sorted((r for r in rows if r["layer"] == layer), key=lambda r: r["filter"])

    def read_metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / file_names.METRICS).read_text("utf-8"))
        return found

    def find_root(self) -> Path:
        """The state folder that the run folder lies in; else that of its settings where it is here, else this one's."""
        if self.folder.parent.name == "runs":
            return self.folder.parents[1]
        own = self.config.storage.root
        return find_state_root(own if own is not None and own.is_dir() else None)

    def open_store(self) -> ArtefactStore | None:
        """What the audit has computed, where some of it is still here; nothing is made where it is not."""
        root = self.find_root()
        return ArtefactStore(root) if (root / "artefacts").is_dir() else None

    def find_artefact(self, store: ArtefactStore, stage: Stage, role: str = "", position: int = 0) -> Handle | None:
        """What a stage of the audit itself made then, if the store still has it.

        Args:
            position: of the layer, where the stage made one artefact for each; else 0.
        """
        for title, entries in self.artefacts.items():
            if position < len(entries) and _is_of(title, entries[position], stage, role):
                return store.find(stage.name, entries[position]["digest"])
        return None


def open_stores(run: str) -> tuple[Tracker, Path]:
    """Where an audit is tracked and kept: as its own settings say where these are at hand, else as it is here.

    Args:
        run: id of its MLflow run, or its run folder.

    Returns:
        its tracker and its state folder.

    Raises:
        UserError: its settings lead to a server that is not to get the credentials of this environment.
    """
    here = find_state_root(None)
    folder = here / "runs" / run if _RUN_ID.fullmatch(run) else expand_home(run).resolve()
    if not (folder / file_names.CONFIG).is_file():
        return open_tracker(TrackingSettings(), here), here
    config = load_config(folder / file_names.CONFIG)
    if folder.parent != here / "runs":
        _keep_credentials(config.tracking, folder)
    # A run folder that was brought from another machine names a state folder that is not here.
    own = config.storage.root if config.storage.root is not None and config.storage.root.is_dir() else None
    root = find_state_root(own or (folder.parents[1] if folder.parent.name == "runs" else None))
    return open_tracker(config.tracking, root), root


def _keep_credentials(settings: TrackingSettings, folder: Path) -> None:
    """A run folder from elsewhere may name any server; what MLflow's client sends to each is for the user's own.

    Raises:
        UserError: there are credentials here, and nothing of the user's names that server.
    """
    address = hide_credentials(settings.uri or "")
    own = hide_credentials(os.environ.get("MLFLOW_TRACKING_URI") or "")
    if not settings.enabled or not address.startswith(("http://", "https://")) or address == own:
        return
    from mlflow.utils.credentials import read_mlflow_creds

    given = [name for name in _CREDENTIALS if os.environ.get(name)]
    if not given and read_mlflow_creds().username:
        given = ["~/.mlflow/credentials"]
    if given:
        raise UserError(
            f"run: config.yaml in {str(folder)!r} has the tracking server {address!r}, and {', '.join(given)} would be "
            "sent there; set MLFLOW_TRACKING_URI to that address if it is to have them, else unset them"
        )


def _is_of(title: str, entry: Mapping[str, Any], stage: Stage, role: str) -> bool:
    """Earlier audits wrote titles only: `extract target` was the extraction of the audit itself."""
    if "role" not in entry:
        return title == f"{stage.name} {role}".rstrip()
    return (entry["stage"], entry["role"], entry["subject"]) == (stage.name, role, "")


def open_past_run(run: str, tracker: Tracker, root: Path) -> PastRun:
    """Find an audit by the id of its MLflow run, or by the path of its run folder.

    The run folder on this machine is used where there is one, else the files are fetched from MLflow into
    ROOT/fetched/RUN_ID.

    Raises:
        UserError: no such run, or one that has not ended well.
    """
    if not _RUN_ID.fullmatch(run):
        folder = expand_home(run)
        if (folder / file_names.CONFIG).is_file():
            return _read_folder(folder.resolve().name, folder.resolve())
        raise UserError(
            f"run: found {run!r}; allowed: the id of an MLflow run (32 hexadecimal digits) or the path of a run folder"
        )
    local = root / "runs" / run
    record = tracker.get(run)
    if record is not None and "lavise.stage" in record.tags:
        raise UserError(f"run: {run} is a stage of an audit; give the id of the audit's own run, its parent")
    if record is not None and record.status != "FINISHED":
        raise UserError(f"run: {run} is {record.status}; allowed: an audit that has FINISHED")
    if local.is_dir():
        return _read_folder(run, local)
    if record is None:
        raise UserError(
            f"run: {run} is neither in {hide_credentials(str(tracker.uri))} nor in {local.parent}; see the MLflow UI "
            "for the ids of runs, and set MLFLOW_TRACKING_URI and LAVISE_HOME where the audit had others"
        )
    return _read_folder(run, _fetch(record.run_id, tracker, root))


def _fetch(run_id: str, tracker: Tracker, root: Path) -> Path:
    final = root / "fetched" / run_id
    if final.is_dir():
        return final
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=make_private_folder(final.parent)) as scratch:
        partial = Path(scratch) / run_id
        partial.mkdir(mode=0o700)
        tracker.download(run_id, partial)
        _require_files(run_id, partial)  # or an artifact store that is away would leave an empty folder for ever
        with contextlib.suppress(OSError):  # another process was faster
            partial.rename(final)
    return final


def _read_folder(run_id: str, folder: Path) -> PastRun:
    _require_files(run_id, folder)
    check_tables(run_id, folder)
    contents = {name: _read_object(run_id, folder / name, keys) for name, keys in _KEYS.items()}
    config = load_config(folder / file_names.CONFIG)
    return PastRun(
        run_id=run_id,
        folder=folder,
        config=_follow_snapshot(config, folder, contents[file_names.ARTEFACTS].get("checkpoint_file")),
        artefacts=contents[file_names.ARTEFACTS]["stages"],
        inputs=contents[file_names.INPUTS],
        environment=contents[file_names.ENVIRONMENT],
        layers=tuple(contents[file_names.INPUTS]["layers"]),
    )


def _follow_snapshot(config: Config, folder: Path, name: object) -> Config:
    """With the copy of the checkpoint where it is now: the state folder may have been moved since."""
    if not isinstance(name, str) or Path(name).name != name or folder.parent.name != "runs":
        return config
    here = folder.parents[1] / file_names.SNAPSHOTS_FOLDER / name
    if Path(config.model.weights).exists() or not here.is_file():
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": str(here)})})


def _require_files(run_id: str, folder: Path) -> None:
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise UserError(f"run: {run_id} has no {', '.join(missing)}; allowed: a whole audit of this version of lavise")


def _read_object(run_id: str, path: Path, keys: Sequence[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as err:
        reason = " ".join(str(err).split())
        raise UserError(f"run: {path.name} of {run_id} is damaged ({reason}); audit again") from None
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"run: {path.name} of {run_id} has no {', '.join(missing)}; audit again with this version")
    found: dict[str, Any] = content
    return found
