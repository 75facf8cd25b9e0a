"""Room on the disk: how much there is."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path


def measure_free_bytes(folder: Path) -> int:
    """That a user can write where the folder is, or will be made."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    return shutil.disk_usage(there).free


def find_largest_file() -> int | None:
    """Bytes that one file of this process may have; None where nothing limits it."""
    with contextlib.suppress(ImportError):  # there is no such module on Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        return None if limit == resource.RLIM_INFINITY else limit
    return None


def format_bytes(num_bytes: float) -> str:
    """For people: GB of 10^9 bytes, MB where it is less than one."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
