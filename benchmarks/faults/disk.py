"""Disks and state folders that fail in the middle of an audit: full, read-only, gone, limited, a locked database.

Each case must end with one clear line and lose nothing (the audit again, once the fault is mended, gives the bits of an
undisturbed one, and the stages that were finished are not computed again), or go on to these bits by itself.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.parts import Options, finish, note
from benchmarks.faults.tiny_audit import (
    Command,
    compare,
    digest_artefacts,
    list_held_locks,
    list_running,
    start,
    wait_until_gone,
    write_inputs,
)

ROUNDS = 3
"""Of the full disk, each at another moment."""
_LOCKED_SECONDS = 60.0
_ORPHAN_SECONDS = 20.0
_SMALL_MB = 120
_READ_ONLY_STAGES = 3
_STAGES = ("extract train", "train tail", "report", "regions tail", "explain tail")


@dataclass(frozen=True)
class Ended:
    """What became of an audit under a fault; `hit` is False where the fault could not be made."""

    code: int
    lines: list[str]
    has_traceback: bool
    hit: bool


def measure_disk(options: Options) -> Mapping[str, Any]:
    rng = random.Random(options.seed)
    config = write_inputs(options.work, 1)
    order = ("run", str(config), "--json")
    home = options.work / "undisturbed"
    command = start(home, *order)
    if command.wait() != 0:
        raise RuntimeError(f"the undisturbed audit failed: {command.text[-2000:]}")
    expected = digest_artefacts(home)
    rows: list[dict[str, Any]] = []

    def again(home: Path) -> Command:
        return start(home, *order, name="again", logs=options.work)

    def record(case: str, ended: Ended, home: Path, again: Command | None) -> None:
        faults = ["a stack trace"] if ended.has_traceback else []
        if ended.code and len(ended.lines) != 1:
            faults.append(f"{len(ended.lines)} lines")
        if again is not None and again.wait() != 0:
            faults.append(f"again: {again.process.returncode} {find_last_line(again)}")
        if again is not None or ended.code == 0:
            faults += [f"other bits: {key}" for key in compare(digest_artefacts(home), expected)][:3]
            faults += [f"RUNNING: {run}" for run in list_running(home)] if (home / "mlflow").is_dir() else []
        faults += [f"held lock: {path}" for path in list_held_locks(home)]
        faults += [f"left: {line}" for line in wait_until_gone(home, _ORPHAN_SECONDS)]
        said = ended.lines[-1][:160] if ended.lines else ""
        faults += [] if ended.hit else ["the fault could not be made here"]
        rows.append({"case": case, "exit code": ended.code, "said": said, "faults": faults})
        note(options.work / "disk.jsonl", rows[-1])

    for number in range(options.rounds or ROUNDS):
        with _small_disk(options.work / f"small{number}") as small:
            if small is None:
                print("no small file system can be mounted here: the full disk is left out")
                break
            stage = _STAGES[number % len(_STAGES)]
            home = small / "home"
            ended = run_with(options.work, home, order, stage, partial(_fill, small, rng.choice((0, 30_000))))
            (small / "ballast").unlink(missing_ok=True)
            record(f"disk full from the stage {stage} on", ended, home, again(home))
    with _small_disk(options.work / "read-only") as small:
        if small is not None:
            home = small / "home"
            home.mkdir()
            hit = _remount(small, "ro")
            command = again(home)
            command.wait()
            ended = read_end(command, hit)
            _remount(small, "rw")
            record("read-only from the start", ended, home, again(home))
    for number, stage in enumerate(_STAGES[:_READ_ONLY_STAGES]):
        with _failing_disk(options.work / f"failing{number}") as failing:
            if failing is None:
                print("no ext4 can be mounted here: the disk that becomes read-only is left out")
                break
            home = failing / "home"
            ended = run_with(options.work, home, order, stage, partial(_fail_disk, failing))
            _mount_again(failing)
            record(f"disk read-only from the stage {stage} on", ended, home, again(home))
    home = options.work / "limited"
    command = _start_limited(home, order, 20_000)
    command.wait()
    record("no file larger than 20 kB (RLIMIT_FSIZE)", read_end(command), home, again(home))
    for stage in ("extract train", "train tail"):
        home = options.work / f"removed-{stage.split()[0]}"
        ended = run_with(options.work, home, order, stage, partial(shutil.rmtree, home, ignore_errors=True))
        record(f"state folder removed in the stage {stage}", ended, home, again(home))
    home = options.work / "locked"
    ended = run_with(options.work, home, order, "regions tail", partial(_lock_database, home / "mlflow" / "mlflow.db"))
    record(f"MLflow's SQLite file locked for {_LOCKED_SECONDS:.0f} s", ended, home, again(home))
    return finish("disk", [{**row, "faults": "; ".join(row["faults"]) or "none"} for row in rows])


def run_with(logs: Path, home: Path, order: tuple[str, ...], stage: str, fault: Callable[[], Any]) -> Ended:
    """The audit, with a fault as soon as a stage has started."""
    command = start(home, *order, name=f"in {stage}", logs=logs)
    hit = command.wait_for(f"{stage:<28} started") and fault() is not False
    command.wait()
    return read_end(command, hit)


def read_end(command: Command, hit: bool = True) -> Ended:
    """The lines that say why it ended: those of standard error that begin as `lavise: `."""
    lines = [line for line in command.text.splitlines() if line.startswith("lavise: ")]
    return Ended(int(command.process.returncode), lines, "Traceback" in command.text, hit)


def find_last_line(command: Command) -> str:
    return (command.text.strip().splitlines() or [""])[-1][:200]


@contextmanager
def _small_disk(place: Path) -> Iterator[Path | None]:
    """A file system in memory of its own; None where none can be mounted."""
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={_SMALL_MB}m", "tmpfs", str(place)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@contextmanager
def _failing_disk(place: Path) -> Iterator[Path | None]:
    """An ext4 in a file beside it, which becomes read-only at its first error; None where none can be mounted."""
    place.mkdir()
    image = place.with_suffix(".img")
    image.write_bytes(b"")
    os.truncate(image, _SMALL_MB << 20)
    making = ["mkfs.ext4", "-q", str(image)]
    made = shutil.which(making[0]) and subprocess.run(making, capture_output=True, check=False).returncode == 0
    if not (made and _mount_failing(place)):
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)
        image.unlink()


def _mount_failing(place: Path) -> bool:
    mounting = ["mount", "-o", "loop,errors=remount-ro", str(place.with_suffix(".img")), str(place)]
    return subprocess.run(mounting, capture_output=True, check=False).returncode == 0


def _fail_disk(place: Path) -> bool:
    """As after an error of the disk: ext4 stops all writing. Whether the kernel has the file for it."""
    finding = ["findmnt", "-no", "SOURCE", str(place)]
    device = Path(subprocess.run(finding, capture_output=True, text=True, check=True).stdout.strip()).name
    trigger = Path("/sys/fs/ext4") / device / "trigger_fs_error"
    if not trigger.exists():
        return False
    trigger.write_text("1")
    return True


def _mount_again(place: Path) -> None:
    """What was read-only is writable after it; waits for whoever still has a file open."""
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{place} is in use")
        time.sleep(0.1)
    if not _mount_failing(place):
        raise RuntimeError(f"{place} cannot be mounted again")


def _fill(disk: Path, but: int) -> None:
    """All but so many bytes."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                left = shutil.disk_usage(disk).free - but
                if left <= 0:
                    return
                file.write(b"\0" * min(left, 1 << 20))
        except OSError:
            return


def _remount(place: Path, how: str) -> bool:
    """Whether it could be done: not while a file is open for writing."""
    remounting = ["mount", "-o", f"remount,{how}", str(place)]
    deadline = time.monotonic() + 10
    while subprocess.run(remounting, capture_output=True, check=False).returncode != 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _start_limited(home: Path, order: tuple[str, ...], num_bytes: int) -> Command:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        return start(home, *order, name="limited")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _lock_database(path: Path) -> None:
    """Nobody else reads or writes it meanwhile."""
    with sqlite3.connect(path, timeout=30, isolation_level=None) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(_LOCKED_SECONDS)
        database.execute("ROLLBACK")
    database.close()
    os.sync()
