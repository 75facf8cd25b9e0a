"""What it looks like when a disk, or a network file system, takes nothing more, or fails."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from lavise.storage.state.text import one_line, printable

_MAKE_ROOM = "make room (`lavise gc` removes what no kept run needs)"


@dataclass(frozen=True)
class DiskFault:
    """Attributes:
    says: what is wrong with the disk.
    remedy: what its owner can do about it.
    """

    says: str
    remedy: str


WRITE_FAULTS = {
    errno.ENOSPC: DiskFault("no space is left on the disk", _MAKE_ROOM),
    errno.EDQUOT: DiskFault("the quota is used up", _MAKE_ROOM),
    errno.EFBIG: DiskFault(
        "the file is larger than is allowed (`ulimit -f`, or the file system's limit)", "raise that limit"
    ),
    errno.EROFS: DiskFault(
        "the disk, or a file on it, is read-only", "make it writable again (`dmesg` says why a disk no longer is)"
    ),
}
"""Nothing more can be written; by the system's number. A disk may become read-only at any time: ext4 and others stop
writing at an error."""
_SEE_TO_IT = "see to that disk or server"
PASSING_FAULTS = {
    errno.EIO: DiskFault("reading or writing failed", _SEE_TO_IT),
    errno.ESTALE: DiskFault("a file was replaced on the server", _SEE_TO_IT),
    errno.ETIMEDOUT: DiskFault("a file system or server does not answer", _SEE_TO_IT),
}
"""What may be over in a moment, so that it is tried again."""
# Of libraries that tell it in their text alone: HDF5, those written in Rust; numpy and SQLite tell no number.
_IN_TEXT = re.compile(r"\b(?:errno =|errno|os error) (\d+)", re.IGNORECASE)
_WITHOUT_NUMBER = {
    re.compile(r"\d+ requested and \d+ written|database or disk is full"): errno.ENOSPC,
    re.compile(r"attempt to write a readonly database"): errno.EROFS,
}


def find_write_fault(error: BaseException) -> DiskFault | None:
    """Why nothing more can be written; None for any other error.

    Errors that an error was raised from, or while it was handled, are looked at as well.
    """
    return next((WRITE_FAULTS[number] for number in _list_system_errors(error) if number in WRITE_FAULTS), None)


def find_passing_fault(error: BaseException) -> DiskFault | None:
    """How the disk fails, where that may pass; None for any other error. Looks where `find_write_fault` does."""
    return next((PASSING_FAULTS[number] for number in _list_system_errors(error) if number in PASSING_FAULTS), None)


def explain_disk_fault(error: BaseException) -> str | None:
    """What is wrong with the disk, and what to do, in a line for people; None for any other error."""
    told = printable(one_line(error))
    if (fault := find_write_fault(error)) is not None:
        elsewhere = f"{fault.remedy}, or set storage.root or LAVISE_HOME to another disk"
        return f"{fault.says} ({told[:200]}); {elsewhere}, and run it again: what was finished is kept"
    if (fault := find_passing_fault(error)) is not None:
        return f"{fault.says} ({told[:300]}); {fault.remedy}, and run it again: what was finished is kept"
    return None


def _list_system_errors(error: BaseException) -> list[int]:
    """Numbers of what the system said; of libraries that tell them in their text alone they are read there."""
    found: list[int] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        found += [int(n) for n in _IN_TEXT.findall(str(current))]
        if isinstance(current, OSError) and current.errno is not None:
            found.append(current.errno)
        found += [number for text, number in _WITHOUT_NUMBER.items() if text.search(str(current))]
        current = current.__cause__ or current.__context__
    return found
