"""The Prefect flow `lavise`, deployed as `lavise/full` (see prefect.yaml)."""

from __future__ import annotations

import logging
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from configs.errors import UserError
from configs.loading import load_config
from flows.audit import run_audit
from flows.execution import run_as_prefect_task
from storage.environment import find_state_root
from storage.progress import log_progress
from storage.tracking import open_tracker


def name_run() -> str:
    """The run's name says what is audited."""
    return str(flow_run.parameters.get("config", "demo")).rsplit("/", 1)[-1]


@flow(name="lavise", flow_run_name=name_run, persist_result=False, validate_parameters=True)
def audit(config: str = "demo", overrides: list[str] | None = None) -> Any:
    """Explain every filter of a network in words.

    Args:
        config: a preset (demo, coco-mini, coco-resnet18, vg-resnet50) or the path of a YAML file on the worker.
        overrides: settings in the form `section.key=value`, as with `lavise run --set`.
    """
    forward = _LogToPrefect(get_run_logger())
    own = logging.getLogger("lavise")
    own.setLevel(logging.INFO)
    own.addHandler(forward)
    try:
        settings = load_config(config, overrides or [])
        tracker = open_tracker(settings.tracking, find_state_root(settings.storage.root))
        tags = {"prefect.flow_run_id": str(flow_run.id or "")}
        result = run_audit(settings, tracker, log_progress, run_as_prefect_task, tags)
    except UserError as err:
        # A mistake of the user's: the clear line is the state's message, and no stack trace.
        own.error("%s", err)
        return Failed(message=str(err))
    finally:
        own.removeHandler(forward)
    return Completed(message=f"MLflow run {result.run_id}, report {result.run_dir / 'report.html'}")


class _LogToPrefect(logging.Handler):
    """Hands our log lines to the flow run's log."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        self._logger.log(record.levelno, record.getMessage())
