"""What a full disk looks like, and what is reserved before it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from safetensors.numpy import save_file

from lavise.storage.state.files import write_atomically, write_bytes
from lavise.storage.state.free_space import (
    FULL,
    find_full_error,
    find_largest_file,
    format_bytes,
    measure_free_bytes,
)
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
    assert find_full_error(raised.value) in FULL


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


@pytest.mark.parametrize("number", sorted(FULL))
@pytest.mark.parametrize("chain", [raise_from, raise_while_handling])
def test_the_error_behind_an_error_is_found(number: int, chain: Callable[[Exception, Exception], None]) -> None:
    with pytest.raises(KeyError) as raised:
        chain(OSError(number, "of the system"), KeyError("cannot close"))
    assert find_full_error(raised.value) == number


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "denied"), ValueError("28"), OSError("errno = 13"), MemoryError()]
)
def test_other_errors_are_no_full_disk(error: Exception) -> None:
    assert find_full_error(error) is None


def test_an_error_that_was_raised_from_itself_has_an_end() -> None:
    error = ValueError("a")
    error.__cause__ = error
    assert find_full_error(error) is None


def test_nothing_is_left_of_a_file_that_has_no_room(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "before")
    with limit_files(LIMIT), pytest.raises(OSError, match="File too large"):
        write_bytes(path, bytes(LIMIT + 1))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text("utf-8") == "before"


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    facts = os.statvfs(tmp_path)
    found = measure_free_bytes(tmp_path / "a" / "b")
    assert abs(found - facts.f_bavail * facts.f_frsize) < 1 << 30
    assert found > 0


def test_largest_file() -> None:
    with limit_files(12_345):
        assert find_largest_file() == 12_345


@pytest.mark.parametrize(
    ("number", "text"), [(1_234_000_000_000, "1,234.0 GB"), (1e9, "1.0 GB"), (999e6, "999.0 MB"), (0, "0.0 MB")]
)
def test_bytes_for_people(number: float, text: str) -> None:
    assert format_bytes(number) == text
