"""Checkpoints in a folder that a training run writes to."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from lavise.storage.checkpoint_sources.snapshots import join_hashes, open_regular_file
from lavise.storage.models.checkpoint_files import INDEX_SUFFIX, NoNetworkError, list_shards, read_checkpoint
from lavise.storage.models.distributed_checkpoints import (
    CHUNK_SUFFIX,
    FURTHER_STATES,
    METADATA,
    OPTIMIZER_SHARDS,
    list_chunk_files,
)
from lavise.storage.models.state_dicts import list_state_dicts
from lavise.storage.models.weight_files import is_shard_name, is_weights_name
from lavise.storage.state.digest import digest_of
from lavise.storage.state.files import make_private_folder, write_atomically
from lavise.storage.state.progress import Progress
from lavise.storage.state.text import printable

_HASH_THREADS = 2
_LEAST_AGE_NS = 2 * 10**9
_OTHER_ENDING = "another ending"
_UNLISTED = f"its {METADATA}, which is written last, is not there: it was not written to its end"


@dataclass(frozen=True)
class _Candidate:
    """A file; or an index with its shards, or a list of tensors with the files of their chunks.

    Attributes:
        facts: of each of its files, what a write or a replacement changes.
        time_ns: of its last change.
    """

    name: str
    path: Path
    shards: tuple[Path, ...]
    facts: tuple[tuple[int, ...], ...]
    time_ns: int

    @property
    def key(self) -> str:
        return " ".join("-".join(map(str, facts)) for facts in self.facts)


@dataclass(frozen=True)
class _Content:
    """What was learned of a candidate by reading it.

    Attributes:
        has_network: whether there is one in it, or may be one: what cannot be read is not passed over.
    """

    sha256: str
    has_network: bool


def scan_folder(source: FolderSource, now: float, progress: Progress, cache: Path) -> Scan:
    """Look through a folder; files that have not changed since the last look are not read again.

    Raises:
        UserError: no such folder.
    """
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
    skipped: list[str] = []
    num_other = 0
    ahead = _FromAhead(cache, root, now)
    for path, fault in _walk(folder, root, PurePosixPath(source.pattern).parts):
        name = _name(path, folder)
        if fault == _OTHER_ENDING:
            num_other += 1
            continue
        if any(fnmatchcase(path.name, pattern) for pattern in (OPTIMIZER_SHARDS, FURTHER_STATES)):
            skipped.append(name)
            continue
        if fault == _UNLISTED and _is_younger(list_chunk_files(path.parent), now - source.stable_seconds):
            waiting.append(name)
            continue
        if fault is not None:
            unusable.append((name, fault))
            continue
        try:
            shards = _list_parts(path)
            states = [_look_at(part, root) for part in (path, *shards)]
        except FileNotFoundError:
            continue  # deleted in the meantime, as training runs do with all but the last few
        except (OSError, UnusableError) as err:
            unusable.append((name, describe_error(err)))
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            unusable.append((name, f"no index of shards: {describe_error(err)}"))
            continue
        facts = tuple(_facts(status) for status in states)
        candidate = _Candidate(name, path, shards, facts, max(s.st_mtime_ns for s in states))
        changed = max(max(s.st_mtime, s.st_ctime) for s in states)
        if now - (ahead.first_seen(candidate.key) if changed > now else changed) < source.stable_seconds:
            waiting.append(name)
        elif any(status.st_size == 0 for status in states):
            unusable.append((name, "the file is empty"))
        else:
            candidates.append(candidate)
    ahead.keep()
    candidates.sort(key=lambda c: (c.time_ns, c.name))
    found: list[FoundCheckpoint] = []
    with _remember(cache, root, [c.key for c in candidates]) as memory:
        for candidate, result in _read_all(candidates, memory, progress):
            if isinstance(result, _Content):
                if result.has_network:
                    found.append(
                        FoundCheckpoint(candidate.name, candidate.path, result.sha256, shards=candidate.shards)
                    )
                else:
                    skipped.append(candidate.name)
            elif result is None:
                waiting.append(candidate.name)
            else:
                unusable.append((candidate.name, describe_error(result)))
    return Scan(
        tuple(found), tuple(sorted(waiting)), tuple(sorted(unusable)), tuple(sorted(skipped)), num_other=num_other
    )


def _name(path: Path, folder: Path) -> str:
    """For people: below the folder; of torch.distributed's checkpoints, which are folders, the folder's."""
    if path.name == METADATA:
        path = path.parent
    return printable(path.relative_to(folder).as_posix() if path != folder else folder.name)


def _list_parts(path: Path) -> tuple[Path, ...]:
    """Other files of a checkpoint in several."""
    if path.name == METADATA:
        return tuple(list_chunk_files(path.parent))
    return tuple(list_shards(path)) if path.name.endswith(INDEX_SUFFIX) else ()


def _is_younger(paths: Sequence[Path], than: float) -> bool:
    """Whether one of some files was changed after a time; those that are gone by now were."""
    try:
        return any(max(path.stat().st_mtime, path.stat().st_ctime) > than for path in paths)
    except FileNotFoundError:
        return True


class _FromAhead:
    """When files were seen first whose time of change lies ahead: they were written before the clock was set back, or
    by a machine with another one. How long they have been unchanged goes by that."""

    def __init__(self, cache: Path, root: Path, now: float) -> None:
        self._file, self._now = cache / f"ahead-{digest_of(str(root))[:16]}.json", now
        try:
            self._before = {str(k): float(v) for k, v in json.loads(self._file.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self._before = {}
        self._seen: dict[str, float] = {}

    def first_seen(self, key: str) -> float:
        """Seconds since the epoch; now, for one that is new."""
        self._seen[key] = min(self._before.get(key, self._now), self._now)
        return self._seen[key]

    def keep(self) -> None:
        """For the next look; those that are gone, or behind us, are forgotten."""
        if self._seen != self._before:
            make_private_folder(self._file.parent)
            write_atomically(self._file, json.dumps(self._seen))


@contextmanager
def _remember(cache: Path, root: Path, keys: Sequence[str]) -> Iterator[dict[str, _Content]]:
    """What earlier looks at this folder learned, by the facts of the files; kept for those that are still there."""
    file = cache / f"folder-{digest_of(str(root))[:16]}.json"
    try:
        memory = {k: _Content(str(v[0]), bool(v[1])) for k, v in json.loads(file.read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        memory = {}
    before = set(memory)
    yield memory
    kept = {key: [memory[key].sha256, memory[key].has_network] for key in keys if key in memory}
    if kept.keys() != before:
        make_private_folder(cache)
        write_atomically(file, json.dumps(kept))


def _read_all(
    candidates: Sequence[_Candidate], memory: dict[str, _Content], progress: Progress
) -> Iterator[tuple[_Candidate, _Content | Exception | None]]:
    """Of each candidate in turn what is known, or is read now."""
    unknown = {c.key: c for c in candidates if c.key not in memory}
    with ThreadPoolExecutor(_HASH_THREADS) as pool, progress("hash checkpoints", len(unknown)) as bar:
        results = dict(zip(unknown, pool.map(_read_unchanged, unknown.values()), strict=True))
        for candidate in candidates:
            result = memory.get(candidate.key) or results[candidate.key]
            # A file may be written twice in one tick of the clock that times of change are taken from.
            if isinstance(result, _Content) and time.time_ns() - candidate.time_ns > _LEAST_AGE_NS:
                memory[candidate.key] = result
            bar.advance(int(candidate.key in results))
            yield candidate, result


def _read_unchanged(candidate: _Candidate) -> _Content | Exception | None:
    """Content of a candidate; None if it changed while it was read, or is gone."""
    parts = (candidate.path, *candidate.shards)
    hashes = []
    for path, facts in zip(parts, candidate.facts, strict=True):
        result = _hash_unchanged(path, facts)
        if not isinstance(result, str):
            return result
        hashes.append(result)
    try:
        list_state_dicts(read_checkpoint(candidate.path, values=False), candidate.path)
    except NoNetworkError:
        return _Content(join_hashes(hashes), has_network=False)
    except UserError:
        pass  # said when it is loaded
    return _Content(join_hashes(hashes), has_network=True)


def _walk(folder: Path, root: Path, pattern: tuple[str, ...]) -> Iterator[tuple[Path, str | None]]:
    """Files whose path fits the pattern, and folders that cannot be looked into, with the reason; of files that are no
    weights by their name, `_OTHER_ENDING`. Of torch.distributed's checkpoints the list of tensors stands for the
    folder, whether the pattern fits the one or the other.

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
            path, parts = parent / name, (*above, name)
            leads = _may_lead_to_match(parts, pattern) or (_matches(parts, pattern) and _holds_chunks(path))
            if name.startswith(".") or not leads:
                continue
            if path.is_symlink():
                covered = root if len(above) < num_named else folder.joinpath(*above[:num_named]).resolve()
                if not _leads_below(path, covered):
                    yield path, "a symbolic link to a folder elsewhere is not followed; name that folder as the source"
                    continue
                if len(above) >= num_named:
                    continue
            kept.append(name)
        folders[:] = kept
        has_index = any(name.endswith(INDEX_SUFFIX) for name in files)
        has_chunks = any(name.endswith(CHUNK_SUFFIX) for name in files)
        if has_chunks and (_matches(above, pattern) or _matches((*above, METADATA), pattern)):
            yield parent / METADATA, None if METADATA in files else _UNLISTED
        for name in sorted(files):
            if name.startswith(".") or not _matches((*above, name), pattern):
                continue
            if (has_index and is_shard_name(name)) or name.endswith(CHUNK_SUFFIX):
                continue  # read with the others of its index
            is_wanted = is_weights_name(name) or name.endswith(INDEX_SUFFIX)
            yield parent / name, None if is_wanted else _OTHER_ENDING
    for err in faults:
        if not isinstance(err, FileNotFoundError):
            yield Path(err.filename), f"the folder cannot be read: {describe_error(err)}"


def _holds_chunks(folder: Path) -> bool:
    try:
        return bool(list_chunk_files(folder))
    except OSError:  # said when it is walked
        return False


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


def _hash_unchanged(path: Path, facts: tuple[int, ...]) -> str | Exception | None:
    """sha256 of a file; None if it changed while it was read, or is gone."""
    try:
        with open_regular_file(path) as file:
            if _facts(os.fstat(file.fileno())) != facts:
                return None
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest if _facts(path.stat()) == facts else None
    except (FileNotFoundError, UnusableError):
        return None
    except OSError as err:
        return err


def _facts(status: os.stat_result) -> tuple[int, ...]:
    """What a write or a replacement changes."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


SCANNERS["folder"] = lambda source, look: scan_folder(source, look.now, look.progress, look.cache)
