"""Room on the disk: how much there is, and what it looks like when there is none left while something is written."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from pathlib import Path

FULL = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than is allowed (`ulimit -f`, or the file system's limit)",
}
"""What the system says of a write for which there is no room, by its number."""
# Of libraries that tell it in their text alone: HDF5, those written in Rust; numpy and SQLite tell no number.
_IN_TEXT = re.compile(r"\b(?:errno =|errno|os error) (\d+)", re.IGNORECASE)
_WITHOUT_NUMBER = re.compile(r"\d+ requested and \d+ written|database or disk is full")


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


FAILING = {
    errno.EIO: "reading or writing failed",
    errno.ESTALE: "a file was replaced on the server",
    errno.ETIMEDOUT: "the file system does not answer",
}
"""What the system says of a disk, or a network file system, that fails."""


def find_full_error(error: BaseException) -> int | None:
    """The number of what the system said, where there was no room; None for any other error."""
    return next((number for number in list_system_errors(error) if number in FULL), None)


def find_failing_error(error: BaseException) -> int | None:
    """The number of what the system said, where a disk fails; None for any other error."""
    return next((number for number in list_system_errors(error) if number in FAILING), None)


def list_system_errors(error: BaseException) -> list[int]:
    """Numbers of what the system said, of an error and of those that it was raised from, or while they were handled.

    Of libraries that tell them in their text alone they are read there.
    """
    found: list[int] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        numbers = [int(n) for n in _IN_TEXT.findall(str(current))]
        if isinstance(current, OSError) and current.errno is not None:
            numbers.append(current.errno)
        if _WITHOUT_NUMBER.search(str(current)):
            numbers.append(errno.ENOSPC)
        found += numbers
        current = current.__cause__ or current.__context__
    return found


def format_bytes(num_bytes: float) -> str:
    """For people: GB of 10^9 bytes, MB where it is less than one."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
