"""Pictures with a table of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from lavise.configs.errors import UserError
from lavise.configs.pictures import CsvLabelsReference
from lavise.storage.datasets.base import Reference
from lavise.storage.datasets.readers.csv_labels import load_csv_labels_reference

KEYS = ("a/1.png", "a/2.png", "b/1.png", "3.jpg")


def read(folder: Path, text: str, **settings: Any) -> Reference:
    root, file = folder / "pictures", folder / "labels.csv"
    for key in KEYS:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / key)
    file.write_text(text, "utf-8")
    chosen = CsvLabelsReference.model_validate({"kind": "csv_labels", "root": root, "file": file, **settings})
    return load_csv_labels_reference(chosen, 0)


def labels(both: Reference) -> dict[str, list[str]]:
    return {r.key: [a.concept for a in r.annotations] for p in (both.train, both.evaluation) for r in p.records}


def test_a_column_of_labels(tmp_path: Path) -> None:
    text = "image,labels\na/1.png,dog|big_cat\n2,dog\nb\\1.png,\n/data/set/3.jpg, fox |dog\nno.png,dog\n"
    both = read(tmp_path, text, label_column="labels", separator="|")
    assert labels(both) == {"a/1.png": ["big cat", "dog"], "a/2.png": ["dog"], "b/1.png": [], "3.jpg": ["dog", "fox"]}
    assert both.train.concepts == both.evaluation.concepts == ("big cat", "dog", "fox")
    assert both.train.skipped == {"line that names no picture, or several": 1}
    record = next(r for p in (both.train, both.evaluation) for r in p.records if r.key == "a/1.png")
    assert record.annotations[0].make_mask(3, 5).all()
    assert (len(both.train.records), len(both.evaluation.records)) == (3, 1)


def test_a_line_for_each_label(tmp_path: Path) -> None:
    both = read(tmp_path, "image,label\na/1.png,dog\na/1.png,hot dog\n3.jpg,fox\n", label_column="label")
    assert labels(both) == {"a/1.png": ["dog", "hot dog"], "3.jpg": ["fox"]}
    assert both.train.left_out == {"picture that no line of labels.csv names": 2}


def test_columns_of_1_and_0(tmp_path: Path) -> None:
    """As CheXpert has them: 1.0, 0.0, -1.0 for uncertain, nothing; beside columns of other things."""
    text = "Path,Sex,Edema,No_Finding\nset/a/1.png,f,1.0,\nset/a/2.png,m,-1.0,0.0\nset/b/1.png,f,1,True\n"
    both = read(tmp_path, text, label_columns=["Edema", "No_Finding"])
    assert labels(both) == {"a/1.png": ["Edema"], "a/2.png": [], "b/1.png": ["Edema", "No Finding"]}
    assert both.train.skipped == {"uncertain label (-1)": 1}
    with pytest.raises(
        UserError, match=r"line 2 .* has 'f' in column 'Sex'; allowed: 1, 0, -1 .*reference\.label_columns"
    ):
        read(tmp_path, text)


def test_all_columns_where_they_hold_nothing_else(tmp_path: Path) -> None:
    both = read(tmp_path, ",image,dog,cat\n0,a/1.png,1,0\n1,3.jpg,1,1\n")
    assert labels(both) == {"a/1.png": ["dog"], "3.jpg": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("image,label\nx.png,dog\ny.png,cat\n", {"label_column": "label"}, "name 0 pictures .*for example 'x.png'"),
        ("image,label\n1.png,dog\n", {"label_column": "label"}, "'1.png' fits 'a/1.png' and 'b/1.png'"),
        ("image,label\na/1.png,\n", {"label_column": "label"}, "name 1 pictures .* give them no label"),
        ("image,label\n", {"label_column": "labels"}, "no column 'labels'; .*did you mean label"),
        ("image,label\n", {"image_column": "imag"}, "no column 'imag'"),
        ("image\na/1.png\n", {}, "no column besides the pictures'"),
        ("image,d\na/1.png,maybe\n", {}, "'maybe' in column 'd'"),
        ("image,d\np/3.jpg,1\nq/3.jpg,0\n", {}, "would both be the picture '3.jpg'"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, text, **settings)
    assert str(caught.value).startswith("reference.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"label_column": "a", "label_columns": ["b"]},
        {"separator": "|"},
        {"label_columns": ["a", "a"]},
        {"label_column": "a", "separator": ""},
    ],
)
def test_settings_that_contradict(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CsvLabelsReference.model_validate({"kind": "csv_labels", "root": "x", "file": "y", **settings})


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\n")
    settings = {"kind": "csv_labels", "root": tmp_path, "file": tmp_path / "labels.csv"}
    with pytest.raises(UserError, match=r"^reference\.root: no pictures below .*\(1 x file with the ending \.csv\)"):
        load_csv_labels_reference(CsvLabelsReference.model_validate(settings), 0)
    with pytest.raises(UserError, match=r"^reference\.file: found '.*none\.csv', which is no file"):
        load_csv_labels_reference(CsvLabelsReference.model_validate({**settings, "file": tmp_path / "none.csv"}), 0)
