"""Equal files are kept once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lavise.storage.state.equal_files import link_equal_files

LARGE = b"x" * 100_000


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_only_large_equal_files_at_the_same_place(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        write(folder / "data" / "same", LARGE)
        write(folder / "small", LARGE[1:])
        write(folder / "other", LARGE[:-1] + folder.name[:1].encode())
    write(old / "here", LARGE)
    write(new / "there", LARGE)
    assert link_equal_files(new, [tmp_path / "gone", old]) == len(LARGE)
    linked = [p.name for p in new.rglob("*") if p.is_file() and p.stat().st_nlink == 2]
    assert linked == ["same"]
    assert (new / "data" / "same").samefile(old / "data" / "same")
    assert not list(tmp_path.rglob("*.tmp"))
    assert link_equal_files(new, [old]) == 0


def test_no_link_is_followed_to(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", LARGE)
    write(tmp_path / "new" / "file", LARGE)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").symlink_to(outside)
    assert link_equal_files(tmp_path / "new", [tmp_path / "old"]) == 0
    assert outside.stat().st_nlink == 1


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, destination: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    for name in ("old", "new"):
        write(tmp_path / name / "file", LARGE)
    monkeypatch.setattr(os, "link", refuse)
    assert link_equal_files(tmp_path / "new", [tmp_path / "old"]) == 0
    assert (tmp_path / "new" / "file").read_bytes() == LARGE
