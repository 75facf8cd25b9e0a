"""What all settings have in common: they cannot be changed, know their keys, and tell paths from names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from lavise.configs.base import NOT_IDENTITY, PathUnless, Settings, UserPath


class Small(Settings):
    """Settings of a test."""

    root: UserPath
    """Where things are."""
    weights: Annotated[str, PathUnless(("random",)), NOT_IDENTITY] = "random"
    model_name: str = "tiny"
    size: int = Field(default=1, ge=1)


def test_settings_cannot_be_changed() -> None:
    made = Small(root=Path("a"))
    with pytest.raises(ValidationError, match="frozen"):
        made.size = 2  # type: ignore[misc]
    assert made.size == 1


def test_equal_settings_are_one_key() -> None:
    assert len({Small(root=Path("a")), Small(root=Path("a")), Small(root=Path("b"))}) == 2


def test_a_key_that_is_not_listed_is_a_fault() -> None:
    with pytest.raises(ValidationError) as caught:
        Small.model_validate({"root": "a", "sice": 3})
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"]) == ("extra_forbidden", ("sice",))


def test_what_stands_below_a_field_describes_it() -> None:
    """Forms of deployments show it."""
    assert Small.model_fields["root"].description == "Where things are."


def test_marks_are_found_at_the_field() -> None:
    assert NOT_IDENTITY in Small.model_fields["weights"].metadata
    assert NOT_IDENTITY not in Small.model_fields["size"].metadata


# Paths


def test_a_home_folder_in_a_path_is_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Small.model_validate({"root": "~/data"}).root == tmp_path / "data"
    assert Small.model_validate({"root": "data/~"}).root == Path("data/~")


def test_the_home_of_nobody_is_a_fault_of_that_field() -> None:
    with pytest.raises(ValidationError) as caught:
        Small.model_validate({"root": "~nobody-has-this-name/x"})
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"]) == ("value_error", ("root",))
    assert "its user has no home folder here" in error["msg"]


@pytest.mark.parametrize(
    ("value", "is_path"),
    [
        ("random", False),
        ("pretrained", False),
        ("package:glove", False),
        ("package:", False),
        ("Random", True),
        ("random/", True),
        ("./random", True),
        ("packages/glove.txt", True),
        ("/data/package:x", True),
        ("", True),
    ],
)
def test_names_are_told_from_paths(value: str, is_path: bool) -> None:
    assert PathUnless(("random", "pretrained")).is_path(value) is is_path


def test_without_names_all_but_packages_are_paths() -> None:
    assert PathUnless().is_path("random")
    assert not PathUnless().is_path("package:random")
