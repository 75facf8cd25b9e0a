"""Rows of tables with pictures as records: their names in the data set, and whether pictures are there at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lavise.configs.errors import UserError
from lavise.storage.datasets.readers.entry_labels import show
from lavise.storage.datasets.readers.picture_tables import PictureTable
from lavise.storage.images.inner_files import InnerFile


@dataclass(frozen=True)
class KeyedRow:
    """A row with the key of its picture.

    Attributes:
        place: file and row, for messages.
        image: its picture.
        cells: all pictures of the row, by column.
        values: of the other columns asked for.
    """

    key: str
    place: str
    image: InnerFile
    cells: dict[str, InnerFile]
    values: dict[str, Any]


def read_keyed_rows(
    tables: Sequence[tuple[str, PictureTable]],
    field: str,
    image: str,
    key: str | None,
    other_images: Sequence[str] = (),
    others: Sequence[str] = (),
    max_rows: int | None = None,
) -> Iterator[KeyedRow]:
    """Rows of several tables.

    Args:
        tables: each with the name that its rows are numbered under; one name goes on counting.
        field: `reference` or `target`, for messages.
        image: column of the pictures; other_images, others: further columns, of pictures and of values.
        key: column of the pictures' names; None: the table's name and the number of the row.

    Raises:
        UserError: a column is not there, pictures are not in the file, or names that are none or stand twice.
    """
    counts: dict[str, int] = {}
    seen: set[str] = set()
    for name, table in tables:
        asked = list(dict.fromkeys([*others, *([key] if key is not None else [])]))
        for row in table.read_rows([image, *other_images], asked, field):
            if len(seen) == max_rows:
                return
            place = f"{table.file}, row {row.number}"
            number = counts[name] = counts.get(name, -1) + 1
            own = f"{name}/{number:06d}" if key is None else row.values[key]
            if not isinstance(own, str) or not own:
                raise UserError(f"{place}: found name {show(own)} in {key!r}; allowed: text; set {field}.key")
            if own in seen:
                raise UserError(f"{place}: found name {show(own)} twice; allowed: different names; set {field}.key")
            if not seen:
                _require_content(row.cells[image], image, place)
            seen.add(own)
            yield KeyedRow(own, place, row.cells[image], row.cells, row.values)


def _require_content(cell: InnerFile, column: str, place: str) -> None:
    try:
        cell.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{place}: the cell of {column!r} is empty or has only the path of a picture; allowed: files that hold the "
            "pictures themselves, as save_to_disk and push_to_hub write them (to_parquet stores paths)"
        ) from None
    except OSError as err:
        raise UserError(f"{place}: cannot read {column!r} ({err})") from None
