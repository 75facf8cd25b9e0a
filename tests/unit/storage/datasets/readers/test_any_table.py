"""Any change to a table with pictures, parquet or arrow: the data set is read, or a line says why not.

They are read in a process of their own: what ends it is a fault, and is seen as one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from benchmarks.bad_inputs.answers import read_reference, read_target
from benchmarks.bad_inputs.good_sets import NAMES, encode_picture, write_good
from lavise.configs.errors import UserError
from tests.other_process import EndedError, OtherProcess
from tests.unit.storage.datasets.readers.containers import IMAGE, make_table, save_to_disk

QUIET = settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
KINDS = ("boxes in parquet", "text and bytes in parquet, packed", "labels in arrow")
NUM = len(NAMES)


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Asked in the other process: pictures that were read, or the line."""
    if question.get("end"):
        os.kill(os.getpid(), signal.SIGSEGV)
    read = read_target if question.pop("target") else read_reference
    try:
        return {"read": read(question).good}
    except UserError as err:
        return {"line": str(err)}


def write(kind: str, root: Path) -> dict[str, Any]:
    """A whole data set, and what the other process is asked."""
    if kind == KINDS[0]:
        return {**write_good("huggingface", root), "root": str(root), "target": False}
    if kind == KINDS[1]:
        rows = {"picture": [encode_picture(i) for i in range(NUM)], "id": [f"p{i}" for i in range(NUM)]}
        table = pyarrow.table(rows)
        options: dict[str, Any] = {"compression": "zstd", "data_page_version": "2.0", "write_page_index": True}
        parquet.write_table(table, root / "a.parquet", row_group_size=4, **options)
        return {"kind": "parquet", "root": str(root), "image": "picture", "key": "id", "target": True}
    features = {"image": {"_type": "Image"}, "label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    pictures = [{"image": {"bytes": encode_picture(i), "path": None}, "label": i % 2} for i in range(NUM)]
    save_to_disk(root, make_table({"image": IMAGE, "label": pyarrow.int64()}, pictures, features))
    return {"kind": "huggingface", "root": str(root), "target": False}


@pytest.fixture(scope="module")
def other() -> Iterator[OtherProcess]:
    with OtherProcess(__name__, "answer") as process:
        yield process


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Path]]:
    found = {}
    for kind in KINDS:
        root = tmp_path_factory.mktemp("table")
        question = write(kind, root)
        (path,) = [p for p in root.rglob("*") if p.suffix in (".parquet", ".arrow")]
        found[kind] = (question, path)
    return found


def change(data: st.DataObject, content: bytes) -> bytes:
    """Cut, bytes turned over, put in or taken out; more often at the end or the beginning, where the schema is."""
    if data.draw(st.integers(0, 5)) == 0:
        return content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(1, 3))):
        near = data.draw(st.integers(0, min(1500, len(content) - 1)))
        places = (near, len(content) - 1 - near, data.draw(st.integers(0, len(content) - 1)))
        place = data.draw(st.sampled_from(places))
        new = data.draw(st.binary(max_size=6))
        content = content[:place] + new + content[place + data.draw(st.integers(0, 6)) :]
    return content


@pytest.mark.parametrize("kind", KINDS)
@QUIET
@given(data=st.data())
def test_any_change_is_read_or_refused(other: OtherProcess, good: Any, kind: str, data: st.DataObject) -> None:
    question, path = good[kind]
    content = path.read_bytes()
    try:
        path.write_bytes(change(data, content))
        found = other.ask(question)
    finally:
        path.write_bytes(content)
    if "line" in found:
        assert "\n" not in found["line"]
        assert str(path.parent) in found["line"] or found["line"].startswith(("reference", "target"))
    else:
        assert 0 <= found["read"] <= NUM


@pytest.mark.parametrize("kind", KINDS)
def test_whole_tables_are_read_whole(other: OtherProcess, good: Any, kind: str) -> None:
    assert other.ask(good[kind][0]) == {"read": NUM}


def test_a_process_that_ends_is_seen_and_started_again(other: OtherProcess, good: Any) -> None:
    with pytest.raises(EndedError, match=f"-{int(signal.SIGSEGV)}"):
        other.ask({"end": True})
    assert other.ask(good[KINDS[0]][0]) == {"read": NUM}
