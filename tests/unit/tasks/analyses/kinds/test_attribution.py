"""What classes lean on, in a terminal, and what the artefact depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from lavise.tasks.analyses.analysis import TextTable
from lavise.tasks.analyses.kinds.attribution import ANALYSIS
from tests.unit.tasks.analyses.explained_layer import make_config, make_layer

FILE = "classes.parquet"


def make_row(number: int, rank: int, unit: int, num_images: int = 5, **changes: Any) -> dict[str, Any]:
    row = {
        "layer": "act",
        "class": number,
        "class_name": f"class {number}",
        "num_images": num_images,
        "rank": rank,
        "filter": unit,
        "words": [],
        "contribution": 1.0 / rank,
    }
    return row | changes


def show(rows: list[dict[str, Any]]) -> list[TextTable]:
    return list(ANALYSIS.show({FILE: rows}))


def test_a_class_in_a_line() -> None:
    rows = [
        make_row(7, 2, 30, words=["fur", "tail", "paw"], contribution=0.5),
        make_row(7, 1, 12, words=["ear"], contribution=1.25),
        make_row(7, 3, 4, contribution=-0.125),
    ]
    (table,) = show(rows)
    assert list(table.rows) == [("class 7", "5", "12 (ear) +1.25; 30 (fur, tail) +0.50; 4 -0.12")]
    assert table.right == {1}


def test_three_filters_of_each_class() -> None:
    (table,) = show([make_row(1, rank, rank + 20) for rank in range(1, 7)])
    assert [part.split()[0] for part in table.rows[0][2].split("; ")] == ["21", "22", "23"]


def test_the_classes_that_the_network_names_most_go_first() -> None:
    rows = [make_row(number, 1, 0, num_images=images) for number, images in ((3, 2), (1, 9), (2, 9))]
    (table,) = show(rows)
    assert [row[0] for row in table.rows] == ["class 1", "class 2", "class 3"]


def test_ten_classes_at_most_and_how_many_there_are() -> None:
    (table,) = show([make_row(number, 1, 0, num_images=50 - number) for number in range(13)])
    assert [row[0] for row in table.rows] == [f"class {number}" for number in range(10)]
    assert table.title == "what classes lean on; the 10 of 13 that the network names most"


def test_a_class_is_shown_for_each_layer() -> None:
    rows = [make_row(1, 1, unit, layer=layer) for layer, unit in (("act", 5), ("body", 6))]
    (table,) = show(rows)
    assert [row[2] for row in table.rows] == ["5 +1.00", "6 +1.00"]


def test_only_the_first_pictures_are_looked_at(tmp_path: Path) -> None:
    layer = make_layer(tmp_path, classes={"max_images": 7})
    ANALYSIS.compute(ANALYSIS.inputs(layer), tmp_path)
    rows = parquet.read_table(tmp_path / FILE).to_pylist()
    assert sum({r["class"]: r["num_images"] for r in rows}.values()) <= 7
    assert ANALYSIS.inputs(layer).request() != ANALYSIS.inputs(replace(layer, config=make_config())).request()


def test_whatever_changes_the_networks_answers_is_another_artefact(tmp_path: Path) -> None:
    layer = make_layer(tmp_path)
    other = replace(layer, model=replace(layer.model, digest="d" * 64))
    assert ANALYSIS.inputs(other).request() != ANALYSIS.inputs(layer).request()
    # The groups of another analysis are none of its settings.
    same = replace(layer, config=make_config(bias={"min_images": 3}))
    assert ANALYSIS.inputs(same).request() == ANALYSIS.inputs(layer).request()
