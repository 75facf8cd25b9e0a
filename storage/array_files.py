"""Arrays that are larger than memory: written row by row, several in one file, read where they lie.

The files are numpy's own: what is appended here is byte for byte what `np.save` and `np.savez` write of whole arrays.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
_COPY_BYTES = 1 << 20
_LOCAL_HEADER = 30  # of a zip member, before its name; its lengths of name and extra field are at 26 and 28


class AppendedArray:
    """A .npy file that grows by rows; whole when it is left. Use as a context manager.

    Attributes:
        num_rows: written so far.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, row_shape: Sequence[int] = ()) -> None:
        self.path, self.num_rows = path, 0
        self._dtype, self._row_shape = np.dtype(dtype), tuple(row_shape)
        self._file: BinaryIO = path.open("wb")
        self._write_header()
        self._start = self._file.tell()

    def __enter__(self) -> AppendedArray:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._file.seek(0)
                self._write_header()
                if self._file.tell() != self._start:
                    raise ValueError(
                        f"{self.path}: the header of {self.num_rows} rows needs more room than that of none"
                    )
        finally:
            self._file.close()

    def append(self, rows: AnyArray) -> None:
        """Rows of the file's type and shape.

        Raises:
            ValueError: they are of another type or shape.
        """
        if rows.dtype != self._dtype or rows.shape[1:] != self._row_shape:
            raise ValueError(f"expected rows {self._dtype} {self._row_shape}, found {rows.dtype} {rows.shape[1:]}")
        self._file.write(np.ascontiguousarray(rows).data.cast("B") if rows.size else b"")
        self.num_rows += len(rows)

    def _write_header(self) -> None:
        """Numpy leaves room in it for the number of rows to grow."""
        description = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.num_rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, description)


@contextmanager
def append_arrays(
    folder: Path, kinds: Mapping[str, tuple[npt.DTypeLike, Sequence[int]]]
) -> Iterator[dict[str, AppendedArray]]:
    """Several arrays, folder/NAME.npy, by name: type, and shape of a row."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(AppendedArray(folder / f"{name}.npy", dtype, shape))
            for name, (dtype, shape) in kinds.items()
        }


def join_arrays(path: Path, members: Mapping[str, Path]) -> None:
    """One .npz of .npy files, by name; each is removed once it is in. The bytes are those of `np.savez`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
        for name, own in members.items():
            with own.open("rb") as source, file.open(f"{name}.npy", "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, _COPY_BYTES)
            own.unlink()


def map_arrays(path: Path) -> dict[str, AnyArray]:
    """The arrays of an .npz as they lie in the file, read-only: a page of it is in memory while it is used.

    Raises:
        ValueError: a member is compressed or holds Python objects.
    """
    arrays: dict[str, AnyArray] = {}
    with path.open("rb") as file, zipfile.ZipFile(file) as members:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for member in members.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{path}: {member.filename} is compressed")
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER)
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            file.seek(member.header_offset + _LOCAL_HEADER + lengths)
            arrays[member.filename.removesuffix(".npy")] = _map_array(file, whole, path)
    return arrays


def release_pages(array: AnyArray) -> None:
    """Give back the pages that were read of a mapped array's file; they are read again where they are used again.

    An array that is in memory stays as it is.
    """
    whole: Any = array
    while isinstance(whole, np.ndarray):
        whole = whole.base
    if isinstance(whole, mmap.mmap):
        whole.madvise(mmap.MADV_DONTNEED)


def _map_array(file: BinaryIO, whole: mmap.mmap, path: Path) -> AnyArray:
    """The array whose .npy begins where the file stands."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{path} holds Python objects")
    return np.ndarray(shape, dtype, whole, file.tell(), order="F" if is_fortran else "C")


class ColumnFile:
    """An array that is written by columns, some rows after the other, and read by rows: [C, N, ...] turned on the disk.

    Each row is one piece of the file, so that reading one costs the same however many there are.
    """

    def __init__(self, folder: Path | None, dtype: npt.DTypeLike, shape: Sequence[int]) -> None:
        """
        Args:
            folder: on whose disk the file is, without a name, so that nothing stays; None: the system's own.
        """
        self._dtype, self.shape = np.dtype(dtype), tuple(shape)
        self._row_bytes = self._dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        self._cell_bytes = self._dtype.itemsize * int(np.prod(self.shape[2:], dtype=np.int64))
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed on leaving
        self._descriptor = self._file.fileno()
        os.ftruncate(self._descriptor, self._row_bytes * self.shape[0])

    def __enter__(self) -> ColumnFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write_columns(self, start: int, columns: AnyArray) -> None:
        """Columns from `start` on, of all rows: [C, n, ...]."""
        if columns.dtype != self._dtype or (columns.shape[0], *columns.shape[2:]) != (self.shape[0], *self.shape[2:]):
            raise ValueError(f"expected columns {self._dtype} of {self.shape}, found {columns.dtype} {columns.shape}")
        for row, values in enumerate(np.ascontiguousarray(columns)):
            _write_all(self._descriptor, values.tobytes(), row * self._row_bytes + start * self._cell_bytes)

    def write_rows(self, start: int, rows: AnyArray) -> None:
        """Whole rows from `start` on: [n, N, ...]."""
        if rows.dtype != self._dtype or rows.shape[1:] != self.shape[1:]:
            raise ValueError(f"expected rows {self._dtype} of {self.shape}, found {rows.dtype} {rows.shape}")
        _write_all(self._descriptor, rows.tobytes(), start * self._row_bytes)

    def read_rows(self, start: int, stop: int) -> AnyArray:
        """[stop - start, N, ...]"""
        out = np.empty((stop - start, *self.shape[1:]), self._dtype)
        _read_all(self._descriptor, out, start * self._row_bytes)
        return out

    def read_columns(self, row: int, start: int, stop: int) -> AnyArray:
        """Of one row: [stop - start, ...]"""
        out = np.empty((stop - start, *self.shape[2:]), self._dtype)
        _read_all(self._descriptor, out, row * self._row_bytes + start * self._cell_bytes)
        return out


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_all(descriptor: int, out: AnyArray, offset: int) -> None:
    view, done = out.reshape(-1).view(np.uint8).data, 0
    while done < out.nbytes:
        read = os.preadv(descriptor, [view[done:]], offset + done)
        if not read:
            raise OSError("a file of this process was cut short")
        done += read
