"""YAML of somebody else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.policy import load_policy
from lavise.configs.yaml_text import YamlError, read_yaml

PLAIN: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# Pieces that YAML acts upon.
PIECES = (
    "a",
    "1",
    ": ",
    "- ",
    "\n",
    "  ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "!!int ",
    "!!timestamp ",
    "<<",
    "? ",
    "'",
    "|",
)


@settings(max_examples=40, derandomize=True)
@given(PLAIN)
def test_what_yaml_writes_is_read_back(value: Any) -> None:
    assert read_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


@settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text())
def test_any_text_is_a_value_or_said_not_to_be(tmp_path: Path, text: str) -> None:
    with suppress(YamlError):
        read_yaml(text)
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for load in (load_config, load_policy):
        with pytest.raises(UserError):  # none of these texts is a whole config or policy
            load(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 2020-13-45", "month must be in 1..12"),
        ("a: !!int many", "invalid literal"),
        ("a: !!timestamp now", "AttributeError"),
        ("a: !!bool perhaps", "perhaps"),
        ("a: a\0b", "special characters"),
        ("a: &a [*a]", "stands for what it is in"),
        ("[" * 700, "nested too deeply"),
        ("a: 1\na: 2", "key 'a' stands twice"),
    ],
)
def test_what_was_no_yaml_is_said(text: str, said: str) -> None:
    with pytest.raises(YamlError, match=said):
        read_yaml(text)


def test_doubles_are_read_where_they_are_allowed() -> None:
    assert read_yaml("{a: 1, a: 2}", allow_doubles=True) == {"a": 2}


def test_aliases_may_not_stand_for_more_than_is_written() -> None:
    """12 lines that would be 8^11 values."""
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 11)]
    with pytest.raises(YamlError, match="aliases stand for"):
        read_yaml("\n".join(lines))
    assert read_yaml("a: &a [1, 2]\nb: *a")["b"] == [1, 2]
