"""How much room there is, and what is left of a file that has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lavise.storage.state.files import write_atomically, write_bytes
from lavise.storage.state.free_space import find_largest_file, format_bytes, measure_free_bytes
from tests.file_limits import limit_files

LIMIT = 50_000


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
