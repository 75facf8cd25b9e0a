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
    started = psutil.Process(os.getpid() if pid is None else pid).create_time()
    boot = _read_boot()
    return f"{boot} {started - psutil.boot_time():.2f}" if boot else str(started)


def is_alive(pid: str, started: str) -> bool:
    """Whether the very process is still there, and not another one with its number.

    Args:
        started: of `describe_start`; or, of older versions, seconds since 1970.
    """
    try:
        process = psutil.Process(int(pid))
        boot, _, seconds = started.rpartition(" ")
        own = process.create_time()
        if boot:
            own -= psutil.boot_time()
        same = boot in ("", _read_boot()) and abs(own - float(seconds)) < _SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.Error):
        return False


def _read_boot() -> str:
    """A name of the time since the machine was started; empty where the system gives none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""
