from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from lavise.configs.container_formats import ObjectSettings
from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation
from lavise.storage.datasets.readers.entry_labels import Classes, read_classes, read_objects

CLASSES = Classes(("dog", "hot dog"))


@pytest.mark.parametrize(
    ("value", "name"),
    [(0, "dog"), (1.0, "hot dog"), ("hot_dog", "hot dog"), (-1, None), (None, None), (float("nan"), None), (" ", None)],
)
def test_what_a_label_names(value: Any, name: str | None) -> None:
    assert CLASSES.find(value, "here") == name


@pytest.mark.parametrize("value", [True, 0.5, [0], {"a": 1}, b"dog", float("inf"), -float("inf")])
def test_what_is_no_label(value: Any) -> None:
    with pytest.raises(UserError, match=r"^here: found label .*; allowed: an index or a name of a class$"):
        CLASSES.find(value, "here")


@pytest.mark.parametrize("value", [2, -2, 10**30, "cat"])
def test_labels_of_no_class(value: Any) -> None:
    with pytest.raises(UserError, match=r"^here: found class .*; allowed: 0 to 1, or a name \('dog', 'hot dog'\)"):
        CLASSES.find(value, "here")


def test_several_labels_of_a_picture() -> None:
    assert CLASSES.find_all([1, "dog", 1, -1], "") == (Annotation("hot dog"), Annotation("dog"))
    assert Classes(None).find_all(["b", "a"], "") == (Annotation("b"), Annotation("a"))
    assert CLASSES.list_concepts([Annotation("dog")]) == ("dog", "hot dog")
    assert Classes(None).list_concepts([Annotation("b"), Annotation("a"), Annotation("b")]) == ("a", "b")


def test_where_names_come_from(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffdog\nhot_dog\n\n")
    assert read_classes(path, ["other"]) == read_classes(("dog", "hot dog")) == CLASSES
    assert read_classes(None, ["dog", "hot_dog"]) == CLASSES
    assert read_classes(None) == Classes(None)
    path.write_text("dog\n\ncat\n")
    with pytest.raises(UserError, match=r"^reference\.classes: .*names\.txt: found an empty name; allowed: a name per"):
        read_classes(path)
    with pytest.raises(UserError, match=r"^reference\.classes: found 'hot dog' twice"):
        read_classes(None, ["hot_dog", "hot dog"])
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"^reference\.classes: cannot read .*names\.txt"):
        read_classes(path)
    with pytest.raises(UserError, match="found no names"):
        read_classes(None, [])


@pytest.mark.parametrize(
    ("form", "box"),
    [
        ("xywh", [20, 10, 40, 20]),
        ("xyxy", [20, 10, 60, 30]),
        ("relative_xywh", [0.1, 0.1, 0.2, 0.2]),
        ("relative_xyxy", [0.1, 0.1, 0.3, 0.3]),
        ("relative_centre", [0.2, 0.2, 0.2, 0.2]),
    ],
)
def test_forms_of_boxes(form: Any, box: list[float]) -> None:
    fields = ObjectSettings(box="b", category="c", box_format=form)
    rows = read_objects([{"b": box, "c": 0}], fields, CLASSES, lambda: (100, 200), "here", Counter())
    columns = read_objects({"b": [box], "c": [0]}, fields, CLASSES, lambda: (100, 200), "here", Counter())
    assert rows == columns
    assert rows[0].concept == "dog"
    assert rows[0].boxes[0] == pytest.approx((20, 10, 40, 20))


def test_boxes_that_are_left_out_are_counted() -> None:
    skipped: Counter[str] = Counter()
    entries = [{"bbox": [1, 1, 5, 0], "category": 0}, {"bbox": [1, 1, 5, 5], "category": -1}]
    assert read_objects(entries, ObjectSettings(), CLASSES, lambda: (9, 9), "here", skipped) == ()
    assert skipped == {"box without area": 1, "box without a category": 1}
    assert read_objects(None, ObjectSettings(), CLASSES, lambda: (9, 9), "here", skipped) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"here: found 3; allowed: a list of mappings, or a mapping of lists"),
        ([3], r"here: found \[3\]; allowed: a list of mappings"),
        ([{"bbox": [1, 2, 3, 4]}], r"here: found no 'category'; allowed: 'bbox'; set reference\.object_fields"),
        ({"bbox": [], "category": [1]}, "here: found boxes and categories of other numbers"),
        ({"bbox": 1, "category": 1}, "here: found boxes and categories of other numbers"),
        ([{"bbox": [1, 2, 3], "category": 0}], r"here, bbox: found \[1, 2, 3\]; allowed: four numbers"),
        ([{"bbox": [1, 2, 3, float("nan")], "category": 0}], r"here, bbox: found .*; allowed: four numbers"),
        ([{"bbox": "1234", "category": 0}], r"here, bbox: found '1234'; allowed: four numbers"),
        ([{"bbox": [1, 2, 3, True], "category": 0}], r"allowed: four numbers"),
        ([{"bbox": [1, 2, 3, 4], "category": 7}], r"here, category: found class 7; allowed: 0 to 1"),
    ],
)
def test_boxes_that_make_no_sense(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}" if message.startswith("here") else message):
        read_objects(value, ObjectSettings(), CLASSES, lambda: (9, 9), "here", Counter())


def test_names_of_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text('["dog", "hot_dog"]')
    assert read_classes(path) == CLASSES
    for content in ('{"0": "dog"}', '["dog", 1]', "[", '"dog"'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"^reference\.classes: cannot read .*names\.json \(.*a \.json file with"):
            read_classes(path)


# ---------------------------------------------------------------- masks

SIZE = (12, 20)
MASKS = ObjectSettings(segmentation="segmentation")
BLOCK = np.zeros(SIZE, dtype=bool)
BLOCK[2:7, 3:11] = True
CORNERS = [3, 2, 11, 2, 11, 7, 3, 7]


def count_runs(mask: Any) -> list[int]:
    """Run lengths, column by column, of what is not and what is the mask in turn."""
    counts, value, run = [], False, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return [*counts, run]


def find(value: Any, fields: ObjectSettings = MASKS, skipped: Counter[str] | None = None) -> tuple[Annotation, ...]:
    return read_objects(value, fields, CLASSES, lambda: SIZE, "here", Counter() if skipped is None else skipped)


@pytest.mark.parametrize(
    "segmentation",
    [
        [CORNERS],
        CORNERS,
        {"exterior": [[3, 2], [11, 2], [11, 7], [3, 7]], "interiors": []},
        {"size": list(SIZE), "counts": count_runs(BLOCK)},
        {"size": list(SIZE), "counts": coco_mask.encode(np.asfortranarray(BLOCK.astype(np.uint8)))["counts"]},
        {"size": list(SIZE), "counts": coco_mask.encode(np.asfortranarray(BLOCK.astype(np.uint8)))["counts"].decode()},
    ],
)
@pytest.mark.parametrize("box", [{"bbox": [0, 0, 5, 5]}, {"bbox": None}, {}])
def test_masks_of_objects(segmentation: Any, box: dict[str, Any]) -> None:
    entry = {"category": 1, "segmentation": segmentation, **box}
    for value in ([entry], {name: [one] for name, one in entry.items()}):
        (found,) = find(value)
        assert (found.concept, found.boxes) == ("hot dog", ())
        np.testing.assert_array_equal(found.make_mask(*SIZE), BLOCK)


def test_objects_without_a_mask_have_their_box() -> None:
    skipped: Counter[str] = Counter()
    entries = [
        {"category": 0, "segmentation": None, "bbox": [1, 2, 3, 4]},
        {"category": 0, "segmentation": [], "bbox": [1, 2, 3, 5]},
        {"category": 0, "segmentation": [], "bbox": None},
        {"category": 0, "segmentation": None},
        {"category": 0, "segmentation": {"size": [2, 2], "counts": [0, 4]}},
    ]
    assert [a.boxes for a in find(entries, skipped=skipped)] == [((1, 2, 3, 4),), ((1, 2, 3, 5),)]
    assert skipped == {"object without a mask or a box": 2, "mask of another size": 1}
    # Without the setting boxes alone are read, as before.
    assert [a.boxes for a in find(entries[:1], ObjectSettings())] == [((1, 2, 3, 4),)]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[0.1, 0.2, 0.5, 0.2, 0.5, 0.9]], "coordinates within the first pixel, as shares are; allowed: pixels"),
        ([[1, 2, 3, 4, 5]], "a polygon of 5 numbers; .*; allowed: polygons or run lengths, as in COCO"),
        ([[1, 2, 3, 4, 1e9, 6]], "far outside"),
        ({"size": [12, 20], "counts": [3]}, "add up to 3 pixels"),
        ({"size": [12, 20], "counts": b"\xff\x00"}, "neither polygons nor run lengths"),
        ("x", "neither polygons nor run lengths"),
        (7, "neither polygons nor run lengths"),
    ],
)
def test_masks_that_are_none(segmentation: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"^here, segmentation: .*{message}") as caught:
        find([{"category": 0, "segmentation": segmentation}])
    assert "\n" not in str(caught.value)


def test_fields_of_masks_that_are_not_there() -> None:
    with pytest.raises(UserError, match=r"found no 'segmentation'; .*set reference\.object_fields\.category and refer"):
        find([{"category": 0, "bbox": [1, 2, 3, 4]}])
    with pytest.raises(UserError, match="of other numbers"):
        find({"category": [0], "segmentation": []})
