"""Copies of checkpoints that nobody writes to any more: whole or not at all, one process at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from lavise.storage.checkpoint_sources.base import CheckpointChangedError, FoundCheckpoint, UnusableError
from lavise.storage.models.checkpoint_files import read_checkpoint
from lavise.storage.models.distributed_checkpoints import METADATA
from lavise.storage.state.digest import digest_file, digest_of
from lavise.storage.state.files import sync
from lavise.storage.state.locks import hold_lock

_BLOCK_BYTES = 1 << 20
_PARTIAL = ".partial-"
log = logging.getLogger("lavise")


def take_snapshot(found: FoundCheckpoint, folder: Path) -> Path:
    """Copy a checkpoint to FOLDER/SHA256.suffix, which stays when `last.pt` is overwritten; an intact copy is reused.

    Raises:
        CheckpointChangedError: the file is gone, or its bytes are not those that were found.
    """
    if found.shards:
        return _join_shards(found, folder)
    target = folder / f"{found.sha256}{found.path.suffix}"
    with hold_exclusively(folder) as partial:
        if has_content(target, found.sha256):
            return target
        try:
            original = open_regular_file(found.path)
        except (FileNotFoundError, NotADirectoryError, UnusableError):
            raise CheckpointChangedError(f"{found.name}: the file is gone since it was found") from None
        sha = hashlib.sha256()
        with original, (partial / target.name).open("wb") as copy:
            while block := original.read(_BLOCK_BYTES):
                sha.update(block)
                copy.write(block)
        if sha.hexdigest() != found.sha256:
            raise CheckpointChangedError(f"{found.name}: the file was changed since it was found")
        publish(partial / target.name, target)
    return target


def _join_shards(found: FoundCheckpoint, folder: Path) -> Path:
    """One file of all tensors of a checkpoint in shards, made from files with the bytes that were found.

    Those of torch.distributed are nested in mappings, whose keys people name: they stay so.
    """
    import torch
    from safetensors.torch import save_file

    is_nested = found.path.name == METADATA
    target = folder / f"{found.sha256}{'.pt' if is_nested else '.safetensors'}"
    with hold_exclusively(folder) as partial:
        try:
            hashes = [digest_file(path) for path in (found.path, *found.shards)]
            tensors = read_checkpoint(found.path)
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointChangedError(f"{found.name}: a file of it is gone since it was found") from None
        if join_hashes(hashes) != found.sha256:
            raise CheckpointChangedError(f"{found.name}: a file of it was changed since it was found")
        if is_nested:
            torch.save(tensors, partial / target.name)
        else:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial / target.name)
        publish(partial / target.name, target)
    return target


def join_hashes(hashes: Sequence[str]) -> str:
    """Of a checkpoint in several files; of one file its own."""
    return hashes[0] if len(hashes) == 1 else digest_of(list(hashes))


def open_regular_file(path: Path) -> BufferedReader:
    """Open for reading, without waiting for the other end of a pipe that may have taken the file's place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnusableError("not a regular file")
    return os.fdopen(descriptor, "rb")


@contextmanager
def hold_exclusively(folder: Path) -> Iterator[Path]:
    """One process at a time writes into a folder; gives an empty folder in it for what is not yet complete.

    The lock goes with the process, and what a killed one left is removed by the next.
    """

    def tell() -> None:
        log.info("  waiting for another run that writes to %s", folder)

    with hold_lock(folder / ".lock", before_waiting=tell):
        for left in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_PARTIAL) as partial:
            yield Path(partial)


def publish(path: Path, final: Path) -> None:
    """Give a complete file its name, when it is on the disk."""
    sync(path)
    os.replace(path, final)
    sync(final.parent)


def has_content(path: Path, sha256: str) -> bool:
    try:
        return digest_file(path) == sha256
    except OSError:
        return False
