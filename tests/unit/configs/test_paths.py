"""Home folders in paths, as users write them."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home
from lavise.configs.schema import ImageFolderTarget


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("path", ["~/data/coco", Path("~/data/coco"), "~/data//coco/"])
def test_the_home_folder_is_written_out(home: Path, path: str | Path) -> None:
    assert expand_home(path) == home / "data" / "coco"


def test_a_tilde_alone_is_the_home_folder(home: Path) -> None:
    assert expand_home("~") == home


@pytest.mark.parametrize("path", ["./~", "./~/data", "./~x", ".//~"])
def test_a_folder_that_is_called_so(home: Path, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As shells have it; also after it was written down and read again."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    expected = tmp_path / "work" / path.replace("//", "/").removeprefix("./")
    assert expand_home(path) == expected
    settings = ImageFolderTarget.model_validate({"root": path})
    assert settings.root == expected
    assert ImageFolderTarget.model_validate(settings.model_dump(mode="json")) == settings


def test_another_users_home_folder_is_found_by_name() -> None:
    root = pwd.getpwuid(0)
    assert expand_home(f"~{root.pw_name}/x") == Path(root.pw_dir) / "x"


@pytest.mark.parametrize("path", ["data/~/coco", "/data/~user", "a~b", "", "data/../coco"])
def test_any_other_path_is_left_as_it_is(home: Path, path: str) -> None:
    """Also one that is not in its shortest form: what `..` means depends on links."""
    assert expand_home(path) == Path(path)


@pytest.mark.parametrize("path", ["~nobody-has-this-name/x", Path("~nobody-has-this-name")])
def test_a_user_that_is_not_there_is_named(path: str | Path) -> None:
    with pytest.raises(UserError, match=rf"^path '{path}': its user has no home folder here; write the path out$"):
        expand_home(path)
