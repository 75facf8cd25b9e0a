"""Which files below a folder are pictures, and that whatever is not is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from lavise.storage.images.picture_files import (
    ABOVE,
    AGAIN,
    INSIDE,
    NOWHERE,
    OUTSIDE,
    SYSTEM,
    describe_left_out,
    find_pictures,
    has_picture,
    walk,
)


def make_picture(path: Path, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (9, 90, 200)).save(path, kind)
    return path


def names(root: Path, follow_links: bool = False) -> list[str]:
    return [p.relative_to(root).as_posix() for p in find_pictures(root, "target", follow_links).paths]


def test_pictures_and_links(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "b" / "deep").mkdir(parents=True)
    make_picture(outside / "secret.png")
    for name in ("z.png", "a.JPG", "b/deep/c.jpeg", "b/x.webp"):
        (root / name).write_bytes(b"")
    for name in ("notes.txt", "labels.csv", "png", "b/a.jpg.part"):
        (root / name).write_bytes(b"")
    (root / "folder.png").mkdir()
    (root / "leak.png").symlink_to(outside / "secret.png")
    (root / "leak").symlink_to(outside)
    (root / "gone.png").symlink_to(root / "nothing.png")
    (root / "round.png").symlink_to(root / "round.png")
    (root / "inside.png").symlink_to(root / "z.png")
    assert names(root) == ["a.JPG", "b/deep/c.jpeg", "b/x.webp", "inside.png", "z.png"]
    assert find_pictures(root, "target").left_out == {
        f"{OUTSIDE} {root}; set target.follow_links=true to read it": 2,
        NOWHERE: 2,
        "file without an ending that is no picture": 1,
        "file with the ending .csv": 1,
        "file with the ending .part": 1,
        "file with the ending .txt": 1,
    }


def test_an_empty_folder(tmp_path: Path) -> None:
    found = find_pictures(tmp_path, "target")
    assert (found.paths, dict(found.left_out)) == ((), {})
    assert not has_picture(tmp_path)
    assert describe_left_out(found.left_out) == ""


def test_files_of_the_system_and_hidden_ones(tmp_path: Path) -> None:
    for name in (
        *("__MACOSX/dog/._1.jpg", "dog/._1.jpg", "dog/.ipynb_checkpoints/1-checkpoint.jpg", ".trash/2.jpg"),
        *("@eaDir/3.jpg", "dog/.4.jpg", "dog/1.jpg"),
    ):
        make_picture(tmp_path / name)
    for name in ("dog/Thumbs.db", "Desktop.ini", "dog/.DS_Store", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["dog/1.jpg"]
    assert find_pictures(tmp_path, "target").left_out == {SYSTEM: 8}


def test_a_hidden_folder_on_the_way_to_root_does_not_matter(tmp_path: Path) -> None:
    make_picture(tmp_path / ".cache" / "__MACOSX" / "a.jpg")
    assert names(tmp_path / ".cache" / "__MACOSX") == ["a.jpg"]


def test_files_without_an_ending_go_by_content(tmp_path: Path) -> None:
    make_picture(tmp_path / "3f2a", "PNG")
    make_picture(tmp_path / "b001", "JPEG")
    make_picture(tmp_path / "scene", "EPS")
    (tmp_path / "README").write_text("BM is what a bitmap begins with")
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    assert names(tmp_path) == ["3f2a", "b001"]
    assert find_pictures(tmp_path, "target").left_out == {"file without an ending that is no picture": 3}


def test_other_endings_are_counted_each(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.heic").write_bytes(b"x")
    for number in range(20):
        (tmp_path / f"n.{number:03d}").write_bytes(b"x")
    (tmp_path / "n.\x1b[31m\u202e").write_bytes(b"x")
    left_out = find_pictures(tmp_path, "target").left_out
    assert left_out["file with the ending .heic"] == 10
    assert left_out["file with another ending"] == 10
    assert sum(left_out.values()) == 31
    assert "\x1b" not in "".join(left_out)
    assert describe_left_out({"a": 2, "b": 1}) == "2 x a, 1 x b"


def test_links_are_followed_when_asked(tmp_path: Path) -> None:
    """As the caches of Hugging Face and DVC lie: files and folders that are links to elsewhere."""
    root, store = tmp_path / "root", tmp_path / "store"
    for name in ("blob", "more/1.png", "more/deep/2.png"):
        make_picture(store / name, "PNG")
    (root / "dog").mkdir(parents=True)
    (root / "dog" / "a.png").symlink_to(store / "blob")
    (root / "cat").symlink_to(store / "more")
    (root / "fox").symlink_to(store / "more")
    assert names(root) == []
    assert not has_picture(root)
    assert find_pictures(root, "reference").left_out == {
        f"{OUTSIDE} {root}; set reference.follow_links=true to read it": 3
    }
    assert names(root, True) == ["cat/1.png", "cat/deep/2.png", "dog/a.png"]
    assert has_picture(root, True)
    assert find_pictures(root, "target", True).left_out == {AGAIN: 1}


def test_circles_of_links_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_picture(root / "a" / "1.png")
    make_picture(tmp_path / "b" / "2.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "far").symlink_to(tmp_path)
    (root / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "back").symlink_to(root / "a")
    (tmp_path / "b" / "mutual").symlink_to(tmp_path / "b")
    assert names(root) == ["a/1.png"]
    assert find_pictures(root, "target").left_out == {
        f"{OUTSIDE} {root}; set target.follow_links=true to read it": 1,
        ABOVE: 2,
        INSIDE: 1,
    }
    assert names(root, True) == ["a/1.png", "a/other/2.png"]
    assert find_pictures(root, "target", True).left_out == {ABOVE: 2, AGAIN: 3}


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    assert find_pictures(tmp_path, "target").left_out == {"no file (a socket or the like)": 2}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    make_picture(closed / "1.png")
    closed.chmod(0)
    try:
        assert [reason for _, reason in walk(tmp_path, False)] == ["folder that cannot be read"]
    finally:
        closed.chmod(0o700)
