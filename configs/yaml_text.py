"""YAML of somebody else: plain values only, and no more of them than a person writes."""

from __future__ import annotations

from typing import Any

import yaml

_MAX_NODES = 200_000


class YamlError(ValueError):
    """The text is no YAML that is read; the message says why, in one line."""


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


def read_yaml(text: str, allow_doubles: bool = False) -> Any:
    """The value that stands in `text`.

    Args:
        allow_doubles: of a key that stands twice the last counts.

    Raises:
        YamlError: no YAML, a key that stands twice, a value that is none of its kind (a date of month 13), or aliases
            that stand for themselves or for far more than is written.
    """
    try:
        return _load((yaml.SafeLoader if allow_doubles else _NoDuplicateLoader)(text))
    except YamlError:
        raise
    except RecursionError:
        raise YamlError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as err:
        # PyYAML's constructors raise whatever comes of a text that is not what its tag says.
        reason = " ".join(str(err).split())
        raise YamlError(reason if isinstance(err, yaml.YAMLError) else f"{type(err).__name__}: {reason}") from None


def _load(loader: yaml.SafeLoader) -> Any:
    node = loader.get_single_node()
    if node is None:
        return None
    if (number := _count_nodes(node, {})) > _MAX_NODES:
        raise YamlError(f"its aliases stand for {number:,} values; allowed: {_MAX_NODES:,}")
    return loader.construct_document(node)


def _count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Values with all that aliases stand for; each node is looked at once."""
    if (found := known.get(id(node))) is not None:
        if found == 0:
            raise YamlError("an alias stands for what it is in")
        return found
    known[id(node)] = 0
    number = 1
    if isinstance(node, yaml.SequenceNode):
        number += sum(_count_nodes(entry, known) for entry in node.value)
    elif isinstance(node, yaml.MappingNode):
        number += sum(_count_nodes(part, known) for pair in node.value for part in pair)
    known[id(node)] = number
    return number
