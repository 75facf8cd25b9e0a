"""Arrays on the disk against numpy's own files."""

from __future__ import annotations

import io
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavise.storage.array_files import (
    AppendedArray,
    ColumnFile,
    append_arrays,
    join_arrays,
    map_arrays,
    release_pages,
)
from tests.unit.tasks.helpers import AnyArray

RNG = np.random.default_rng(0)
ARRAYS: tuple[AnyArray, ...] = (
    RNG.integers(0, 99, 7),
    RNG.random((5, 3)).astype(np.float32),
    RNG.random((6, 2, 2)).astype(np.float16),
    RNG.random((4, 5)) < 0.5,
    np.zeros((0, 4)),
    np.zeros((3, 0), np.int64),
    np.asfortranarray(RNG.random((4, 3))),
)


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("step", [1, 3])
def test_appended_rows_are_the_file_of_the_whole(tmp_path: Path, array: AnyArray, step: int) -> None:
    with AppendedArray(tmp_path / "a.npy", array.dtype, array.shape[1:]) as file:
        for start in range(0, len(array), step):
            file.append(array[start : start + step])
    whole = io.BytesIO()
    np.save(whole, np.ascontiguousarray(array))
    assert (tmp_path / "a.npy").read_bytes() == whole.getvalue()
    assert file.num_rows == len(array)


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    with AppendedArray(tmp_path / "a.npy", np.int64, (2,)) as file:
        for wrong in (np.zeros((1, 3), np.int64), np.zeros((1, 2), np.int32)):
            with pytest.raises(ValueError, match=r"expected rows int64 \(2,\), found"):
                file.append(wrong)


def test_joined_file_is_that_of_numpy_and_is_read_where_it_lies(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {f"array_{n}": np.ascontiguousarray(array) for n, array in enumerate(ARRAYS)}
    with append_arrays(tmp_path, {name: (a.dtype, a.shape[1:]) for name, a in arrays.items()}) as files:
        for name, file in files.items():
            file.append(arrays[name])
    join_arrays(tmp_path / "all.npz", {name: file.path for name, file in files.items()})
    np.savez(tmp_path / "numpy.npz", **arrays)
    assert (tmp_path / "all.npz").read_bytes() == (tmp_path / "numpy.npz").read_bytes()
    assert not list(tmp_path.glob("*.npy"))
    found = map_arrays(tmp_path / "all.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert isinstance(found[name].base, mmap.mmap)
        assert not found[name].flags.writeable
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        release_pages(found[name][1:])
        np.testing.assert_array_equal(found[name], array)
    release_pages(np.zeros(3))


def test_only_plain_arrays_are_mapped(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "small.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npy is compressed"):
        map_arrays(tmp_path / "small.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([{}, None]))
    with pytest.raises(ValueError, match="holds Python objects"):
        map_arrays(tmp_path / "objects.npz")


def test_columns_written_are_rows_read(tmp_path: Path) -> None:
    array = RNG.random((5, 7, 2)).astype(np.float16)
    with ColumnFile(tmp_path, np.float16, array.shape) as file:
        assert not list(tmp_path.iterdir())
        for start in (4, 0, 2):
            file.write_columns(start, array[:, start : start + (3 if start == 4 else 2)])
        np.testing.assert_array_equal(file.read_rows(0, 5), array)
        np.testing.assert_array_equal(file.read_rows(3, 5), array[3:])
        np.testing.assert_array_equal(file.read_columns(2, 1, 6), array[2, 1:6])
        file.write_rows(1, array[3:5] + np.float16(1))
        np.testing.assert_array_equal(file.read_rows(0, 3), [array[0], *(array[3:5] + np.float16(1))])
        with pytest.raises(ValueError, match="expected columns"):
            file.write_columns(0, array[:4])
        with pytest.raises(ValueError, match="expected rows"):
            file.write_rows(0, array[:, :4])
