"""Runs in MLflow: one parent run per audit, one child run per stage. The tracker is passed in; tests may run without.

Everything goes through MlflowClient with explicit run ids: no process-wide active run, so that stages may run in
whatever thread or process the orchestrator likes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lavise.configs.errors import UserError
from lavise.configs.schema import TrackingSettings
from lavise.storage.moved_store import follow_move
from lavise.storage.state.digest import digest_of
from lavise.storage.state.equal_files import link_equal_files
from lavise.storage.state.file_system import require_file_system
from lavise.storage.state.files import make_private_folder
from lavise.storage.state.processes import describe_start, is_alive
from lavise.storage.state.text import one_line
from lavise.storage.tracking_addresses import hide_credentials, is_server, pass_credentials, require_answer
from lavise.storage.tracking_client import LastingClient

NOT_FINITE_TAG = "lavise.not_finite"
_MAX_PARAM_CHARS = 500
_MAX_TAG_CHARS = 4000
# MLflow cuts a longer tag, and what is cut is no JSON.
_MAX_LISTED_CHARS = 7500
_MAX_BATCH = 900
_MAX_PARAMS = 90
# What MLflow takes in no name of a metric; reasons for leaving something out become one.
_NO_METRIC = re.compile(r"[^/\w.\- :]")


@dataclass(frozen=True)
class DatasetFacts:
    """A data set as a run's input; `notes` say what is worth knowing of how it was read."""

    name: str
    digest: str
    source: str
    role: str
    num_images: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A run that was tracked before, as the tracking store knows it; times are seconds since 1970."""

    run_id: str
    name: str
    status: str
    started: float
    tags: Mapping[str, str]


class Run(Protocol):
    """One run: of an audit, or of a stage below it."""

    run_id: str

    def log_params(self, params: Mapping[str, Any]) -> None: ...
    def log_metrics(self, metrics: Mapping[str, float]) -> None: ...
    def log_history(self, history: Iterable[tuple[str, float, int]]) -> None: ...
    def set_tags(self, tags: Mapping[str, str]) -> None: ...
    def log_folder(self, folder: Path, where: str | None = None) -> None: ...
    def log_file(self, path: Path) -> None: ...
    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None: ...
    def log_dataset(self, facts: DatasetFacts) -> None: ...
    def log_model(self, folder: Path, name: str, tags: Mapping[str, str], register_as: str | None) -> str | None: ...
    def watch_system(self) -> AbstractContextManager[None]: ...
    def end(self, status: str = "FINISHED") -> None: ...


class Tracker(Protocol):
    """Where runs are kept. `uri` is None where nothing is."""

    uri: str | None

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> Run: ...
    def resume(self, run_id: str) -> Run: ...
    def find(self, tags: Mapping[str, str]) -> list[RunRecord]: ...
    def get(self, run_id: str) -> RunRecord | None: ...
    def discard(self, run_id: str) -> None: ...
    def read_note(self, name: str) -> str | None: ...
    def write_note(self, name: str, text: str | None) -> None: ...
    def download(self, run_id: str, destination: Path) -> None: ...
    def place(self, run_id: str) -> str | None: ...
    def link(self, run_id: str) -> str | None: ...


class NullRun:
    """A run that is not kept anywhere."""

    def __init__(self) -> None:
        self.run_id = uuid.uuid4().hex

    def log_params(self, params: Mapping[str, Any]) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        pass

    def log_history(self, history: Iterable[tuple[str, float, int]]) -> None:
        pass

    def set_tags(self, tags: Mapping[str, str]) -> None:
        pass

    def log_folder(self, folder: Path, where: str | None = None) -> None:
        pass

    def log_file(self, path: Path) -> None:
        pass

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        pass

    def log_dataset(self, facts: DatasetFacts) -> None:
        pass

    def log_model(self, folder: Path, name: str, tags: Mapping[str, str], register_as: str | None) -> str | None:
        return None

    def watch_system(self) -> AbstractContextManager[None]:
        return nullcontext()

    def end(self, status: str = "FINISHED") -> None:
        pass


class NullTracker:
    """Keeps nothing."""

    uri: str | None = None

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> NullRun:
        return NullRun()

    def resume(self, run_id: str) -> NullRun:
        return NullRun()

    def find(self, tags: Mapping[str, str]) -> list[RunRecord]:
        return []

    def get(self, run_id: str) -> RunRecord | None:
        return None

    def discard(self, run_id: str) -> None:
        pass

    def read_note(self, name: str) -> str | None:
        return None

    def write_note(self, name: str, text: str | None) -> None:
        pass

    def download(self, run_id: str, destination: Path) -> None:
        raise FileNotFoundError(f"nothing is tracked, so there are no files of run {run_id}")

    def place(self, run_id: str) -> str | None:
        return None

    def link(self, run_id: str) -> str | None:
        return None


class MlflowRun:
    """One MLflow run, written through a client."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self.run_id = client, run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters; values longer than MLflow shows are cut there and whole in config.yaml."""
        from mlflow.entities import Param

        entries = [Param(k, str(v)[:_MAX_PARAM_CHARS]) for k, v in params.items()]
        for start in range(0, len(entries), _MAX_PARAMS):
            self._client.log_batch(self.run_id, params=entries[start : start + _MAX_PARAMS])

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        self.log_history((k, v, 0) for k, v in metrics.items())

    def log_history(self, history: Iterable[tuple[str, float, int]]) -> None:
        """(name, value, step) triples, in few requests.

        What is not finite is named in a tag instead: MLflow's stores would turn infinity into the largest number there
        is, and no filter finds NaN.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [(_NO_METRIC.sub("_", k), float(v), step) for k, v, step in history]
        entries = [Metric(k, v, now, step) for k, v, step in rows if math.isfinite(v)]
        if lost := sorted({f"{k} ({v})" for k, v, _ in rows if not math.isfinite(v)}):
            self.set_tags({NOT_FINITE_TAG: ", ".join(lost)[:_MAX_TAG_CHARS]})
        for start in range(0, len(entries), _MAX_BATCH):
            self._client.log_batch(self.run_id, metrics=entries[start : start + _MAX_BATCH])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def log_folder(self, folder: Path, where: str | None = None) -> None:
        self._client.log_artifacts(self.run_id, str(folder), where)

    def log_file(self, path: Path) -> None:
        self._client.log_artifact(self.run_id, str(path))

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """A table that the MLflow UI shows as one; lists become text. Replaces an earlier one of the same name."""
        # The client's own log_table would append to an earlier one.
        columns = list(rows[0]) if rows else ["nothing to show"]
        content = {"columns": columns, "data": [[_show_cell(v) for v in row.values()] for row in rows]}
        self._client.log_text(self.run_id, json.dumps(content, allow_nan=False), name)
        tag = "mlflow.loggedArtifacts"
        known = self._client.get_run(self.run_id).data.tags.get(tag, "[]")
        entry = {"path": name, "type": "table"}
        if json.dumps(entry) in known:
            return
        with suppress(ValueError):  # cut by others; then the table is a file like any other
            listed = json.dumps([*json.loads(known), entry])
            if len(listed) <= _MAX_LISTED_CHARS:
                self._client.set_tag(self.run_id, tag, listed)

    def log_dataset(self, facts: DatasetFacts) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = json.dumps({"num_images": facts.num_images, **({"notes": facts.notes} if facts.notes else {})})
        entity = Dataset(facts.name[:500], facts.digest[:36], "local", facts.source[:60_000], profile=profile)
        entry = DatasetInput(entity, [InputTag("mlflow.data.context", facts.role)])
        self._client.log_inputs(self.run_id, [entry])

    def log_model(self, folder: Path, name: str, tags: Mapping[str, str], register_as: str | None) -> str | None:
        """A model folder as a model of this run; `runs:/RUN_ID/NAME` loads it.

        Args:
            name: what MLflow allows in no name of a model becomes `_` in it.

        Returns:
            the number of its version, where it is registered.
        """
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        client = self._client
        experiment = client.get_run(self.run_id).info.experiment_id
        allowed = re.sub(r"""[/:.%"']""", "_", name)
        model = client.create_logged_model(experiment, allowed, self.run_id, tags=dict(tags), model_type="explainer")
        client.log_model_artifacts(model.model_id, str(folder))
        _keep_once(model.artifact_location)
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        if register_as is None:
            return None
        try:
            client.create_registered_model(register_as)
        except MlflowException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source, own = model.artifact_location, dict(tags)
        return str(client.create_model_version(register_as, source, self.run_id, own, model_id=model.model_id).version)

    @contextmanager
    def watch_system(self) -> Iterator[None]:
        """Processor, memory, disk and GPU as metrics of the run, while the block runs."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        monitor = SystemMetricsMonitor(self.run_id, tracking_uri=self._client.tracking_uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def end(self, status: str = "FINISHED") -> None:
        self._client.set_terminated(self.run_id, status)


class MlflowTracker:
    """An MLflow tracking store: SQLite and a local artifact folder, or any tracking URI."""

    def __init__(self, uri: str, experiment: str, artifact_root: Path | None) -> None:
        os.environ.setdefault("DO_NOT_TRACK", "true")
        # A line on standard output for each run that ends would stand between ours, and after --json.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        # It shows the stack of every error that it raises as well, of which we say a line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        require_answer(uri)
        self.uri: str | None = pass_credentials(uri)
        try:
            self._client: Any = MlflowClient(tracking_uri=self.uri)
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                location = (artifact_root / digest_of(experiment)[:12]).as_uri() if artifact_root else None
                self._experiment_id = self._create(experiment, location)
                # Opens the UI on runs and their metrics instead of on traces of language models.
                self._client.set_experiment_tag(
                    self._experiment_id, "mlflow.experimentKind", "custom_model_development"
                )
            elif found.lifecycle_stage != "active":
                where = hide_credentials(uri)
                raise UserError(
                    f"tracking.experiment: {experiment!r} was deleted in {where}; restore it or name another"
                )
            else:
                self._experiment_id = found.experiment_id
        except (MlflowException, SQLAlchemyError) as err:
            raise UserError(
                f"tracking.uri: {hide_credentials(uri)} does not work ({hide_credentials(_name_cause(err))[:200]}); "
                "start that server, or leave tracking.uri and MLFLOW_TRACKING_URI empty for a local SQLite file"
            ) from None
        self._client = LastingClient(self._client, str(self.uri))
        self._mark_killed()

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> MlflowRun:
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        own = {"lavise.host": socket.gethostname(), "lavise.pid": str(os.getpid())}
        own["lavise.pid_started"] = describe_start()
        family = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        run = self._client.create_run(self._experiment_id, tags={**tags, **own, **family}, run_name=name)
        return MlflowRun(self._client, run.info.run_id)

    def resume(self, run_id: str) -> MlflowRun:
        """To add to a run that has ended."""
        return MlflowRun(self._client, run_id)

    def find(self, tags: Mapping[str, str]) -> list[RunRecord]:
        """Runs of the experiment that bear all of these tags, the oldest first; deleted ones are not among them."""
        query = " and ".join(f"tags.`{key}` = '{_quote(value)}'" for key, value in tags.items())
        found, token = [], None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], query, max_results=500, order_by=["attributes.start_time"], page_token=token
            )
            found += [_make_record(run) for run in page]
            token = page.token
            if not token:
                return sorted(found, key=lambda r: (r.started, r.run_id))

    def get(self, run_id: str) -> RunRecord | None:
        """A run of any experiment; None where there is none, or it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as err:
            if err.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return _make_record(run) if run.info.lifecycle_stage == "active" else None

    def discard(self, run_id: str) -> None:
        """Delete a run of this experiment with those below it, which MLflow itself would leave."""
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        for run in (*(r.run_id for r in self.find({MLFLOW_PARENT_RUN_ID: run_id})), run_id):
            self._client.delete_run(run)

    def read_note(self, name: str) -> str | None:
        """A short text that all who track in this experiment share."""
        text: str | None = self._client.get_experiment(self._experiment_id).tags.get(name)
        return text

    def write_note(self, name: str, text: str | None) -> None:
        """None removes it; the last one who writes is right."""
        if text is not None:
            self._client.set_experiment_tag(self._experiment_id, name, text)
        elif self.read_note(name) is not None:
            self._client.delete_experiment_tag(self._experiment_id, name)

    def download(self, run_id: str, destination: Path) -> None:
        """The files at the top of a run's artifacts; folders in it (models, tables) are left out."""
        for entry in self._client.list_artifacts(run_id):
            if not entry.is_dir:
                self._client.download_artifacts(run_id, entry.path, str(destination))

    def place(self, run_id: str) -> str | None:
        """Where the run is among the pages of a server that shows the store."""
        return f"experiments/{self._client.get_run(run_id).info.experiment_id}/runs/{run_id}"

    def link(self, run_id: str) -> str | None:
        """The run's page; None for a store without a server."""
        return f"{str(self.uri).rstrip('/')}/#/{self.place(run_id)}" if is_server(str(self.uri)) else None

    def _create(self, experiment: str, location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        try:
            created: str = self._client.create_experiment(experiment, artifact_location=location)
        except MlflowException:
            # Another run may have made it in the same moment.
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                raise
            created = found.experiment_id
        return created

    def _mark_killed(self) -> None:
        """Runs of this machine that still say RUNNING though their process is gone (kill -9, power cut)."""
        here = f"tags.`lavise.host` = '{socket.gethostname()}'"
        for run in self._client.search_runs([self._experiment_id], f"attributes.status = 'RUNNING' and {here}"):
            tags = run.data.tags
            if is_alive(tags.get("lavise.pid", ""), tags.get("lavise.pid_started", "")):
                continue
            # It may have ended well between the search and the look at its process.
            if self._client.get_run(run.info.run_id).info.status == "RUNNING":
                self._client.set_terminated(run.info.run_id, "KILLED")


def _name_cause(error: Exception) -> str:
    """What an HTTP client says last, where it first says at length what it was asked."""
    text = one_line(error)
    return text.rpartition("(Caused by ")[2]


def _keep_once(location: str) -> None:
    """What an earlier model of the experiment holds as well (a vocabulary, a network) is not kept twice; only where the
    store is a folder, whose models nobody changes."""
    if not location.startswith("file:"):
        return
    from mlflow.utils.file_utils import local_file_uri_to_path

    folder = Path(local_file_uri_to_path(location))
    others = sorted(p for p in folder.parent.parent.glob("m-*") if p != folder.parent)
    link_equal_files(folder, [p / folder.name for p in others])


def _make_record(run: Any) -> RunRecord:
    info = run.info
    return RunRecord(info.run_id, info.run_name, info.status, info.start_time / 1000, dict(run.data.tags))


def _quote(text: str) -> str:
    if "'" in text or "\\" in text:
        raise ValueError(f"a tag that is searched for must not hold quotes, found {text!r}")
    return text


def _show_cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return value


_LOCAL_FOLDER = "mlflow"


def open_tracker(settings: TrackingSettings, state_root: Path) -> Tracker:
    """The tracker that the settings ask for.

    Raises:
        UserError: the tracking server does not answer or refuses; or the state folder's file system lacks something, or
            that folder was moved and is in use.
    """
    if not settings.enabled:
        return NullTracker()
    uri = find_tracking_uri(settings, state_root)
    if uri != local_tracking_uri(state_root):
        return MlflowTracker(uri, settings.experiment, None)
    if "?" in str(state_root):
        raise UserError(
            f"storage.root: found {str(state_root)!r}; MLflow takes what follows a `?` in the address of its SQLite "
            "store for options; allowed: a folder without `?` in its path"
        )
    folder = make_private_folder(state_root / _LOCAL_FOLDER)
    require_file_system(folder, modes=True)
    follow_move(state_root)
    return MlflowTracker(uri, settings.experiment, folder / "artifacts")


def find_tracking_uri(settings: TrackingSettings, state_root: Path) -> str:
    """Where runs are tracked: as set, else MLFLOW_TRACKING_URI, else in the state folder."""
    return settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or local_tracking_uri(state_root)


def local_tracking_uri(state_root: Path) -> str:
    """The SQLite store in a state folder."""
    return f"sqlite:///{state_root / _LOCAL_FOLDER / 'mlflow.db'}"
