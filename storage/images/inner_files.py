"""Files that lie inside other files: a member of a tar archive, a cell of a table. They are read where they lie.

What stands for one is small and can be sent to another process, which opens the outer file for itself. Of tables, the
parts read last are kept in each process, up to a number of bytes.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_PART_BYTES = 512 << 20
"""Of a file, or of one column of a row group, unpacked; what is larger is not read."""
_KEPT_BYTES = 512 << 20
_BATCH_ROWS = 16


class InnerFile(ABC):
    """A file inside another one."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """Its content.

        Raises:
            OSError: it is not there, or cannot be read.
        """


PictureFile = Path | InnerFile
"""Where a picture lies."""


@dataclass(frozen=True)
class TarMember(InnerFile):
    """Bytes of an archive that is not compressed."""

    archive: Path
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}, byte {self.offset}"

    def read_bytes(self) -> bytes:
        """See `InnerFile`."""
        if self.size > MAX_PART_BYTES:
            raise OSError(f"{self}: {self.size} bytes, more than {MAX_PART_BYTES}")
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{self}: {len(content)} bytes of {self.size}")
        return content


@dataclass(frozen=True)
class ParquetCell(InnerFile):
    """A cell of bytes; `column` may be the path of a field (`image.bytes`)."""

    file: Path
    column: str
    group: int
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row} of group {self.group}, {self.column}"

    def read_bytes(self) -> bytes:
        """See `InnerFile`."""
        return _PARTS.read_cell((self.file, self.column, self.group), self.row, self)

    def load_column(self) -> Any:
        """The column's part in its row group.

        Raises:
            OSError: it unpacks to more than is read.
        """
        from pyarrow import chunked_array
        from pyarrow.parquet import ParquetFile

        chunks: list[Any] = []
        size = 0
        with ParquetFile(self.file) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[self.group], columns=[self.column]):
                column = _unwrap(batch.column(0))
                size += column.nbytes
                if size > MAX_PART_BYTES:
                    raise OSError(
                        f"{self.column} of row group {self.group} unpacks to more than {MAX_PART_BYTES} bytes"
                    )
                chunks.append(column)
        return chunked_array(chunks)


@dataclass(frozen=True)
class ArrowCell(InnerFile):
    """A cell of bytes, in the record batch at byte `offset` of an arrow stream; `column` is the column's number."""

    file: Path
    column: int
    offset: int
    row: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row} of the batch at byte {self.offset}"

    def read_bytes(self) -> bytes:
        """See `InnerFile`."""
        return _PARTS.read_cell((self.file, self.column, self.offset), self.row, self)

    def load_column(self) -> Any:
        """The column of the batch; mapped, not read."""
        import pyarrow
        from pyarrow import ipc

        file = pyarrow.memory_map(str(self.file))
        schema = ipc.read_schema(file)
        file.seek(self.offset)
        column = ipc.read_record_batch(ipc.read_message(file), schema).column(self.column)
        column.validate(full=True)  # before anything else: what reads through senseless offsets ends the process
        return _unwrap(column)


def _unwrap(column: Any) -> Any:
    """The bytes of a column of pictures, which may be in a struct."""
    import pyarrow

    if not pyarrow.types.is_struct(column.type):
        return column
    return column.flatten()[column.type.get_field_index("bytes")]


class _Parts:
    """The parts of tables that this process has read last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: OrderedDict[tuple[object, ...], Any] = OrderedDict()

    def read_cell(self, key: tuple[object, ...], row: int, cell: ParquetCell | ArrowCell) -> bytes:
        import pyarrow

        stat = cell.file.stat()
        try:
            with self._lock:  # a part that two threads ask for is read once; a table that was written anew is another
                column = self._load((*key, stat.st_ino, stat.st_ctime_ns, stat.st_size), cell)
            content = column[row].as_py()
        except (pyarrow.ArrowException, IndexError, ValueError) as err:
            raise OSError(f"{cell.file.name}: {' '.join(str(err).split())}") from None
        if content is None:
            raise FileNotFoundError(f"{cell}: the cell is empty")
        if not isinstance(content, bytes):
            raise OSError(f"{cell}: no bytes")
        return content

    def _load(self, key: tuple[object, ...], cell: ParquetCell | ArrowCell) -> Any:
        if key not in self._parts:
            self._parts[key] = cell.load_column()
            while len(self._parts) > 1 and sum(c.nbytes for c in self._parts.values()) > _KEPT_BYTES:
                self._parts.popitem(last=False)
        self._parts.move_to_end(key)
        return self._parts[key]


_PARTS = _Parts()
