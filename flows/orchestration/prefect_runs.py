"""What the Prefect flows share: logs, names, and an audit inside a flow run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.schema import Config
from lavise.flows.audit.results import Occasion
from lavise.flows.audit.run import run_audit
from lavise.flows.orchestration.prefect_artifacts import publish_audit
from lavise.flows.past_audits.gate import announce_outcome
from lavise.flows.shared.results import RunResult
from lavise.flows.shared.retries import run_as_prefect_task
from lavise.storage.state.environment import choose_device
from lavise.storage.state.progress import log_progress
from lavise.storage.tracking import Tracker


def name_model(config: str, weights: str | None) -> str:
    """What is audited, short enough for a list: the audit's name, and the checkpoint where it is not the config's."""
    try:
        name = load_config(config).name
    except UserError:  # told when the flow itself reads it
        name = config.rsplit("/", 1)[-1].removesuffix(".yaml").removesuffix(".yml")
    return f"{name} {Path(weights).name}" if weights else name


def audit_here(config: Config, tracker: Tracker, occasion: Occasion) -> RunResult:
    """An audit whose stages are tasks of the surrounding flow run; what it made is shown there, and its gate told."""
    execute = partial(run_as_prefect_task, device=choose_device(config.device))
    result = run_audit(config, tracker, log_progress, execute, occasion)
    announce_outcome(result)
    title = f"{config.name} {occasion.checkpoint_name}" if occasion.checkpoint_name else config.name
    try:
        publish_audit(result, tracker, title)
    except Exception as err:  # noqa: BLE001 - the audit has ended well, whatever becomes of its pictures here
        logging.getLogger("lavise").warning("  the flow run's artifacts could not be made: %s", err)
    return result


@contextmanager
def to_prefect_log() -> Iterator[logging.Logger]:
    """Hands our log lines to the flow run's log while the block runs."""
    forward = _LogToPrefect(get_run_logger())
    own = logging.getLogger("lavise")
    own.setLevel(logging.INFO)
    own.addHandler(forward)
    own.propagate = False  # Prefect's console would show every line twice
    try:
        yield own
    finally:
        own.removeHandler(forward)
        own.propagate = True


class _LogToPrefect(logging.Handler):
    """To the log of the task or flow run that a line comes from; to the outer one from threads of neither."""

    def __init__(self, outer: Any) -> None:
        super().__init__()
        self._outer = outer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            logger: Any = get_run_logger()
        except MissingContextError:
            logger = self._outer
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
