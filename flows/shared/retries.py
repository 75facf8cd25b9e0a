"""How a stage's work is run: in-process with retries, or as a Prefect task. Only what can heal is tried again."""

from __future__ import annotations

import errno
import logging
from typing import Any

from lavise.configs.errors import UserError
from lavise.storage.state.disk_faults import find_passing_fault, find_write_fault
from lavise.tasks.engine.stage import StageOutcome, Work

log = logging.getLogger("lavise")
NUM_RETRIES = 2
RETRY_DELAYS_SECONDS = [2, 10]
_TRANSIENT_ERRNOS = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE}
)
_TRANSIENT_NAMES = frozenset({"KilledWorker", "CommClosedError", "FutureCancelledError"})  # of distributed


def can_heal(error: BaseException) -> bool:
    """Whether trying again may help: connections, network file systems, lost workers; not mistakes, not full disks."""
    if isinstance(error, UserError):
        return False
    # By name, so that nothing heavy is imported for an error that never comes.
    if type(error).__name__ in _TRANSIENT_NAMES or isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _TRANSIENT_ERRNOS
    return find_passing_fault(error) is not None and find_write_fault(error) is None  # safetensors, HDF5: in their text


def run_with_retries(title: str, work: Work, uses_device: bool = False) -> StageOutcome:
    """In this process."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_chain, wait_fixed

    attempts = Retrying(
        retry=retry_if_exception(can_heal),
        stop=stop_after_attempt(NUM_RETRIES + 1),
        wait=wait_chain(*(wait_fixed(s) for s in RETRY_DELAYS_SECONDS)),
        before_sleep=lambda state: log.warning("  %s failed (%s), trying again", title, _describe(state)),
        reraise=True,
    )
    return attempts(work)


def _describe(state: Any) -> str:
    return " ".join(str(state.outcome.exception()).split())[:200]


def device_tag(device: str) -> str:
    """The tag of tasks that compute on the device: a Prefect concurrency limit on it keeps them from sharing one."""
    return f"lavise-{device}"


def run_as_prefect_task(title: str, work: Work, uses_device: bool = False, device: str = "cpu") -> StageOutcome:
    """As a task of the surrounding Prefect flow; a stage that was cached ends in the state Cached."""
    from prefect import Task
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Completed

    outcomes: list[StageOutcome] = []

    def stage() -> Any:
        outcome = work()
        outcomes.append(outcome)
        note = f"{outcome.digest[:12]}, {outcome.seconds:.1f} s"
        return Completed(name="Cached" if outcome.cached else "Completed", message=note)

    def should_retry(_task: Any, _task_run: Any, state: Any) -> bool:
        try:
            state.result()
        except Exception as err:  # noqa: BLE001 - whatever the stage raised
            return can_heal(err)
        return False

    task: Any = Task(
        fn=stage,
        name=title,
        task_run_name=title,
        tags={device_tag(device)} if uses_device else None,
        retries=NUM_RETRIES,
        retry_delay_seconds=[float(s) for s in RETRY_DELAYS_SECONDS],
        retry_condition_fn=should_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    task()
    return outcomes[-1]
