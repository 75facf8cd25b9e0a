"""A state folder with artefacts and runs, for tests of housekeeping."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from lavise.storage.state.artefacts import ArtefactStore, Handle, compute_stage_digest
from lavise.storage.state.housekeeping import Plan, Reason, plan_collection

PROJECT = Path(__file__).resolve().parents[4]
HOUR = 3600.0
RUN_A, RUN_B, RUN_C = "a" * 32, "b" * 32, "c" * 32
SHA = "5" * 64


def publish(root: Path, stage: str, name: str, files: dict[str, bytes] | None = None) -> Handle:
    """A real artefact."""
    store, digest = ArtefactStore(root), compute_stage_digest(stage, 1, {"name": name}, {})
    with store.lock(stage, digest):
        folder = store.partial_folder(stage, digest, keep=False)
        for path, content in (files or {"a.npy": b"12345"}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return store.publish(stage, 1, digest, {"name": name}, {}, {})


def write_needs(folder: Path, *handles: Handle, checkpoint: str | None = None) -> Path:
    """A run folder, or a diff's, that says what it needs."""
    folder.mkdir(parents=True)
    entries = [
        {"stage": h.stage, "digest": h.digest, "files": {n: f.sha256 for n, f in h.files.items()}} for h in handles
    ]
    (folder / "artefacts.json").write_text(json.dumps({"stages": {"a title": entries}, "checkpoint_file": checkpoint}))
    (folder / "report.html").write_bytes(b"x" * 10)
    return folder


def plan(root: Path, *deleted: str, keep_seconds: float = HOUR, later: float = 2 * HOUR) -> Plan:
    """As it would be `later`."""
    return plan_collection(root, deleted, keep_seconds, time.time() + later)


def going(found: Plan) -> dict[str, Reason]:
    return {e.path.relative_to(found.root).as_posix(): e.reason for e in found.entries}


def set_age(path: Path, moment: float) -> None:
    for entry in [path, *path.rglob("*")]:
        os.utime(entry, (moment, moment), follow_symlinks=False)


def listing(folder: Path) -> list[tuple[Any, ...]]:
    """Everything below a folder: names, kinds, times and contents."""
    found = []
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((str(path), stat.st_mode, stat.st_mtime_ns, content))
    return found


def folder_of(handle: Handle) -> str:
    return f"artefacts/{handle.stage}/{handle.digest[:24]}"
