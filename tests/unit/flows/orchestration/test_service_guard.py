"""What stops the services of a `lavise up` that was killed: real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from lavise.flows.orchestration.service_guard import ServiceGuard

SECONDS = 20


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start(processes: list[subprocess.Popen[bytes]], code: str = "import time; time.sleep(600)") -> int:
    """A process in a group of its own."""
    processes.append(subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE))
    return processes[-1].pid


def test_without_a_word_of_goodbye_all_groups_are_stopped(processes: list[subprocess.Popen[bytes]]) -> None:
    # Said by the child itself: a shell that starts the tests in the background has SIGINT ignored in all of them.
    code = "import signal, time; signal.signal(2, signal.{}); print('x', flush=True); time.sleep(600)"
    guard = ServiceGuard()
    for how in ("SIG_DFL", "SIG_IGN"):
        guard.watch(start(processes, code.format(how)))
        ready = processes[-1].stdout
        assert ready is not None
        ready.readline()
    assert guard.process.stdin is not None
    guard.process.stdin.close()  # as the end of `lavise up` closes it
    assert processes[0].wait(SECONDS) == -signal.SIGINT
    assert processes[1].wait(SECONDS) == -signal.SIGKILL
    assert guard.process.wait(SECONDS) == 0


def test_what_was_stopped_already_is_left_alone(processes: list[subprocess.Popen[bytes]]) -> None:
    guard = ServiceGuard()
    guard.watch(start(processes))
    guard.dismiss()
    time.sleep(0.5)
    assert processes[0].poll() is None
    assert guard.process.returncode == 0


def test_guard_that_was_killed_is_no_trouble(processes: list[subprocess.Popen[bytes]]) -> None:
    guard = ServiceGuard()
    guard.process.kill()
    guard.process.wait()
    guard.watch(start(processes))
    guard.dismiss()
    assert processes[0].poll() is None


def test_guard_survives_ctrl_c_of_the_terminal() -> None:
    guard = ServiceGuard()
    assert os.getpgid(guard.process.pid) != os.getpgid(0)
    guard.dismiss()
