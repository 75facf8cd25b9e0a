"""A small process that outlives `lavise up`, to stop its services where it was killed.

It reads process groups from its standard input, a line each, as they are started. When that ends, whoever wrote there
is gone: after `done` the services have been stopped, without it they are stopped here, the worker's group first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import IO

_DONE = "done"
_GRACE_SECONDS = 5.0


class ServiceGuard:
    """The guard as `lavise up` sees it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lavise.flows.orchestration.service_guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, group: int) -> None:
        """Stop this process group, too, where this process is killed; earlier ones are stopped after later ones."""
        self._write(str(group))

    def dismiss(self) -> None:
        """Everything has been stopped."""
        self._write(_DONE)
        with contextlib.suppress(BrokenPipeError):
            _input(self.process).close()
        self.process.wait()

    def _write(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody killed it: a crash later leaves what it would have left
            _input(self.process).write(f"{line}\n")
            _input(self.process).flush()


def _input(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin


def guard(lines: IO[str]) -> None:
    """Collect process groups until the end, then stop them, unless they were."""
    groups: list[int] = []
    for line in lines:
        if line.strip() == _DONE:
            return
        groups.append(int(line))
    for group in reversed(groups):
        if _signal(group, signal.SIGINT):
            _wait_until_gone(group)
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> bool:
    """Whether there was somebody to get it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


def _wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.1)


if __name__ == "__main__":
    guard(sys.stdin)
