"""Tables written once: a row is a dataclass, and the parquet schema follows from its fields.

A column is added by adding a field. `Annotated[int, pa.int32()]` gives a column a type of its own; a field whose name
Python keeps for itself ends in an underscore, which the column lacks.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as parquet

Int32 = Annotated[int, pa.int32()]
_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
R = TypeVar("R")


def make_schema(row: type) -> pa.Schema:
    """The columns of a table of such rows, in the order of their fields."""
    return pa.schema([(_name_column(name), kind) for name, kind in _list_types(row)])


def write_rows(row: type, rows: Sequence[Any], path: Path) -> None:
    """Write a parquet file."""
    schema = make_schema(row)
    names = [field.name for field in fields(row)]
    columns = [[_to_plain(getattr(one, name)) for one in rows] for name in names]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), path)


def _list_types(row: type) -> list[tuple[str, pa.DataType]]:
    hints = typing.get_type_hints(row, include_extras=True)
    return [(field.name, _find_type(hints[field.name])) for field in fields(row)]


def _find_type(hint: Any) -> pa.DataType:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return arguments[1]
    if origin in (typing.Union, types.UnionType):
        (known,) = (a for a in arguments if a is not type(None))
        return _find_type(known)
    if origin in (list, Sequence):
        return pa.list_(_find_type(arguments[0]))
    if is_dataclass(hint):
        return pa.struct([(_name_column(name), kind) for name, kind in _list_types(typing.cast(type, hint))])
    return _PLAIN[hint]


def _name_column(field: str) -> str:
    return field.removesuffix("_")


def _to_plain(value: Any) -> Any:
    if is_dataclass(value):
        return {_name_column(field.name): _to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple) and value and is_dataclass(value[0]):
        return [_to_plain(one) for one in value]
    return value
