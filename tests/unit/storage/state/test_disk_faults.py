"""What a disk that takes nothing more looks like to those who write."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from safetensors.numpy import save_file

from lavise.storage.state.disk_faults import WRITE_FAULTS, find_write_fault
from lavise.storage.state.files import write_bytes
from tests.file_limits import limit_files

LIMIT = 50_000
NUMBERS = np.random.default_rng(0).normal(size=20_000)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: np.save(path.with_suffix(".npy"), NUMBERS),
        lambda path: np.savez(path.with_suffix(".npz"), a=NUMBERS),
        lambda path: save_file({"a": NUMBERS}, path),
        lambda path: parquet.write_table(pa.table({"a": NUMBERS}), path),
        lambda path: path.write_bytes(NUMBERS.tobytes()),
        lambda path: write_bytes(path, NUMBERS.tobytes()),
    ],
    ids=["npy", "npz", "safetensors", "parquet", "bytes", "atomic"],
)
def test_whoever_writes_is_understood(tmp_path: Path, write: Callable[[Path], object]) -> None:
    """By its number, by its text (safetensors), or as a write that was cut short (numpy)."""
    with limit_files(LIMIT), pytest.raises(Exception) as raised:
        write(tmp_path / "file")
    assert find_write_fault(raised.value) in WRITE_FAULTS.values()


def raise_from(cause: Exception, error: Exception) -> None:
    try:
        raise cause
    except type(cause):
        raise error from cause


def raise_while_handling(cause: Exception, error: Exception) -> None:
    try:
        raise cause
    finally:
        raise error


@pytest.mark.parametrize("number", sorted(WRITE_FAULTS))
@pytest.mark.parametrize("chain", [raise_from, raise_while_handling])
def test_the_error_behind_an_error_is_found(number: int, chain: Callable[[Exception, Exception], None]) -> None:
    with pytest.raises(KeyError) as raised:
        chain(OSError(number, "of the system"), KeyError("cannot close"))
    assert find_write_fault(raised.value) == WRITE_FAULTS[number]


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "denied"), ValueError("28"), OSError("errno = 13"), MemoryError()]
)
def test_other_errors_are_none_of_the_disk(error: Exception) -> None:
    assert find_write_fault(error) is None


def test_an_error_that_was_raised_from_itself_has_an_end() -> None:
    error = ValueError("a")
    error.__cause__ = error
    assert find_write_fault(error) is None


def test_a_read_only_disk_is_understood_from_text() -> None:
    text = "Error while serializing: I/O error: Read-only file system (os error 30)"  # of safetensors 0.8
    assert find_write_fault(ValueError(text)) == WRITE_FAULTS[errno.EROFS]


def test_a_read_only_database_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE a (b)")
    database.close()
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError) as raised:
        database.execute("INSERT INTO a VALUES (1)")
    database.close()
    assert find_write_fault(raised.value) == WRITE_FAULTS[errno.EROFS]
