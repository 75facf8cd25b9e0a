from __future__ import annotations

from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.storage.datasets.readers.name_patterns import expand_braces, find_files, list_missing


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a{08..10}.tar", ["a08.tar", "a09.tar", "a10.tar"]),
        ("a{9..11}", ["a9", "a10", "a11"]),
        ("{1..0}{x,y}", ["1x", "1y", "0x", "0y"]),
        ("{000..001}/{a,}", ["000/a", "000/", "001/a", "001/"]),
    ],
)
def test_braces(pattern: str, names: list[str]) -> None:
    assert expand_braces(pattern, "f") == names


@pytest.mark.parametrize("pattern", ["{a}", "{}", "{1..x}", "{1..2..3}"])
def test_braces_with_something_else(pattern: str) -> None:
    with pytest.raises(UserError, match=r"^f: found '\{.*\}'; allowed: \{000\.\.127\} or \{a,b\}$"):
        expand_braces(pattern, "f")


def test_braces_that_stand_for_too_much() -> None:
    with pytest.raises(UserError, match=r"stands for 1,000,001 names"):
        expand_braces("{0..1000000}", "f")
    with pytest.raises(UserError, match=r"names; allowed: up to 1,000,000"):
        expand_braces("{0..999}{0..999}{0..999}{0..999}{0..999999999999}", "f")


def test_files_below_the_root_once_each(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    for name in ("b.tar", "a.tar", "c.txt", "deep/d.tar"):
        (root / name).touch()
    (root / "e.tar").mkdir()

    def find(pattern: str) -> list[str]:
        return [p.relative_to(root).as_posix() for p in find_files(root, pattern, "f")]

    assert find("*.tar") == ["a.tar", "b.tar"]
    assert find("{b,a}.tar") == ["b.tar", "a.tar"]
    assert find("{b.tar,*.tar}") == ["b.tar", "a.tar"]
    assert find("**/*.tar") == ["a.tar", "b.tar", "deep/d.tar"]
    assert list_missing(root, "*.tar", "f") == ("a.tar", "b.tar")
    assert list_missing(root, "{a,x}.tar", "f") == ("{a,x}.tar",)
    (tmp_path / "outside.tar").touch()
    (root / "f.tar").symlink_to(tmp_path / "outside.tar")
    with pytest.raises(UserError, match="leads out of"):
        find("*.tar")
    with pytest.raises(UserError, match="leads out of"):
        find("../outside.tar")
