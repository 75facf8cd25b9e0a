"""What comes from data reaches the terminal as plain text; tables say what was found."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from rich.console import Console
from rich.text import Text

from lavise.flows.command_line.tables import _analyses_tables, _filters_table, show_diff, show_result
from lavise.flows.past_audits.compare import DiffResult
from lavise.flows.shared.console import escape
from lavise.flows.shared.results import RunResult, StageFacts
from tests.unit.flows.helpers import make_config, write_run_folder


def test_names_are_neither_markup_nor_escape_sequences() -> None:
    shown = escape("[red]dog[/red]\x1b[2J\x07")
    assert Text.from_markup(shown).plain == "[red]dog[/red]\ufffd[2J\ufffd"


def make_difference(name: dict[str, object], **changes: object) -> dict[str, object]:
    return {
        "group": "[b]a", "other": "b", "share_group": 0.5, "share_other": 0.25, "difference": 0.25, "low": 0.1,
        "high": 0.4, "p_value": 0.001, "q_value": 0.004, "found": True, "least_difference": 0.2,
        "stratified_difference": None, "verdict": "differs", **name, **changes,
    }  # fmt: skip


def show_tables(folder: Path) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for table in _analyses_tables(folder):
        console.print(table)
    return console.export_text()


def write_rows(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    parquet.write_table(pa.Table.from_pylist(rows), folder / name)


def test_a_word_and_a_guess_have_a_line_each() -> None:
    row: dict[str, object] = {"words": [], "guess": "", "auroc": None, "explained": False, "num_images": 9}
    guessed = [{**row, "filter": n, "guess": "giraffe", "guess_confidence": 0.1 * n} for n in range(3)]
    explained = {**row, "filter": 7, "words": ["dog"], "explained": True, "confidence": 0.9, "guess_confidence": 0.0}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(_filters_table("layer4", [*guessed, explained]))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["dog", "1", "7", "0.90", "9"] in lines
    assert ["guess:", "giraffe", "3", "2", "9"] in lines
    assert sum("guess:" in line for line in lines) == 1


def test_filters_with_other_words_stand_before_those_that_are_less_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def make_row(unit: int, status: str, similarity: float, old: list[str], new: list[str]) -> dict[str, object]:
        interval = {"similarity": similarity, "similarity_low": similarity, "similarity_high": similarity}
        return {
            "status": status,
            "old_filter": unit,
            "new_filter": unit,
            "old_words": old,
            "new_words": new,
            **interval,
        }

    write_rows(
        tmp_path,
        "diff.parquet",
        [
            make_row(1, "changed", 0.6, ["cat"], ["cat"]),
            make_row(2, "same", 0.97, ["car"], []),
            make_row(3, "same", 0.99, [], []),
        ],
    )
    counts = {"num_old": 3, "num_same": 2, "num_changed": 1, "num_lost": 0, "num_new_filters": 0, "share_kept": 0.67}
    show_diff(DiffResult("a", "b", tmp_path, {"bn2": {**counts, "words_gained": [], "words_lost": ["car"]}}))
    text = capsys.readouterr().out
    assert "2 filters are not the same or have other words (1, which come first)" in " ".join(text.split())
    lines = [line.split() for line in text.splitlines() if line.strip().startswith(("changed", "same "))]
    assert [(line[1], line[-2:]) for line in lines] == [("2", ["car", "unexplained"]), ("1", ["cat", "cat"])]


def test_differences_of_groups_are_shown_the_clearest_first(tmp_path: Path) -> None:
    filters = [
        make_difference({"filter": 3, "words": ["dog", "cat"]}, p_value=0.01),
        make_difference({"filter": 4, "words": []}, stratified_difference=0.0, verdict="vanishes"),
        make_difference({"filter": 5, "words": ["x"]}, found=False),
    ]
    write_rows(tmp_path, "bias_filters.parquet", filters)
    write_rows(tmp_path, "bias_words.parquet", [make_difference({"word": "[red]dog"}, found=False)])
    text = show_tables(tmp_path)
    titles = " ".join(text.split())
    assert "groups differ in 0 of 1 words (one of about 20 points would probably have been found)" in titles
    assert "groups differ in 2 of 3 filters" in titles
    assert text.count("q") == text[text.index("groups differ in 2") :].count("q") == 1  # no heading without a row
    lines = [line.split() for line in text.splitlines() if line.strip().startswith(("3 ", "4 ", "5 "))]
    assert [line[0] for line in lines] == ["4", "3"]
    assert lines[0][-1] == "vanishes"
    assert "[b]a / b" in text
    assert "+25.0% [+10.0%, +40.0%]" in text


def test_classes_and_causes_are_shown(tmp_path: Path) -> None:
    lean = {"layer": "tail", "class": 7, "class_name": "[i]teapot", "num_images": 3, "contribution": 1.25}
    write_rows(
        tmp_path,
        "classes.parquet",
        [{**lean, "rank": 1, "filter": 12, "words": ["kettle", "jug"]}, {**lean, "rank": 9, "filter": 13, "words": []}],
    )
    cause = {"num_filters": 2, "own_logit": -0.1, "random_own_logit": -0.02, "changed": 0.5, "q_value": 0.01}
    write_rows(
        tmp_path,
        "causes.parquet",
        [
            {**cause, "word": "jug", "used": False, "own_logit_with": None},
            {**cause, "word": "kettle", "used": True, "own_logit_with": -2.5},
        ],
    )
    text = show_tables(tmp_path)
    assert "[i]teapot" in text
    assert "12 (kettle, jug) +1.25" in text
    assert "13" not in text
    assert "1 of 2 words do more than random filters" in " ".join(text.split())
    assert text.index("kettle ", text.index("without")) < text.index("jug ", text.index("without"))
    assert "-2.50" in text
    assert "-0.10" in text


def test_nothing_that_was_not_asked_for_is_shown(tmp_path: Path) -> None:
    assert list(_analyses_tables(tmp_path)) == []


def show_run(folder: Path, capsys: pytest.CaptureFixture[str], everything: bool) -> str:
    stages: dict[str, StageFacts] = {
        "extract train": {"digest": "a" * 64, "cached": False, "seconds": 31.7},
        "scenes": {"digest": "b" * 64, "cached": True, "seconds": 0.0},
    }
    show_result(RunResult("0" * 32, None, folder, {}, stages, 3177), everything)
    return " ".join(capsys.readouterr().out.split())


def test_the_verdict_stands_first_and_paths_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"tail": ["dog", "dog", None, "[red]cat"]}
    folder = write_run_folder(tmp_path / "run", make_config(tmp_path), words)
    said = show_run(folder, capsys, everything=False)
    assert said.startswith("tail: 3 of 4 filters explained (75%).")
    assert "2 words, each with its most confident filter" in said
    assert "dog 2 0" in said
    assert "[red]cat" in said
    assert "2 stages in 32 s, 1 of them known from before, 3,177 pictures decoded; the longest: extract" in said
    assert "aaaaaaaaaaaa" not in said
    assert said.index("report") < said.index("run 0")
    assert "aaaaaaaaaaaa" in show_run(folder, capsys, everything=True)
