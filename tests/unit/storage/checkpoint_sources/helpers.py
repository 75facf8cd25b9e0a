"""Checkpoints in folders, and looks at them."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from lavise.configs.sources import FolderSource
from lavise.storage.checkpoint_sources.base import FoundCheckpoint, Scan
from lavise.storage.checkpoint_sources.scan import scan_checkpoints
from lavise.storage.state.progress import Progress, no_progress

HOUR = 3600.0


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: bytes = b"weights", age: float = 0.0) -> Path:
    """A file last modified so many seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def scan(
    folder: Path, pattern: str = "**/*", stable: float = 30, later: float = HOUR, progress: Progress = no_progress
) -> Scan:
    """What is found at a time when all that is written now has long been there."""
    source = FolderSource(folder=folder, pattern=pattern, stable_seconds=stable)
    return scan_checkpoints(source, lambda: None, folder.parent / "cache", time.time() + later, progress)


def names(scan: Scan) -> list[str]:
    return [found.name for found in scan.found]


def found_at(path: Path) -> FoundCheckpoint:
    return FoundCheckpoint(path.name, path, sha256(path.read_bytes()))


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")
