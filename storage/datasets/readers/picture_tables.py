"""Tables with a column of pictures: parquet files, and arrow streams as `datasets` saves them. Pictures stay where they
are; the other columns are read a part at a time.
"""

from __future__ import annotations

import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import UserError
from lavise.storage.images.inner_files import MAX_PART_BYTES, ArrowCell, InnerFile, ParquetCell

if TYPE_CHECKING:
    import pyarrow

_ROWS = 1000
_METADATA = b"huggingface"
_END = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True)
class Row:
    """A row without its pictures.

    Attributes:
        number: in its file.
        cells: of pictures, by column.
        values: of the other columns asked for.
    """

    number: int
    cells: dict[str, InnerFile]
    values: dict[str, Any]


class PictureTable(ABC):
    """A file of rows.

    Attributes:
        schema: of pyarrow.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with translate_faults(file):
            self.schema: pyarrow.Schema = self._read_schema()

    @abstractmethod
    def _read_schema(self) -> pyarrow.Schema: ...

    @abstractmethod
    def _read_rows(self, images: Sequence[str], others: Sequence[str]) -> Iterator[Row]: ...

    def read_rows(self, images: Sequence[str], others: Sequence[str], field: str) -> Iterator[Row]:
        """Rows in their order.

        Args:
            images: columns of pictures.
            others: columns whose values are read.
            field: opens the line of an error about a column: `reference` or `target`.

        Raises:
            UserError: a column is not there, or has no pictures; or the file cannot be read.
        """
        with translate_faults(self.file):
            names = self.schema.names
            for column in (*images, *others):
                if column not in names:
                    raise UserError(f"{field}: {self.file} has no column {column!r}; allowed: {', '.join(names)}")
                if names.count(column) > 1:
                    raise UserError(f"{field}: {self.file} has {column!r} twice; allowed: columns with different names")
            for column in images:
                self._check_image_column(column, field)
            yield from self._read_rows(images, others)

    def read_features(self) -> dict[str, Any]:
        """What `datasets` noted about the columns; empty where another program wrote the file."""
        raw = (self.schema.metadata or {}).get(_METADATA)
        if raw is None:
            return {}
        try:
            features = json.loads(raw)["info"]["features"]
        except (ValueError, KeyError, TypeError, RecursionError):
            features = None
        if not isinstance(features, dict):
            raise UserError(f"{self.file}: the note of `datasets` in its schema has no features; write the file anew")
        return features

    def _check_image_column(self, column: str, field: str) -> None:
        kind = self.schema.field(column).type
        if _is_bytes(kind):
            return
        if not (_is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)):
            raise UserError(
                f"{field}: column {column!r} of {self.file} is {_shorten(str(kind))}; allowed: pictures, which are "
                "binary, or a struct with a binary field `bytes`"
            )


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


def _is_struct(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_struct(kind))


def _is_bytes(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


class ParquetTable(PictureTable):
    """A parquet file; a picture is read with its row group."""

    def _read_schema(self) -> pyarrow.Schema:
        from pyarrow import parquet

        with parquet.ParquetFile(self.file) as file:
            return file.schema_arrow

    def _read_rows(self, images: Sequence[str], others: Sequence[str]) -> Iterator[Row]:
        from pyarrow import parquet

        fields = {name: f"{name}.bytes" if _is_struct(self.schema.field(name).type) else name for name in images}
        with parquet.ParquetFile(self.file) as file:
            number = 0
            for group in range(file.num_row_groups):
                facts = file.metadata.row_group(group)
                if facts.total_byte_size > MAX_PART_BYTES:
                    raise UserError(
                        f"{self.file}: row group {group} has {facts.total_byte_size / 1e6:,.0f} MB, of which the "
                        f"pictures are read together; allowed: up to {MAX_PART_BYTES / 1e6:,.0f} MB; write it with "
                        "smaller row groups, for example pyarrow.parquet.write_table(..., row_group_size=100)"
                    )
                in_group = 0
                for values in _read_values(file, group, others):
                    cells: dict[str, InnerFile] = {
                        name: ParquetCell(self.file, column, group, in_group) for name, column in fields.items()
                    }
                    yield Row(number, cells, values)
                    number, in_group = number + 1, in_group + 1


def _read_values(file: Any, group: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    if not columns:
        yield from ({} for _ in range(file.metadata.row_group(group).num_rows))
        return
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=list(columns)):
        yield from batch.to_pylist()


class ArrowTable(PictureTable):
    """An arrow stream in a file, which is mapped."""

    def _read_schema(self) -> pyarrow.Schema:
        import pyarrow
        from pyarrow import ipc

        with pyarrow.memory_map(str(self.file)) as file:
            return ipc.read_schema(file)

    def _read_rows(self, images: Sequence[str], others: Sequence[str]) -> Iterator[Row]:
        import pyarrow
        from pyarrow import ipc

        positions = {name: self.schema.get_field_index(name) for name in images}
        number, size = 0, self.file.stat().st_size
        with pyarrow.memory_map(str(self.file)) as file:
            ipc.read_schema(file)
            while True:
                offset = file.tell()
                if file.read(len(_END)) == _END:
                    break
                if offset >= size:
                    raise EOFError("it ends without its end mark")
                file.seek(offset)
                message = ipc.read_message(file)
                if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
                    raise UserError(
                        f"{self.file}: compressed, or with dictionaries; allowed: arrow streams as "
                        "Dataset.save_to_disk writes them"
                    )
                batch = ipc.read_record_batch(message, self.schema)
                batch.validate()  # before anything else: what reads through senseless offsets ends the process
                chosen = batch.select(list(others))
                chosen.validate(full=True)
                rows = chosen.to_pylist() if others else [{}] * batch.num_rows
                for row, values in enumerate(rows):
                    cells: dict[str, InnerFile] = {
                        n: ArrowCell(self.file, c, offset, row) for n, c in positions.items()
                    }
                    yield Row(number, cells, values)
                    number += 1


def _is_compressed(metadata: bytes) -> bool:
    """Whether the buffers of a record batch are: field 3 of the RecordBatch, which is field 2 of the Message (the
    flatbuffers of arrow's format/Message.fbs). pyarrow unpacks them without a bound, and does not tell before.
    """

    def find_field(table: int, number: int) -> int:
        """Position of a table's field; 0: it has none."""
        listed = table - struct.unpack_from("<i", metadata, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", metadata, listed)[0]:
            return 0
        offset: int = struct.unpack_from("<H", metadata, listed + 4 + 2 * number)[0]
        return table + offset if offset else 0

    header = find_field(struct.unpack_from("<I", metadata)[0], 2)
    batch = header + struct.unpack_from("<I", metadata, header)[0]
    return find_field(batch, 3) != 0


@contextmanager
def translate_faults(file: Path) -> Iterator[None]:
    """What pyarrow raises about a file, as one line.

    Raises:
        UserError: it cannot be read.
    """
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, EOFError, ValueError, OverflowError, struct.error) as err:
        reason = " ".join(str(err).split())[:200]
        raise UserError(f"{file}: cannot be read ({reason}); allowed: a whole file; write or copy it anew") from None
