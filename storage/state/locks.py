"""Locks between processes of one state folder. A lock goes with its process, also after kill -9.

They are advisory locks on files (flock): a file that lies there says nothing, only a process that holds it does.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.storage.state.files import make_private_folder

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


class LockedError(Exception):
    """Another process holds the lock."""


@contextmanager
def hold_lock(path: Path, *, shared: bool = False, before_waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        path: of the lock's file; it is made, with its folder, where it is not there. No symbolic link is followed.
        shared: with others who share it, instead of alone.
        before_waiting: called where somebody else holds it, before waiting for as long as it takes; None does not wait.

    Raises:
        LockedError: somebody else holds it, and nobody waits.
        UserError: the file system has no locks.
        OSError: the file cannot be opened.
    """
    make_private_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            _flock(path, descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if before_waiting is None:
                raise LockedError(str(path)) from None
            before_waiting()
            _flock(path, descriptor, kind)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open, too
    finally:
        os.close(descriptor)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Whether the lock could be had at once; where it could, it is held while the block runs."""
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(path))
        except LockedError:
            is_free = False
        else:
            is_free = True
        yield is_free


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of a file; it is opened for reading only.

    Raises:
        UserError: the file system has no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        _flock(path, descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _flock(path: Path, descriptor: int, how: int) -> None:
    try:
        fcntl.flock(descriptor, how)
    except OSError as err:
        if err.errno not in _NO_LOCKS:
            raise
        raise UserError(
            f"storage.root: cannot lock {path} ({err.strerror}); set storage.root or LAVISE_HOME to a folder on a "
            "local disk, or mount that file system with locks"
        ) from err
