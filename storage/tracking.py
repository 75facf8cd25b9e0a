"""Runs in MLflow: one parent run per audit, one child run per stage. The tracker is passed in; tests may run without.

Everything goes through MlflowClient with explicit run ids: no process-wide active run, so that stages may run in
whatever thread or process the orchestrator likes.
"""

from __future__ import annotations

import http.client
import logging
import os
import socket
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from configs.errors import UserError
from configs.schema import TrackingSettings
from storage.artefacts import make_private_folder
from storage.digest import digest_of

_MAX_PARAM_CHARS = 500
_ANSWER_SECONDS = 10.0
_CLOCK_SECONDS = 2.0
_MAX_BATCH = 900
_MAX_PARAMS = 90


@dataclass(frozen=True)
class DatasetFacts:
    """A data set as a run's input."""

    name: str
    digest: str
    source: str
    role: str
    num_images: int


class Run(Protocol):
    """One run: of an audit, or of a stage below it."""

    run_id: str

    def log_params(self, params: Mapping[str, Any]) -> None: ...
    def log_metrics(self, metrics: Mapping[str, float]) -> None: ...
    def log_history(self, history: Iterable[tuple[str, float, int]]) -> None: ...
    def set_tags(self, tags: Mapping[str, str]) -> None: ...
    def log_folder(self, folder: Path, where: str | None = None) -> None: ...
    def log_dataset(self, facts: DatasetFacts) -> None: ...
    def end(self, status: str = "FINISHED") -> None: ...


class Tracker(Protocol):
    """Where runs are kept. `uri` is None where nothing is."""

    uri: str | None

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> Run: ...


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

    def log_dataset(self, facts: DatasetFacts) -> None:
        pass

    def end(self, status: str = "FINISHED") -> None:
        pass


class NullTracker:
    """Keeps nothing."""

    uri: str | None = None

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> NullRun:
        return NullRun()


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
        """(name, value, step) triples, in few requests."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(k, float(v), now, step) for k, v, step in history]
        for start in range(0, len(entries), _MAX_BATCH):
            self._client.log_batch(self.run_id, metrics=entries[start : start + _MAX_BATCH])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def log_folder(self, folder: Path, where: str | None = None) -> None:
        self._client.log_artifacts(self.run_id, str(folder), where)

    def log_dataset(self, facts: DatasetFacts) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = f'{{"num_images": {facts.num_images}}}'
        entity = Dataset(facts.name[:500], facts.digest[:36], "local", facts.source[:60_000], profile=profile)
        entry = DatasetInput(entity, [InputTag("mlflow.data.context", facts.role)])
        self._client.log_inputs(self.run_id, [entry])

    def end(self, status: str = "FINISHED") -> None:
        self._client.set_terminated(self.run_id, status)


class MlflowTracker:
    """An MLflow tracking store: SQLite and a local artifact folder, or any tracking URI."""

    def __init__(self, uri: str, experiment: str, artifact_root: Path | None) -> None:
        os.environ.setdefault("DO_NOT_TRACK", "true")
        for chatty in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self.uri: str | None = uri
        _require_answer(uri)
        try:
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                location = (artifact_root / digest_of(experiment)[:12]).as_uri() if artifact_root else None
                self._experiment_id = self._create(experiment, location)
                # Opens the UI on runs and their metrics instead of on traces of language models.
                self._client.set_experiment_tag(
                    self._experiment_id, "mlflow.experimentKind", "custom_model_development"
                )
            elif found.lifecycle_stage != "active":
                raise UserError(f"tracking.experiment: {experiment!r} was deleted in {uri}; restore it or name another")
            else:
                self._experiment_id = found.experiment_id
        except MlflowException as err:
            raise UserError(
                f"tracking.uri: {uri} does not work ({' '.join(str(err).split())[:200]}); "
                "start that server, or leave tracking.uri and MLFLOW_TRACKING_URI empty for a local SQLite file"
            ) from None
        self._mark_killed()

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> MlflowRun:
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        own = {"lavise.host": socket.gethostname(), "lavise.pid": str(os.getpid())}
        own["lavise.pid_started"] = str(psutil.Process().create_time())
        family = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        run = self._client.create_run(self._experiment_id, tags={**tags, **own, **family}, run_name=name)
        return MlflowRun(self._client, run.info.run_id)

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
            if not _is_alive(tags.get("lavise.pid", ""), tags.get("lavise.pid_started", "")):
                self._client.set_terminated(run.info.run_id, "KILLED")


def _is_alive(pid: str, started: str) -> bool:
    """Whether the very process is still there, and not another one with its number."""
    try:
        process = psutil.Process(int(pid))
        # Not to the digit: the time of start is reckoned from the clock, which may have been set since.
        same = abs(process.create_time() - float(started)) < _CLOCK_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.Error):
        return False


def _require_answer(uri: str) -> None:
    """One quick request first: MLflow's own client would go on trying for minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(uri, timeout=_ANSWER_SECONDS):  # noqa: S310 - http and https only
            pass
    except urllib.error.HTTPError:
        pass  # it answers; whether it lets us in shows with the first real request
    except (OSError, ValueError, http.client.HTTPException) as err:
        raise UserError(
            f"tracking.uri: {uri} does not answer ({' '.join(str(err).split())[:120]}); "
            "start that server, or leave tracking.uri and MLFLOW_TRACKING_URI empty for a local SQLite file"
        ) from None


def open_tracker(settings: TrackingSettings, state_root: Path) -> Tracker:
    """The tracker that the settings ask for.

    Raises:
        UserError: the tracking server does not answer or refuses.
    """
    if not settings.enabled:
        return NullTracker()
    uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return MlflowTracker(uri, settings.experiment, None)
    folder = make_private_folder(state_root / "mlflow")
    return MlflowTracker(f"sqlite:///{folder / 'mlflow.db'}", settings.experiment, folder / "artifacts")
