"""Tables and both parts of a reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation, ImageRecord
from lavise.storage.datasets.readers.layout_files import make_reference, read_json, read_rows, read_text


def test_rows_by_headings(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbfb, a ,c\n1,"x, y",3\n\n4,5,6\n')
    assert list(read_rows(path, ("a", "b"), ("d",))) == [(2, ["x, y", "1", ""]), (4, ["5", "4", ""])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"t\.csv: no column 'a', found an empty file; allowed: a table with the columns a, b$"),
        (b"a,c\n1,2\n", r"t\.csv: no column 'b', found 'a', 'c'; allowed"),
        (b"a,b\n1\n", r"t\.csv: line 2 has 1 cells; allowed: 2$"),
        (b"a,b\n\xff,1\n", r"t\.csv: no text in UTF-8"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_rows(tmp_path / "t.csv", ("a", "b")))


def test_json_in_the_first_encoding_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "j.json"
    path.write_bytes('{"a": "é"}'.encode("latin-1"))
    assert read_json(path, "it", ("utf-8", "latin-1")) == {"a": "é"}
    with pytest.raises(UserError, match=r"j\.json: no JSON .*; allowed: it$"):
        read_json(path, "it")
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"j\.json: no JSON"):
        read_json(path, "it")
    with pytest.raises(UserError, match=r"none\.txt: cannot be read \(No such file or directory\)$"):
        read_text(tmp_path / "none.txt")


def record(root: Path, name: str, *concepts: str) -> ImageRecord:
    return ImageRecord(name, root / name, tuple(Annotation(c) for c in concepts))


def test_parts_as_they_are_or_split(tmp_path: Path) -> None:
    one, other = record(tmp_path, "b.jpg", "dog"), record(tmp_path, "a.jpg", "cat")
    both = make_reference(tmp_path, {"x": [one], "y": [other]}, {"crowd": 2}, 0.5, 0)
    assert (both.train.records, both.evaluation.records) == ((one,), (other,))
    assert both.train.concepts == both.evaluation.concepts == ("cat", "dog")
    assert (both.train.name, both.train.skipped, both.evaluation.skipped) == (f"{tmp_path.name}/x", {"crowd": 2}, {})
    split = make_reference(tmp_path, {"x": [one, other]}, {}, 0.5, 0)
    assert sorted(r.key for part in (split.train, split.evaluation) for r in part.records) == ["a.jpg", "b.jpg"]
    assert (split.train.name, split.evaluation.name) == (f"{tmp_path.name}/train", f"{tmp_path.name}/evaluation")


def test_parts_that_are_none(tmp_path: Path) -> None:
    one, bare = record(tmp_path, "a.jpg", "cat"), record(tmp_path, "b.jpg")
    with pytest.raises(UserError, match=r"1 pictures are in both parts, for example a\.jpg; allowed: disjoint parts"):
        make_reference(tmp_path, {"x": [one], "y": [one]}, {}, 0.5, 0)
    with pytest.raises(UserError, match=r"^reference: no pictures in y of .*; left out: 3 crowd$"):
        make_reference(tmp_path, {"x": [one], "y": []}, {"crowd": 3}, 0.5, 0)
    with pytest.raises(UserError, match=r"^reference: no picture of .* has a label that is read$"):
        make_reference(tmp_path, {"x": [bare], "y": [record(tmp_path, "c.jpg")]}, {}, 0.5, 0)
