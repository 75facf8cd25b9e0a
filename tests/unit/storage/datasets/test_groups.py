"""Groups of pictures by folder, CSV file and annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lavise.configs.errors import UserError
from lavise.configs.groups import AnnotationGroups, CsvGroups, FolderGroups
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.datasets.csv_tables import MAX_NAME, clean_name
from lavise.storage.datasets.groups import Grouping, make_grouping

KEYS = ["a/x/1.png", "a/x/2.png", "b/y/1.png", "b/3.png", "4.png"]
FIELD = "bias.groups"


def dataset(keys: Sequence[str] = KEYS, concepts: Sequence[Sequence[str]] | None = None) -> Dataset:
    labels = concepts or [()] * len(keys)
    records = [ImageRecord(k, Path(k), tuple(Annotation(c) for c in own)) for k, own in zip(keys, labels, strict=True)]
    return Dataset("pictures", tuple(records), tuple(sorted({c for own in labels for c in own})))


def by_folder(keys: Sequence[str], level: int = 1) -> Grouping:
    return make_grouping(FolderGroups(kind="folder", level=level), FIELD, dataset(keys), keys)


def by_csv(path: Path, text: str | bytes, keys: Sequence[str] = KEYS, **settings: Any) -> Grouping:
    file = path / "table.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    chosen = CsvGroups.model_validate({"kind": "csv", "file": file, "columns": ["sex"], **settings})
    return make_grouping(chosen, FIELD, dataset(), keys)


def named(grouping: Grouping) -> list[str | None]:
    return [grouping.names[g] if g >= 0 else None for g in grouping.of_image]


# Folders


def test_folders() -> None:
    found = by_folder(KEYS)
    assert named(found) == ["a", "a", "b", "b", None]
    assert (found.title, found.num_images) == ("folder", (2, 2))
    deeper = by_folder(KEYS, 2)
    assert named(deeper) == ["x", "x", "y", None, None]
    assert deeper.title == "folder, level 2"


def test_only_the_keys_count() -> None:
    found = make_grouping(FolderGroups(kind="folder"), FIELD, dataset(), KEYS[1:3])
    assert named(found) == ["a", "b"]


def test_hostile_folder_names() -> None:
    long = "L" * 300
    keys = ["\u202e<b>\x1b[31m/1.png", " a\tb /2.png", f"{long}1/3.png", f"{long}2/4.png", "\udcff\u200b/5.png"]
    found = by_folder(keys)
    assert [found.names[g] for g in found.of_image[:2]] == ["<b>[31m", "a b"]
    first, second = found.names[found.of_image[2]], found.names[found.of_image[3]]
    assert first != second
    assert max(len(first), len(second)) == MAX_NAME
    assert second.endswith("… (2)")
    assert found.of_image[4] == -1
    assert clean_name("a" * 81) == "a" * 79 + "…"
    assert clean_name("a" * 80) == "a" * 80


def test_folders_that_are_no_groups() -> None:
    with pytest.raises(UserError, match=r"^bias.groups: found 1 groups by folder: a \(2\); allowed: 2 to 20$"):
        by_folder(KEYS[:2])
    with pytest.raises(UserError, match=r"found 0 groups by folder, level 3: 5 pictures in none"):
        by_folder(KEYS, 3)
    many = [f"{i:02d}/p.png" for i in range(21)]
    with pytest.raises(UserError, match=r"found 21 groups by folder \(00, 01, .*\); allowed: 2 to 20; is it an id\?"):
        by_folder(many)
    assert len(by_folder(many[:20]).names) == 20


# CSV


def test_csv_by_path_and_by_file_name(tmp_path: Path) -> None:
    text = (
        '\ufeffimage, sex ,age\na/x/1.png,f,1\n./a/x/2.png,m,2\nb\\y\\1.png, f ,3\n\n3.png,"m",4\n4.png,,5\nno.png,z\n'
    )
    found = by_csv(tmp_path, text)
    assert named(found) == ["f", "m", "f", "m", None]
    assert (found.names, found.title) == (("f", "m"), "sex")


def test_csv_file_name_of_two_pictures_is_none(tmp_path: Path) -> None:
    found = by_csv(tmp_path, "image,sex\n1.png,z\n2.png,f\n3.png,m\n")
    assert named(found) == [None, "f", None, "m", None]


def test_csv_two_columns_and_image_column(tmp_path: Path) -> None:
    text = "sex,age,file\nf,old,a/x/1.png\nm,young,2.png\nf,old,b/y/1.png\nf,,3.png\n"
    found = by_csv(tmp_path, text, columns=["sex", "age"], image_column="file")
    assert found.names == ("f & old", "m & young")
    assert found.title == "sex & age"
    assert named(found) == ["f & old", "m & young", "f & old", None, None]


def test_csv_pairs_are_told_apart(tmp_path: Path) -> None:
    text = "image,a,b\na/x/1.png,x & y,z\n2.png,x,y & z\n"
    found = by_csv(tmp_path, text, columns=["a", "b"])
    assert sorted(found.names) == ["x & y & z", "x & y & z (2)"]


def test_csv_same_line_twice(tmp_path: Path) -> None:
    text = "image,sex\na/x/1.png,f\na/x/1.png,f\n2.png,m\n"
    assert named(by_csv(tmp_path, text))[:2] == ["f", "m"]


def test_csv_as_pandas_writes_it(tmp_path: Path) -> None:
    """With an index in the first column, which has no name; or with the names as the index."""
    expected = ["f", "m", None, None, None]
    assert named(by_csv(tmp_path, ",file,sex\n0,a/x/1.png,f\n1,a/x/2.png,m\n")) == expected
    assert named(by_csv(tmp_path, "Unnamed: 0,file,sex\n0,a/x/1.png,f\n1,a/x/2.png,m\n")) == expected
    assert named(by_csv(tmp_path, ",sex,file\n0,f,a/x/1.png\n1,m,a/x/2.png\n")) == expected
    assert named(by_csv(tmp_path, ",sex\na/x/1.png,f\na/x/2.png,m\n")) == expected


def test_csv_names_of_other_machines(tmp_path: Path) -> None:
    """Without ending, as an absolute path, with a drive, below other folders, or without the first folders."""
    text = "image,sex\n/home/me/set/a/x/1.png,f\nD:\\set\\a\\x\\2.png,m\ny/1.png,f\nset/b/3,m\n4,f\n"
    assert named(by_csv(tmp_path, text)) == ["f", "m", "f", "m", "f"]


def test_csv_names_that_fit_several(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert named(by_csv(tmp_path, "image,sex\n1,f\n2,m\n3,f\n")) == [None, "m", None, "f", None]
    (record,) = caplog.records
    assert "1 names fit several pictures: '1' fits 'a/x/1.png' and 'b/y/1.png'" in record.getMessage()


def test_csv_paths_that_would_be_one_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"names 'train/4\.png' and 'val/4\.png', which would both be .* '4\.png'"):
        by_csv(tmp_path, "image,sex\ntrain/4.png,f\nval/4.png,f\n2.png,m\n")


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "is empty; allowed: a header line and"),
        ("\n\n", {}, "is empty"),
        ("image,sex,sex\n", {}, "the header of .* has 'sex' twice"),
        ("image,sexe\n2.png,f\n", {}, r"has no column 'sex'; allowed: image, sexe; did you mean sexe\?"),
        ("image;sex\n2.png;f\n", {}, "the cells of .* are separated by semicolons; allowed: commas$"),
        ("\ufeffimage\tsex\r\n2.png\t1,5\r\n", {}, "the cells of .* are separated by tabs; allowed: commas$"),
        ("image,sex\n2.png,f\n", {"image_column": "imag"}, "no column 'imag'; .*did you mean image"),
        ("image,sex\n2.png,f\n", {"columns": ["sex", "sex"]}, "found column 'sex' twice"),
        ("image,sex\n2.png,f\na/x/2.png,m\n", {}, "has 'a/x/2.png' in lines 2 and 3, as 'f' and 'm'"),
        (
            "image,sex\nno.png,f\n1.png,m\n",
            {},
            "none of the 2 lines .* in column 'image' .1 names .* fits 'a/x/1.png' and 'b/y/1.png'.;.*image_column",
        ),
        ("image,sex\n2.png,f,x\n", {}, "line 2 of .* has 3 cells; allowed: 2, as in the header"),
        ("image,sex\n2.png,f\n3.png,f\n", {}, r"found 1 groups by sex: f \(2\), 3 pictures in none"),
        (b"image,sex\n2.png,\xff\n", {}, "cannot read .*table.csv .*UTF-8"),
        ('image,sex\n2.png,"f\n', {}, "cannot read .*unexpected end of data"),
        ("image,sex\n2.png," + "f" * 200_000, {}, "cannot read .*field larger than"),
    ],
)
def test_csv_mistakes(tmp_path: Path, text: str | bytes, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        by_csv(tmp_path, text, **settings)
    assert str(caught.value).startswith("bias.groups: ")


def test_csv_that_is_not_there(tmp_path: Path) -> None:
    settings = CsvGroups(kind="csv", file=tmp_path / "no.csv", columns=("sex",))
    with pytest.raises(UserError, match=r"^bias\.groups: cannot read .*no\.csv"):
        make_grouping(settings, FIELD, dataset(), KEYS)
    with pytest.raises(UserError, match=r"^bias\.groups: cannot read"):
        make_grouping(CsvGroups(kind="csv", file=tmp_path, columns=("sex",)), FIELD, dataset(), KEYS)


def test_csv_column_that_is_an_id(tmp_path: Path) -> None:
    keys = [f"{i}.png" for i in range(30)]
    file = tmp_path / "t.csv"
    file.write_text("image,id\n" + "".join(f"{k},{i}\n" for i, k in enumerate(keys)))
    settings = CsvGroups(kind="csv", file=file, columns=("id",))
    with pytest.raises(UserError, match=r"found 30 groups by id .*is it an id\?"):
        make_grouping(settings, FIELD, dataset(keys), keys)


# Annotations


def test_annotations() -> None:
    data = dataset(concepts=[("cat",), ("dog", "dog"), (), ("dog",), ("cat", "dog")])
    settings = AnnotationGroups(kind="annotations", predicate="dog and  not cat")
    found = make_grouping(settings, FIELD, data, KEYS[1:])
    assert found.names == ("dog and not cat", "not (dog and not cat)")
    assert found.of_image.tolist() == [0, 1, 0, 1]
    assert found.title == "dog and not cat"
    long = make_grouping(AnnotationGroups(kind="annotations", predicate=" or ".join(["cat"] * 40)), FIELD, data, KEYS)
    assert [len(name) for name in long.names] == [MAX_NAME, MAX_NAME]


def test_annotations_mistakes() -> None:
    with pytest.raises(UserError, match=r"^bias\.groups: found a predicate .*set bias\.images=evaluation"):
        make_grouping(AnnotationGroups(kind="annotations", predicate="cat"), FIELD, dataset(), KEYS)
    data = dataset(concepts=[("cat",)] * 5)
    with pytest.raises(UserError, match=r"found 1 groups by cat: cat \(5\); allowed"):
        make_grouping(AnnotationGroups(kind="annotations", predicate="cat"), FIELD, data, KEYS)
    with pytest.raises(UserError, match=r"^bias\.groups: found 'cta'; .*did you mean 'cat'"):
        make_grouping(AnnotationGroups(kind="annotations", predicate="cta"), FIELD, data, KEYS)


def test_a_picture_for_which_the_answer_is_not_known_is_in_no_group() -> None:
    asked = [None, frozenset({"dog"}), frozenset({"cat"}), frozenset({"cat"})]
    labels = ["cat", "dog", "cat", ""]
    records = tuple(
        ImageRecord(f"{i}.png", Path(f"{i}.png"), tuple(Annotation(c) for c in own.split()), looked_for=known)
        for i, (own, known) in enumerate(zip(labels, asked, strict=True))
    )
    data = Dataset("x", records, ("cat", "dog"))
    keys = [r.key for r in records]
    found = make_grouping(AnnotationGroups(kind="annotations", predicate="cat"), FIELD, data, keys)
    assert found.of_image.tolist() == [0, -1, 0, 1]
