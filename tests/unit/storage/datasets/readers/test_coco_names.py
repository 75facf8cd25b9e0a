"""Pictures by the names that other tools and other machines give them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.storage.datasets.readers.coco_names import ImageFinder


def make_files(root: Path, *names: str) -> ImageFinder:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    return ImageFinder(root)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.jpg", "a.jpg"),
        ("deep/b.jpg", "deep/b.jpg"),
        ("images/deep/b.jpg", "deep/b.jpg"),
        ("/home/somebody/data/a.jpg", "a.jpg"),
        (r"C:\data\deep\b.jpg", "deep/b.jpg"),
        (r"deep\b.jpg", "deep/b.jpg"),
        ("../images/a.jpg", "a.jpg"),
        ("/data/upload/1/a.jpg", "a.jpg"),
        ("images/0123abcd-a.jpg", "a.jpg"),
        ("/data/local-files/?d=deep/b.jpg", "deep/b.jpg"),
        ("images/a%20dog.jpg", "a dog.jpg"),
        ("s3://bucket/a%20dog.jpg", "a dog.jpg"),
        ("100%25.jpg", "100%25.jpg"),
        ("deeper/deep/b.jpg", "deep/b.jpg"),
    ],
)
def test_names(tmp_path: Path, name: str, key: str) -> None:
    finder = make_files(tmp_path, "a.jpg", "deep/b.jpg", "a dog.jpg", "100%25.jpg")
    assert finder.find(name) == (key, tmp_path / key)
    assert finder.num_searched == (name != key)
    assert finder.missing == []


def test_the_name_of_the_folder_itself(tmp_path: Path) -> None:
    """LVIS: the last folder of the address is the folder of the pictures."""
    finder = make_files(tmp_path / "train2017", "1.jpg", "other/1.jpg")
    assert finder.find("train2017/1.jpg") == ("1.jpg", tmp_path / "train2017" / "1.jpg")


def test_the_most_last_parts_in_common_decide(tmp_path: Path) -> None:
    finder = make_files(tmp_path, "one/x/1.jpg", "two/x/1.jpg", "two/y/1.jpg")
    assert finder.find("/data/two/x/1.jpg")[0] == "two/x/1.jpg"
    assert finder.find("y/1.jpg")[0] == "two/y/1.jpg"
    with pytest.raises(UserError, match=r"'x/1\.jpg' may be one/x/1\.jpg or two/x/1\.jpg below"):
        finder.find("x/1.jpg")


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "link.jpg", "nul\0.jpg", "..", "/"])
def test_nothing_outside_of_the_folder_is_found(tmp_path: Path, name: str) -> None:
    finder = make_files(tmp_path / "images", "a.jpg")
    make_files(tmp_path, "secret.jpg")
    (tmp_path / "images" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(UserError, match=r"^data set: file name .* leads out of .*images; allowed: names below that"):
        finder.find(name)


def test_what_is_not_there_keeps_its_name(tmp_path: Path) -> None:
    finder = make_files(tmp_path, "a.jpg")
    assert finder.find("gone/b.jpg") == ("gone/b.jpg", tmp_path / "gone/b.jpg")
    assert finder.find("c" * 5000) == ("c" * 5000, tmp_path / ("c" * 5000))
    assert finder.missing == ["gone/b.jpg", "c" * 5000]
