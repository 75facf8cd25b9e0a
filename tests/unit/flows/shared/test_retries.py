"""Only what can heal is tried again."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from distributed import KilledWorker
from distributed.comm import CommClosedError

from lavise.configs.errors import UserError
from lavise.flows.shared.retries import can_heal, device_tag, run_as_prefect_task, run_with_retries
from lavise.tasks.engine.stage import StageOutcome

OUTCOME = StageOutcome((), False, 0.1, "d" * 64, "train")


class Flaky:
    """Work that fails a number of times first."""

    def __init__(self, failures: int, error: BaseException) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> StageOutcome:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return OUTCOME


@pytest.mark.parametrize(
    ("error", "heals"),
    [
        (ConnectionResetError("peer"), True),
        (TimeoutError("late"), True),
        (OSError(errno.ESTALE, "stale handle"), True),
        (OSError(errno.ENOSPC, "disk full"), False),
        (FileNotFoundError(errno.ENOENT, "gone"), False),
        (KilledWorker("task", None, 3), True),
        (CommClosedError("closed"), True),
        (UserError("model.layers: ..."), False),
        (ValueError("shape"), False),
        (MemoryError(), False),
        (RuntimeError("Error while serializing: I/O error: Input/output error (os error 5)"), True),
        (OSError("Can't write data (file write failed: errno = 116, error message = 'Stale file handle')"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_can_heal(error: BaseException, heals: bool) -> None:
    assert can_heal(error) is heals


def test_tries_again_after_a_lost_connection() -> None:
    work = Flaky(1, ConnectionResetError("peer"))
    assert run_with_retries("stage", work) is OUTCOME
    assert work.calls == 2


def test_a_mistake_is_raised_at_once() -> None:
    work = Flaky(1, UserError("seed: found -1"))
    with pytest.raises(UserError, match="found -1"):
        run_with_retries("stage", work)
    assert work.calls == 1


@pytest.mark.parametrize("uses_device", [False, True])
def test_use_of_the_device_changes_nothing_in_process(uses_device: bool) -> None:
    work = Flaky(0, ValueError())
    assert run_with_retries("stage", work, uses_device) is OUTCOME
    assert work.calls == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("uses_device", [False, True])
def test_tasks_that_use_the_device_bear_its_tag(
    monkeypatch: pytest.MonkeyPatch, uses_device: bool, device: str
) -> None:
    """What is made for Prefect; that Prefect runs it, and tries again, is tested with its server."""
    import prefect

    made = []

    class Inline(prefect.Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            made.append(self)
            return self.fn()

    monkeypatch.setattr(prefect, "Task", Inline)
    assert run_as_prefect_task("extract target", Flaky(0, ValueError()), uses_device, device) is OUTCOME
    (task,) = made
    assert task.tags == ({f"lavise-{device}"} if uses_device else set())
    assert (task.name, task.task_run_name, task.retries) == ("extract target", "extract target", 2)
    assert task.retry_delay_seconds == [2, 10]


def test_each_kind_of_device_has_a_tag_of_its_own() -> None:
    assert (device_tag("cpu"), device_tag("cuda")) == ("lavise-cpu", "lavise-cuda")
