"""Where new checkpoints come from. Parameters of a scheduled flow: each field's text is shown in its web form.

A kind of source is settings, which register themselves (`register_source`), and a look at it, which does so too
(`lavise.storage.checkpoint_sources.base.SCANNERS`). An installed package may bring both (`lavise.configs.extensions`).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar, Union

from pydantic import ConfigDict, Field, field_validator, model_validator

from lavise.configs.base import Settings, UserPath
from lavise.configs.extensions import import_extensions


class CheckpointSource(Settings):
    """Base of the settings of a source."""

    kind: str

    def describe(self) -> str:
        """For the name of a run."""
        return self.kind


_SOURCES: dict[str, type[CheckpointSource]] = {}
_S = TypeVar("_S", bound=CheckpointSource)


def register_source(settings: type[_S]) -> type[_S]:
    """Decorator: settings of a kind of source; `kind` has its name as the default.

    Raises:
        ValueError: other settings have that kind.
    """
    kind = settings.model_fields["kind"].default
    if _SOURCES.setdefault(kind, settings) is not settings:
        raise ValueError(f"source.kind: {kind!r} is registered twice")
    return settings


def list_sources() -> dict[str, type[CheckpointSource]]:
    """By kind: settings of every kind of source, also of installed packages.

    Raises:
        UserError: such a package cannot be imported.
    """
    import_extensions()
    return dict(_SOURCES)


def make_source_type() -> Any:
    """The type of a value that holds the settings of any kind of source; a web form offers each of them.

    Without a discriminator: of that pydantic makes `oneOf`, and Prefect's form knows `anyOf` only. `kind` tells them
    apart all the same.
    """
    return Union[tuple(list_sources().values())]  # noqa: UP007 - of what is registered


@register_source
class FolderSource(CheckpointSource):
    """Checkpoint files below a folder, as a training run writes them."""

    model_config = ConfigDict(title="Folder")

    kind: Literal["folder"] = "folder"
    folder: UserPath
    """Folder that is looked through. A leading `~` is the home folder."""
    pattern: str = "**/*"
    """Which files, relative to the folder: `*` stands for any name, `**` for any number of folders.
    Of these, checkpoints are taken by their content, whatever trainer wrote them; hidden files are not."""
    stable_seconds: float = Field(default=30, ge=0, allow_inf_nan=False, title="Seconds without a change")
    """A file is taken only when it has not changed for so many seconds, so that none is taken half written."""

    @field_validator("pattern")
    @classmethod
    def _stays_below(cls, pattern: str) -> str:
        return _check_relative(pattern, "pattern", "**/*.safetensors")

    def describe(self) -> str:
        """The folder's name."""
        return self.folder.name or str(self.folder)


@register_source
class RegisteredModelSource(CheckpointSource):
    """Versions of a model in the MLflow registry."""

    model_config = ConfigDict(title="Registered model")

    kind: Literal["registered_model"] = "registered_model"
    model: str = Field(min_length=1)
    """Name of the registered model, without `models:/` and without a version."""
    select: Literal["all", "latest", "aliases"] = "all"
    """all: every version. latest: the one with the highest number. aliases: those that carry one of `aliases`."""
    aliases: tuple[str, ...] = ()
    """Aliases of the versions to take, for example `champion`; read only if `select` is aliases."""
    file: str | None = None
    """The weights file below the version's artifacts, for example `checkpoints/last.pt`.
    Needed only where a version has several."""

    @field_validator("model")
    @classmethod
    def _bare_name(cls, model: str) -> str:
        if not model.strip() or "/" in model or ":" in model:
            raise ValueError(f"model must be a registered model's bare name, without / and :, found {model!r}")
        return model

    @field_validator("file")
    @classmethod
    def _stays_below(cls, file: str | None) -> str | None:
        return None if file is None else _check_relative(file, "file", "checkpoints/last.pt")

    @model_validator(mode="after")
    def _aliases_where_they_are_used(self) -> RegisteredModelSource:
        if self.select == "aliases" and (
            not self.aliases or not all(self.aliases) or len(set(self.aliases)) != len(self.aliases)
        ):
            raise ValueError(f"select 'aliases' needs one or more different aliases, found {list(self.aliases)}")
        if self.select != "aliases" and self.aliases:
            raise ValueError(
                f"aliases are read only with select 'aliases', found {list(self.aliases)} with select {self.select!r}"
            )
        return self

    def describe(self) -> str:
        """The model's name."""
        return self.model


def _check_relative(path: str, field: str, example: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(f"{field} must be relative, without '..', such as {example}, found {path!r}")
    return path
