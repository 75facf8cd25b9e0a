"""Policies and expected words of somebody else: any change to a whole one is read, or a line says why not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lavise.configs.errors import UserError
from lavise.configs.expectations import ExpectSettings
from lavise.configs.policy import load_policy
from lavise.flows.past_audits.expectations import choose_expectations

QUIET = settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    (None, True, -1, 0, 0.5, 1e308, float("nan"), float("inf"), 10**400, "", "x", "a\0b", "\x1b[31m", "é" * 300, [], {})
)
POLICY: dict[str, Any] = {
    "name": "mine",
    "rules": [
        {"metric": "share_explained", "at_least": 0.4, "at_most": 1},
        {"forbidden_words": ["watermark"], "status": ["new"], "num_words": 2},
        {"expect": {"must": ["dog"], "must_not": "text", "by": "words"}, "unclear": "fails", "layer": "tail"},
    ],
}


def list_places(content: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place, *(deeper for key, value in inner for deeper in list_places(value, (*place, key)))]


def check_line(error: UserError) -> None:
    assert str(error).strip()
    assert all(line.isprintable() and len(line) <= 1010 for line in str(error).split("\n"))


def test_the_policy_is_whole(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(POLICY), "utf-8")
    assert len(load_policy(tmp_path / "rules.yaml").rules) == 3


@QUIET
@given(place=st.sampled_from(list_places(POLICY)[1:]), value=VALUES)
def test_any_change_to_a_policy_is_read_or_refused(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    changed = copy.deepcopy(POLICY)
    node: Any = changed
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(changed), "utf-8")
    try:
        found = load_policy(tmp_path / "rules.yaml")
    except UserError as err:
        check_line(err)
    else:
        assert len(found.rules) == 3


@QUIET
@given(must=st.lists(st.text(max_size=6), max_size=3), must_not=st.lists(st.text(max_size=6), max_size=3))
def test_any_words_are_expected_or_refused(must: list[str], must_not: list[str]) -> None:
    try:
        found = choose_expectations(ExpectSettings(), must, must_not, None, None)
    except UserError as err:
        check_line(err)
        return
    assert {word for _, word in found.words} == {" ".join(word.split()) for word in (*must, *must_not)}
