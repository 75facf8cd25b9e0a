"""Checkpoints that are versions of a registered model in MLflow."""

from __future__ import annotations

import difflib
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lavise.configs.errors import UserError
from lavise.configs.sources import RegisteredModelSource
from lavise.storage.checkpoint_sources.base import (
    MAX_REASON_CHARS,
    SCANNERS,
    FoundCheckpoint,
    Looking,
    Scan,
    describe_error,
    shorten,
)
from lavise.storage.checkpoint_sources.snapshots import hold_exclusively, publish
from lavise.storage.models.weight_files import WEIGHT_SUFFIXES, is_companion_name, is_weights_name
from lavise.storage.state.digest import digest_file, digest_of
from lavise.storage.state.files import make_private_folder
from lavise.storage.state.progress import Progress
from lavise.storage.state.text import printable

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.tracking import MlflowClient

_MAX_ARTIFACTS = 10_000
_MAX_SOURCE_STEPS = 5


class _Resolved(BaseModel):
    """What a registered version resolved to; its content never changes, so neither does this."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    location: str
    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("file")
    @classmethod
    def _is_weights_file(cls, file: str) -> str:
        if not is_weights_name(file):
            raise ValueError("not a weights file")
        return file


def scan_registered_model(source: RegisteredModelSource, client: MlflowClient, cache: Path, progress: Progress) -> Scan:
    make_private_folder(cache)
    versions = _select_versions(source, client)
    found: list[FoundCheckpoint] = []
    waiting: list[str] = []
    unusable: list[tuple[str, str]] = []
    with progress("registered versions", len(versions)) as bar:
        for version in versions:
            name = printable(f"{source.model} version {version.version}")
            if version.status == "FAILED_REGISTRATION":
                message = printable(" ".join(str(version.status_message or "").split()))[:MAX_REASON_CHARS]
                unusable.append((name, f"its registration failed{f': {message}' if message else ''}"))
            elif version.status != "READY":
                waiting.append(name)
            else:
                try:
                    found.append(_resolve_once(name, version, source.file, client, cache))
                except Exception as err:  # noqa: BLE001 - MLflow and its artifact stores raise many types
                    unusable.append((name, describe_error(err)))
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
            f"source.model: found {source.model!r}; allowed: {shorten(known) or 'none, since no model is registered'}"
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
            raise UserError(f"source.model: cannot list the versions of {model!r} ({describe_error(err)})") from None
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
            f"source.aliases: found {alias!r}; allowed: {shorten(known) or f'none, since {model!r} has no aliases'}"
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
            f"source.model: the model registry does not work ({describe_error(err)}); start that server, or set "
            "tracking.uri"
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
        sha256 = download_weights(client, (location, path), cache)
        resolved = _Resolved(location=location, file=path, sha256=sha256)
        with hold_exclusively(cache) as partial:
            (partial / memory.name).write_text(resolved.model_dump_json(indent=1), "utf-8")
            publish(partial / memory.name, memory)
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
    shown = shorten([printable(name) for name in sorted(weights)])
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
        if is_weights_name(path) and not is_companion_name(PurePosixPath(path).name)
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


def download_weights(client: MlflowClient, origin: tuple[str, str], cache: Path) -> str:
    """Put an artifact into the cache, named by its content; gives its sha256."""
    location, path = origin
    with hold_exclusively(cache) as partial:
        local = Path(_open_artifacts(location, client).download_artifacts(path, str(partial)))
        if local.is_symlink() or not local.is_file() or not local.resolve().is_relative_to(partial.resolve()):
            raise UserError(f"its artifact {printable(path)!r} is not a regular file")
        if local.stat().st_size == 0:
            raise UserError(f"its artifact {printable(path)!r} is empty")
        local.chmod(0o600)
        sha256 = digest_file(local)
        publish(local, cache / f"{sha256}{PurePosixPath(path).suffix}")
    return sha256


def _scan(source: RegisteredModelSource, look: Looking) -> Scan:
    client = look.open_registry()
    if client is None:
        raise UserError("source.model: a registered model needs MLflow; set tracking.enabled=true, or name a folder")
    return scan_registered_model(source, client, look.cache, look.progress)


SCANNERS["registered_model"] = _scan
