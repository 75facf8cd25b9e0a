"""A process is known again, also after the clock was set."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lavise.storage.state.processes import describe_start, is_alive

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def test_a_process_is_known_until_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        pid, started = str(process.pid), describe_start(process.pid)
        assert is_alive(pid, started)
        assert is_alive(pid, str(psutil.Process(process.pid).create_time()))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(pid, started), "it is dead, and nobody has asked for its exit code"
    assert not is_alive(pid, started)
    with pytest.raises(psutil.Error):
        describe_start(process.pid)


@pytest.mark.skipif(not BOOT_ID.exists(), reason="this system does not name its boot")
def test_the_clock_has_no_part_in_it() -> None:
    """Ticks since the machine was started, field 22 of proc(5), which nobody sets."""
    boot, seconds = describe_start().split()
    assert boot == BOOT_ID.read_text().strip()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert float(seconds) == pytest.approx(ticks / os.sysconf("SC_CLK_TCK"), abs=0.02)


@pytest.mark.parametrize("started", ["", "x", "other-boot 12.00", "1.0", "a b c"])
def test_another_process_of_the_same_number(started: str) -> None:
    assert not is_alive(str(os.getpid()), started)


def test_the_start_of_another_boot_is_another_process() -> None:
    *_, seconds = describe_start().split()
    assert is_alive(str(os.getpid()), describe_start())
    assert not is_alive(str(os.getpid()), f"another-boot {seconds}")
    assert not is_alive("no number", describe_start())
