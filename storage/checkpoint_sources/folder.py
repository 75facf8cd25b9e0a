"""Checkpoints in a folder that a training run writes to."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from lavise.configs.errors import UserError
from lavise.configs.sources import FolderSource
from lavise.storage.checkpoint_sources.base import (
    SCANNERS,
    FoundCheckpoint,
    Scan,
    UnusableError,
    describe_error,
)
from lavise.storage.checkpoint_sources.snapshots import open_regular_file
from lavise.storage.models.state_dicts import WEIGHT_SUFFIXES
from lavise.storage.state.progress import Progress
from lavise.storage.state.text import printable

_HASH_THREADS = 2


@dataclass(frozen=True)
class _Candidate:
    name: str
    path: Path
    facts: tuple[int, ...]
    mtime_ns: int


def scan_folder(source: FolderSource, now: float, progress: Progress) -> Scan:
    folder = source.folder
    try:
        os.scandir(folder).close()
        root = folder.resolve(strict=True)
    except (OSError, ValueError) as err:
        raise UserError(
            f"source.folder: cannot read {str(folder)!r} ({describe_error(err)}); allowed: a folder of checkpoint files"
        ) from None
    candidates: list[_Candidate] = []
    waiting: list[str] = []
    unusable: list[tuple[str, str]] = []
    for path, fault in _walk(folder, root, PurePosixPath(source.pattern).parts):
        name = printable(path.relative_to(folder).as_posix())
        if fault is not None:
            unusable.append((name, fault))
            continue
        try:
            status = _look_at(path, root)
        except FileNotFoundError:
            continue  # deleted in the meantime, as training runs do with all but the last few
        except (OSError, UnusableError) as err:
            unusable.append((name, describe_error(err)))
            continue
        if now - max(status.st_mtime, status.st_ctime) < source.stable_seconds:
            waiting.append(name)
        elif status.st_size == 0:
            unusable.append((name, "the file is empty"))
        else:
            candidates.append(_Candidate(name, path, _facts(status), status.st_mtime_ns))
    candidates.sort(key=lambda c: (c.mtime_ns, c.name))
    found: list[FoundCheckpoint] = []
    with ThreadPoolExecutor(_HASH_THREADS) as pool, progress("hash checkpoints", len(candidates)) as bar:
        for candidate, result in zip(candidates, pool.map(_hash_unchanged, candidates), strict=True):
            if isinstance(result, str):
                found.append(FoundCheckpoint(candidate.name, candidate.path, result))
            elif result is None:
                waiting.append(candidate.name)
            else:
                unusable.append((candidate.name, describe_error(result)))
            bar.advance()
    return Scan(tuple(found), tuple(sorted(waiting)), tuple(sorted(unusable)))


def _walk(folder: Path, root: Path, pattern: tuple[str, ...]) -> Iterator[tuple[Path, str | None]]:
    """Weights files whose path fits the pattern, and folders that cannot be looked into, with the reason.

    A link to a folder is followed where a part of the pattern names it, if it stays below the source's folder. Below
    `**` it is not: what it leads to is found by its own name, and links in a circle would have no end.
    """
    num_named = pattern.index("**") if "**" in pattern else len(pattern)
    faults: list[OSError] = []
    for top, folders, files in os.walk(folder, onerror=faults.append, followlinks=True):
        parent = Path(top)
        above = parent.relative_to(folder).parts
        kept = []
        for name in sorted(folders):
            if name.startswith(".") or not _may_lead_to_match((*above, name), pattern):
                continue
            path = parent / name
            if path.is_symlink():
                covered = root if len(above) < num_named else folder.joinpath(*above[:num_named]).resolve()
                if not _leads_below(path, covered):
                    yield path, "a symbolic link to a folder elsewhere is not followed; name that folder as the source"
                    continue
                if len(above) >= num_named:
                    continue
            kept.append(name)
        folders[:] = kept
        for name in sorted(files):
            fits = not name.startswith(".") and PurePosixPath(name).suffix in WEIGHT_SUFFIXES
            if fits and _matches((*above, name), pattern):
                yield parent / name, None
    for err in faults:
        if not isinstance(err, FileNotFoundError):
            yield Path(err.filename), f"the folder cannot be read: {describe_error(err)}"


def _leads_below(link: Path, folder: Path) -> bool:
    """Whether a link leads to something below a folder, or to the folder itself; `folder` holds no links."""
    try:
        return link.resolve(strict=True).is_relative_to(folder)
    except (OSError, RuntimeError):  # nowhere, or in a circle
        return False


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether the parts of a path fit those of a pattern, in which `**` is any number of parts."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _may_lead_to_match(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether something below a folder could fit."""
    if not parts:
        return bool(pattern)
    if not pattern:
        return False
    return pattern[0] == "**" or (fnmatchcase(parts[0], pattern[0]) and _may_lead_to_match(parts[1:], pattern[1:]))


def _look_at(path: Path, root: Path) -> os.stat_result:
    """The state of a regular file that is really below the folder, also where its name is a link."""
    if path.is_symlink() and not _leads_below(path, root):
        raise UnusableError("a symbolic link that leads out of the folder, or nowhere")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnusableError("not a regular file")
    return status


def _hash_unchanged(candidate: _Candidate) -> str | Exception | None:
    """sha256 of a file; None if it changed while it was read, or is gone."""
    try:
        with open_regular_file(candidate.path) as file:
            if _facts(os.fstat(file.fileno())) != candidate.facts:
                return None
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest if _facts(candidate.path.stat()) == candidate.facts else None
    except (FileNotFoundError, UnusableError):
        return None
    except OSError as err:
        return err


def _facts(status: os.stat_result) -> tuple[int, ...]:
    """What a write or a replacement changes."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


SCANNERS["folder"] = lambda source, look: scan_folder(source, look.now, look.progress)
