"""A target of the pictures that a text file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.pictures import PathListTarget
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.readers.path_list import load_path_list_target


def read(folder: Path, text: str | bytes, **settings: Any) -> Dataset:
    root, file = folder / "pictures", folder / "list.txt"
    for key in ("a/1.png", "a/b c.png", "2.png", "3"):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / key, "PNG")
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_path_list_target(PathListTarget(kind="path_list", root=root, file=file, **settings))


def test_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = f"\ufeff2.png\r\na/b c.png\r\n\r\n{tmp_path}/pictures/a/1.png\r\n./3\r\na\\1.png\r\n"
    target = read(tmp_path, text)
    assert [r.key for r in target.records] == ["2.png", "a/b c.png", "a/1.png", "3"]
    assert all(r.file.is_file() and r.annotations == () for r in target.records)
    assert (target.name, target.concepts) == ("pictures/list.txt", ())
    assert target.left_out == {"line that names a picture again": 1}
    assert [r.key for r in read(tmp_path, text, max_images=2).records] == ["2.png", "a/b c.png"]


def test_a_root_that_is_a_link(tmp_path: Path) -> None:
    read(tmp_path, "2.png\n")
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/pictures/2.png\n{tmp_path}/link/3\n")
    settings = PathListTarget(kind="path_list", root=tmp_path / "link", file=tmp_path / "list.txt")
    assert [r.key for r in load_path_list_target(settings).records] == ["2.png", "3"]


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    target = read(tmp_path, "gone.png\n2.png\n")
    assert target.notes == ("1 pictures are not there, for example 'gone.png'",)
    with pytest.raises(UserError, match=r"^target\.file: none of the 1 pictures .*for example 'gone\.png'"):
        read(tmp_path, "gone.png\n")
    with pytest.raises(UserError, match=r"^target\.file: none of the 0 pictures"):
        read(tmp_path, "\n")


@pytest.mark.parametrize("line", ["/etc/passwd", "../list.txt", "a/../../list.txt", ".", "2\0.png", "/"])
def test_lines_that_lead_out(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"^target\.file: line 2 of .* which is not below .*; allowed: paths relative"):
        read(tmp_path, f"2.png\n{line}\n")


def test_links_that_lead_out(tmp_path: Path) -> None:
    read(tmp_path, "2.png\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "pictures" / "leak.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(UserError, match=r"'leak\.png' leads out of .*; set target\.follow_links=true"):
        read(tmp_path, "leak.png\n")
    assert [r.key for r in read(tmp_path, "leak.png\n", follow_links=True).records] == ["leak.png"]


def test_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^target\.file: cannot read .*; allowed: a text file in UTF-8"):
        read(tmp_path, b"\xff\xfe\x00")
