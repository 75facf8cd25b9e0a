"""What it looks like when a disk takes nothing more while something is written: it is full, or has become read-only."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

_MAKE_ROOM = "make room (`lavise gc` removes what no kept run needs)"


@dataclass(frozen=True)
class WriteFault:
    """Attributes:
    says: what is wrong with the disk.
    remedy: what its owner can do about it.
    """

    says: str
    remedy: str


WRITE_FAULTS = {
    errno.ENOSPC: WriteFault("no space is left on the disk", _MAKE_ROOM),
    errno.EDQUOT: WriteFault("the quota is used up", _MAKE_ROOM),
    errno.EFBIG: WriteFault(
        "the file is larger than is allowed (`ulimit -f`, or the file system's limit)", "raise that limit"
    ),
    errno.EROFS: WriteFault(
        "the disk, or a file on it, is read-only", "make it writable again (`dmesg` says why a disk no longer is)"
    ),
}
"""By the system's number. A disk may become read-only at any time: ext4 and others stop writing at an error."""
# Of libraries that tell it in their text alone: HDF5, those written in Rust; numpy and SQLite tell no number.
_IN_TEXT = re.compile(r"\b(?:errno =|errno|os error) (\d+)", re.IGNORECASE)
_WITHOUT_NUMBER = {
    re.compile(r"\d+ requested and \d+ written|database or disk is full"): errno.ENOSPC,
    re.compile(r"attempt to write a readonly database"): errno.EROFS,
}


def find_write_fault(error: BaseException) -> WriteFault | None:
    """What was wrong with the disk; None for any other error.

    Errors that an error was raised from, or while it was handled, are looked at as well.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        numbers = [int(n) for n in _IN_TEXT.findall(str(current))]
        if isinstance(current, OSError) and current.errno is not None:
            numbers.append(current.errno)
        numbers += [number for text, number in _WITHOUT_NUMBER.items() if text.search(str(current))]
        for number in numbers:
            if number in WRITE_FAULTS:
                return WRITE_FAULTS[number]
        current = current.__cause__ or current.__context__
    return None
