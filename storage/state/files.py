"""Files and folders of the state: private, and there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError

TEMPORARY_SUFFIX = ".tmp"


def make_private_folder(folder: Path) -> Path:
    """A folder of the state, with its parents; those that are new are the user's alone.

    Raises:
        UserError: it cannot be made.
    """
    try:
        for part in (*reversed(folder.parents), folder):
            if not part.exists():
                part.mkdir(mode=0o700, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "no permission to write")
    except OSError as err:
        raise UserError(
            f"storage.root: cannot write to {folder} ({err.strerror}); set another storage.root or LAVISE_HOME"
        ) from None
    return folder


def write_atomically(path: Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Temporary name of its own, flush, rename; where that fails, nothing is left that takes up room.

    Of two that write the same file at once, each writes its own, and the last rename counts.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Readable JSON with sorted keys, written atomically."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False))


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before going on.

    Some network file systems (SMB) refuse this for folders; there, names are the server's to keep.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as err:
        if err.errno not in (errno.EINVAL, errno.EOPNOTSUPP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
