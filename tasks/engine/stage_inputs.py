"""What a stage reads, declared once: the request is derived from it, and the stage's function gets the same value.

So an artefact's digest knows of all that its computation can read. By its type a field is stated as follows; anything
else has to carry one of the marks below, or `request` refuses it.

| field | in the request |
|---|---|
| Handle, Given | its digest, among the inputs, by the field's name; None: nothing |
| Settings | all that it holds, among the settings |
| Computing | seed, device and torch's version, among the settings |
| text, numbers, None, and lists and mappings of these | its value, among the settings, by the field's name |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar, get_type_hints

from lavise.configs.base import Settings
from lavise.configs.registry import Registry
from lavise.storage.state.artefacts import Handle
from lavise.tasks.engine.computing import Computing

T = TypeVar("T")
Part = TypeVar("Part", bound=Settings)


@dataclass(frozen=True)
class Request:
    """One artefact that a stage is asked for: what it depends on, and nothing else."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Given(Generic[T]):
    """A value that is no artefact of its own, and the digest that it is known by: a data set, a vocabulary."""

    value: T
    digest: str


@dataclass(frozen=True)
class Stated:
    """A mark, `Annotated[T, Stated(...)]`: another name in the request, or another value in its place.

    Attributes:
        under: the name; empty for the field's own.
        by: what stands for the value, such as its digest.
        code: further settings: the code behind names in the value that are not of this version (`code_behind` of a
            section, `Registry.describe_code` of a name).
    """

    under: str = ""
    by: Callable[[Any], Any] | None = None
    code: Callable[[Any], Mapping[str, Any]] = lambda _: {}


@dataclass(frozen=True)
class Spread:
    """A mark: entries of the request that are made from the value, instead of one by the field's name."""

    settings: Callable[[Any], Mapping[str, Any]] = lambda _: {}
    inputs: Callable[[Any], Mapping[str, str]] = lambda _: {}


@dataclass(frozen=True)
class Unstated:
    """A mark: in no request, for a reason."""

    because: str


def take_part(settings: Settings, part: type[Part], **more: Any) -> Part:
    """The settings of the same names, and others beside them: what a stage reads of a section, and no more.

    Args:
        more: fields of the part that are called otherwise in the section, or not in it.
    """
    names = [name for name in part.model_fields if name not in more]
    return part(**{name: getattr(settings, name) for name in names}, **more)


def code_behind(**registries: Registry[Any]) -> Callable[[Settings], Mapping[str, Any]]:
    """For `Stated`: what a section's fields of these names choose, each from its registry."""

    def describe(section: Settings) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for name, registry in registries.items():
            chosen = getattr(section, name)
            found |= registry.describe_code(*([chosen] if isinstance(chosen, str) else chosen))
        return found

    return describe


HOW = Unstated("how it is computed, on which the result does not depend")
Mark = Stated | Spread | Unstated


@dataclass(frozen=True)
class StageInputs:
    """Base of the declarations: a frozen dataclass in the module of the stage, a field for each thing that is read."""

    def request(self) -> Request:
        """What the artefact depends on.

        Raises:
            TypeError: a field that does not say how it is stated.
            ValueError: two fields state the same entry.
        """
        settings: dict[str, Any] = {}
        inputs: dict[str, str] = {}
        for name, mark in _read_marks(type(self)).items():
            own_settings, own_inputs = self._state(name, mark)
            if twice := sorted({*(settings.keys() & own_settings), *(inputs.keys() & own_inputs)}):
                raise ValueError(f"{type(self).__name__}.{name} states {', '.join(twice)} once more")
            settings.update(own_settings)
            inputs.update(own_inputs)
        return Request(settings, inputs)

    def _state(self, name: str, mark: Mark) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """A field's entries among the settings and among the inputs."""
        value = getattr(self, name)
        if isinstance(mark, Unstated):
            return {}, {}
        if isinstance(mark, Spread):
            return mark.settings(value), mark.inputs(value)
        settings, given = self._state_value(name, mark, value)
        return {**settings, **mark.code(value)}, given

    def _state_value(self, name: str, mark: Stated, value: Any) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        key = mark.under or name
        value = mark.by(value) if mark.by else value
        if isinstance(value, Handle | Given):
            return {}, {key: value.digest}
        if isinstance(value, Settings):
            return value.model_dump(mode="json"), {}
        if isinstance(value, Computing):
            return value.describe(), {}
        if value is None and name in _list_artefacts(type(self)):
            return {}, {}
        if not _is_plain(value):
            raise TypeError(
                f"{type(self).__name__}.{name} is a {type(value).__name__}, which does not say how it is stated; "
                "annotate it with Stated, Spread or Unstated (tasks/engine/stage_inputs.py)"
            )
        return {key: list(value) if isinstance(value, tuple) else value}, {}


def _read_marks(inputs: type[StageInputs]) -> dict[str, Mark]:
    """Of each field, the mark that it carries; one that changes nothing where it carries none."""
    hints = get_type_hints(inputs, include_extras=True)
    found: dict[str, Mark] = {}
    for own in fields(inputs):
        marks = [m for m in getattr(hints[own.name], "__metadata__", ()) if isinstance(m, Mark)]
        found[own.name] = marks[0] if marks else Stated()
    return found


def _list_artefacts(inputs: type[StageInputs]) -> frozenset[str]:
    """Fields that are artefacts or given values, which may be missing."""
    hints = get_type_hints(inputs)
    return frozenset(
        name
        for name, hint in hints.items()
        if any(getattr(part, "__origin__", part) in (Handle, Given) for part in getattr(hint, "__args__", ()))
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, str | int | float)
