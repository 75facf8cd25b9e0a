"""Checkpoints that are new somewhere: in a folder that a training run writes to, or in the MLflow registry.

Nothing is loaded here, only found, hashed and copied. Names of files come from others: they are shown, but what is
written is named by content. A file under way is left for the next scan.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import logging
import os
import posixpath
import shutil
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from configs.errors import UserError
from configs.sources import CheckpointSource, FolderSource, RegisteredModelSource
from storage.artefacts import make_private_folder, sync
from storage.checkpoints import WEIGHT_SUFFIXES
from storage.digest import digest_file, digest_of
from storage.progress import Progress, no_progress
from storage.tracking import hide_credentials

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient

_BLOCK_BYTES = 1 << 20
_HASH_THREADS = 2
_MAX_ARTIFACTS = 10_000
_MAX_REASON_CHARS = 240
_MAX_SOURCE_STEPS = 5
_NUM_SHOWN = 10
_PARTIAL = ".partial-"
log = logging.getLogger("lavise")


class CheckpointChangedError(Exception):
    """A checkpoint no longer has the content that it was found with; the next scan finds it anew."""


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint file whose content is known.

    Attributes:
        name: for people: the path below the folder, or `MODEL version 3`; printable, whatever the file is called.
        path: where its bytes are; of a registered version after `fetch_checkpoint`.
        sha256: of the file's bytes.
        origin: of a registered version: artifact location, and the file below it.
    """

    name: str
    path: Path
    sha256: str
    origin: tuple[str, str] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Scan:
    """What a source holds.

    Attributes:
        found: the oldest first, so that each checkpoint's predecessor is the one before it. The same content under
            two names is listed twice.
        waiting: names of those that are still being written or registered.
        unusable: names and reasons.
    """

    found: tuple[FoundCheckpoint, ...]
    waiting: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]


def scan_checkpoints(
    source: CheckpointSource,
    client: MlflowClient | None,
    cache: Path,
    now: float,
    progress: Progress = no_progress,
) -> Scan:
    """Find the checkpoints of a source. One that cannot be used stops none of the others.

    Args:
        client: of the registry; a folder needs none.
        cache: where files of registered versions are kept, and what each version resolved to. A version that is
            known is not downloaded again, even if its file was deleted from the cache since (see `fetch_checkpoint`).
        now: seconds since the epoch; by it a file counts as stable.

    Raises:
        UserError: no such folder, model or alias; says what there is.
    """
    if isinstance(source, FolderSource):
        return _scan_folder(source, now, progress)
    if client is None:
        raise UserError("source.model: a registered model needs MLflow; set tracking.enabled=true, or name a folder")
    return _scan_registered_model(source, client, cache, progress)


def fetch_checkpoint(found: FoundCheckpoint, client: MlflowClient | None) -> FoundCheckpoint:
    """Download a registered version's file again, if it is no longer in the cache or damaged there.

    Raises:
        UserError: it cannot be downloaded.
        CheckpointChangedError: the registry now has other bytes for this version.
    """
    if found.origin is None or client is None or _has_content(found.path, found.sha256):
        return found
    try:
        sha256 = _download(client, found.origin, found.path.parent)
    except Exception as err:  # noqa: BLE001 - MLflow and its artifact stores raise many types
        raise UserError(f"source.model: cannot download {found.name} ({_reason(err)}); try again later") from None
    if sha256 != found.sha256:
        raise CheckpointChangedError(
            f"{found.name}: its file was changed after it was registered; register it as a new version"
        )
    return found


def take_snapshot(found: FoundCheckpoint, folder: Path) -> Path:
    """Copy a checkpoint to FOLDER/SHA256.suffix, which stays when `last.pt` is overwritten; an intact copy is reused.

    Raises:
        CheckpointChangedError: the file is gone, or its bytes are not those that were found.
    """
    target = folder / f"{found.sha256}{found.path.suffix}"
    with _exclusive(folder) as partial:
        if _has_content(target, found.sha256):
            return target
        try:
            original = _open_regular(found.path)
        except (FileNotFoundError, NotADirectoryError, _UnusableError):
            raise CheckpointChangedError(f"{found.name}: the file is gone since it was found") from None
        sha = hashlib.sha256()
        with original, (partial / target.name).open("wb") as copy:
            while block := original.read(_BLOCK_BYTES):
                sha.update(block)
                copy.write(block)
        if sha.hexdigest() != found.sha256:
            raise CheckpointChangedError(f"{found.name}: the file was changed since it was found")
        _publish(partial / target.name, target)
    return target


# A folder


class _UnusableError(Exception):
    """What stands where a checkpoint is wanted is none; the message says why."""


@dataclass(frozen=True)
class _Candidate:
    name: str
    path: Path
    facts: tuple[int, ...]
    mtime_ns: int


def _scan_folder(source: FolderSource, now: float, progress: Progress) -> Scan:
    folder = source.folder
    try:
        os.scandir(folder).close()
        root = folder.resolve(strict=True)
    except (OSError, ValueError) as err:
        raise UserError(
            f"source.folder: cannot read {str(folder)!r} ({_reason(err)}); allowed: a folder of checkpoint files"
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
        except (OSError, _UnusableError) as err:
            unusable.append((name, _reason(err)))
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
                unusable.append((candidate.name, _reason(result)))
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
            yield Path(err.filename), f"the folder cannot be read: {_reason(err)}"


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
        raise _UnusableError("a symbolic link that leads out of the folder, or nowhere")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _UnusableError("not a regular file")
    return status


def _hash_unchanged(candidate: _Candidate) -> str | Exception | None:
    """sha256 of a file; None if it changed while it was read, or is gone."""
    try:
        with _open_regular(candidate.path) as file:
            if _facts(os.fstat(file.fileno())) != candidate.facts:
                return None
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest if _facts(candidate.path.stat()) == candidate.facts else None
    except (FileNotFoundError, _UnusableError):
        return None
    except OSError as err:
        return err


def _facts(status: os.stat_result) -> tuple[int, ...]:
    """What a write or a replacement changes."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _open_regular(path: Path) -> BufferedReader:
    """Open for reading, without waiting for the other end of a pipe that may have taken the file's place."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _UnusableError("not a regular file")
    return os.fdopen(descriptor, "rb")


# A registered model


class _Resolved(BaseModel):
    """What a registered version resolved to; its content never changes, so neither does this."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    location: str
    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("file")
    @classmethod
    def _is_weights_file(cls, file: str) -> str:
        if PurePosixPath(file).suffix not in WEIGHT_SUFFIXES:
            raise ValueError("not a weights file")
        return file


def _scan_registered_model(
    source: RegisteredModelSource, client: MlflowClient, cache: Path, progress: Progress
) -> Scan:
    make_private_folder(cache)
    versions = _select_versions(source, client)
    found: list[FoundCheckpoint] = []
    waiting: list[str] = []
    unusable: list[tuple[str, str]] = []
    with progress("registered versions", len(versions)) as bar:
        for version in versions:
            name = printable(f"{source.model} version {version.version}")
            if version.status == "FAILED_REGISTRATION":
                message = printable(" ".join(str(version.status_message or "").split()))[:_MAX_REASON_CHARS]
                unusable.append((name, f"its registration failed{f': {message}' if message else ''}"))
            elif version.status != "READY":
                waiting.append(name)
            else:
                try:
                    found.append(_resolve_once(name, version, source.file, client, cache))
                except Exception as err:  # noqa: BLE001 - MLflow and its artifact stores raise many types
                    unusable.append((name, _reason(err)))
            bar.advance()
    return Scan(tuple(found), tuple(waiting), tuple(unusable))


def _select_versions(source: RegisteredModelSource, client: MlflowClient) -> list[ModelVersion]:
    """In the order of their numbers."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(source.model)
    except MlflowException as err:
        _require_absence(err)
        known = _list_models(client)
        close = difflib.get_close_matches(source.model, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(
            f"source.model: found {source.model!r}; allowed: {_shorten(known) or 'none, since no model is registered'}"
            f"{hint}"
        ) from None
    if source.select == "aliases":
        by_number = {}
        for alias in source.aliases:
            version = _find_alias(source.model, alias, client)
            by_number[int(version.version)] = version
        return [by_number[number] for number in sorted(by_number)]
    versions = sorted(_search_versions(source.model, client), key=lambda v: int(v.version))
    return versions[-1:] if source.select == "latest" else versions


def _search_versions(model: str, client: MlflowClient) -> list[ModelVersion]:
    from mlflow.exceptions import MlflowException

    quote = '"' if "'" in model else "'"
    versions: list[ModelVersion] = []
    token = None
    while True:
        try:
            page = client.search_model_versions(f"name = {quote}{model}{quote}", page_token=token)
        except MlflowException as err:
            raise UserError(f"source.model: cannot list the versions of {model!r} ({_reason(err)})") from None
        versions += [v for v in page if v.name == model]
        token = page.token
        if not token:
            return versions


def _find_alias(model: str, alias: str, client: MlflowClient) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as err:
        _require_absence(err)
        known = sorted(client.get_registered_model(model).aliases)
        raise UserError(
            f"source.aliases: found {alias!r}; allowed: {_shorten(known) or f'none, since {model!r} has no aliases'}"
        ) from None


def _list_models(client: MlflowClient) -> list[str]:
    names: list[str] = []
    token = None
    while True:
        page = client.search_registered_models(page_token=token)
        names += [printable(model.name) for model in page]
        token = page.token
        if not token:
            return sorted(names)


def _require_absence(err: Any) -> None:
    """Tell "there is no such thing" from "the registry does not work"."""
    if err.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        raise UserError(
            f"source.model: the model registry does not work ({_reason(err)}); start that server, or set tracking.uri"
        ) from None


def _resolve_once(
    name: str, version: ModelVersion, file: str | None, client: MlflowClient, cache: Path
) -> FoundCheckpoint:
    """The checkpoint of a version: remembered, or downloaded and remembered."""
    identity = {
        "registry": client.tracking_uri,
        "name": version.name,
        "version": int(version.version),
        "source": version.source,
        "created": version.creation_timestamp,
        "file": file,
    }
    memory = cache / f"{digest_of(identity)}.json"
    try:
        resolved = _Resolved.model_validate_json(memory.read_bytes())
    except (OSError, ValueError):  # not seen before, or damaged
        location, path = _find_weights(version, file, client)
        sha256 = _download(client, (location, path), cache)
        resolved = _Resolved(location=location, file=path, sha256=sha256)
        with _exclusive(cache) as partial:
            (partial / memory.name).write_text(resolved.model_dump_json(indent=1), "utf-8")
            _publish(partial / memory.name, memory)
    path_here = cache / f"{resolved.sha256}{PurePosixPath(resolved.file).suffix}"
    return FoundCheckpoint(name, path_here, resolved.sha256, (resolved.location, resolved.file))


def _find_weights(version: ModelVersion, file: str | None, client: MlflowClient) -> tuple[str, str]:
    """Artifact location, and the one weights file of a version below it.

    Raises:
        UserError: none, or several and no choice; or not the chosen one.
    """
    uri = client.get_model_version_download_uri(version.name, str(version.version))
    weights: dict[str, tuple[str, str]] = {}
    for location, below in _follow(uri, client):
        weights |= _list_weights(location, below, client)  # a logged model's own files win, as in MLflow
    shown = _shorten([printable(name) for name in sorted(weights)])
    if file is not None:
        chosen = PurePosixPath(file).as_posix()
        if chosen not in weights:
            raise UserError(f"has no weights file {chosen!r}; it has {shown or 'none'}")
        return weights[chosen]
    if not weights:
        raise UserError(f"has no file that ends in {', '.join(WEIGHT_SUFFIXES)}")
    if len(weights) > 1:
        raise UserError(f"has {len(weights)} weights files ({shown}); set source.file to one of them")
    return next(iter(weights.values()))


def _follow(uri: str, client: MlflowClient) -> list[tuple[str, str]]:
    """Artifact locations, and paths below them, behind a version's source.

    `runs:/` and `models:/` are resolved here, by this client: MLflow's own repositories would ask the process-wide
    tracking server instead.
    """
    for _ in range(_MAX_SOURCE_STEPS):
        scheme, path = urlsplit(uri).scheme, urlsplit(uri).path.strip("/")
        first, _sep, rest = path.partition("/")
        if scheme == "runs":
            return _follow_run(first, rest, client)
        if scheme != "models":
            return [(uri, "")]
        if not rest:
            return [(client.get_logged_model(first).artifact_location, "")]
        uri = client.get_model_version_download_uri(unquote(first), rest)
    raise UserError("its source leads from model to model without an end")


def _follow_run(run_id: str, path: str, client: MlflowClient) -> list[tuple[str, str]]:
    """A path among a run's artifacts; since MLflow 3 a model that the run logged under that name lies elsewhere."""
    run = client.get_run(run_id)
    places = [(run.info.artifact_uri, path)]
    name, _sep, rest = path.partition("/")
    if name and not set(name) & set(":.%\"'"):
        token = None
        while True:
            page = client.search_logged_models(
                [run.info.experiment_id], filter_string=f"name = '{name}'", page_token=token
            )
            places += [(model.artifact_location, rest) for model in page if model.source_run_id == run_id]
            token = page.token
            if not token:
                break
    return places


def _list_weights(location: str, below: str, client: MlflowClient) -> dict[str, tuple[str, str]]:
    """Weights files at a place: name below the place -> artifact location, path. The place may itself be a file."""
    files = list(_walk_artifacts(_open_artifacts(location, client), below))
    if not files:
        location, below = (location, below) if below else _split_location(location)
        beside = _open_artifacts(location, client).list_artifacts(posixpath.dirname(below) or None)
        files = [entry.path for entry in beside if entry.path == below and not entry.is_dir]
        below = posixpath.dirname(below)
    return {
        PurePosixPath(path).relative_to(below).as_posix(): (location, path)
        for path in files
        if PurePosixPath(path).suffix in WEIGHT_SUFFIXES
    }


def _split_location(location: str) -> tuple[str, str]:
    """The location of the folder, and the file's name in it."""
    split = urlsplit(location)
    name = posixpath.basename(split.path)
    folder = split._replace(path=posixpath.dirname(split.path)).geturl()
    return folder, unquote(name) if split.scheme == "file" else name


def _walk_artifacts(repository: ArtifactRepository, below: str) -> Iterator[str]:
    pending, count = [below], 0
    while pending:
        parent = pending.pop()
        for entry in repository.list_artifacts(parent or None):
            if entry.path in (".", parent):
                continue
            count += 1
            if count > _MAX_ARTIFACTS:
                raise UserError(f"has more than {_MAX_ARTIFACTS} artifacts; register the weights alone")
            if not _is_below(entry.path, parent):
                raise UserError(f"lists an artifact outside of it, {printable(entry.path)!r}")
            if entry.is_dir:
                pending.append(entry.path)
            else:
                yield entry.path


def _is_below(path: str, parent: str) -> bool:
    pure, above = PurePosixPath(path), PurePosixPath(parent).parts
    return (
        not pure.is_absolute()
        and ".." not in pure.parts
        and "\0" not in path
        and pure.parts[: len(above)] == above
        and len(pure.parts) > len(above)
    )


def _open_artifacts(location: str, client: MlflowClient) -> ArtifactRepository:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(location, tracking_uri=client.tracking_uri)


def _download(client: MlflowClient, origin: tuple[str, str], cache: Path) -> str:
    """Put an artifact into the cache, named by its content; gives its sha256."""
    location, path = origin
    with _exclusive(cache) as partial:
        local = Path(_open_artifacts(location, client).download_artifacts(path, str(partial)))
        if local.is_symlink() or not local.is_file() or not local.resolve().is_relative_to(partial.resolve()):
            raise UserError(f"its artifact {printable(path)!r} is not a regular file")
        if local.stat().st_size == 0:
            raise UserError(f"its artifact {printable(path)!r} is empty")
        local.chmod(0o600)
        sha256 = digest_file(local)
        _publish(local, cache / f"{sha256}{PurePosixPath(path).suffix}")
    return sha256


# Both


def printable(name: str) -> str:
    """A name from outside, fit for a terminal and a log: control characters and broken UTF-8 are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


@contextmanager
def _exclusive(folder: Path) -> Iterator[Path]:
    """One process at a time writes into a folder; gives an empty folder in it for what is not yet complete.

    The lock goes with the process, and what a killed one left is removed by the next.
    """
    make_private_folder(folder)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("  waiting for another run that writes to %s", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            for left in folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=folder, prefix=_PARTIAL) as partial:
                yield Path(partial)
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def _publish(path: Path, final: Path) -> None:
    """Give a complete file its name, when it is on the disk."""
    sync(path)
    os.replace(path, final)
    sync(final.parent)


def _has_content(path: Path, sha256: str) -> bool:
    try:
        return digest_file(path) == sha256
    except OSError:
        return False


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:_NUM_SHOWN]) + (", ..." if len(names) > _NUM_SHOWN else "")


def _reason(error: Exception) -> str:
    """One line, printable, of bounded length."""
    if isinstance(error, UserError | _UnusableError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = f"{type(error).__name__}: {error}"
    return printable(hide_credentials(" ".join(text.split())))[:_MAX_REASON_CHARS]
