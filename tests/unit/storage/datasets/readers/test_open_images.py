"""Open Images: CSV files as V7 has them, made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import OpenImagesReference
from lavise.storage.datasets.base import Reference
from lavise.storage.datasets.readers.open_images import load_open_images

H, W = 20, 40
BOXES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
MASKS = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
LABELS = "ImageID,Source,LabelName,Confidence"


def write_set(root: Path) -> None:
    """Three pictures to train on and one to evaluate on: a dog with a mask, a cup, a group, a depicted dog."""
    for part, names in (("train", "abc"), ("validation", "z")):
        (root / part).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (W, H)).save(root / part / f"{name}.jpg")
    (root / "oidv7-class-descriptions-boxable.csv").write_text(
        'LabelName,DisplayName\n/m/1,Dog\n/m/2,"Cup, small"\n/m/3,Animal\n'
    )
    rows = [
        "a,xclick,/m/1,1,0.1000004,0.3,0.25,0.75,0,0,0,0,0",
        "a,xclick,/m/2,1,0.5,0.75,0,1,1,0,0,0,0",
        "b,xclick,/m/1,1,0,1,0,1,0,0,1,0,0",
        "b,xclick,/m/1,1,0,0.5,0,0.5,-1,0,0,1,0",
        "nowhere,xclick,/m/1,1,0,1,0,1,0,0,0,0,0",
        "b,xclick,/m/9,1,0,1,0,1,0,0,0,0,0",
        "b,xclick,/m/1,1,0.5,0.5,0,0.5,0,0,0,0,0",
    ]
    write_rows(root / "oidv6-train-annotations-bbox.csv", BOXES, *rows)
    write_rows(root / "validation-annotations-bbox.csv", BOXES, "z,xclick,/m/1,1,0,0.5,0,1,0,0,0,0,0")
    (root / "masks" / "0").mkdir(parents=True)
    mask = np.zeros((H // 2, W // 2), dtype=bool)
    mask[3:7, 2:6] = True
    Image.fromarray(mask).save(root / "masks" / "0" / "a_m1_1f.png")
    write_rows(
        root / "train-masks.csv",
        MASKS,
        "a_m1_1f.png,a,/m/1,1f,0.100000,0.300000,0.250000,0.750000,0.9,",
        "none.png,a,/m/1,2f,,,,,,",
    )
    write_rows(root / "train-labels.csv", LABELS, "a,v,/m/3,1", "a,v,/m/2,0", "b,v,/m/3,0.6", "nowhere,v,/m/3,1")


def write_rows(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n", "utf-8")


def load(root: Path, **changes: Any) -> Reference:
    return load_open_images(OpenImagesReference.model_validate({"kind": "open_images", "root": root, **changes}), 0)


def concepts(both: Reference) -> dict[str, list[str]]:
    return {r.key: [a.concept for a in r.annotations] for part in (both.train, both.evaluation) for r in part.records}


def test_boxes(tmp_path: Path) -> None:
    write_set(tmp_path)
    both = load(tmp_path)
    assert concepts(both) == {
        "train/a.jpg": ["Dog", "Cup, small"],
        "train/b.jpg": ["Dog"],
        "validation/z.jpg": ["Dog"],
    }
    expected = np.zeros((H, W), dtype=bool)
    expected[:, 20:30] = True
    np.testing.assert_array_equal(both.train.records[0].annotations[1].make_mask(H, W), expected)
    assert both.train.skipped == {
        "crowd": 1,
        "row of a picture that is not there": 1,
        "label without a name": 1,
        "object with an empty box": 1,
        "picture that no row is of": 1,
    }


def test_masks_stand_for_their_boxes(tmp_path: Path) -> None:
    write_set(tmp_path)
    both = load(tmp_path, train_masks="train-masks.csv")
    assert concepts(both)["train/a.jpg"] == ["Dog", "Cup, small"]
    expected = np.zeros((H, W), dtype=bool)
    expected[6:14, 4:12] = True  # twice the size of its file
    np.testing.assert_array_equal(both.train.records[0].annotations[0].make_mask(H, W), expected)
    assert both.train.skipped["mask without a file"] == 1
    boxes = load(tmp_path, train_masks="train-masks.csv", masks="box")
    assert boxes.train.records[0].annotations[0].boxes


def test_crowds_and_marks(tmp_path: Path) -> None:
    write_set(tmp_path)
    both = load(tmp_path, crowds="use", leave_out=["depiction", "occluded"])
    assert concepts(both)["train/b.jpg"] == ["Dog"]
    assert both.train.records[1].annotations[0].make_mask(H, W).all()
    assert both.train.skipped["box with IsDepiction"] == both.train.skipped["box with IsOccluded"] == 1


def test_labels_of_whole_pictures(tmp_path: Path) -> None:
    write_set(tmp_path)
    both = load(tmp_path, train_labels="train-labels.csv")
    assert concepts(both)["train/a.jpg"] == ["Dog", "Cup, small", "Animal"]
    assert both.train.records[0].annotations[2].make_mask(H, W).all()
    assert both.train.skipped["label that is not in its picture (Confidence 0)"] == 1
    assert both.train.skipped["label of less confidence than reference.min_confidence"] == 1
    machine = load(tmp_path, train_labels="train-labels.csv", min_confidence=0.5)
    assert concepts(machine)["train/b.jpg"] == ["Dog", "Animal"]


def test_parents(tmp_path: Path) -> None:
    write_set(tmp_path)
    below = {"LabelName": "/m/3", "Subcategory": [{"LabelName": "/m/1"}], "Part": [{"LabelName": "/m/2"}]}
    (tmp_path / "h.json").write_text(json.dumps({"LabelName": "/m/0entity", "Subcategory": [below]}))
    assert concepts(load(tmp_path, hierarchy="h.json"))["train/a.jpg"] == ["Dog", "Cup, small"]
    both = load(tmp_path, hierarchy="h.json", parents="use")
    assert concepts(both)["train/a.jpg"] == ["Dog", "Animal", "Cup, small"]
    assert both.train.records[0].annotations[0].boxes == both.train.records[0].annotations[1].boxes
    (tmp_path / "h.json").write_text("[]")
    with pytest.raises(UserError, match=r"h\.json: found an entry without LabelName; allowed: Open Images' hierarchy"):
        load(tmp_path, hierarchy="h.json", parents="use")


def test_one_part_and_the_older_table_of_names(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_rows(tmp_path / "oidv7-class-descriptions-boxable.csv", "/m/1,Dog", "/m/2,Cup")
    both = load(tmp_path, evaluation_images=None, evaluation_share=0.5)
    assert sorted(concepts(both)) == ["train/a.jpg", "train/b.jpg"]
    assert len(both.train.records) == len(both.evaluation.records) == 1
    assert both.train.concepts == ("Cup", "Dog")


def test_masks_only(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_rows(tmp_path / "validation-masks.csv", MASKS, "a_m1_1f.png,z,/m/1,1f,,,,,,")
    both = load(tmp_path, train_masks="train-masks.csv", evaluation_masks="validation-masks.csv", masks="segmentation")
    assert concepts(both) == {"train/a.jpg": ["Dog"], "validation/z.jpg": ["Dog"]}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "oidv6-train-annotations-bbox.csv",
            "a,x,/m/1,1,0,20,0,1,0,0,0,0,0",
            r"line 2: found '0', '20', '0', '1' as a box; a",
        ),
        (
            "oidv6-train-annotations-bbox.csv",
            "a,x,/m/1,1,x,1,0,1,0,0,0,0,0",
            r"line 2: found 'x', '1', '0', '1' as a box",
        ),
        ("train-labels.csv", "a,v,/m/1,much", r"line 2: Confidence: found 'much'; allowed: a number of 0 to 1"),
    ],
)
def test_rows_that_cannot_be_read(tmp_path: Path, name: str, line: str, message: str) -> None:
    write_set(tmp_path)
    write_rows(tmp_path / name, BOXES if "bbox" in name else LABELS, line)
    with pytest.raises(UserError, match=message):
        load(tmp_path, train_labels="train-labels.csv")


def test_files_that_are_wrong(tmp_path: Path) -> None:
    write_set(tmp_path)
    with pytest.raises(UserError, match=r"^reference\.train_masks: found '.*none\.csv', which is no file"):
        load(tmp_path, train_masks="none.csv")
    with pytest.raises(UserError, match=r"leads out of"):
        load(tmp_path, train_labels="../x.csv")
    with pytest.raises(UserError, match=r"^reference\.mask_folders: found '.*elsewhere', which is no folder"):
        load(tmp_path, train_masks="train-masks.csv", mask_folders=["elsewhere"])
    (tmp_path / "masks" / "0" / "a_m1_1f.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a_m1_1f\.png: not readable: no PNG picture; allowed: a PNG file of a mask"):
        load(tmp_path, train_masks="train-masks.csv")
    with pytest.raises(
        UserError, match=r"^reference\.evaluation_images: found 'train', which is reference\.train_image"
    ):
        load(tmp_path, evaluation_images="train")
    write_rows(tmp_path / "oidv7-class-descriptions-boxable.csv", "Dog")
    with pytest.raises(UserError, match=r"boxable\.csv: not a table of names; allowed: LabelName,DisplayName"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parents": "use"}, "parents 'use' needs hierarchy, found none"),
        ({"masks": "segmentation"}, "masks 'segmentation' needs train_masks, found none"),
        ({"masks": "box", "train_boxes": None}, "masks 'box' needs train_boxes, found none"),
        ({"train_boxes": None}, "one of train_boxes, train_masks and train_labels must be given, found none"),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenImagesReference.model_validate({"kind": "open_images", "root": "r", **changes})
