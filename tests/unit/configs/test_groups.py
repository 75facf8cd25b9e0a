from __future__ import annotations

from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.configs.groups import AnnotationGroups, CsvGroups, FolderGroups, Groups
from lavise.configs.loading import dump_config, load_config, make_absolute


def load_groups(value: str) -> Groups | None:
    return load_config("demo", [f"bias.groups={value}"]).bias.groups


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ("folder", FolderGroups(kind="folder", level=1)),
        ("folder:2", FolderGroups(kind="folder", level=2)),
        ("csv:people.csv:gender", CsvGroups(kind="csv", file=Path("people.csv"), columns=("gender",))),
        ("csv:C:/my data.csv:a b, c", CsvGroups(kind="csv", file=Path("C:/my data.csv"), columns=("a b", "c"))),
        ("annotations:person and not dog", AnnotationGroups(kind="annotations", predicate="person and not dog")),
        ("{kind: folder}", FolderGroups(kind="folder", level=1)),
        ("{kind: csv, file: a.csv, columns: [x], image_column: y}",
         CsvGroups(kind="csv", file=Path("a.csv"), columns=("x",), image_column="y")),
        ("", None),
    ],
)  # fmt: skip
def test_short_and_long_forms(short: str, expected: Groups | None) -> None:
    assert load_groups(short) == expected


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("gender", "demo: bias.groups: groups must be 'folder', 'folder:LEVEL', 'csv:FILE:COLUMN', "
                   "'csv:FILE:COLUMN,COLUMN' or 'annotations:PREDICATE', found 'gender'"),
        ("folder:0", "demo: bias.groups.level: found '0'; allowed: input should be greater than or equal to 1"),
        ("csv:a.csv:x,y,z", "demo: bias.groups.columns: found ['x', 'y', 'z']; "
                            "allowed: tuple should have at most 2 items after validation, not 3"),
        ("{kind: csv, file: a.csv, columns: []}", "demo: bias.groups.columns: found []; "
                                                  "allowed: tuple should have at least 1 item after validation, not 0"),
        ("{kind: moon}", "demo: bias.groups.kind: found 'moon'; allowed: 'folder', 'csv', 'annotations'"),
    ],
)  # fmt: skip
def test_faults_name_field_value_and_what_is_allowed(given: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_groups(given)
    assert str(caught.value) == line


@pytest.mark.parametrize("given", ["csv::x", "csv:a.csv:", "csv:a.csv", "annotations: ", "5", "[a]"])
def test_half_a_short_form_is_a_fault(given: str) -> None:
    with pytest.raises(UserError, match=r"^demo: bias\.groups"):
        load_groups(given)


def test_files_become_absolute_and_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["bias.groups=csv:a.csv:x", "bias.stratify_by=csv:~/b.csv:y", "bias.images=train"]
    config = make_absolute(load_config("demo", given))
    assert isinstance(config.bias.groups, CsvGroups)
    assert isinstance(config.bias.stratify_by, CsvGroups)
    assert config.bias.groups.file == tmp_path / "a.csv"
    assert config.bias.stratify_by.file == Path("~/b.csv").expanduser()
    (tmp_path / "written.yaml").write_text(dump_config(config), "utf-8")
    assert load_config("written.yaml") == config
