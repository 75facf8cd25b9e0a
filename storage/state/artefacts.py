"""Artefacts by content address: a folder that exists whole or not at all, with a handle that says what it is.

Layout: ROOT/artefacts/STAGE/DIGEST/{files, handle.json}. A folder is filled under a temporary name and renamed when
all of its files are on the disk; `kill -9` at any moment leaves either nothing or everything.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lavise.configs.errors import UserError
from lavise.storage.state.digest import digest_file, digest_of, short
from lavise.storage.state.files import TEMPORARY_SUFFIX, make_private_folder, sync, write_atomically
from lavise.storage.state.locks import hold_lock

HANDLE_FILE = "handle.json"
log = logging.getLogger("lavise")
_REHASH_BELOW_BYTES = 8 << 20
_SEEN_SECONDS, _LOOK_AGAIN_SECONDS = 90.0, 1.0  # NFS looks at a folder again after a minute at the latest (acdirmax)


class FileEntry(BaseModel):
    """One file of an artefact: what it must still be when it is used again."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int
    sha256: str


class Handle(BaseModel):
    """What passes between stages instead of data: small, frozen, JSON.

    Attributes:
        digest: sha256 over stage, version, settings and the digests of inputs.
        folder: where the files are.
        info: small facts for people and for the next stage (shapes, counts).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    version: int
    digest: str
    folder: Path
    settings: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, FileEntry]
    info: dict[str, Any]

    def path(self, name: str) -> Path:
        """The path of one of the files."""
        if name not in self.files:
            raise KeyError(f"{self.stage} {self.digest[:12]} has no file {name!r}; it has {sorted(self.files)}")
        return self.folder / name


def compute_stage_digest(stage: str, version: int, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The content address of a stage's result, before it is computed."""
    return digest_of({"stage": stage, "version": version, "settings": settings, "inputs": inputs})


class ArtefactStore:
    """Artefacts below one folder, private to the user."""

    def __init__(self, root: Path) -> None:
        self.root = root / "artefacts"
        make_private_folder(self.root)

    def find(self, stage: str, digest: str) -> Handle | None:
        """The artefact, if all of its files are there and are what they were; a damaged one counts as absent."""
        folder = self._folder(stage, digest)
        try:
            handle = Handle.model_validate_json((folder / HANDLE_FILE).read_text("utf-8"))
        except (OSError, ValueError):
            handle = None
        # The state folder may have been moved since.
        handle = handle.model_copy(update={"folder": folder}) if handle else None
        if handle and handle.digest == digest and all(_is_intact(folder / n, e) for n, e in handle.files.items()):
            return handle
        return None

    def partial_folder(self, stage: str, digest: str, keep: bool) -> Path:
        """Where the files are put while they are made; emptied first unless `keep`."""
        folder = self._folder(stage, digest).with_suffix(".partial")
        if not keep and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def measure_partial(self, stage: str, digest: str) -> int:
        """Bytes of the files that an attempt that was stopped has left; 0 where there was none."""
        folder = self._folder(stage, digest).with_suffix(".partial")
        num = 0
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # another run is at it
                num += path.stat().st_size if path.is_file() else 0
        return num

    def publish(
        self,
        stage: str,
        version: int,
        digest: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        info: Mapping[str, Any],
    ) -> Handle:
        """Turn the partial folder into the artefact: sync every file, write the handle, rename.

        A client of a network file system believes for a while that there is nothing where another client has just
        published the same; that one is taken then.

        Raises:
            FileNotFoundError: the partial folder is gone; an empty one must not take its place.
        """
        final = self._folder(stage, digest)
        partial = final.with_suffix(".partial")
        if not partial.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(partial))
        files = {}
        kept = (p for p in partial.rglob("*") if p.suffix != TEMPORARY_SUFFIX and p.name != HANDLE_FILE)
        for path in sorted(p for p in kept if p.is_file()):
            sync(path)
            files[path.relative_to(partial).as_posix()] = FileEntry(size=path.stat().st_size, sha256=digest_file(path))
        handle = Handle(
            stage=stage,
            version=version,
            digest=digest,
            folder=final,
            settings=dict(settings),
            inputs=dict(inputs),
            files=files,
            info=dict(info),
        )
        write_atomically(partial / HANDLE_FILE, handle.model_dump_json(indent=1))
        deadline = time.monotonic() + _SEEN_SECONDS
        while not _put(partial, final):
            if found := self.find(stage, digest):
                shutil.rmtree(partial)
                return found
            if time.monotonic() > deadline:
                raise UserError(
                    f"storage.root: {final} is there, and cannot be seen or replaced; is it on a network file system "
                    "that several machines write to? Run it again, or set storage.root to a folder on a local disk"
                )
            time.sleep(_LOOK_AGAIN_SECONDS)
        sync(final.parent)
        return handle

    @contextmanager
    def lock(self, stage: str, digest: str) -> Iterator[None]:
        """One process at a time makes an artefact; the lock goes with the process, also after kill -9."""

        def tell() -> None:
            log.info("  waiting for another run that makes %s %s", stage, short(digest))

        with hold_lock(self._folder(stage, digest).with_suffix(".lock"), before_waiting=tell):
            yield

    def _folder(self, stage: str, digest: str) -> Path:
        return self.root / stage / digest[:24]


def _put(partial: Path, final: Path) -> bool:
    """Whether it could be renamed; not where something is in the way that this process does not see."""
    if final.exists():
        shutil.rmtree(final)
    try:
        os.replace(partial, final)
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _is_intact(path: Path, entry: FileEntry) -> bool:
    """Size and content of every file; large HDF5 files, which carry checksums of their own, by size alone."""
    try:
        if path.stat().st_size != entry.size:
            return False
        return (path.suffix == ".h5" and entry.size >= _REHASH_BELOW_BYTES) or digest_file(path) == entry.sha256
    except OSError:
        return False
