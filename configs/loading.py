"""From a preset's name or a YAML file, and overrides, to a checked Config. All faults are reported at once.

Reading of YAML and wording of faults are shared with the other kinds of files (configs/policy.py).
"""

from __future__ import annotations

import difflib
import logging
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeGuard

import yaml
from pydantic import BaseModel, ValidationError

from lavise.configs.base import NOT_IDENTITY, SINCE_DEFAULT, TRANSFORMERS, CallableOfFile, PathUnless, Settings
from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home
from lavise.configs.schema import Config
from lavise.configs.yaml_text import YamlError, read_yaml

log = logging.getLogger("lavise")


def list_presets() -> list[str]:
    """Names of the presets that come with the package, sorted."""
    return list_yaml_names(resources.files("lavise.configs"))


def load_config(source: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read, override and check the settings of a run.

    Args:
        source: a preset's name, or the path of a YAML file.
        overrides: `section.key=value`; the value is read as YAML. A key that does not exist is a fault.

    Raises:
        UserError: one line for each fault, with what was found and what is allowed.
    """
    label, text = read_source(str(source), "config", "preset", resources.files("lavise.configs"))
    data = parse_yaml(label, text, "a mapping of sections, as in a preset")
    for item in overrides:
        _apply_override(data, item)
    return validate_config(data, label)


# Keys that have another name now: they are still read.
RENAMED = {
    ("train", "held_out_share"): ("train", "early_stopping_share"),
    ("bias", "pictures"): ("bias", "images_shown"),
}


def _rename(data: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    """The same settings under the names of this version; says which were another name's."""
    renamed = {section: dict(value) if isinstance(value, Mapping) else value for section, value in data.items()}
    for (old_section, old), (section, new) in RENAMED.items():
        own = renamed.get(old_section)
        if isinstance(own, dict) and old in own and new not in (renamed.get(section) or {}):
            log.warning("%s: %s.%s is called %s.%s now; it is read all the same", label, old_section, old, section, new)
            value = own.pop(old)
            renamed[section] = {**(renamed.get(section) or {}), new: value}
    return renamed


def validate_config(data: Mapping[str, Any], label: str) -> Config:
    """Check a mapping against the schema; `label` opens each line of the error."""
    data = _rename(data, label)
    try:
        return Config.model_validate(data)
    except ValidationError as err:
        raise UserError(describe_faults(err, label, Config, "in the file or with --set {field}=...")) from None


def with_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """Settings that were loaded before, with `section.key=value` put over them."""
    data = config.model_dump(mode="json")
    for item in overrides:
        _apply_override(data, item)
    return validate_config(data, config.name)


def make_absolute(config: Config) -> Config:
    """The same settings with absolute paths, so that they mean the same from another folder."""
    return Config.model_validate(with_absolute_paths(config).model_dump(mode="json"))


def with_absolute_paths(settings: Settings) -> Settings:
    """The same settings, those within them too, with absolute paths."""
    changed: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            changed[name] = with_absolute_paths(value)
        elif _holds_settings(value):
            changed[name] = tuple(map(with_absolute_paths, value))
        elif isinstance(value, Path):
            changed[name] = value.absolute()
        elif any(isinstance(mark, PathUnless | CallableOfFile) and mark.is_path(value) for mark in field.metadata):
            library = TRANSFORMERS if value.startswith(TRANSFORMERS) else ""
            changed[name] = f"{library}{expand_home(value.removeprefix(library)).absolute()}"
    return settings.model_copy(update=changed)


def describe_identity(config: Config) -> dict[str, Any]:
    """The settings on which the results of an audit depend, but for the checkpoint: what makes two audits comparable.

    Left out is what is marked NOT_IDENTITY: names, weights, where things are kept and tracked, how many workers there
    are, how the report looks, and what an audit adds besides words.
    """
    data = _describe_identity(config)
    # Under the names that they had first: a checkpoint is not new because a setting is called otherwise.
    for (old_section, old), (section, new) in RENAMED.items():
        if section in data:
            data[old_section][old] = data[section].pop(new)
    return data


def _describe_identity(settings: Settings) -> dict[str, Any]:
    data = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if NOT_IDENTITY in field.metadata or (SINCE_DEFAULT in field.metadata and value == field.default):
            del data[name]
        elif isinstance(value, Settings):
            data[name] = _describe_identity(value)
        elif _holds_settings(value):
            data[name] = [_describe_identity(entry) for entry in value]
    return data


def _holds_settings(value: object) -> TypeGuard[tuple[Settings, ...]]:
    return isinstance(value, tuple) and bool(value) and all(isinstance(entry, Settings) for entry in value)


def dump_config(config: Config) -> str:
    """The resolved settings as YAML that `load_config` reads back to an equal Config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def list_yaml_names(folder: Traversable) -> list[str]:
    """Names of the YAML files of a folder, without their ending, sorted."""
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def read_source(source: str, field: str, noun: str, folder: Traversable) -> tuple[str, str]:
    """Label and text of a file that comes with the package, or of a user's YAML file.

    Args:
        source: name of a file in `folder`, without its ending, or a path.
        field: opens the line of the error.
        noun: what the files of `folder` are.

    Raises:
        UserError: neither, or the file cannot be read.
    """
    known = list_yaml_names(folder)
    if source in known:
        return source, folder.joinpath(f"{source}.yaml").read_text("utf-8")
    path = expand_home(source)
    if path.suffix not in {".yaml", ".yml"} and not path.is_file():
        close = difflib.get_close_matches(source, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{field}: found {source!r}; allowed: a {noun} ({', '.join(known)}) or a YAML file{hint}")
    try:
        return str(path), path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"{field}: cannot read {source!r}: {err}; give a {noun}'s name or a YAML file") from None


def parse_yaml(label: str, text: str, expected: str) -> dict[str, Any]:
    """The mapping that stands in `text`.

    Raises:
        UserError: not valid YAML, a key that stands twice, or no mapping; `expected` says what should stand there.
    """
    try:
        data = read_yaml(text)
    except YamlError as err:
        raise UserError(f"{label}: not valid YAML: {err}") from None
    if not isinstance(data, dict):
        raise UserError(f"{label}: found {type(data).__name__}; allowed: {expected}")
    return data


def read_overrides(items: Iterable[str], option: str, form: str) -> dict[str, Any]:
    """Settings that options of the command line give.

    Args:
        items: `key=value`, with dots for sections; the value is read as YAML.
        option, form: for messages.

    Raises:
        UserError: one of them is not of that form.
    """
    data: dict[str, Any] = {}
    for item in items:
        _apply_override(data, item, option, form)
    return data


def _apply_override(data: dict[str, Any], item: str, option: str = "--set", form: str = "section.key=value") -> None:
    key, sep, raw = item.partition("=")
    parts = key.strip().split(".")
    if not sep or not all(parts):
        raise UserError(f"{option}: found {item!r}; allowed: {form}")
    try:
        value = read_yaml(raw, allow_doubles=True)
    except YamlError:
        raise UserError(f"{option} {key}: {raw!r} is not valid YAML; quote it") from None
    node: Any = data
    for part in parts[:-1]:
        place = _find_key(node, part, option, key)
        child = node.get(place) if isinstance(node, dict) else node[place]
        if not isinstance(child, dict | list):
            child = node[place] = {}
        node = child
    node[_find_key(node, parts[-1], option, key)] = value


def _find_key(node: Any, part: str, option: str, key: str) -> str | int:
    """The key of a mapping as it stands, or a place in a list, counted from 0."""
    if not isinstance(node, list):
        return part
    if not (part.isascii() and part.isdigit() and int(part) < len(node)):
        raise UserError(f"{option} {key}: found {part!r}; allowed: a place in the list of {len(node)}, from 0 on")
    return int(part)


def describe_faults(error: ValidationError, label: str, root: type[BaseModel], where: str) -> str:
    """One line for each fault: label, field, value found, what is allowed.

    Args:
        root: the model class that was validated.
        where: where a value that is missing can be given; `{field}` in it stands for the field's name.
    """
    return "\n".join(f"{label}: {_describe(e, root, where)}" for e in error.errors())


def _describe(error: Any, root: type[BaseModel], where: str) -> str:
    place = _find_place(error["loc"], root)
    field = ".".join(str(key) for key in place.keys) or "settings"
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        known = list(place.holder.model_fields)
        close = difflib.get_close_matches(str(place.keys[-1]), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else _name_other_kinds(place)
        return f"{field}: unknown key; allowed: {', '.join(known)}{hint}"
    if kind == "missing":
        return f"{field}: missing; give a value, {where.format(field=field)}"
    if kind == "union_tag_not_found":
        tags = ", ".join(repr(_tag(m)) for m in place.models)
        return f"{field}.kind: missing; allowed: {error['ctx'].get('expected_tags') or tags}"
    if kind == "union_tag_invalid":
        return f"{field}.kind: found {error['ctx']['tag']!r}; allowed: {error['ctx']['expected_tags']}"
    if kind == "literal_error":
        return f"{field}: found {found!r}; allowed: {error['ctx']['expected']}"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{field}: {message}" if kind == "value_error" else f"{field}: found {found!r}; allowed: {message}"


@dataclass(frozen=True)
class _Place:
    """Where a fault is.

    Attributes:
        keys: of the file; pydantic's location without the parts that name a union's branch.
        holder: the model class that the last key belongs to.
        models: the classes that may stand at the last key; empty where it is a plain value.
        kinds: all that might have stood in place of `holder`, where it was chosen by its `kind`.
    """

    keys: tuple[str | int, ...]
    holder: type[BaseModel]
    models: tuple[type[BaseModel], ...]
    kinds: tuple[type[BaseModel], ...] = ()


def _find_place(loc: Sequence[str | int], root: type[BaseModel]) -> _Place:
    place = _Place((), root, (root,))
    chosen_from: tuple[type[BaseModel], ...] = ()
    for part in loc:
        branch = [m for m in place.models if _tag(m) == part]
        if len(place.models) > 1 and branch:
            place, chosen_from = replace(place, models=(branch[0],)), place.models
        elif isinstance(part, int):
            place = replace(place, keys=(*place.keys, part))
        elif len(place.models) == 1 or not part.startswith(("tuple[", "literal[")):
            holder = place.models[0] if len(place.models) == 1 else place.holder
            place, chosen_from = _Place((*place.keys, part), holder, _models_at(holder, part), chosen_from), ()
    return place


def _name_other_kinds(place: _Place) -> str:
    """Which kinds have the key that the given kind has not, and how to ask for one."""
    *section, key = place.keys
    others = [_tag(m) for m in place.kinds if {"kind", key} <= m.model_fields.keys()]
    if not others:
        return ""
    kind = ".".join(str(part) for part in (*section, "kind"))
    return f"; other kinds have {key}: set {kind} as well, to one of {', '.join(others)}"


def _tag(model: type[BaseModel]) -> str:
    """How pydantic calls a branch of a union: by its `kind`, else by the name of the class."""
    kind = model.model_fields.get("kind")
    return typing.get_args(kind.annotation)[0] if kind else model.__name__


def _models_at(model: type[BaseModel], key: str) -> tuple[type[BaseModel], ...]:
    if key not in model.model_fields:
        return ()
    options = _flatten(model.model_fields[key].annotation)
    return tuple(a for a in options if isinstance(a, type) and issubclass(a, BaseModel))


def _flatten(annotation: Any) -> list[Any]:
    """The types that an annotation is made of: branches of unions, entries of tuples."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _flatten(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple):
        return [leaf for a in typing.get_args(annotation) for leaf in _flatten(a)]
    return [annotation]
