"""Reviewers' CSV files: read strictly, a line for each mistake; what is written can be read again."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lavise.configs.errors import UserError
from lavise.tasks.history.review_notes import ReviewNote, read_notes, write_notes

HEADER = "layer,filter,word,verdict,note,reviewer"
FORMULAS = ("=1+1", "+cmd|' /C calc'!A1", "-2", "@SUM(A1)", "\tx", "'=kept", "''+2", "\uff1dA1")


def make_rows(words: Sequence[str] = ("dog", "=cat", "")) -> list[dict[str, Any]]:
    """Of two layers; a filter without a word has a guess in the second layer only."""
    return [
        {"layer": layer, "filter": unit, "words": [word] if word else [], "explained": bool(word), "guess": guess}
        for layer, guess in (("tail", ""), ("a,b", "tree"))
        for unit, word in enumerate(words)
    ]


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n", "utf-8")
    return path


def test_notes_are_read_in_the_audits_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        '"a,b",2,tree,no,"not, a ""tree""\nbut grass",',
        "tail,1,'=cat,partly,,ann",
        "tail, 0 ,dog, fits ,,  ann ",
        "tail,0,dog,,only a note,bob",
        "tail,2,,no,,bob",
    )
    assert read_notes([path], make_rows()) == [
        ReviewNote("tail", 0, "dog", "fits", "", "ann"),
        ReviewNote("tail", 0, "dog", "", "only a note", "bob"),
        ReviewNote("tail", 1, "=cat", "partly", "", "ann"),
        ReviewNote("tail", 2, "", "no", "", "bob"),
        ReviewNote("a,b", 2, "tree", "no", 'not, a "tree"\nbut grass', ""),
    ]


def test_without_a_column_of_reviewers_and_with_others_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "fits,,x,0,dog,tail", header="\ufeffverdict,note,extra,filter,word,layer")
    assert read_notes([path], make_rows()) == [ReviewNote("tail", 0, "dog", "fits", "", "")]


def test_of_several_files_those_without_a_name_are_called_after_them(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.csv", f"tail,0,dog,no,,{own}") for name, own in (("ann", ""), ("bob", "Bob"))]
    assert [note.reviewer for note in read_notes(paths, make_rows())] == ["Bob", "ann"]


def test_what_is_written_holds_no_formula_and_is_read_again(tmp_path: Path) -> None:
    notes = [ReviewNote("tail", 1, "=cat", "no", text.strip(), f"r{i}") for i, text in enumerate(FORMULAS)]
    content = write_notes(notes)
    cells = [cell for row in csv.reader(io.StringIO(content, newline="")) for cell in row]
    assert not [cell for cell in cells if cell[:1] in set("=+-@\t\r\uff1d")]
    (tmp_path / "a.csv").write_bytes(content.encode("utf-8"))
    assert read_notes([tmp_path / "a.csv"], make_rows()) == notes


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("head,0,dog,fits,,", "line 2 of {path}: found layer 'head'; allowed: tail, a,b"),
        ("tail,3,dog,fits,,", "line 2 of {path}: found filter '3'; layer 'tail' has the filters 0 to 2"),
        ("tail,-1,dog,fits,,", "found filter '-1'"),
        ("tail,\u0661,dog,fits,,", "found filter"),
        ("tail,0,dog,good,,", "found verdict 'good'; allowed: fits, partly, no, or empty beside a note"),
        ("tail,0,dog,,,", "found verdict ''"),
        ("tail,0,cow,no,,", "found word 'cow', but filter 0 of this audit is called 'dog'"),
        ("tail,0,dog,no,,\ntail,0,dog,fits,,", "line 3 of {path} is a second note on filter 0 of layer 'tail'"),
        ("tail,0,dog,no,,ann\ntail,0,dog,fits,, ann", "is a second note of 'ann' on filter 0"),
        ("tail,0,dog,no,a,b,c", "line 2 of {path} has 7 cells; allowed: 6"),
        ('tail,0,dog,no,"half', "cannot read {path} (unexpected end of data)"),
    ],
)
def test_a_line_that_is_wrong(tmp_path: Path, line: str, wrong: str) -> None:
    path = write(tmp_path / "a.csv", line)
    with pytest.raises(UserError) as caught:
        read_notes([path], make_rows())
    said = str(caught.value)
    assert said.startswith("notes: ")
    assert wrong.format(path=path) in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        ("layer,filter,word,note", "has no column 'verdict'; allowed: layer, filter, word, verdict, note and reviewer"),
        ("layer;filter;word;verdict;note", "are separated by semicolons; allowed: commas"),
        ("layer,layer,filter", "has 'layer' twice"),
        ("", "is empty; allowed: a header line and a line for each filter"),
        (HEADER, "has no notes"),
    ],
)
def test_a_header_that_is_wrong(tmp_path: Path, header: str, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        read_notes([write(tmp_path / "a.csv", header=header)], make_rows())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"notes: cannot read .*none\.csv"):
        read_notes([tmp_path / "none.csv"], make_rows())
