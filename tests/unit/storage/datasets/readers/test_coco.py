"""Real COCO folders: pictures, and instances JSON as the COCO API reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from lavise.configs.errors import UserError
from lavise.configs.schema import CocoReference
from lavise.storage.array_types import BoolArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.readers.coco import load_coco_instances, load_coco_reference

H, W = 20, 32
CATEGORIES = [
    {"id": 18, "name": "dog", "supercategory": "animal"},
    {"id": 1, "name": "person", "supercategory": "person"},
    {"id": 58, "name": "hot dog", "supercategory": "food"},
]


def uncompressed(mask: BoolArray) -> dict[str, Any]:
    """Run lengths down the columns, starting with the number of zeros: the format's definition, written out."""
    counts, value, run = [], False, 0
    for pixel in mask.T.reshape(-1):
        if bool(pixel) != value:
            counts.append(run)
            value, run = not value, 0
        run += 1
    return {"size": list(mask.shape), "counts": [*counts, run]}


def compressed(mask: BoolArray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def image(number: int, name: str | None = None) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number:012d}.jpg", "height": H, "width": W, "license": 1}


def annotation(number: int, image_id: int, segmentation: Any, category: int = 18, crowd: int = 0) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
        "area": 1.0,
        "bbox": [0, 0, 1, 1],
    }


def write_split(
    root: Path, split: str, images: list[Any], annotations: list[Any], categories: list[Any] | None = None
) -> tuple[Path, Path]:
    """(folder of pictures, instances file) in COCO's own layout."""
    folder, file = root / split, root / "annotations" / f"instances_{split}.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.parent.mkdir(exist_ok=True)
    for entry in images:
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name.endswith(".jpg") and "/" not in name:
            Image.new("RGB", (W, H), (50, 100, 150)).save(folder / name)
    content: dict[str, Any] = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    file.write_text(json.dumps({**content, "categories": CATEGORIES if categories is None else categories}))
    return folder, file


def load(root: Path, images: list[Any], annotations: list[Any], **options: Any) -> Dataset:
    folder, file = write_split(root, "train2017", images, annotations, options.pop("categories", None))
    return load_coco_instances(folder, file, "coco/train2017", **options)


def only_mask(dataset: Dataset) -> BoolArray:
    ((found,),) = (record.annotations for record in dataset.records)
    return found.make_mask(H, W)


# Masks


def test_polygon_vs_brute_force(tmp_path: Path) -> None:
    """A rectangle with whole-number corners is exactly the pixels in it."""
    x0, y0, x1, y1 = 5, 3, 17, 9
    mask = only_mask(load(tmp_path, [image(1)], [annotation(1, 1, [[x0, y0, x1, y0, x1, y1, x0, y1]])]))
    expected = [[x0 <= x < x1 and y0 <= y < y1 for x in range(W)] for y in range(H)]
    assert mask.tolist() == expected


def test_slanted_polygon_is_near_what_pil_fills(tmp_path: Path) -> None:
    corners = [4.0, 2.5, 28.5, 6.0, 20.0, 18.0, 6.5, 14.0]
    mask = only_mask(load(tmp_path, [image(1)], [annotation(1, 1, [corners])]))
    canvas = Image.new("L", (W * 8, H * 8))
    ImageDraw.Draw(canvas).polygon([c * 8 for c in corners], fill=255)
    expected = np.asarray(canvas).reshape(H, 8, W, 8).mean(axis=(1, 3)) > 127
    assert (mask & expected).sum() / (mask | expected).sum() > 0.93


def test_polygons_of_one_object_are_united(tmp_path: Path) -> None:
    left, right = [2, 2, 8, 2, 8, 6, 2, 6], [20, 10, 24, 10, 24, 14, 20, 14]
    mask = only_mask(load(tmp_path, [image(1)], [annotation(1, 1, [left, right])]))
    assert mask[2:6, 2:8].all()
    assert mask[10:14, 20:24].all()
    assert mask.sum() == 6 * 4 + 4 * 4


@pytest.mark.parametrize("form", [uncompressed, compressed])
def test_run_lengths(tmp_path: Path, form: Any) -> None:
    mask = np.random.default_rng(0).random((H, W)) < 0.5
    mask[0, 0] = False
    assert (only_mask(load(tmp_path, [image(1)], [annotation(1, 1, form(mask))])) == mask).all()


def test_run_lengths_that_begin_with_a_one(tmp_path: Path) -> None:
    mask = np.zeros((H, W), dtype=bool)
    mask[:3, 0] = True
    assert uncompressed(mask)["counts"][:2] == [0, 3]
    assert (only_mask(load(tmp_path, [image(1)], [annotation(1, 1, uncompressed(mask))])) == mask).all()


def test_same_mask_in_every_form_is_the_same_data_set(tmp_path: Path) -> None:
    mask = np.zeros((H, W), dtype=bool)
    mask[3:9, 5:17] = True
    forms: list[Any] = [[[5, 3, 17, 3, 17, 9, 5, 9]], uncompressed(mask), compressed(mask)]
    loaded = [load(tmp_path / str(n), [image(1)], [annotation(1, 1, form)]) for n, form in enumerate(forms)]
    assert all((only_mask(d) == mask).all() for d in loaded)
    assert len({d.compute_digest() for d in loaded}) == 1


@pytest.mark.parametrize(("use_crowds", "num_masks", "skipped"), [(False, 1, {"crowd": 1}), (True, 2, {})])
def test_crowds(tmp_path: Path, use_crowds: bool, num_masks: int, skipped: dict[str, int]) -> None:
    mask = np.zeros((H, W), dtype=bool)
    mask[10:, :] = True
    entries = [
        annotation(1, 1, [[5, 3, 17, 3, 17, 9, 5, 9]]),
        annotation(900100, 1, uncompressed(mask), category=1, crowd=1),
    ]
    dataset = load(tmp_path, [image(1)], entries, use_crowds=use_crowds)
    assert dataset.skipped == skipped
    found = dataset.records[0].annotations
    assert len(found) == num_masks
    if use_crowds:
        assert found[1].concept == "person"
        assert (found[1].make_mask(H, W) == mask).all()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "no mask"),
        ([], "no mask"),
        ([[1, 1, 5, 5]], "no mask"),
        ([[]], "no mask"),
        ({"size": [W, H], "counts": [0, W * H]}, "mask of another size"),
    ],
    ids=["none", "empty", "two points", "no points", "size of another picture"],
)
def test_annotation_without_a_usable_mask_is_skipped_and_counted(
    tmp_path: Path, segmentation: Any, reason: str
) -> None:
    good = annotation(2, 1, [[5, 3, 17, 3, 17, 9, 5, 9]])
    dataset = load(tmp_path, [image(1)], [annotation(1, 1, segmentation), good], masks="segmentation")
    assert dataset.skipped == {reason: 1}
    assert only_mask(dataset).sum() == 12 * 6


@pytest.mark.parametrize(
    "segmentation",
    [
        "text",
        5,
        [["a", "b", "c", "d", "e", "f"]],
        [1, 1, 5, 1, 5, 5],
        [[[1, 1], [5, 1], [5, 5]]],
        {"counts": [0, H * W]},
        {"counts": "abc"},
        {"size": [H, W]},
        {"size": [H, W], "counts": [-5, H * W + 5]},
        {"size": [H, W], "counts": [1.5, "x"]},
    ],
    ids=[
        "text",
        "number",
        "letters",
        "flat list",
        "pairs",
        "no size",
        "compressed without size",
        "no counts",
        "negative count",
        "counts that are no numbers",
    ],
)
def test_segmentation_that_is_none_is_named(tmp_path: Path, segmentation: Any) -> None:
    with pytest.raises(UserError, match=r"annotation 77: segmentation is neither polygons nor run lengths"):
        load(tmp_path, [image(1)], [annotation(77, 1, segmentation)])


def test_run_lengths_of_too_many_pixels_are_named(tmp_path: Path) -> None:
    broken = {"size": [H, W], "counts": [5, 100 * H * W]}
    with pytest.raises(UserError, match=r"annotation 1: segmentation has run lengths that add up to 64005 pixels"):
        load(tmp_path, [image(1)], [annotation(1, 1, broken)])


# Order, ids, names


def test_pictures_and_categories_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    polygon = [[5, 3, 17, 3, 17, 9, 5, 9]]
    entries = [annotation(9, 30, polygon, 58), annotation(2, 30, polygon, 1), annotation(5, 7, polygon, 18)]
    dataset = load(tmp_path, [image(30), image(7), image(100)], entries)
    assert dataset.name == "coco/train2017"
    assert dataset.concepts == ("person", "dog", "hot dog")
    assert [r.key for r in dataset.records] == ["000000000007.jpg", "000000000030.jpg", "000000000100.jpg"]
    assert [[a.concept for a in r.annotations] for r in dataset.records] == [["dog"], ["person", "hot dog"], []]
    assert all(r.file.is_file() for r in dataset.records)


def test_first_pictures_only(tmp_path: Path) -> None:
    polygon = [[5, 3, 17, 3, 17, 9, 5, 9]]
    entries = [annotation(1, 3, polygon), annotation(2, 1, polygon)]
    dataset = load(tmp_path, [image(3), image(2), image(1)], entries, max_images=2)
    assert [r.key for r in dataset.records] == ["000000000001.jpg", "000000000002.jpg"]
    assert dataset.count_images_with() == {"dog": 1}
    assert len(load(tmp_path, [image(1)], [], max_images=5).records) == 1


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "link.jpg", "nul\0.jpg"])
def test_hostile_file_names_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "train2017").mkdir()
    (tmp_path / "train2017" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    images = [{**image(1), "file_name": name}]
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": CATEGORIES}))
    with pytest.raises(UserError, match=r"^data set: file name .* leads out of .*train2017; allowed: names below that"):
        load_coco_instances(tmp_path / "train2017", file, "coco")


@pytest.mark.parametrize("name", [5, None, ["a.jpg"]])
def test_file_name_that_is_no_text(tmp_path: Path, name: Any) -> None:
    with pytest.raises(UserError, match=r"file_name|file name"):
        load(tmp_path, [{**image(1), "file_name": name}], [])


def test_one_picture_under_two_ids(tmp_path: Path) -> None:
    """It would stand in the training part and in the held-out part at once."""
    with pytest.raises(UserError, match=r"same\.jpg"):
        load(tmp_path, [image(1, "same.jpg"), image(2, "same.jpg")], [])


@pytest.mark.parametrize(
    ("images", "annotations", "categories", "message"),
    [
        ([image(1), image(1, "b.jpg")], [], None, "an id stands twice in images"),
        ([image(1)], [annotation(1, 1, []), annotation(1, 1, [])], None, "an id stands twice in annotations"),
        ([image(1)], [], [*CATEGORIES, {"id": 18, "name": "x"}], "an id stands twice in categories"),
        ([image(1)], [], [*CATEGORIES, {"id": 2, "name": "dog"}], "category names stand twice: 'dog'"),
        ([image(1)], [annotation(4, 9, [[1, 1, 5, 1, 5, 5]])], None, "annotation 4 points to 9, which is no image or"),
        ([image(1)], [annotation(4, 1, [[1, 1, 5, 1, 5, 5]], 2)], None, "annotation 4 points to 2, which is no image"),
        ([], [], None, "no images; allowed: COCO instances with at least one"),
    ],
)
def test_ids_that_do_not_fit(
    tmp_path: Path, images: list[Any], annotations: list[Any], categories: list[Any] | None, message: str
) -> None:
    with pytest.raises(UserError, match=rf"instances_train2017\.json: {message}"):
        load(tmp_path, images, annotations, categories=categories)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "{}",
        '{"images": []}',
        '{"images": [], "annotations": []}',
        '{"images": [{"id": 1}], "annotations": [], "categories": []}',
        '{"images": [], "annotations": [{"id": 1}], "categories": []}',
        '{"images": [5], "annotations": [], "categories": []}',
        '{"images": 5, "annotations": [], "categories": []}',
        '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
    ],
)
def test_file_that_is_not_coco(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(
        UserError, match=r"a\.json: not COCO instances \(.*\); allowed: JSON with images, annotations, cate"
    ):
        load_coco_instances(tmp_path, tmp_path / "a.json", "x")


def test_captions_are_not_instances(tmp_path: Path) -> None:
    content = {"images": [image(1)], "annotations": [{"id": 1, "image_id": 1, "caption": "A dog."}]}
    (tmp_path / "captions.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"captions\.json: not COCO instances"):
        load_coco_instances(tmp_path, tmp_path / "captions.json", "x")


def test_reading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert load(tmp_path, [image(1)], []).records
    assert capfd.readouterr().out == ""


# Both splits


def reference(root: Path, **changes: Any) -> CocoReference:
    return CocoReference.model_validate({"kind": "coco", "root": root, **changes})


def test_both_splits(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    write_split(root, "train2017", [image(1), image(2)], [annotation(1, 1, [[5, 3, 17, 3, 17, 9, 5, 9]])])
    crowd = annotation(1, 3, uncompressed(np.ones((H, W), dtype=bool)), crowd=1)
    write_split(root, "val2017", [image(3)], [crowd])
    both = load_coco_reference(reference(root))
    assert (both.train.name, both.evaluation.name) == ("coco/train2017", "coco/val2017")
    assert (len(both.train.records), len(both.evaluation.records)) == (2, 1)
    assert both.train.count_images_with() == {"dog": 1}
    assert both.evaluation.skipped == {"crowd": 1}
    assert load_coco_reference(reference(root, crowds="use")).evaluation.count_images_with() == {"dog": 1}
    assert len(load_coco_reference(reference(root, max_images=1)).train.records) == 1


def test_picture_in_both_splits(tmp_path: Path) -> None:
    write_split(tmp_path, "train2017", [image(1), image(2)], [])
    write_split(tmp_path, "val2017", [image(1), image(2)], [])
    names = {"evaluation_images": "train2017"}
    with pytest.raises(
        UserError, match=r"^reference: 2 pictures are in both splits, for example 000000000001\.jpg; allowed"
    ):
        load_coco_reference(reference(tmp_path, **names))


def test_picture_in_both_splits_through_a_link(tmp_path: Path) -> None:
    write_split(tmp_path, "train2017", [image(1), image(2)], [])
    write_split(tmp_path, "val2017", [image(2)], [])
    (tmp_path / "train2017" / "000000000002.jpg").unlink()
    (tmp_path / "val2017" / "000000000002.jpg").rename(tmp_path / "train2017" / "000000000002.jpg")
    (tmp_path / "val2017").rmdir()
    (tmp_path / "val2017").symlink_to(tmp_path / "train2017")
    with pytest.raises(UserError, match=r"1 pictures are in both splits, for example 000000000002\.jpg"):
        load_coco_reference(reference(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"root": "none"},
            r"^reference\.root: found 'none', which is no folder; set it, .* --set reference\.root=PATH$",
        ),
        ({"train_images": "x"}, r"^reference\.train_images: found '.*x', which is no folder"),
        ({"evaluation_images": "x"}, r"^reference\.evaluation_images: found '.*x', which is no folder"),
        ({"train_annotations": "x"}, r"^reference\.train_annotations: found '.*x', which is no file"),
        ({"evaluation_annotations": "x"}, r"^reference\.evaluation_annotations: found '.*x', which is no file"),
    ],
)
def test_missing_parts_are_named(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    write_split(tmp_path, "train2017", [image(1)], [])
    write_split(tmp_path, "val2017", [image(2)], [])
    with pytest.raises(UserError, match=message):
        load_coco_reference(CocoReference.model_validate({"kind": "coco", "root": tmp_path, **changes}))
