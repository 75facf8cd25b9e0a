"""Rows as dataclasses: their schema, their way to parquet and back, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from lavise.storage.table_rows import Int32, make_schema, write_rows


@dataclass(frozen=True)
class Part:
    share: float
    words: Sequence[str]


@dataclass(frozen=True)
class Row:
    name: str
    class_: Int32
    count: int | None
    is_right: bool
    parts: list[Part] = field(default_factory=list)


def test_schema_follows_from_the_fields() -> None:
    part = pa.struct([("share", pa.float64()), ("words", pa.list_(pa.string()))])
    assert make_schema(Row) == pa.schema(
        [
            ("name", pa.string()),
            ("class", pa.int32()),
            ("count", pa.int64()),
            ("is_right", pa.bool_()),
            ("parts", pa.list_(part)),
        ]
    )


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [Row("a", 3, None, True, [Part(0.5, ["x", "y"])]), Row("<b>", -1, 2**40, False)]
    write_rows(Row, rows, tmp_path / "rows.parquet")
    found = parquet.read_table(tmp_path / "rows.parquet")
    assert found.schema == make_schema(Row)
    assert found.to_pylist() == [
        {"name": "a", "class": 3, "count": None, "is_right": True, "parts": [{"share": 0.5, "words": ["x", "y"]}]},
        {"name": "<b>", "class": -1, "count": 2**40, "is_right": False, "parts": []},
    ]


def test_same_bytes_as_from_mappings(tmp_path: Path) -> None:
    """Tables that were written from dicts keep their content address."""
    rows = [Row("a", 3, 1, True, [Part(0.5, ["x"])]), Row("b", 4, None, False)]
    write_rows(Row, rows, tmp_path / "one.parquet")
    plain = parquet.read_table(tmp_path / "one.parquet").to_pylist()
    parquet.write_table(pa.Table.from_pylist(plain, make_schema(Row)), tmp_path / "other.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    write_rows(Row, [], tmp_path / "rows.parquet")
    assert parquet.read_table(tmp_path / "rows.parquet").schema == make_schema(Row)


def test_a_type_without_a_column_type() -> None:
    @dataclass
    class Odd:
        value: complex

    with pytest.raises(KeyError, match="complex"):
        make_schema(Odd)
