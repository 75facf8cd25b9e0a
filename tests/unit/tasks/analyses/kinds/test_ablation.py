"""What the network answers without the filters of a word, in a terminal, and what the artefact depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from lavise.tasks.analyses.analysis import TextTable
from lavise.tasks.analyses.kinds.ablation import ANALYSIS
from tests.unit.tasks.analyses.explained_layer import make_config, make_layer

WORDS, FILTERS = "causes.parquet", "causes_filters.parquet"


def make_row(word: str, **changes: Any) -> dict[str, Any]:
    row = {
        "word": word,
        "num_filters": 3,
        "own_logit": -0.5,
        "own_logit_with": None,
        "random_own_logit": -0.125,
        "changed": 0.0625,
        "q_value": 0.0123,
        "used": True,
    }
    return row | changes


def show(rows: list[dict[str, Any]]) -> list[TextTable]:
    return list(ANALYSIS.show({WORDS: rows, FILTERS: []}))


def test_a_word_in_a_line() -> None:
    (table,) = show([make_row("dog")])
    assert list(table.rows) == [("dog", "3", "-0.50", "-0.12", "6.2%", "0.012", "used")]
    assert sorted(table.right) == [1, 2, 3, 4, 5]


def test_the_logit_is_that_of_pictures_with_the_word_where_there_are_some() -> None:
    """A logit that does not change at all is a number, too."""
    (table,) = show([make_row("dog", own_logit_with=-2.5), make_row("cat", own_logit_with=0.0)])
    assert {row[0]: row[2] for row in table.rows} == {"dog": "-2.50", "cat": "+0.00"}


def test_words_that_are_used_go_first_then_the_surest_then_the_strongest() -> None:
    rows = [
        make_row("unused", used=False, q_value=0.0001),
        make_row("unsure", q_value=0.04),
        make_row("weak", q_value=0.01, own_logit=-0.1),
        make_row("strong", q_value=0.01, own_logit=-0.9),
    ]
    (table,) = show(rows)
    assert [row[0] for row in table.rows] == ["strong", "weak", "unsure", "unused"]
    assert [row[-1] for row in table.rows] == ["used", "used", "used", "not used"]


def test_all_are_counted_and_ten_are_shown() -> None:
    (table,) = show([make_row(f"w{i:02d}", used=i < 4, q_value=i / 100) for i in range(15)])
    assert len(table.rows) == 10
    assert table.title == "without the filters of a word: 4 of 15 words do more than random filters"


def test_only_the_first_pictures_are_looked_at(tmp_path: Path) -> None:
    layer = make_layer(tmp_path, causes={"max_images": 9})
    facts = ANALYSIS.compute(ANALYSIS.inputs(layer), tmp_path)
    assert facts["num_images"] == 9
    words = {r["word"]: r for r in parquet.read_table(tmp_path / WORDS).to_pylist()}
    assert {word: row["num_filters"] for word, row in words.items()} == {"cat": 2, "dog": 1, "puppy": 1, "sky": 1}
    # Every third of the nine has a cat.
    assert (words["cat"]["num_with"], words["cat"]["num_without"]) == (3, 6)


def test_whatever_changes_the_networks_answers_is_another_artefact(tmp_path: Path) -> None:
    layer = make_layer(tmp_path)
    others = [
        replace(layer, model=replace(layer.model, digest="d" * 64)),
        replace(layer, config=make_config(causes={"fill": "zero"})),
        replace(layer, handles={**layer.handles, "extract": layer.handles["thresholds"]}),
    ]
    base = ANALYSIS.inputs(layer).request()
    assert all(ANALYSIS.inputs(other).request() != base for other in others)
    assert ANALYSIS.inputs(replace(layer, config=make_config(bias={"min_images": 3}))).request() == base
