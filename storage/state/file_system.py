"""What a state folder's file system has to be able to do; on some network file systems a part of it is not there."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from lavise.configs.errors import UserError

_REFUSED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ENODEV})


class FileSystemError(UserError):
    """The file system of a folder lacks something.

    Attributes:
        reason: what, and what the system says.
    """

    def __init__(self, folder: Path, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"storage.root: {folder} is on a file system with {reason}; set storage.root or LAVISE_HOME to a folder on "
            "a local disk"
        )


def require_file_system(folder: Path, *, modes: bool = False) -> None:
    """Before anything waits in vain for a lock (SQLite does, and MLflow asks it for minutes), or fails in the middle.

    Args:
        modes: whether files must be able to get modes: MLflow copies those of the files that it keeps.

    Raises:
        FileSystemError: files there have no locks, cannot be mapped, or have no modes.
        OSError: nothing can be written there.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-") as file:
        file.write(b"lavise")
        file.flush()
        number = file.fileno()
        _try(folder, "no locks (flock", lambda: fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB))
        _try(folder, "no memory maps (mmap", lambda: mmap.mmap(number, 0, access=mmap.ACCESS_READ).close())
        if modes:
            _try(folder, "no modes, which MLflow sets (chmod", lambda: os.fchmod(number, 0o600))


def _try(folder: Path, what: str, step: Callable[[], object]) -> None:
    try:
        step()
    except OSError as err:
        if err.errno not in _REFUSED:
            raise
        raise FileSystemError(folder, f"{what}: {err.strerror})") from err
