"""Differences of groups in a terminal, the pictures that they are of, and what the artefact depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lavise.configs.errors import UserError
from lavise.configs.roles import Role
from lavise.tasks.analyses.analysis import TextTable
from lavise.tasks.analyses.kinds.group_bias import ANALYSIS
from tests.unit.tasks.analyses.explained_layer import SmallLayer, make_config, make_layer

FILTERS, WORDS = "bias_filters.parquet", "bias_words.parquet"


def make_row(**changes: Any) -> dict[str, Any]:
    row = {
        "group": "day",
        "other": "night",
        "share_group": 0.75,
        "share_other": 0.5,
        "difference": 0.25,
        "low": 0.125,
        "high": 0.375,
        "p_value": 0.001,
        "q_value": 0.0041,
        "found": True,
        "least_difference": 0.2,
        "stratified_difference": None,
        "verdict": "differs",
    }
    return row | changes


def make_filter(number: int, words: list[str], **changes: Any) -> dict[str, Any]:
    return make_row(filter=number, words=words, **changes)


def show(filters: list[dict[str, Any]], words: list[dict[str, Any]]) -> list[TextTable]:
    return list(ANALYSIS.show({FILTERS: filters, WORDS: words}))


# Rows


def test_words_come_before_filters() -> None:
    found = show([make_filter(0, [])], [make_row(word="dog")])
    assert [table.headings[0] for table in found] == ["word", "filter"]
    assert found[0].rows[0][0] == "dog"


def test_a_difference_in_a_line() -> None:
    (table,) = show([make_filter(7, ["dog", "cat"])], [])
    assert list(table.rows) == [("7 dog, cat", "day / night", "75.0% / 50.0%", "+25.0% [+12.5%, +37.5%]", "0.0041", "")]
    assert [table.headings[place] for place in sorted(table.right)] == ["shares", "q"]


def test_at_most_five_words_of_a_filter() -> None:
    (table,) = show([make_filter(7, list("abcdefg"))], [])
    assert table.rows[0][0] == "7 a, b, c, d, e"


def test_the_verdict_is_told_where_there_are_strata() -> None:
    (table,) = show([make_filter(1, [], stratified_difference=0.0, verdict="vanishes")], [])
    assert table.rows[0][-1] == "vanishes"


def test_filters_of_several_groups_are_counted_once() -> None:
    """Each group with all others has a row."""
    others = {"group": "evening", "other": "all others"}
    rows = [make_filter(u, [], **other, found=u == 1) for u in (1, 2) for other in ({}, others, {"group": "noon"})]
    words = [make_row(word=word, **other) for word in ("dog", "cat") for other in ({}, others)]
    by_word, by_filter = show(rows, words)
    assert by_word.title.startswith("groups differ in 2 of 2 words, in 4 of 4 comparisons")
    assert by_filter.title.startswith("groups differ in 1 of 2 filters, in 3 of 6 comparisons")


def test_what_was_not_found_is_counted_and_not_listed() -> None:
    (table,) = show([make_filter(1, []), make_filter(2, [], found=False), make_filter(3, [], found=False)], [])
    assert table.title.startswith("groups differ in 1 of 3 filters")
    assert [row[0].split()[0] for row in table.rows] == ["1"]


def test_the_clearest_go_first_and_of_equals_the_larger() -> None:
    rows = [
        make_filter(1, [], p_value=0.01),
        make_filter(2, [], p_value=0.001, difference=0.1),
        make_filter(3, [], p_value=0.001, difference=-0.4),
    ]
    (table,) = show(rows, [])
    assert [row[0].strip() for row in table.rows] == ["3", "2", "1"]


@pytest.mark.parametrize(("num", "shown", "said"), [(10, 10, False), (11, 10, True)])
def test_of_many_the_title_says_how_many_are_shown(num: int, shown: int, said: bool) -> None:
    (table,) = show([make_filter(u, [], p_value=u / 1000) for u in range(num)], [])
    assert len(table.rows) == shown
    assert table.title.endswith("; the 10 clearest") is said


@pytest.mark.parametrize(
    ("least", "hint"),
    [
        ([0.1, 0.3, 0.2], " (one of about 20 points would probably have been found)"),
        ([None, 0.3, None], " (one of about 30 points would probably have been found)"),
        ([None, None, None], ""),
    ],
)
def test_what_could_have_been_shown_is_said(least: list[float | None], hint: str) -> None:
    (table,) = show([make_filter(u, [], found=False, least_difference=d) for u, d in enumerate(least)], [])
    assert table.title == f"groups differ in 0 of 3 filters{hint}"
    assert list(table.rows) == []


# Settings and data


@pytest.mark.parametrize("role", list(Role))
def test_the_pictures_are_those_that_the_settings_name(role: Role) -> None:
    assert ANALYSIS.shows_images(make_config(bias={"images": role.value})) is role


@pytest.mark.parametrize("setting", ["groups", "stratify_by"])
def test_a_csv_file_that_is_not_there(tmp_path: Path, setting: str) -> None:
    config = make_config(bias={setting: f"csv:{tmp_path / 'no.csv'}:age"})
    with pytest.raises(UserError, match=rf"^bias\.{setting}\.file: found '.*no\.csv', which is no file"):
        ANALYSIS.check_settings(config)


def test_groups_by_annotations_need_annotations(tmp_path: Path) -> None:
    layer = make_layer(tmp_path)
    config = make_config(bias={"groups": "annotations:cat"})
    with pytest.raises(UserError, match=r"the pictures .* have none"):
        ANALYSIS.check_data(config, layer.find)
    ANALYSIS.check_data(make_config(bias={"groups": "annotations:cat", "images": "train"}), layer.find)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> SmallLayer:
    return make_layer(tmp_path_factory.mktemp("layer"))


@pytest.mark.parametrize(
    "bias",
    [
        {"stratify_by": "folder"},
        {"min_images": 3},
        {"permutations": 2000},
        {"groups": "annotations:cat", "images": "train"},
    ],
    ids=str,
)
def test_other_settings_are_another_artefact(layer: SmallLayer, bias: dict[str, Any]) -> None:
    changed = replace(layer, config=make_config(bias=bias))
    assert ANALYSIS.inputs(changed).request() != ANALYSIS.inputs(layer).request()


def test_it_is_the_groups_that_count_and_not_how_they_are_written_down(layer: SmallLayer, tmp_path: Path) -> None:
    """Two files of the same content under the same heading."""
    requests = []
    for name in ("one.csv", "two.csv"):
        lines = [f"{r.key},{r.key.partition('/')[0]}" for r in layer.labelled.records]
        (tmp_path / name).write_text("\n".join(["picture,time", *lines]), "utf-8")
        config = make_config(bias={"groups": f"csv:{tmp_path / name}:time"})
        requests.append(ANALYSIS.inputs(replace(layer, config=config)).request())
    assert requests[0] == requests[1]
    assert requests[0].settings["groups"]["names"] == ["day", "night"]
