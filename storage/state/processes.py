"""Which process it was that wrote something down, and whether it is still there."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_SECONDS = 2.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def describe_start(pid: int | None = None) -> str:
    """When a process began, by something that does not move when the clock is set: `BOOT_ID SECONDS_SINCE_BOOT`.

    psutil (7.2) reckons the time of start from the clock as it is now, so that it is another one for the same process
    once the clock was set. Where the system does not name its boot, it is that time.

    Args:
        pid: None: of this process.

    Raises:
        psutil.Error: there is no such process.
    """
    process, boot = psutil.Process(os.getpid() if pid is None else pid), _read_boot()
    return f"{boot} {_count_since_boot(process):.2f}" if boot else str(process.create_time())


def is_alive(pid: str, started: str) -> bool:
    """Whether the very process is still there, and not another one with its number.

    Args:
        started: of `describe_start`; or, of older versions, seconds since 1970.
    """
    try:
        process = psutil.Process(int(pid))
        boot, _, seconds = started.rpartition(" ")
        own = _count_since_boot(process) if boot else process.create_time()
        same = boot in ("", _read_boot()) and abs(own - float(seconds)) < _SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.Error):
        return False


def _count_since_boot(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's; both are reckoned from the clock, which cancels out."""
    boot_time = psutil.boot_time()  # first: older versions of psutil reckon a process from the last one they were asked
    return process.create_time() - boot_time


def _read_boot() -> str:
    """A name of the time since the machine was started; empty where the system gives none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""
