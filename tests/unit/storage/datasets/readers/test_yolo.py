"""YOLO in the forms that tools write: folders, lists, names, and every kind of row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import YoloReference
from lavise.storage.datasets.base import Annotation, ImageRecord, Reference
from lavise.storage.datasets.readers.yolo import load_yolo

H, W = 20, 40
# In pixels x 4..12, y 5..15.
BOX = "0.2 0.5 0.2 0.5"


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (W, H)).save(path)


def write_labels(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", "utf-8")


def write_set(root: Path, *rows: str, data: str = "names: [dog, cup]\ntrain: images/train\nval: images/val\n") -> None:
    """A picture in each part; the rows are of the training part's."""
    for part in ("train", "val"):
        write_picture(root / "images" / part / f"{part}.jpg")
        write_labels(root / "labels" / part / f"{part}.txt", *(rows if part == "train" else [f"1 {BOX}"]))
    if data:
        (root / "data.yaml").write_text(data, "utf-8")


def load(root: Path, **changes: Any) -> Reference:
    return load_yolo(YoloReference.model_validate({"kind": "yolo", "root": root, **changes}), 0)


def only(record: ImageRecord) -> Annotation:
    (annotation,) = record.annotations
    return annotation


def keys(both: Reference) -> tuple[list[str], list[str]]:
    return [r.key for r in both.train.records], [r.key for r in both.evaluation.records]


def draw(top: int, bottom: int, left: int, right: int) -> np.ndarray[Any, Any]:
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_box(tmp_path: Path) -> None:
    write_set(tmp_path, f"0 {BOX}")
    both = load(tmp_path)
    assert keys(both) == (["images/train/train.jpg"], ["images/val/val.jpg"])
    assert (only(both.train.records[0]).concept, only(both.evaluation.records[0]).concept) == ("dog", "cup")
    np.testing.assert_array_equal(only(both.train.records[0]).make_mask(H, W), draw(5, 15, 4, 12))
    assert both.train.skipped == {}


def test_polygon_and_oriented_box(tmp_path: Path) -> None:
    square = "0.1 0.25 0.3 0.25 0.3 0.75 0.1 0.75"
    write_set(tmp_path, f"0 {square}", "1 0.5 0.0 0.75 0.0 0.75 0.5 0.625 0.5 0.5 0.5")
    record = load(tmp_path).train.records[0]
    assert [a.concept for a in record.annotations] == ["dog", "cup"]
    np.testing.assert_array_equal(record.annotations[0].make_mask(H, W), draw(5, 15, 4, 12))
    np.testing.assert_array_equal(record.annotations[1].make_mask(H, W), draw(0, 10, 20, 30))


def test_masks(tmp_path: Path) -> None:
    write_set(tmp_path, "0 0.1 0.25 0.3 0.25 0.1 0.75", f"1 {BOX}", data="")
    auto = load(tmp_path, names=("dog", "cup")).train.records[0].annotations
    assert [bool(a.rle) for a in auto] == [True, False]
    # The triangle is half of its box, less or more the pixels on its edge.
    assert 30 <= auto[0].make_mask(H, W).sum() <= 50
    box = load(tmp_path, names=("dog", "cup"), masks="box").train.records[0].annotations
    np.testing.assert_array_equal(box[0].make_mask(H, W), draw(5, 15, 4, 12))
    only_polygons = load(tmp_path, names=("dog", "cup"), masks="segmentation").train
    assert [a.concept for a in only_polygons.records[0].annotations] == ["dog"]
    assert only_polygons.skipped == {"object with a box only": 2}


@pytest.mark.parametrize(
    "names",
    ["names: [dog, cup]", "names: {0: dog, 1: cup}", "names: {'0': dog, '1': cup}", "names:\n- dog\n- cup\nnc: 2"],
)
@pytest.mark.parametrize(
    "places",
    [
        "train: images/train\nval: images/val",
        "path: .\ntrain: [images/train]\nval: images/val/",
        "path: ../datasets/of/another/machine\ntrain: images/train\nvalidation: images/val",
        "train: ../images/train\nval: ../images/val",
        "path: images\ntrain: train\nval: val",
        "train: train.txt\nval: lists/val.txt",
    ],
)
def test_data_files(tmp_path: Path, names: str, places: str) -> None:
    write_set(tmp_path, f"0 {BOX}", data=f"{names}\n{places}\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "train.txt").write_text("./images/train/train.jpg\n")
    (tmp_path / "lists" / "val.txt").write_text("images/val/val.jpg\n../images/val/none.jpg\n")
    both = load(tmp_path)
    assert keys(both) == (["images/train/train.jpg"], ["images/val/val.jpg"])
    assert only(both.evaluation.records[0]).concept == "cup"
    assert both.train.skipped == ({"listed picture that is not there": 1} if "txt" in places else {})


def test_folders_of_roboflow_without_a_data_file(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write_picture(tmp_path / part / "images" / f"{part}.jpg")
        write_labels(tmp_path / part / "labels" / f"{part}.txt", f"0 {BOX}")
    with pytest.raises(
        UserError, match=r"^reference\.names: missing; .* has no data\.yaml that names the classes; set"
    ):
        load(tmp_path)
    assert keys(load(tmp_path, names=["dog"])) == (["train/images/train.jpg"], ["valid/images/valid.jpg"])
    named = load(tmp_path, names=["dog"], train="valid/images", evaluation="train/images")
    assert keys(named) == (["valid/images/valid.jpg"], ["train/images/train.jpg"])


def test_darknet(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write_picture(tmp_path / f"obj_{part}_data" / f"{part}.jpg")
        write_labels(tmp_path / f"obj_{part}_data" / f"{part}.txt", f"1 {BOX}")
        (tmp_path / f"{part}.txt").write_text(f"data/obj_{part}_data/{part}.jpg\n")
    (tmp_path / "obj.names").write_text("dog\nhot dog\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    both = load(tmp_path)
    assert keys(both) == (["obj_train_data/train.jpg"], ["obj_valid_data/valid.jpg"])
    assert only(both.train.records[0]).concept == "hot dog"


def test_pictures_without_labels_have_no_objects(tmp_path: Path) -> None:
    write_set(tmp_path, f"0 {BOX}")
    write_picture(tmp_path / "images" / "train" / "bare.jpg")
    write_labels(tmp_path / "labels" / "train" / "lost.txt", f"0 {BOX}")
    write_labels(tmp_path / "labels" / "train" / "classes.txt", "dog")
    both = load(tmp_path)
    assert [(r.file.name, len(r.annotations)) for r in both.train.records] == [("bare.jpg", 0), ("train.jpg", 1)]
    assert both.train.skipped == {"file of labels without a picture": 1}


def test_same_part_twice_is_no_split(tmp_path: Path) -> None:
    for i in range(4):
        write_picture(tmp_path / "images" / f"{i}.jpg")
        write_labels(tmp_path / "labels" / f"{i}.txt", f"0 {BOX}")
    (tmp_path / "coco8.yaml").write_text("names: [dog]\ntrain: images\nval: images\n")
    both = load(tmp_path, evaluation_share=0.25)
    assert (len(both.train.records), len(both.evaluation.records)) == (3, 1)
    assert len(load(tmp_path, max_images=2).train.records) == 1


def test_rows_that_are_left_out(tmp_path: Path) -> None:
    write_set(
        tmp_path,
        f"0 {BOX}",
        f"0 {BOX}",
        "0 0.5 0.5 0 0.2",
        "0 20 10 8 8",
        "0 0.1 0.1 0.1 0.1 0.1 0.1",
        "0 0.5 0.5 3.0 0.5 0.5 0.9",
        "",
        "1 1.005 0.5 0.2 0.5",
    )
    part = load(tmp_path).train
    assert [a.concept for a in part.records[0].annotations] == ["dog", "cup"]
    assert part.records[0].annotations[1].make_mask(H, W).sum() == 4 * 10
    assert part.skipped == {
        "row that stands twice": 1,
        "object with an empty box": 1,
        "object outside its picture (numbers are not shares of 0 to 1)": 2,
        "polygon without a pixel": 1,
    }


def test_keypoints_are_left_out(tmp_path: Path) -> None:
    data = "names: [dog, cup]\ntrain: images/train\nval: images/val\nkpt_shape: [2, 3]\n"
    write_set(tmp_path, f"0 {BOX} 0.1 0.1 2 0.2 0.2 0", data=data)
    part = load(tmp_path).train
    np.testing.assert_array_equal(only(part.records[0]).make_mask(H, W), draw(5, 15, 4, 12))
    assert part.skipped == {"keypoints of an object (its box is taken)": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"2 {BOX}", r"train\.txt: line 2: class 2 has no name; allowed: 0 to 1; see reference\.data and"),
        (f"-1 {BOX}", r"line 2: class -1 has no name"),
        (f"0.5 {BOX}", r"line 2: found '0\.5 .*'; allowed: a class's number and"),
        ("dog 1 2 3 4", r"line 2: found 'dog 1 2 3 4'; allowed"),
        ("0 nan 0.5 0.2 0.2", r"line 2: found '0 nan"),
        (f"0 {BOX} 0.9", r"line 2: found 5 numbers behind the class; allowed: 4 \(a box\), 6 or more in pairs"),
        ("0 0.1", r"line 2: found 1 numbers"),
        ("1e400 0 0 0 0", r"line 2: found '1e400"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path: Path, row: str, message: str) -> None:
    write_set(tmp_path, f"0 {BOX}", row)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("names: [dog", r"data\.yaml: no YAML \("),
        ("- dog", r"data\.yaml: found no keys; allowed: data\.yaml of YOLO"),
        ("names: !!python/object/apply:os.system [ls]", r"data\.yaml: no YAML \(could not determine a constructor"),
        ("train: images", r"data\.yaml: names: found None; allowed: a list of names, or names by number"),
        ("names: {a: dog}", r"data\.yaml: names: found 'a': 'dog'; allowed"),
        ("names: [no]", r"data\.yaml: names: found 0: False; allowed: a number and a name, in quotes"),
        ("names: ['']", r"data\.yaml: names: the name of 0 is empty"),
        ("names: [a]\nkpt_shape: 17", r"data\.yaml: kpt_shape: found 17; allowed: \[number"),
        ("names: [a]\ntrain: 3", r"data\.yaml: train: found 3; allowed: a folder, a list"),
        ("names: [a]\npath: [x]", r"data\.yaml: path: found \['x'\]; allowed: a folder"),
        (
            "names: [a]\ntrain: /etc\nval: images/val",
            r"^train of reference\.data: found '/etc', which is not there below",
        ),
        ("names: [a]\ntrain: ../../x\nval: images/val", r"^train of reference\.data: found '\.\./\.\./x', which is"),
    ],
)
def test_data_files_that_cannot_be_read(tmp_path: Path, data: str, message: str) -> None:
    write_set(tmp_path, f"0 {BOX}", data=data)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_places_that_are_wrong(tmp_path: Path) -> None:
    write_set(tmp_path, f"0 {BOX}", data="")
    with pytest.raises(UserError, match=r"^reference\.data: found 'x\.yaml', which is no file below"):
        load(tmp_path, data="x.yaml")
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text("names: [dog]\n")
    with pytest.raises(
        UserError, match=r"^reference\.data: missing; .* several YAML files \('a\.yaml', 'b\.yml'\); set"
    ):
        load(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"^reference\.root: none of 2 pictures of .* has a file of labels; looked for"):
        load(tmp_path, data="a.yaml", names=["dog", "cup"])
    with pytest.raises(ValueError, match="names must be different and not empty"):
        load(tmp_path, names=["dog", "dog"])


SQUARE = "0.1 0.25 0.3 0.25 0.3 0.75 0.1 0.75"
ROWS = [f"0 {BOX}", f"1 {SQUARE}", "1 0.5 0.0 0.75 0.0 0.75 0.5 0.625 0.5 0.5 0.5"]


def write_predictions(root: Path, rows: list[str], confidences: list[str], data: str = "names: [dog, cup]") -> None:
    data = f"{data}\ntrain: images/train\nval: images/val\n"
    write_set(root, *(f"{row} {c}" for row, c in zip(rows, confidences, strict=True)), data=data)
    write_labels(root / "labels" / "val" / "val.txt", f"{rows[0]} 1")


def test_confidences_of_predictions_are_left_out(tmp_path: Path) -> None:
    write_set(tmp_path / "plain", *ROWS)
    write_labels(tmp_path / "plain" / "labels" / "val" / "val.txt", ROWS[0])
    write_predictions(tmp_path / "predicted", ROWS, ["0.25", "0.9", "0"])
    plain, predicted = load(tmp_path / "plain"), load(tmp_path / "predicted")
    for one, other in ((plain.train, predicted.train), (plain.evaluation, predicted.evaluation)):
        assert one.compute_digest() == other.compute_digest()
        assert one.skipped == other.skipped == {}
    assert plain.train.notes == ()
    assert predicted.train.notes == ("all 4 rows end with a confidence, as of predictions; all are taken",)


def test_confidences_behind_keypoints(tmp_path: Path) -> None:
    rows = [f"0 {BOX} 0.1 0.1 2", f"1 {BOX} 0.2 0.2 2"]
    write_predictions(tmp_path, rows, ["0.5", "0.6"], data="names: [dog, cup]\nkpt_shape: [1, 3]")
    part = load(tmp_path).train
    assert [a.concept for a in part.records[0].annotations] == ["dog", "cup"]
    np.testing.assert_array_equal(part.records[0].annotations[0].make_mask(H, W), draw(5, 15, 4, 12))
    assert part.skipped == {"keypoints of an object (its box is taken)": 3}
    assert len(part.notes) == 1
    # Without a confidence the last keypoint is none.
    write_set(tmp_path, *rows, data="names: [dog, cup]\ntrain: images/train\nval: images/val\nkpt_shape: [1, 3]\n")
    assert load(tmp_path).train.notes == ()


@pytest.mark.parametrize(
    ("rows", "confidences", "message"),
    [
        (ROWS, ["0.5", "", "0.5"], "line 1: found 5 numbers behind the class"),  # a row without one
        (ROWS, ["", "0.5", ""], "line 2: found 9 numbers behind the class"),  # a polygon that has one number too many
        (ROWS, ["0.5", "0.5", "1.5"], "line 1: found 5 numbers behind the class"),
        (ROWS, ["0.5", "0.5", "high"], "line 1: found 5 numbers behind the class"),
        (ROWS, ["0.5", "0.5", "nan"], "line 1: found 5 numbers behind the class"),
        (ROWS, ["0", "2", "3"], "line 1: found 5 numbers behind the class"),  # neither shares nor tracks
        ([f"0 {SQUARE.rpartition(' ')[0]}", *ROWS[1:]], ["", "", ""], "line 1: found 7 numbers"),  # one is lost
    ],
)
def test_rows_are_not_shortened_unless_all_end_so(
    tmp_path: Path, rows: list[str], confidences: list[str], message: str
) -> None:
    write_predictions(tmp_path, rows, confidences)
    if "" in confidences:
        write_labels(tmp_path / "labels" / "val" / "val.txt", f"1 {BOX}")
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (["1", "2", "1"], "the number of a track"),
        (["0.5 1", "0.25 2", "1 3"], "a confidence and the number of a track"),
        (["1", "1", "1"], "a confidence"),  # or tracks; the object is the same
    ],
)
def test_tracks_are_left_out(tmp_path: Path, ends: list[str], said: str) -> None:
    write_set(tmp_path / "plain", *ROWS)
    write_predictions(tmp_path / "tracked", ROWS, ends)
    write_labels(tmp_path / "tracked" / "labels" / "val" / "val.txt", f"{ROWS[0]} {ends[0]}")
    plain, tracked = load(tmp_path / "plain").train, load(tmp_path / "tracked").train
    assert plain.records == tuple(replace(r, path=p.path) for r, p in zip(tracked.records, plain.records, strict=True))
    assert tracked.notes == (f"all 4 rows end with {said}, as of predictions; all are taken",)


def test_corners_on_the_edge_are_no_tracks(tmp_path: Path) -> None:
    """Whole numbers, but all are shares: triangles and a quadrangle whose last corner lies at the bottom."""
    rows = ["0 0.1 0.1 0.9 0.1 0.5 1", "1 0.2 0.2 0.8 0.2 0.8 0.9 0.5 1"]
    write_set(tmp_path, *rows)
    write_labels(tmp_path / "labels" / "val" / "val.txt", rows[0])
    part = load(tmp_path).train
    assert part.notes == ()
    assert all(a.rle is not None for a in part.records[0].annotations)
    assert len(part.records[0].annotations) == 2
