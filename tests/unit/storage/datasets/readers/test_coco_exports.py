"""COCO files as other tools and other people write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.schema import CocoReference
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.readers.coco import load_coco_instances, load_coco_reference

H, W = 20, 32
POLYGON = [5, 3, 17, 3, 17, 9, 5, 9]
CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cup"}]


def make_image(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.jpg", "height": H, "width": W, **more}


def make_entry(number: int, image: int = 1, category: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, **more}


def write(
    root: Path, images: list[Any], annotations: list[Any], categories: list[Any] | None = None, mark: str = ""
) -> Path:
    """The file, with pictures 1.jpg to 9.jpg beside it."""
    for number in range(1, 10):
        if not (root / f"{number}.jpg").exists():
            Image.new("RGB", (W, H), (50, 100, 150)).save(root / f"{number}.jpg")
    content = {"images": images, "annotations": annotations, "categories": categories or CATEGORIES}
    (root / "labels.json").write_text(mark + json.dumps(content), "utf-8")
    return root / "labels.json"


def load(root: Path, images: list[Any], annotations: list[Any], *rest: Any, **options: Any) -> Dataset:
    return load_coco_instances(root, write(root, images, annotations, *rest), "data", **options)


def reference(root: Path, **more: Any) -> CocoReference:
    settings = {"kind": "coco", "root": root, "train_images": ".", "train_annotations": "labels.json"}
    return CocoReference.model_validate({**settings, **more})


# Boxes


@pytest.mark.parametrize("segmentation", [{}, {"segmentation": None}, {"segmentation": []}, {"segmentation": [[]]}])
def test_the_box_where_there_is_no_mask(tmp_path: Path, segmentation: dict[str, Any]) -> None:
    entries = [
        make_entry(1, bbox=[4, 2, 10, 6], **segmentation),
        make_entry(2, category=2, bbox=[0, 0, 1, 1], segmentation=[POLYGON]),
    ]
    dataset = load(tmp_path, [make_image(1)], entries)
    box, mask = dataset.records[0].annotations
    assert box.boxes == ((4, 2, 10, 6),)
    expected = np.zeros((H, W), dtype=bool)
    expected[2:8, 4:14] = True
    assert (box.make_mask(H, W) == expected).all()
    assert mask.make_mask(H, W).sum() == 12 * 6
    assert dataset.skipped == {}
    assert dataset.notes == ("1 of 2 masks are boxes",)
    segmented = load(tmp_path, [make_image(1)], entries, masks="segmentation")
    assert [a.concept for a in segmented.records[0].annotations] == ["cup"]
    assert (segmented.skipped, segmented.notes) == ({"no mask": 1}, ())
    boxes = load(tmp_path, [make_image(1)], entries, masks="box")
    assert [a.boxes for a in boxes.records[0].annotations] == [((4, 2, 10, 6),), ((0, 0, 1, 1),)]
    assert boxes.notes == ("2 of 2 masks are boxes",)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "no mask"),
        ({"bbox": []}, "no mask"),
        ({"bbox": None}, "no mask"),
        ({"bbox": [4, 2, 0, 6]}, "box of size 0"),
        ({"bbox": [4, 2, 10, 0]}, "box of size 0"),
        ({"bbox": [W, 2, 10, 5]}, "box outside of the picture"),
        ({"bbox": [4, -6, 10, 6]}, "box outside of the picture"),
    ],
)
def test_objects_without_anything_to_show_are_counted(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    dataset = load(tmp_path, [make_image(1)], [make_entry(1, **more)])
    assert dataset.records[0].annotations == ()
    assert (dataset.skipped, dataset.notes) == ({reason: 1}, ())


def test_boxes_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"labels\.json: annotation 7: bbox is \[1, 2, NaN, 4\]|bbox is \[1, 2, nan, 4\]"
    ):
        load(tmp_path, [make_image(1)], [make_entry(7, bbox=[1, 2, float("nan"), 4])])
    with pytest.raises(UserError, match=r"annotation 7: bbox is \[9, 9, -3, 4\], with a negative width"):
        load(tmp_path, [make_image(1)], [make_entry(7, bbox=[9, 9, -3, 4])])


# Crowds


def test_marks_of_an_exporter_are_read_as_objects(tmp_path: Path) -> None:
    """As datumaro writes pixel masks."""
    rle = {"size": [H, W], "counts": [0, 5, H * W - 5]}
    entries = [make_entry(i, i, segmentation=rle, iscrowd=1) for i in range(1, 7)]
    images = [make_image(i) for i in range(1, 7)]
    dataset = load(tmp_path, images, entries)
    assert sum(len(r.annotations) for r in dataset.records) == 6
    assert dataset.skipped == {}
    assert dataset.notes == (
        "6 annotations are marked iscrowd=1 and read as objects, since the file marks run lengths, not crowds; "
        "reference.crowd_marks=believe leaves them out",
    )
    believed = load_coco_reference(reference(tmp_path, evaluation_share=0.5, crowd_marks="believe"))
    assert believed.train.skipped == {"crowd": 6}
    assert believed.train.notes == ("6 annotations are marked iscrowd=1 and left out; reference.crowds=use reads them",)


@pytest.mark.parametrize(("mark", "number"), [("0", 1), ("1", 0), (True, 0), (False, 1), (None, 1)])
def test_marks_in_other_types(tmp_path: Path, mark: Any, number: int) -> None:
    dataset = load(tmp_path, [make_image(1)], [make_entry(1, segmentation=[POLYGON], iscrowd=mark)])
    assert len(dataset.records[0].annotations) == number


# One file


def test_one_file_is_split_by_picture(tmp_path: Path) -> None:
    write(
        tmp_path,
        [make_image(i) for i in range(1, 10)],
        [make_entry(i, i, segmentation=[POLYGON]) for i in range(1, 10)],
    )
    asked = reference(tmp_path, evaluation_share=0.34)
    both = load_coco_reference(asked, 3)
    keys = [{r.key for r in part.records} for part in (both.train, both.evaluation)]
    assert [len(k) for k in keys] == [6, 3]
    assert keys[0] | keys[1] == {f"{i}.jpg" for i in range(1, 10)}
    assert both.train.concepts == both.evaluation.concepts == ("dog", "cup")
    assert load_coco_reference(asked, 3) == both
    assert load_coco_reference(asked, 4) != both
    same = {"evaluation_images": ".", "evaluation_annotations": "./labels.json"}
    for settings in (same, {"evaluation_annotations": None}):
        found = load_coco_reference(reference(tmp_path, **settings), 3)
        assert [len(found.train.records), len(found.evaluation.records)] == [7, 2]


def test_a_share_beside_a_second_file() -> None:
    with pytest.raises(
        ValueError, match="evaluation_share splits train_annotations by picture, found evaluation_annot"
    ):
        reference(Path(), evaluation_share=0.5, evaluation_annotations="other.json")
    assert reference(Path(), evaluation_share=0.5, evaluation_annotations="labels.json").is_split


# Sizes


def test_labels_of_resized_pictures(tmp_path: Path) -> None:
    images = [make_image(1, height=2 * H, width=2 * W), make_image(2)]
    entries = [make_entry(1, segmentation=[[2 * v for v in POLYGON]]), make_entry(2, bbox=[10, 6, 24, 12])]
    dataset = load(tmp_path, images, entries)
    masks = [a.make_mask(H, W) for a in dataset.records[0].annotations]
    expected = np.zeros((H, W), dtype=bool)
    expected[3:9, 5:17] = True
    assert all((mask == expected).all() for mask in masks)
    assert "labels of 1 pictures were scaled to these, for example '1.jpg'" in dataset.notes


def test_labels_of_another_shape_are_refused_at_loading(tmp_path: Path) -> None:
    images = [make_image(1, height=W, width=H), make_image(2)]
    with pytest.raises(UserError, match=r"labels\.json: 1 of 1 pictures have another shape than their labels"):
        load(tmp_path, images, [make_entry(1, segmentation=[POLYGON])])
    assert load(tmp_path, images, [make_entry(1, 2, segmentation=[POLYGON])]).records[1].annotations


def test_labels_of_a_turned_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (W, H)).save(tmp_path / "1.jpg", exif=exif)
    dataset = load(tmp_path, [make_image(1)], [make_entry(1, segmentation=[[0, 0, 4, 0, 4, 2, 0, 2]])])
    mask = dataset.records[0].annotations[0].make_mask(W, H)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 3, H - 2, H - 1)
    assert dataset.notes == ("labels of 1 pictures were turned as EXIF turns these, for example '1.jpg'",)


@pytest.mark.parametrize("size", [{"height": None, "width": None}, {"height": 0, "width": 0}])
def test_sizes_that_the_file_does_not_say(tmp_path: Path, size: dict[str, Any]) -> None:
    dataset = load(tmp_path, [make_image(1, **size)], [make_entry(1, segmentation=[POLYGON])])
    assert dataset.records[0].annotations[0].make_mask(H, W).sum() == 12 * 6
    gone = load(tmp_path, [make_image(1), make_image(11, **size)], [make_entry(1, 11, segmentation=[POLYGON])])
    assert gone.skipped == {"mask on a picture of unknown size": 1}
    assert gone.notes == ("1 of 2 pictures are not there, for example '11.jpg'",)


@pytest.mark.parametrize(
    "size", [{"height": -1}, {"height": "x"}, {"height": None}, {"width": 1.5}, {"width": 10**6}, {"width": [1]}]
)
def test_sizes_that_are_none(tmp_path: Path, size: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"'1\.jpg' has the height .* and the width .*; allowed: both in whole pixels"):
        load(tmp_path, [make_image(1, **size)], [make_entry(1, segmentation=[POLYGON])])


# Coordinates


def test_coordinates_that_are_shares(tmp_path: Path) -> None:
    share = [v / (W, H)[i % 2] for i, v in enumerate(POLYGON)]
    entries = [
        make_entry(1, segmentation=[share]),
        make_entry(2, bbox=[5 / W, 3 / H, 12 / W, 6 / H]),
    ]
    dataset = load(tmp_path, [make_image(1)], entries)
    assert [a.make_mask(H, W).sum() for a in dataset.records[0].annotations] == [72, 72]
    assert "coordinates are shares of the picture's size" in dataset.notes


def test_some_coordinates_that_are_shares(tmp_path: Path) -> None:
    share = [v / 40 for v in POLYGON]
    pixels = [make_entry(10 + i, segmentation=[POLYGON]) for i in range(40)]
    one = load(tmp_path, [make_image(1)], [make_entry(1, segmentation=[share]), *pixels])
    assert one.skipped == {"mask within the first pixel": 1}
    assert len(one.records[0].annotations) == 40
    many = [make_entry(60 + i, segmentation=[share]) for i in range(40)]
    with pytest.raises(
        UserError, match=r"annotation 64: all coordinates are in 0\.\.1, as are those of others, but not"
    ):
        load(tmp_path, [make_image(1)], [*pixels, *many])


# Other tools


def test_lvis(tmp_path: Path) -> None:
    """Pictures by their address, words for negatives, categories with synonyms; the names stay as they are."""
    image = {
        "id": 1,
        "coco_url": "http://images.cocodataset.org/train2017/1.jpg",
        "height": H,
        "width": W,
        "neg_category_ids": [2],
        "not_exhaustive_category_ids": [],
    }
    categories = [
        {"id": 1, "name": "cap_(headwear)", "synset": "cap.n.01", "synonyms": ["cap"], "def": "x", "frequency": "f"},
        {"id": 2, "name": "hot_dog", "synset": "hotdog.n.02", "synonyms": ["hot_dog"], "def": "x", "frequency": "c"},
    ]
    folder = tmp_path / "train2017"
    folder.mkdir()
    dataset = load(folder, [image], [make_entry(1, segmentation=[POLYGON], bbox=[5, 3, 12, 6])], categories)
    assert [(r.key, r.path) for r in dataset.records] == [("1.jpg", folder / "1.jpg")]
    assert dataset.concepts == ("cap_(headwear)", "hot_dog")
    assert dataset.count_images_with() == {"cap_(headwear)": 1}
    above = load_coco_instances(tmp_path, folder / "labels.json", "data")
    assert [r.key for r in above.records] == ["train2017/1.jpg"]


def test_the_first_category_of_roboflow(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "dog", "supercategory": "animals"},
        {"id": 2, "name": "cup", "supercategory": "animals"},
    ]
    entry = make_entry(1, bbox=[1, 1, 5, 5], segmentation=[])
    dataset = load(tmp_path, [make_image(1)], [entry], categories)
    assert dataset.concepts == ("dog", "cup")
    assert "the category 'animals' is the data set's name, with no object, and left out" in dataset.notes
    used = load(tmp_path, [make_image(1)], [entry, {**entry, "id": 2, "category_id": 0}], categories)
    assert used.concepts == ("animals", "dog", "cup")
    flat = [{**c, "supercategory": "none"} for c in categories]
    assert load(tmp_path, [make_image(1)], [entry], flat).concepts == ("animals", "dog", "cup")


def test_a_root_category_that_one_part_uses_stays_in_both(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "top", "supercategory": "none"}, {"id": 1, "name": "dog", "supercategory": "top"}]
    for part, category, number in (("train", 1, 1), ("valid", 0, 2)):
        (tmp_path / part).mkdir()
        entry = make_entry(1, number, category, bbox=[1, 1, 5, 5])
        write(tmp_path / part, [make_image(number)], [entry], categories)
    settings = {
        f"{key}_{name}": f"{part}{rest}"
        for key, part in (("train", "train"), ("evaluation", "valid"))
        for name, rest in (("images", ""), ("annotations", "/labels.json"))
    }
    both = load_coco_reference(reference(tmp_path, **settings))
    assert both.train.concepts == both.evaluation.concepts == ("top", "dog")


def test_byte_order_mark(tmp_path: Path) -> None:
    file = write(tmp_path, [make_image(1)], [make_entry(1, segmentation=[POLYGON])], mark="\ufeff")
    assert len(load_coco_instances(tmp_path, file, "data").records[0].annotations) == 1


def test_no_picture_is_there(tmp_path: Path) -> None:
    images = [make_image(1, file_name="images/x.jpg"), make_image(2, file_name="images/y.jpg")]
    with pytest.raises(
        UserError, match=r"none of its 2 pictures is below .*, for example 'images/x\.jpg'; set the fold"
    ):
        load(tmp_path, images, [])


def test_two_names_of_one_file(tmp_path: Path) -> None:
    images = [make_image(1), make_image(2, file_name="upload/1.jpg")]
    with pytest.raises(UserError, match=r"'1\.jpg' stands under two image ids"):
        load(tmp_path, images, [])


@pytest.mark.parametrize(("pointer", "value"), [("image_id", None), ("category_id", [1]), ("category_id", {})])
def test_pointers_that_are_none(tmp_path: Path, pointer: str, value: Any) -> None:
    with pytest.raises(UserError, match=r"labels\.json: (annotation 1 points to None|not COCO instances \(unhashable)"):
        load(tmp_path, [make_image(1)], [{**make_entry(1), pointer: value}])


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"images": [{"id": 1}], "annotations": [], "categories": []}', "1" * 5000]
)
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(UserError, match=r"labels\.json: not COCO instances"):
        load_coco_instances(tmp_path, tmp_path / "labels.json", "data")
