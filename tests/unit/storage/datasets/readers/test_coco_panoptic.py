"""COCO panoptic: a JSON file, and PNGs whose colours are numbers of segments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.schema import CocoPanopticReference
from lavise.storage.array_types import IntArray
from lavise.storage.datasets.base import Dataset, Reference
from lavise.storage.datasets.formats import find_format
from lavise.storage.datasets.readers.coco_panoptic import find_segment_ids, load_coco_panoptic_reference

H, W = 20, 32
CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 193, "name": "grass-merged", "isthing": 0},
    {"id": 200, "name": "wall-other-merged", "isthing": 0},
]
# Numbers that need one, two and three colours.
SMALL, MIDDLE, LARGE = 7, 300, 3_226_956


def draw_ids() -> IntArray:
    ids = np.full((H, W), MIDDLE, dtype=np.int64)
    ids[2:8, 4:14] = SMALL
    ids[10:12, 20:25] = LARGE
    ids[0] = 0
    return ids


def save_png(path: Path, ids: IntArray) -> None:
    """Red is the lowest byte, then green, then blue."""
    pixels = np.array([[[n % 256, n // 256 % 256, n // 65536] for n in row] for row in ids.tolist()], dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_segments(crowd: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": LARGE, "category_id": 1, "iscrowd": crowd, "area": 10, "bbox": [20, 10, 5, 2]},
        {"id": MIDDLE, "category_id": 193, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
        {"id": SMALL, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]},
    ]


def write(root: Path, **changes: Any) -> Path:
    """Six pictures, of which the last has no segments."""
    images, annotations = [], []
    (root / "train2017").mkdir(parents=True, exist_ok=True)
    for number in range(1, 7):
        Image.new("RGB", (W, H)).save(root / "train2017" / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "height": H, "width": W})
        if number < 6:
            save_png(root / "annotations" / "panoptic_train2017" / f"{number}.png", draw_ids())
            entry = {"image_id": number, "file_name": f"{number}.png", "segments_info": make_segments()}
            annotations.append({**entry, **(changes if number == 1 else {})})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "annotations" / "panoptic_train2017.json").write_text(json.dumps(content))
    return root


def load(root: Path, **more: Any) -> Reference:
    settings = {"kind": "coco_panoptic", "root": root, "evaluation_share": 0.4, **more}
    return load_coco_panoptic_reference(CocoPanopticReference.model_validate(settings))


def find_record(reference: Reference, key: str) -> Any:
    return next(r for part in (reference.train, reference.evaluation) for r in part.records if r.key == key)


def test_segments_are_masks(tmp_path: Path) -> None:
    read = load(write(tmp_path))
    assert (len(read.train.records), len(read.evaluation.records)) == (4, 2)
    assert read.train.concepts == ("person", "grass-merged", "wall-other-merged")
    assert read.train.skipped == {}
    found = find_record(read, "1.jpg").annotations
    assert [a.concept for a in found] == ["person", "grass-merged", "person"]
    for annotation, number in zip(found, (LARGE, MIDDLE, SMALL), strict=True):
        assert (annotation.make_mask(H, W) == (draw_ids() == number)).all()
    assert find_record(read, "6.jpg").annotations == ()


def test_numbers_of_colours(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", draw_ids())
    assert (find_segment_ids(tmp_path / "a.png") == draw_ids()).all()
    Image.open(tmp_path / "a.png").convert("RGBA").save(tmp_path / "b.png")
    assert (find_segment_ids(tmp_path / "b.png") == draw_ids()).all()


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_pngs_of_other_kinds(tmp_path: Path, mode: str) -> None:
    root = write(tmp_path)
    Image.new(mode, (W, H)).save(root / "annotations" / "panoptic_train2017" / "1.png")
    with pytest.raises(UserError, match=r"1\.png: not a PNG of segments \(its mode is .*\); allowed: RGB with 8 bits"):
        load(root)


def test_png_that_is_none(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "annotations" / "panoptic_train2017" / "1.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"1\.png: not a PNG of segments"):
        load(root)


def test_crowds_are_skipped_or_used(tmp_path: Path) -> None:
    root = write(tmp_path, segments_info=make_segments(crowd=1))
    read = load(root)
    assert read.train.skipped == {"crowd": 1}
    assert read.train.list_left_out() == [], "the note below tells it"
    assert read.train.notes == ("1 segments are crowds and left out; reference.crowds=use reads them",)
    assert [a.concept for a in find_record(read, "1.jpg").annotations] == ["grass-merged", "person"]
    assert len(find_record(load(root, crowds="use"), "1.jpg").annotations) == 3


def test_what_json_and_png_do_not_share_is_counted(tmp_path: Path) -> None:
    segments = [*make_segments()[:2], {"id": 99, "category_id": 200}]
    read = load(write(tmp_path, segments_info=segments))
    assert read.train.skipped == {"segment without pixels": 1, "segment that the JSON does not list": 1}


def test_labels_of_resized_pictures(tmp_path: Path) -> None:
    root = write(tmp_path)
    Image.new("RGB", (2 * W, 2 * H)).save(root / "train2017" / "1.jpg")
    mask = find_record(load(root), "1.jpg").annotations[2].make_mask(2 * H, 2 * W)
    assert (mask == np.kron(draw_ids() == SMALL, np.ones((2, 2), dtype=bool))).all()


def test_pngs_that_are_not_there(tmp_path: Path) -> None:
    root = write(tmp_path)
    folder = root / "annotations" / "panoptic_train2017"
    (folder / "1.png").unlink()
    assert load(root).train.skipped == {"picture without its PNG": 1}
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(
        UserError, match=r"none of its 5 PNGs is in .*panoptic_train2017, for example '1\.png'; set ref"
    ):
        load(root)
    folder.rmdir()
    with pytest.raises(UserError, match=r"^reference\.train_masks: found .*panoptic_train2017', which is no folder"):
        load(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": "../../secret.png"}, r"file name '\.\./\.\./secret\.png' leads out of"),
        ({"image_id": 2}, r"image_id 2 stands twice in annotations, or in no image of the file"),
        ({"image_id": 99}, r"image_id 99 stands twice in annotations, or in no image"),
        ({"segments_info": None}, r"not COCO panoptic: image_id 1 has no usable segments_info"),
        ({"segments_info": [5]}, r"image_id 1 has no usable segments_info"),
        ({"segments_info": [{"id": "x", "category_id": 1}]}, r"image_id 1 has no usable segments_info"),
        ({"segments_info": [{"id": 5, "category_id": 2}]}, r"image_id 1 has the category 2, which the file does not"),
        ({"segments_info": [{"id": 5, "category_id": 1}] * 2}, r"image_id 1 has a segment's id twice"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, **changes))


def test_png_of_another_size(tmp_path: Path) -> None:
    root = write(tmp_path)
    save_png(root / "annotations" / "panoptic_train2017" / "1.png", draw_ids()[:-1])
    with pytest.raises(UserError, match=r"'1\.png' has 32 x 19 pixels, its picture 32 x 20 \(width x height\)"):
        load(root)


def test_instances_are_not_panoptic(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "annotations" / "panoptic_train2017.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(UserError, match=r"not COCO panoptic \('categories'\); allowed: JSON with images"):
        load(root)


def test_files_that_are_needed(tmp_path: Path) -> None:
    settings = CocoPanopticReference(kind="coco_panoptic", root=tmp_path)
    assert find_format("coco_panoptic").list_files(settings) == {
        "train_images": ("train2017",),
        "train_annotations": ("annotations/panoptic_train2017.json",),
        "train_masks": ("annotations/panoptic_train2017",),
        "evaluation_images": ("val2017",),
        "evaluation_annotations": ("annotations/panoptic_val2017.json",),
        "evaluation_masks": ("annotations/panoptic_val2017",),
    }
    split = settings.model_copy(update={"evaluation_share": 0.5, "train_masks": "masks"})
    assert set(find_format("coco_panoptic").list_files(split)) == {"train_images", "train_annotations", "train_masks"}


def test_both_splits_have_their_own_masks(tmp_path: Path) -> None:
    root = write(tmp_path)
    for name in ("train2017", "annotations/panoptic_train2017", "annotations/panoptic_train2017.json"):
        other = root / name.replace("train2017", "val2017")
        (root / name).rename(other)
    for path in (root / "val2017").iterdir():
        path.rename(path.with_name(f"v{path.name}"))
    file = root / "annotations" / "panoptic_val2017.json"
    file.write_text(file.read_text().replace('.jpg"', '.jpg"').replace('"file_name": "', '"file_name": "v'))
    for path in (root / "annotations" / "panoptic_val2017").iterdir():
        path.rename(path.with_name(f"v{path.name}"))
    write(root)
    read = load(root, evaluation_share=None)
    assert [len(part.records) for part in (read.train, read.evaluation)] == [6, 6]
    assert count_labels(read.train) == count_labels(read.evaluation) == 15


def count_labels(dataset: Dataset) -> int:
    return sum(len(r.annotations) for r in dataset.records)
