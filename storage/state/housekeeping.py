"""Housekeeping of the state folder: what takes up space, what no kept run needs any more, and how that goes.

What cannot be judged is not deleted: a run that does not say what it needs stops everything, and files that lavise did
not write are left alone. Names that a file gives are only ever compared with names found on the disk; no path is made
of them. A folder is renamed to NAME.trash and then emptied: the rename is one step, so that after `kill -9` a folder
under its own name is whole, and the next collection removes the rest. (Deleting handle.json first would do for
artefacts, but not for run folders and half-made artefacts, which have none.) Runs go before what they need.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from lavise.configs.errors import UserError
from lavise.storage.state import file_names
from lavise.storage.state.file_system import require_file_system
from lavise.storage.state.files import make_private_folder
from lavise.storage.state.locks import LockedError, hold_lock, is_locked

log = logging.getLogger("lavise")
LOCK_FILE = "state.lock"
REFERENCES_FILE = file_names.ARTEFACTS
# Folders that are measured and never judged.
SERVICES = ("mlflow", "prefect", "logs", "fetched")
_ARTEFACTS, _RUNS, _DIFFS, _CHECKPOINTS = "artefacts", "runs", "diffs", file_names.SNAPSHOTS_FOLDER
_RERUNS, _FETCHED = "reruns", "fetched"
_FOLDER_DIGITS = 24
_PARTIAL, _LOCK, _TRASH = ".partial", ".lock", ".trash"
_STAGE = re.compile(r"[A-Za-z0-9_-]+")
_ARTEFACT = re.compile(r"[0-9a-f]{24}(?P<kind>|\.partial|\.lock|(\.partial)?\.trash)")
_RUN = re.compile(r"[0-9a-f]{32}(?P<kind>|\.partial|(\.partial)?\.trash)")
_DIFF = re.compile(r"[0-9a-f]{32}\.\.[0-9a-f]{32}(?P<kind>|\.partial|(\.partial)?\.trash)")
_SNAPSHOT = r"[0-9a-f]{64}\.(pt|pth|safetensors|ckpt|bin|tar|pt2)"
_CHECKPOINT = re.compile(rf"{_SNAPSHOT}(?P<kind>)")
_UNFINISHED_COPY = re.compile(r"\.partial-[A-Za-z0-9_]+(?P<kind>|\.trash)")


class Reason(StrEnum):
    """Why something goes; in the order in which it goes."""

    LEFTOVER = "left over from an interrupted gc"
    ORPHANED_DIFF = "diff of a run deleted in MLflow"
    DELETED_RUN = "run deleted in MLflow"
    UNFINISHED_RUN = "run folder never finished"
    UNREFERENCED = "artefact no kept run refers to"
    UNFINISHED = "unfinished work of a killed run"
    CHECKPOINT = "checkpoint snapshot without run"
    FETCHED = "copy of files that MLflow has"
    LOCK = "lock file of an artefact that is gone"


@dataclass(frozen=True)
class References:
    """What the kept runs need.

    Attributes:
        runs: names of the kept run folders.
        diffs: names of the kept folders of diffs.
        artefacts: (stage, name of the artefact's folder).
        checkpoints: names of files in ROOT/checkpoints.
    """

    runs: frozenset[str]
    diffs: frozenset[str]
    artefacts: frozenset[tuple[str, str]]
    checkpoints: frozenset[str]


@dataclass(frozen=True)
class Entry:
    """A file or folder that goes.

    Attributes:
        stage: of an artefact; else the folder of the state that it lies in.
        num_bytes: of its files; a file with several names counts once in a plan.
    """

    path: Path
    reason: Reason
    stage: str
    num_bytes: int


@dataclass(frozen=True)
class Plan:
    """What goes from a state folder, in the order in which it goes, and what the kept runs need."""

    root: Path
    entries: tuple[Entry, ...]
    references: References

    @property
    def num_bytes(self) -> int:
        return sum(e.num_bytes for e in self.entries)


@dataclass(frozen=True)
class StageUse:
    """Disk use of one stage, or of another folder of the state.

    Attributes:
        stage: name of a stage, or runs, diffs, checkpoints, mlflow, prefect, logs, fetched.
        num_artefacts: whole artefacts, finished runs and diffs, snapshots; elsewhere files.
        bytes: of all files in the folder, unfinished ones too.
        num_referenced: those that a kept run needs; all where nothing is judged (SERVICES).
        bytes_referenced: of these.
    """

    stage: str
    num_artefacts: int
    bytes: int
    num_referenced: int
    bytes_referenced: int


class _Artefact(BaseModel):
    model_config = ConfigDict(frozen=True)
    stage: Annotated[str, StringConstraints(pattern=rf"^{_STAGE.pattern}$")]
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Needs(BaseModel):
    """artefacts.json of a run or a diff, as far as it is needed here."""

    model_config = ConfigDict(frozen=True)
    stages: dict[str, list[_Artefact]]
    checkpoint_file: Annotated[str, StringConstraints(pattern=rf"^{_SNAPSHOT}$")] | None


@contextmanager
def hold_state(root: Path, exclusive: bool) -> Iterator[None]:
    """Hold the state folder: shared by audits while they run, alone by gc. Goes with the process, also after kill -9.

    Raises:
        UserError: `exclusive`, and somebody holds it; or the folder cannot be written, or lacks what audits need.
    """
    path = make_private_folder(root) / LOCK_FILE

    def tell() -> None:
        log.info("  waiting for `lavise gc` in %s", root)

    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(path, shared=not exclusive, before_waiting=None if exclusive else tell))
        except LockedError:
            raise UserError(
                f"storage.root: an audit or another `lavise gc` is at work in {root}; nothing was deleted; "
                "start `lavise gc` again when it is done"
            ) from None
        except OSError as err:
            raise UserError(
                f"storage.root: cannot open {path} ({err.strerror}); remove it or set its permissions"
            ) from None
        if not exclusive:
            require_file_system(root)
        yield


def find_references(root: Path, deleted_runs: Collection[str]) -> References:
    """What the runs need whose folders are kept, and the diffs between them.

    A diff is kept unless one of its runs was deleted; the folder of the other may be on another machine.

    Args:
        deleted_runs: ids of runs that are not kept.

    Raises:
        UserError: a run that is kept does not say what it needs; one line for each.
    """
    runs, diffs, needs, faults = set(), set(), [], []
    for path in _list_claimants(root / _RUNS, _RUN, deleted_runs):
        runs.add(path.name)
        try:
            needs.append(_read_needs(path))
        except UserError as err:
            faults.append(str(err))
    for path in _list_claimants(root / _DIFFS, _DIFF, ()):
        if _DIFF.fullmatch(path.name) and any(run in deleted_runs for run in path.name.split("..")):
            continue
        diffs.add(path.name)
        try:
            needs += [_read_needs(path)] if os.path.lexists(path / REFERENCES_FILE) else []
        except UserError as err:
            faults.append(str(err))
    if faults:
        raise UserError("\n".join(faults))
    artefacts = {(a.stage, a.digest[:_FOLDER_DIGITS]) for n in needs for found in n.stages.values() for a in found}
    checkpoints = {n.checkpoint_file for n in needs if n.checkpoint_file}
    return References(frozenset(runs), frozenset(diffs), frozenset(artefacts), frozenset(checkpoints))


def plan_collection(root: Path, deleted_runs: Collection[str], keep_seconds: float, now: float) -> Plan:
    """What no kept run needs. Deletes nothing.

    A run deleted in MLflow whose folder is younger than `keep_seconds` is kept, with all that it needs.

    Args:
        deleted_runs: ids of runs that were deleted in MLflow.
        keep_seconds: nothing goes in which a file is younger; leftovers of an interrupted collection go at once.
        now: seconds since the epoch.

    Raises:
        UserError: a run that is kept does not say what it needs, or a folder cannot be read.
    """

    def is_old(path: Path) -> bool:
        return now - _newest(path) >= keep_seconds

    here = [p for p, kind in _list_named(root / _RUNS, _RUN) if not kind and p.name in deleted_runs]
    gone = set(deleted_runs) - {p.name for p in here if not is_old(p)}
    references = find_references(root, gone)
    stages = _list_stages(root)
    places = _sort_out_runs(root, gone) + _sort_out_diffs(root, references) + _sort_out_checkpoints(root, references)
    places += _sort_out_copies(root)
    for folder in stages:
        places += _sort_out_stage(folder, references)
    found = [(p, r, s) for p, r, s in places if r is Reason.LEFTOVER or is_old(p)]
    going = {p for p, _, _ in found}
    for folder in stages:
        found += [(p, Reason.LOCK, folder.name) for p in _list_stray_locks(folder, going) if is_old(p)]
    order = list(Reason)
    seen: set[tuple[int, int]] = set()
    entries = [Entry(p, r, s, _count_bytes(p, seen)) for p, r, s in sorted(found, key=lambda f: order.index(f[1]))]
    return Plan(root, tuple(entries), references)


def collect(plan: Plan) -> None:
    """Remove what the plan names. Call it only while the state folder is held alone.

    Raises:
        UserError: something could not be removed; one line for each. The rest is gone.
    """
    faults = []
    for entry in plan.entries:
        try:
            _remove(entry.path, plan.root)
        except FileNotFoundError:
            continue
        except OSError as err:
            faults.append(
                f"{entry.path.relative_to(plan.root)}: cannot be removed ({err.strerror or err}); "
                "set its permissions, then start `lavise gc` again"
            )
    if faults:
        raise UserError("\n".join(faults))


def measure_disk_use(root: Path, references: References | None = None) -> list[StageUse]:
    """Disk use of every stage and of the other folders of the state, the largest first.

    Args:
        references: what counts as needed; if None, all that any run needs.

    Raises:
        UserError: a run does not say what it needs, or a folder cannot be read.
    """
    needed = references or find_references(root, ())
    seen: set[tuple[int, int]] = set()
    uses = []
    for folder in _list_stages(root):
        whole = [p for p, kind in _list_named(folder, _ARTEFACT) if not kind]
        uses.append(_measure(folder, whole, [p for p in whole if (folder.name, p.name) in needed.artefacts], seen))
    runs = _list_claimants(root / _RUNS, _RUN, ())
    uses.append(_measure(root / _RUNS, runs, [p for p in runs if p.name in needed.runs], seen))
    diffs = _list_claimants(root / _DIFFS, _DIFF, ())
    uses.append(_measure(root / _DIFFS, diffs, [p for p in diffs if p.name in needed.diffs], seen))
    snapshots = [p for p, _ in _list_named(root / _CHECKPOINTS, _CHECKPOINT, folders=False)]
    kept = [p for p in snapshots if p.name in needed.checkpoints]
    uses.append(_measure(root / _CHECKPOINTS, snapshots, kept, seen))
    for name in (n for n in SERVICES if n != "fetched" or (root / n).exists()):
        stats = [] if (root / name).is_symlink() else list(_stats(root / name))
        num, size = sum(stat.S_ISREG(s.st_mode) for s in stats), _sum_bytes(stats, seen)
        uses.append(StageUse(name, num, size, num, size))
    return sorted(uses, key=lambda u: (-u.bytes, u.stage))


# What may go, whatever its age: (path, reason, stage)
_Going = list[tuple[Path, Reason, str]]


def _sort_out_runs(root: Path, gone: Collection[str]) -> _Going:
    going: _Going = []
    for path, kind in _list_named(root / _RUNS, _RUN):
        if kind.endswith(_TRASH):
            going.append((path, Reason.LEFTOVER, _RUNS))
        elif kind == _PARTIAL:
            going.append((path, Reason.UNFINISHED_RUN, _RUNS))
        elif path.name in gone:
            going.append((path, Reason.DELETED_RUN, _RUNS))
    return going


def _sort_out_diffs(root: Path, references: References) -> _Going:
    going: _Going = []
    for path, kind in _list_named(root / _DIFFS, _DIFF):
        if kind.endswith(_TRASH):
            going.append((path, Reason.LEFTOVER, _DIFFS))
        elif kind == _PARTIAL:
            going.append((path, Reason.UNFINISHED, _DIFFS))
        elif path.name not in references.diffs:
            going.append((path, Reason.ORPHANED_DIFF, _DIFFS))
    return going


def _sort_out_stage(folder: Path, references: References) -> _Going:
    going: _Going = []
    for path, kind in _list_named(folder, _ARTEFACT):
        if kind.endswith(_TRASH):
            going.append((path, Reason.LEFTOVER, folder.name))
        elif kind == _PARTIAL:
            going.append((path, Reason.UNFINISHED, folder.name))
        elif not kind and (folder.name, path.name) not in references.artefacts:
            going.append((path, Reason.UNREFERENCED, folder.name))
    return going


def _sort_out_checkpoints(root: Path, references: References) -> _Going:
    folder = root / _CHECKPOINTS
    going: _Going = []
    for path, _ in _list_named(folder, _CHECKPOINT, folders=False):
        if path.name not in references.checkpoints:
            going.append((path, Reason.CHECKPOINT, _CHECKPOINTS))
    for path, kind in _list_named(folder, _UNFINISHED_COPY):
        if kind:
            going.append((path, Reason.LEFTOVER, _CHECKPOINTS))
        elif not is_locked(folder / _LOCK):
            going.append((path, Reason.UNFINISHED, _CHECKPOINTS))
    return going


def _sort_out_copies(root: Path) -> _Going:
    """What can be made or fetched again, whatever runs are kept: stores of reruns that were killed, files of runs."""
    going: _Going = [(path, Reason.UNFINISHED, _RERUNS) for path, _ in _list_named(root / _RERUNS, _RUN)]
    going += [(path, Reason.FETCHED, _FETCHED) for path, _ in _list_named(root / _FETCHED, _RUN)]
    # Of a registered checkpoint that was audited there is a snapshot too.
    registered = _list_named(root / _CHECKPOINTS / "registered", _CHECKPOINT, folders=False)
    return going + [(path, Reason.FETCHED, _CHECKPOINTS) for path, kind in registered if not kind]


def _list_stray_locks(folder: Path, going: Collection[Path]) -> list[Path]:
    """Lock files of artefacts that are not there, or are `going`, and are not being made."""
    strays = []
    for path, kind in _list_named(folder, _ARTEFACT, folders=False):
        work = (path.with_suffix(""), path.with_suffix(_PARTIAL))
        if kind == _LOCK and all(p in going or not os.path.lexists(p) for p in work):
            strays.append(path)
    return strays


def _list_claimants(folder: Path, pattern: re.Pattern[str], deleted: Collection[str]) -> list[Path]:
    """Run or diff folders, also under names that a user gave them; without those of runs that were deleted.

    Raises:
        UserError: one of them lies behind a symbolic link, so that what it needs is not known.
    """
    if folder.is_symlink():
        raise UserError(_describe_link(folder))
    claimants = []
    for path in _list(folder):
        match = pattern.fullmatch(path.name)
        if (match and match["kind"]) or path.name in deleted:
            continue
        if path.is_symlink():
            if (match or path.is_dir()) and path.resolve().parent != folder.resolve():
                raise UserError(_describe_link(path))
        elif path.is_dir() and (match or any(os.path.lexists(path / n) for n in (REFERENCES_FILE, file_names.STAGES))):
            claimants.append(path)
    return claimants


def _read_needs(folder: Path) -> _Needs:
    path = folder / REFERENCES_FILE
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(0, "not a file")
        return _Needs.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        fault = f"has no {REFERENCES_FILE}"
    except OSError as err:
        fault = f"{REFERENCES_FILE} cannot be read ({err.strerror})"
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        fault = f"{REFERENCES_FILE} is damaged ({where!a}: {first['msg']})"
    raise UserError(
        f"{str(folder)!a}: {fault}, so which artefacts are still needed is not known and nothing was deleted; "
        "if it is not needed, delete that run in MLflow or remove the folder; then start `lavise gc` again"
    )


def _describe_link(path: Path) -> str:
    return (
        f"{str(path)!a}: found a symbolic link, which is not followed, so which artefacts are still needed is not "
        "known and nothing was deleted; put the folder itself there or remove the link; then start `lavise gc` again"
    )


def _list_stages(root: Path) -> list[Path]:
    folder = root / _ARTEFACTS
    if folder.is_symlink():
        log.warning("  %s is a symbolic link; what lies there is left alone", folder)
        return []
    return [p for p in _list(folder) if _STAGE.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


def _list_named(folder: Path, pattern: re.Pattern[str], folders: bool = True) -> list[tuple[Path, str]]:
    """Paths with the names that lavise gives, with what comes after the name proper; no links, no other files."""
    if folder.is_symlink():
        return []
    named = []
    for path in _list(folder):
        match = pattern.fullmatch(path.name)
        if match and not path.is_symlink() and (path.is_dir() if folders else path.is_file()):
            named.append((path, match["kind"]))
    return named


def _list(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if it is not there.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise UserError(f"{str(folder)!a}: cannot be read ({err.strerror}); set its permissions") from None


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of a file or folder and of all below it; links are not followed."""
    try:
        own = path.lstat()
    except FileNotFoundError:
        return
    yield own
    if stat.S_ISDIR(own.st_mode):
        for child in _list(path):
            yield from _stats(child)


def _newest(path: Path) -> float:
    """The latest time of change inside, in seconds since the epoch; what has vanished is as new as can be."""
    return max((s.st_mtime for s in _stats(path)), default=float("inf"))


def _count_bytes(path: Path, seen: set[tuple[int, int]]) -> int:
    return _sum_bytes(_stats(path), seen)


def _sum_bytes(stats: Iterator[os.stat_result] | list[os.stat_result], seen: set[tuple[int, int]]) -> int:
    """Sizes of regular files that are not in `seen`, which grows."""
    total = 0
    for found in stats:
        key = (found.st_dev, found.st_ino)
        if stat.S_ISREG(found.st_mode) and key not in seen:
            seen.add(key)
            total += found.st_size
    return total


def _measure(folder: Path, whole: list[Path], referenced: list[Path], seen: set[tuple[int, int]]) -> StageUse:
    bytes_referenced = sum(_count_bytes(p, seen) for p in referenced)
    rest = 0 if folder.is_symlink() else _count_bytes(folder, seen)
    return StageUse(folder.name, len(whole), bytes_referenced + rest, len(referenced), bytes_referenced)


def _remove(path: Path, root: Path) -> None:
    """One file, or a folder by way of its .trash name.

    Raises:
        OSError: it cannot be removed, or does not lie in the state folder itself.
    """
    for folder in path.relative_to(root).parents:
        if (root / folder).is_symlink() or ".." in folder.parts:
            raise OSError(0, "not in the state folder")
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
        return
    trash = path
    if path.suffix != _TRASH:
        trash = path.with_name(path.name + _TRASH)
        if trash.exists():
            shutil.rmtree(trash)
        path.rename(trash)
    shutil.rmtree(trash)
