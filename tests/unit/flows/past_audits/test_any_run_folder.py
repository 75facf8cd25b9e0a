"""A run folder of somebody else: any change to its tables, and any notes, are read, or a line says why not.

Tables are read in a process of their own: what ends it is a fault, and is seen as one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lavise.configs.errors import UserError
from lavise.flows.past_audits.past_runs import open_past_run
from lavise.flows.past_audits.review import review_run
from lavise.storage.tracking import NullTracker
from lavise.tasks.history.review_notes import COLUMNS, read_notes
from tests.other_process import OtherProcess
from tests.unit.flows.helpers import make_config, make_filters, write_run_folder

QUIET = settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
NOTES = "layer,filter,word,verdict,note\ntail,0,dog,fits,\n"
CELLS = st.sampled_from(
    (
        "tail",
        "0",
        "1",
        "2",
        "-1",
        "9" * 5000,
        "²",
        "dog",
        "cat",
        "",
        "fits",
        "no",
        "=1+1",
        "'",
        '"',
        "\0",
        "\x1b[31m",
        "é",
    )
) | st.text(max_size=5)


def answer(folder: str) -> dict[str, Any]:
    """Asked in the other process: `lavise review` of the folder."""
    try:
        result = review_run(folder, [Path(folder).parent / "notes.csv"], NullTracker(), Path(folder).parent)
    except UserError as err:
        return {"line": str(err)}
    return {"filters": result.measured["all"]["num_filters"]}


@pytest.fixture(scope="module")
def other() -> Iterator[OtherProcess]:
    with OtherProcess(__name__, "answer") as process:
        yield process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    (root / "notes.csv").write_text(NOTES, "utf-8")
    return write_run_folder(root / "run", make_config(root))


@QUIET
@given(data=st.data())
def test_any_change_to_the_filters_is_read_or_refused(other: OtherProcess, folder: Path, data: st.DataObject) -> None:
    path = folder / "filters.parquet"
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content)))
    new, gone = data.draw(st.binary(max_size=4)), data.draw(st.sampled_from((0, 1, 4, len(content))))
    try:
        path.write_bytes(content[:place] + new + content[place + gone :])
        found = other.ask(str(folder))
    finally:
        path.write_bytes(content)
    if "line" in found:
        assert found["line"].startswith(("run: filters.parquet of run is damaged (", "notes: "))
    else:
        assert found["filters"] <= 4


def test_a_whole_folder_is_read_whole(other: OtherProcess, folder: Path) -> None:
    assert other.ask(str(folder)) == {"filters": 4}


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"confidence": None}, "there is no column 'confidence'"),
        ({"words": pa.array(["dog"] * 4)}, "column 'words' has no lists of text"),
        ({"filter": pa.array([0, 1, None, 3])}, "column 'filter' has empty cells"),
        ({"peak": pa.array([b"x"] * 4)}, "column 'peak' is binary"),
    ],
)
def test_tables_of_other_columns(tmp_path: Path, columns: dict[str, Any], fault: str) -> None:
    path = write_run_folder(tmp_path / "run", make_config(tmp_path)) / "filters.parquet"
    table = parquet.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.remove_column(place) if values is None else table.set_column(place, name, values)
    parquet.write_table(table, path)
    with pytest.raises(UserError) as error:
        open_past_run(str(path.parent), NullTracker(), tmp_path)
    assert str(error.value) == (
        f"run: filters.parquet of run is damaged ({fault}); copy the run folder anew, or audit again"
    )


def test_another_table_that_is_damaged(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run", make_config(tmp_path))
    (folder / "classes.parquet").write_bytes(b"PAR1PAR1")
    with pytest.raises(UserError, match=r"^run: classes\.parquet of run is damaged \(.*\); copy the run folder anew"):
        open_past_run(str(folder), NullTracker(), tmp_path)


@QUIET
@given(rows=st.lists(st.lists(CELLS, min_size=6, max_size=6), max_size=3), header=st.permutations(COLUMNS))
def test_any_cells_are_notes_or_refused(tmp_path: Path, rows: list[list[str]], header: list[str]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    read_or_refuse(tmp_path, text.getvalue().encode("utf-8", "surrogatepass"))


@QUIET
@given(content=st.binary(max_size=60) | st.lists(CELLS, max_size=9).map(lambda c: (NOTES + ",".join(c)).encode()))
def test_any_bytes_are_notes_or_refused(tmp_path: Path, content: bytes) -> None:
    read_or_refuse(tmp_path, content)


def check_line(error: UserError) -> None:
    assert str(error).startswith("notes: ")
    assert str(error).isprintable()


def read_or_refuse(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.csv").write_bytes(content)
    try:
        notes = read_notes([tmp_path / "notes.csv"], make_filters("tail", ["dog", "cat", None]))
    except UserError as err:
        check_line(err)
        return
    assert {note.filter for note in notes} <= {0, 1, 2}
