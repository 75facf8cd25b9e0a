"""From a preset's name or a YAML file, and overrides, to a checked Config. All faults are reported at once."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.errors import UserError
from configs.paths import expand_home
from configs.schema import Config


def list_presets() -> list[str]:
    """Names of the presets that come with the package, sorted."""
    return sorted(
        p.name.removesuffix(".yaml") for p in resources.files("configs").iterdir() if p.name.endswith(".yaml")
    )


def load_config(source: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read, override and check the settings of a run.

    Args:
        source: a preset's name, or the path of a YAML file.
        overrides: `section.key=value`; the value is read as YAML. A key that does not exist is a fault.

    Raises:
        UserError: one line for each fault, with what was found and what is allowed.
    """
    label, text = _read_source(str(source))
    data = _parse_yaml(label, text)
    for item in overrides:
        _apply_override(data, item)
    return validate_config(data, label)


def validate_config(data: Mapping[str, Any], label: str) -> Config:
    """Check a mapping against the schema; `label` opens each line of the error."""
    try:
        return Config.model_validate(data)
    except ValidationError as err:
        raise UserError("\n".join(f"{label}: {_describe(e, data)}" for e in err.errors())) from None


def dump_config(config: Config) -> str:
    """The resolved settings as YAML that `load_config` reads back to an equal Config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_source(source: str) -> tuple[str, str]:
    if source in list_presets():
        return source, resources.files("configs").joinpath(f"{source}.yaml").read_text("utf-8")
    path = expand_home(source)
    if path.suffix not in {".yaml", ".yml"} and not path.is_file():
        close = difflib.get_close_matches(source, list_presets(), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(
            f"config: found {source!r}; allowed: a preset ({', '.join(list_presets())}) or a YAML file{hint}"
        )
    try:
        return str(path), path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"config: cannot read {source!r}: {err}; give a preset's name or a YAML file") from None


class _NoDuplicateLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is a fault instead of a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse_yaml(label: str, text: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, Loader=_NoDuplicateLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, TypeError, RecursionError) as err:
        raise UserError(f"{label}: not valid YAML: {' '.join(str(err).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{label}: found {type(data).__name__}; allowed: a mapping of sections, as in a preset")
    return data


def _apply_override(data: dict[str, Any], item: str) -> None:
    key, sep, raw = item.partition("=")
    parts = key.strip().split(".")
    if not sep or not all(parts):
        raise UserError(f"--set: found {item!r}; allowed: section.key=value")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise UserError(f"--set {key}: {raw!r} is not valid YAML; quote it") from None
    node = data
    for part in parts[:-1]:
        child = node.get(part)
        if not isinstance(child, dict):
            child = {}
            node[part] = child
        node = child
    node[parts[-1]] = value


def _describe(error: Any, data: Mapping[str, Any]) -> str:
    """One fault in one line: field, value found, what is allowed."""
    loc = _without_tags(error["loc"])
    field = ".".join(str(p) for p in loc) or "settings"
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        known = _fields_at(loc[:-1], data)
        close = difflib.get_close_matches(str(loc[-1]), known, n=1)
        return f"{field}: unknown key; allowed: {', '.join(known)}" + (f"; did you mean {close[0]}?" if close else "")
    if kind == "missing":
        return f"{field}: missing; give a value, in the file or with --set {field}=..."
    if kind == "union_tag_not_found":
        return f"{field}.kind: missing; allowed: {error['ctx'].get('expected_tags') or _tags_at(loc)}"
    if kind == "union_tag_invalid":
        return f"{field}.kind: found {error['ctx']['tag']!r}; allowed: {error['ctx']['expected_tags']}"
    if kind == "literal_error":
        return f"{field}: found {found!r}; allowed: {error['ctx']['expected']}"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{field}: {message}" if kind == "value_error" else f"{field}: found {found!r}; allowed: {message}"


def _without_tags(loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """Drop the parts of pydantic's location that name a union's branch and not a key of the file."""
    kept: list[str | int] = []
    model: Any = Config
    for part in loc:
        if isinstance(model, list):
            chosen = [m for m in model if _tag(m) == part]
            if chosen:
                model = chosen[0]
                continue
            if isinstance(part, str) and (part.startswith(("tuple[", "literal[")) or part == "auto"):
                continue
        kept.append(part)
        model = _child(model, part)
    return tuple(p for p in kept if not (isinstance(p, str) and p.startswith(("tuple[", "literal["))))


def _tag(model: Any) -> Any:
    field = model.model_fields.get("kind") if isinstance(model, type) and issubclass(model, BaseModel) else None
    return typing.get_args(field.annotation)[0] if field else None


def _child(model: Any, part: str | int) -> Any:
    """The model class, or list of classes of a union, that stands at key `part` of `model`."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or part not in model.model_fields:
        return None
    annotation = model.model_fields[str(part)].annotation
    options = [a for a in _flatten(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
    return options[0] if len(options) == 1 else options or None


def _flatten(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _flatten(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [leaf for a in typing.get_args(annotation) for leaf in _flatten(a)]
    return [annotation]


def _fields_at(loc: Sequence[str | int], data: Mapping[str, Any]) -> list[str]:
    model: Any = Config
    node: Any = data
    for part in loc:
        model = _child(model, part)
        node = node.get(part) if isinstance(node, Mapping) else None
        if isinstance(model, list):
            kind = node.get("kind") if isinstance(node, Mapping) else None
            model = next((m for m in model if _tag(m) == kind), model[0])
    return list(model.model_fields) if model is not None else []


def _tags_at(loc: Sequence[str | int]) -> str:
    model: Any = Config
    for part in loc:
        model = _child(model, part)
    return ", ".join(repr(_tag(m)) for m in model) if isinstance(model, list) else ""
