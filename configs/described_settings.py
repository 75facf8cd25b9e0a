"""Every setting as people look it up: its key, default, what is allowed, and what it is; from the schema itself."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lavise.configs.errors import UserError
from lavise.configs.schema import Config

_NUM_CLOSE = 3
_OF_KIND = "Which kind this is; the other settings of this table are read with it alone."
_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "object": "mapping",
}
_LIMITS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "below"),
)


@dataclass(frozen=True)
class SettingEntry:
    """One key of a config.

    Attributes:
        key: with dots, as for `--set`.
        kind: of the data set (or of whatever else there are several kinds of) that has the key; empty where all have.
        default: as YAML; None where a value has to be given.
        allowed: in words.
        text: what it is.
    """

    key: str
    kind: str
    default: str | None
    allowed: str
    text: str


@dataclass(frozen=True)
class SettingSection:
    """Settings that stand together.

    Attributes:
        key: of the section; empty for the top of the file.
        kind: as in SettingEntry.
    """

    key: str
    kind: str
    text: str
    entries: tuple[SettingEntry, ...]


@cache
def list_sections() -> tuple[SettingSection, ...]:
    """All settings, in the order of the schema: the top of the file first, then each section, kind by kind."""
    schema = Config.model_json_schema()
    found = list(_walk("", "", schema, schema["$defs"]))
    return (*(s for s in found if not s.key), *(s for s in found if s.key))


def list_keys() -> list[str]:
    """Of all sections and settings, sorted."""
    sections = list_sections()
    return sorted({s.key for s in sections if s.key} | {e.key for s in sections for e in s.entries})


def find_settings(key: str) -> tuple[SettingSection, ...]:
    """The sections that a key names, whole, or those that have it with that entry alone.

    Args:
        key: of a section or of a setting, of one kind (`reference.coco.masks`) or of all that have it.

    Raises:
        UserError: there is none; names what is close.
    """
    sections = list_sections()
    if whole := [s for s in sections if key in (s.key, _with_kind(s.key, s.kind)) and s.key]:
        below = [s for s in sections if s.key.startswith(f"{key}.")]
        return (*whole, *below)
    found = []
    for section in sections:
        own = tuple(e for e in section.entries if key in (e.key, _name_fully(section, e)))
        if own:
            found.append(SettingSection(section.key, section.kind, section.text, own))
    if found:
        return tuple(found)
    keys = list_keys()
    last = key.rpartition(".")[2]
    ends = [k for k in keys if k.rpartition(".")[2] == last]
    close = ends[:_NUM_CLOSE] or difflib.get_close_matches(key, keys, n=_NUM_CLOSE)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    top = ", ".join(dict.fromkeys(s.key.partition(".")[0] for s in sections if s.key))
    raise UserError(f"key: found {key!r}; allowed: a section ({top}) or a setting in one, as train.objective{hint}")


def _with_kind(key: str, kind: str) -> str:
    return f"{key}.{kind}" if kind else key


def _name_fully(section: SettingSection, entry: SettingEntry) -> str:
    """A setting's key with the kind in it, for `reference.coco.masks`."""
    return f"{_with_kind(section.key, section.kind)}.{entry.key.rpartition('.')[2]}"


def _walk(key: str, kind: str, node: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[SettingSection]:
    """The section that a model makes, and those below it."""
    required = node.get("required", [])
    entries, below = [], []
    # What says which kind it is stands first.
    for name, field in sorted(node["properties"].items(), key=lambda item: item[0] != "kind"):
        own = f"{key}.{name}" if key else name
        if branches := _find_models(field, models):
            below += [(own, branch_kind, branch) for branch_kind, branch in branches]
            if "default" in field and field["default"] is None:
                allowed = f"null, or one of the kinds {', '.join(k for k, _ in branches)}" if branches[0][0] else "null"
                entries.append(SettingEntry(own, kind, "null", allowed, _clean(field)))
        else:
            # A union is told apart by the kind, which has to stand there even where its class has a default.
            default = (
                None
                if name in required or (kind and name == "kind")
                else json.dumps(field.get("default"), ensure_ascii=False)
            )
            text = _clean(field) or (_OF_KIND if kind and name == "kind" else "")
            entries.append(SettingEntry(own, kind, default, _describe_allowed(field), text))
    yield SettingSection(key, kind, _clean(node), tuple(entries))
    for own, branch_kind, branch in below:
        yield from _walk(own, branch_kind or kind, branch, models)


def _find_models(field: Mapping[str, Any], models: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(kind, model) of each model that may stand at a field; kind is empty where there is but one way."""
    if "$ref" in field:
        return [("", _follow(field, models))]
    options: Sequence[Mapping[str, Any]] = field.get("oneOf") or field.get("anyOf") or ()
    nested = [f for option in options for f in (option.get("oneOf") or [option])]
    own = [_follow(option, models) for option in nested if "$ref" in option]
    return [(model["properties"]["kind"]["const"], model) for model in own if "kind" in model["properties"]]


def _follow(field: Mapping[str, Any], models: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = models[field["$ref"].rpartition("/")[2]]
    return found


def _clean(node: Mapping[str, Any]) -> str:
    """A description on one line, with the words of YAML."""
    return re.sub(r"\bNone\b", "null", " ".join(node.get("description", "").split()))


def _describe_allowed(field: Mapping[str, Any]) -> str:
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return ", ".join(str(value) for value in field["enum"])
    if "anyOf" in field:
        return "; or ".join(dict.fromkeys(_describe_allowed(option) for option in field["anyOf"]))
    if field.get("type") == "array":
        return _describe_list(field)
    if field.get("format") == "path":
        return "path"
    noun = _TYPES[field["type"]] if "type" in field else "a mapping with its own keys"
    limits = [f"{sign} {json.dumps(field[name])}" for name, sign in _LIMITS if name in field]
    if field.get("minLength") == 1:
        limits.append("not empty")
    if "pattern" in field:
        limits.append(f"that matches {field['pattern']}")
    return " ".join([noun, ", ".join(limits)]).strip()


def _describe_list(field: Mapping[str, Any]) -> str:
    parts = field.get("prefixItems")
    if parts:
        return f"list of {len(parts)}: {', '.join(_describe_allowed(p) for p in parts)}"
    noun = "list"
    if "minItems" in field and field.get("minItems") == field.get("maxItems"):
        noun = f"list of {field['minItems']}"
    elif field.get("minItems"):
        noun = f"list of at least {field['minItems']}"
    return f"{noun}, each: {_describe_allowed(field.get('items', {}))}"
