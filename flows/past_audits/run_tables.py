"""Tables of a run folder, which may be somebody else's or damaged: looked at once, before anything reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from lavise.configs.errors import UserError
from lavise.storage.state import file_names

_types = pa.types
# Columns of filters.parquet without which no command can do; none of their cells is empty.
_NEEDED: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    "layer": ("text", _types.is_string),
    "filter": ("whole numbers", _types.is_integer),
    "explained": ("true and false", _types.is_boolean),
    "words": ("lists of text", lambda kind: _types.is_list(kind) and _types.is_string(kind.value_type)),
    "confidence": ("numbers", _types.is_floating),
}


def check_tables(run_id: str, folder: Path) -> None:
    """Read every table of a run folder.

    What is damaged so that it can still be read is not found out: the tables have no checksums.

    Raises:
        UserError: one cannot be read, has values of a kind that no audit writes, or filters.parquet lacks a column.
    """
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = parquet.read_table(path)
            table.validate(full=True)  # before anything else: what reads through senseless offsets ends the process
            fault = _find_fault(table, path.name)
        except (pa.ArrowException, OSError, ValueError, OverflowError) as err:
            fault = " ".join(str(err).split())[:200]
        if fault:
            raise UserError(
                f"run: {path.name} of {run_id} is damaged ({fault}); copy the run folder anew, or audit again"
            )


def _find_fault(table: pa.Table, name: str) -> str | None:
    for field in table.schema:
        if table.schema.names.count(field.name) > 1:
            return f"column {field.name!r} stands twice"
        if not _is_plain(field.type):
            return f"column {field.name!r} is {str(field.type)[:80]}"
    if name != file_names.FILTERS:
        return None
    for column, (what, fits) in _NEEDED.items():
        if column not in table.column_names:
            return f"there is no column {column!r}"
        if not fits(table.schema.field(column).type):
            return f"column {column!r} has no {what}"
        if table[column].null_count and column != "confidence":
            return f"column {column!r} has empty cells"
    return None


def _is_plain(kind: pa.DataType) -> bool:
    """What becomes text, numbers, and lists and mappings of them."""
    if _types.is_list(kind):
        return _is_plain(kind.value_type)
    if _types.is_struct(kind):
        return all(_is_plain(kind.field(i).type) for i in range(kind.num_fields))
    checks = (_types.is_string, _types.is_integer, _types.is_floating, _types.is_boolean, _types.is_null)
    return any(check(kind) for check in checks)
