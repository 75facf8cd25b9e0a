"""Snapshots: whole or not at all, whoever else is at work."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lavise.storage.checkpoint_sources.base import CheckpointChangedError
from lavise.storage.checkpoint_sources.snapshots import take_snapshot
from lavise.storage.state.files import make_private_folder
from tests.unit.storage.checkpoint_sources.helpers import found_at, listing, sha256, write


def test_a_snapshot_stays_when_the_file_is_overwritten(folder: Path) -> None:
    last = write(folder / "last.pt", b"one")
    snapshots = folder.parent / "state" / "snapshots"
    one = take_snapshot(found_at(last), snapshots)
    last.write_bytes(b"two")
    two = take_snapshot(found_at(last), snapshots)
    assert one == snapshots / f"{sha256(b'one')}.pt"
    assert (one.read_bytes(), two.read_bytes()) == (b"one", b"two")
    assert listing(snapshots) == sorted([one.name, two.name])
    assert stat.S_IMODE(snapshots.stat().st_mode) == 0o700


def test_an_intact_snapshot_is_used_again(folder: Path) -> None:
    found = found_at(write(folder / "last.pt", b"one"))
    snapshot = take_snapshot(found, folder / "s")
    before = snapshot.stat()
    found.path.unlink()
    assert take_snapshot(found, folder / "s") == snapshot
    assert (snapshot.stat().st_ino, snapshot.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_snapshot_is_made_anew(folder: Path) -> None:
    found = found_at(write(folder / "last.pt", b"one"))
    snapshot = take_snapshot(found, folder / "s")
    snapshot.write_bytes(b"on")
    assert take_snapshot(found, folder / "s").read_bytes() == b"one"


def become_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "change",
    [lambda p: p.write_bytes(b"other"), lambda p: p.write_bytes(b""), lambda p: p.unlink(), become_pipe],
    ids=["rewritten", "emptied", "deleted", "pipe"],
)
def test_a_file_that_changed_since_it_was_found(folder: Path, change: Callable[[Path], object]) -> None:
    found = found_at(write(folder / "last.pt", b"first"))
    change(found.path)
    with pytest.raises(CheckpointChangedError, match=r"last\.pt: the file (was changed|is gone) since it was found"):
        take_snapshot(found, folder / "s")
    assert listing(folder / "s") == []


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    found = found_at(write(folder / "last.pt", b"one"))
    write(folder / "s" / ".partial-abc" / f"{found.sha256}.pt", b"o")
    snapshot = take_snapshot(found, folder / "s")
    assert snapshot.read_bytes() == b"one"
    assert listing(folder / "s") == [snapshot.name]


def test_snapshots_at_the_same_time(folder: Path) -> None:
    found = [found_at(write(folder / f"{n}.pt", bytes([n]) * 100_000)) for n in range(3)] * 4
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda f: take_snapshot(f, folder / "s"), found))
    assert [sha256(path.read_bytes()) for path in made] == [f.sha256 for f in found]
    assert listing(folder / "s") == sorted({path.name for path in made})


def test_a_snapshot_waits_for_another_process(folder: Path) -> None:
    found = found_at(write(folder / "last.pt", b"one"))
    make_private_folder(folder / "s")
    code = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "s" / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "locked\n"
        thread = threading.Thread(target=take_snapshot, args=(found, folder / "s"))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert listing(folder / "s") == []
        holder.kill()
    thread.join(30)
    assert listing(folder / "s") == [f"{found.sha256}.pt"]
