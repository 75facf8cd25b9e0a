"""What is given to audits that have ended: reviewers' notes, expected words, and the tables of a run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from benchmarks.bad_inputs.answers import READ, REFUSED, Case, Found
from lavise.configs.expectations import ExpectSettings
from lavise.flows.past_audits.expectations import choose_expectations
from lavise.flows.past_audits.run_tables import check_tables
from lavise.tasks.history.review_notes import read_notes

_ANY, _ONLY_READ = (REFUSED, READ), (READ,)
_LONG = "9" * 5000
_HEADER = "layer,filter,word,verdict,note,reviewer"
_FILTERS = [
    {"layer": layer, "filter": unit, "explained": bool(words), "confidence": 0.5, "words": words, "guess": "tree"}
    for layer in ("tail", "a,b")
    for unit, words in enumerate((["dog"], ["=cat"], []))
]


def list_cases() -> Iterator[Case]:
    """All of them."""
    for what, content, expected in _NOTES:
        yield Case("notes of reviewers", what, partial(_read_notes, content), expected)
    for what, given, expected in _WORDS:
        yield Case("expected words", what, partial(_choose, given), expected)
    for what, change, expected in _TABLES:
        yield Case("tables of run folders", what, partial(_read_tables, change), expected)


def _read_notes(content: bytes, folder: Path) -> Found:
    (folder / "notes.csv").write_bytes(content)
    return Found(len(read_notes([folder / "notes.csv"], _FILTERS)))


def _choose(given: dict[str, Any], folder: Path) -> Found:
    known = {"must": None, "must_not": None, "by": None, "relatives": None}
    return Found(len(choose_expectations(ExpectSettings(), **{**known, **given}).words))


def _read_tables(change: Callable[[Path], object], folder: Path) -> Found:
    parquet.write_table(pa.Table.from_pylist(_FILTERS), folder / "filters.parquet")
    change(folder)
    check_tables("run", folder)
    return Found(parquet.read_table(folder / "filters.parquet").num_rows)


def _lines(*lines: str, header: str = _HEADER) -> bytes:
    return "".join(f"{line}\r\n" for line in (header, *lines)).encode()


_NOTES: tuple[tuple[str, bytes, tuple[str, ...]], ...] = (
    ("whole", _lines("tail,0,dog,fits,,ann", '"a,b",2,tree,,a note,ann'), _ONLY_READ),
    ("no byte", b"", (REFUSED,)),
    ("a header alone", _lines(), (REFUSED,)),
    ("no column of words", _lines("tail,0,fits,", header="layer,filter,verdict,note"), (REFUSED,)),
    ("semicolons", _lines("tail;0;dog;fits;", header="layer;filter;word;verdict;note"), (REFUSED,)),
    ("a column twice", _lines("tail,tail,0,dog,fits,", header="layer,layer,filter,word,verdict,note"), (REFUSED,)),
    ("another layer", _lines("body,0,dog,fits,,"), (REFUSED,)),
    ("a layer of control characters", _lines("\x1b[31m,0,dog,fits,,"), (REFUSED,)),
    ("a filter that is not there", _lines("tail,9,dog,fits,,"), (REFUSED,)),
    ("a filter below zero", _lines("tail,-1,dog,fits,,"), (REFUSED,)),
    ("a filter of 5,000 digits", _lines(f"tail,{_LONG},dog,fits,,"), (REFUSED,)),
    ("a filter in other digits", _lines("tail,٠,dog,fits,,"), (REFUSED,)),
    ("another word", _lines("tail,0,cat,fits,,"), (REFUSED,)),
    ("a word of HTML", _lines("tail,0,<img src=x>,fits,,"), (REFUSED,)),
    ("a verdict that is none", _lines("tail,0,dog,perhaps,,"), (REFUSED,)),
    ("no verdict and no note", _lines("tail,0,dog,,,"), (REFUSED,)),
    ("two notes of one reviewer", _lines("tail,0,dog,fits,,ann", "tail,0,dog,no,,ann"), (REFUSED,)),
    ("a note that is a formula", _lines("tail,0,dog,fits,=1+1,ann"), _ONLY_READ),
    ("a word that is a formula, as it is written", _lines("tail,1,'=cat,fits,,ann"), _ONLY_READ),
    ("a note of HTML and control characters", _lines("tail,0,dog,no,<b>\x1b[31m,\x1b[31m"), _ANY),
    ("a note of 200,000 characters", _lines(f"tail,0,dog,no,{_LONG * 40},ann"), (REFUSED,)),
    ("a quote that is not closed", _lines('tail,0,"dog,fits,,'), (REFUSED,)),
    ("more cells than the header", _lines("tail,0,dog,fits,,ann,1"), (REFUSED,)),
    ("UTF-16", _lines("tail,0,dog,fits,,").decode().encode("utf-16"), (REFUSED,)),
    ("Latin-1", _lines("tail,0,dog,fits,né,").decode().encode("latin-1"), (REFUSED,)),
    ("a zero byte", _lines("tail,0,dog,fits,\0,"), _ANY),
)
_WORDS: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("whole", {"must": ["dog", "traffic light"], "must_not": ["watermark"]}, _ONLY_READ),
    ("a word twice", {"must": ["dog", " dog "]}, _ONLY_READ),
    ("a word of other letters", {"must": ["дог"]}, _ONLY_READ),
    ("a word of HTML", {"must": ["<b>dog</b>"]}, _ONLY_READ),
    ("an empty word", {"must": [""]}, (REFUSED,)),
    ("a word of spaces", {"must": ["  "]}, (REFUSED,)),
    ("a word with a zero byte", {"must": ["a\0b"]}, (REFUSED,)),
    ("a word of control characters", {"must_not": ["\x1b[31m"]}, (REFUSED,)),
    ("half a character", {"must": ["\ud800"]}, (REFUSED,)),
    ("a separator of lines", {"must": ["a\u2028\u0000"]}, (REFUSED,)),
    ("a word that must and must not", {"must": ["dog"], "must_not": ["Dog"]}, (REFUSED,)),
    ("a way that is none", {"must": ["dog"], "by": "magic"}, (REFUSED,)),
    ("relatives that are none", {"must": ["dog"], "relatives": "\x1b[31m"}, (REFUSED,)),
)


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def _cut(share: float) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = (folder / "filters.parquet").read_bytes()
        (folder / "filters.parquet").write_bytes(content[: int(share * len(content))])

    return change


def _set(**columns: Any) -> Callable[[Path], object]:
    """Other columns in the place of those of the same names; None takes one out."""

    def change(folder: Path) -> None:
        table = parquet.read_table(folder / "filters.parquet")
        for name, values in columns.items():
            place = table.schema.get_field_index(name)
            table = table.remove_column(place)
            if values is not None:
                table = table.add_column(place, name, values)
        parquet.write_table(table, folder / "filters.parquet")

    return change


def _link(folder: Path) -> None:
    (folder / "filters.parquet").unlink()
    (folder / "filters.parquet").symlink_to("/dev/null")


_TABLES: tuple[tuple[str, Callable[[Path], object], tuple[str, ...]], ...] = (
    ("whole", lambda folder: None, _ONLY_READ),
    ("no byte", _write("filters.parquet", b""), (REFUSED,)),
    ("text", _write("filters.parquet", b"hello"), (REFUSED,)),
    ("marks alone", _write("filters.parquet", b"PAR1" + bytes(100) + b"PAR1"), (REFUSED,)),
    ("cut in the middle", _cut(0.5), (REFUSED,)),
    ("cut at the end", _cut(0.99), (REFUSED,)),
    ("a link to nothing", _link, (REFUSED,)),
    ("another table that is none", _write("explanations.parquet", b"hello"), (REFUSED,)),
    ("no column of layers", _set(layer=None), (REFUSED,)),
    ("layers that are numbers", _set(layer=pa.array(range(6))), (REFUSED,)),
    ("filters that are text", _set(filter=pa.array(list("abcdef"))), (REFUSED,)),
    ("a filter without a number", _set(filter=pa.array([0, 1, None, 0, 1, 2])), (REFUSED,)),
    ("words that are no lists", _set(words=pa.array(["dog"] * 6)), (REFUSED,)),
    ("words that are bytes", _set(words=pa.array([[b"\xff"]] * 6)), (REFUSED,)),
    ("a column of bytes", _set(guess=pa.array([b"\xff"] * 6)), (REFUSED,)),
    ("a column of times", _set(guess=pa.array([2**62] * 6, pa.timestamp("us"))), (REFUSED,)),
)
