"""Pascal VOC in its true form, made here, and the loose form of tools."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import PascalVocReference
from lavise.storage.datasets.base import ImageRecord, Reference
from lavise.storage.datasets.readers.pascal_voc import load_pascal_voc

H, W = 12, 16
DOG, BOTTLE = 12, 5


def write_xml(path: Path, *objects: str, size: str = f"<size><width>{W}</width><height>{H}</height></size>") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{path.stem}.jpg</filename>{size}{''.join(objects)}</annotation>", "utf-8")


def box(name: str, corners: tuple[Any, Any, Any, Any], more: str = "") -> str:
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox>{more}</object>"


def write_picture(path: Path, size: tuple[int, int] = (W, H)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def write_map(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels.astype(np.uint8), mode="P")
    picture.putpalette([(7 * i) % 256 for i in range(768)])
    picture.save(path)


def write_devkit(root: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Four pictures; a and c have segmentations: two dogs and a bottle, with void around. Gives both maps."""
    classes, objects = np.zeros((H, W)), np.zeros((H, W))
    for number, (kind, rows, columns) in enumerate(
        [(DOG, slice(1, 5), slice(1, 4)), (DOG, slice(1, 5), slice(4, 8)), (BOTTLE, slice(6, 11), slice(9, 15))], 1
    ):
        classes[rows, columns], objects[rows, columns] = kind, number
    classes[0], objects[0] = 255, 255
    for name in "abcd":
        write_picture(root / "JPEGImages" / f"{name}.jpg")
        write_xml(
            root / "Annotations" / f"{name}.xml",
            box("dog", (2, 2, 4, 5)),
            box("dog", (5, 2, 8, 5), "<difficult>1</difficult>"),
            box("bottle", (10, 7, 15, 11), "<part><name>head</name><bndbox><xmin>10</xmin><ymin>7</ymin>"
                "<xmax>10</xmax><ymax>7</ymax></bndbox></part>"),
        )  # fmt: skip
    for name in "ac":
        write_map(root / "SegmentationClass" / f"{name}.png", classes)
        write_map(root / "SegmentationObject" / f"{name}.png", objects)
    for of, lists in {"Main": {"train": "ab", "val": "cd"}, "Segmentation": {"train": "a", "val": "c"}}.items():
        for part, names in lists.items():
            path = root / "ImageSets" / of / f"{part}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{name}  1\n" for name in names))
    return classes, objects


def load(root: Path, **changes: Any) -> Reference:
    return load_pascal_voc(PascalVocReference.model_validate({"kind": "pascal_voc", "root": root, **changes}), 0)


def masks_of(record: ImageRecord) -> list[tuple[str, np.ndarray[Any, Any]]]:
    return [(a.concept, a.make_mask(H, W)) for a in record.annotations]


def test_segmentation_is_exact(tmp_path: Path) -> None:
    _, objects = write_devkit(tmp_path)
    both = load(tmp_path, masks="segmentation")
    assert both.train.concepts == ("bottle", "dog")
    assert [r.key for r in (*both.train.records, *both.evaluation.records)] == ["JPEGImages/a.jpg", "JPEGImages/c.jpg"]
    found = masks_of(both.train.records[0])
    assert [name for name, _ in found] == ["dog", "dog", "bottle"]
    for number, (_, mask) in enumerate(found, start=1):
        np.testing.assert_array_equal(mask, objects == number)
    assert both.train.skipped == {}


def test_classes_without_objects_are_one_mask_each(tmp_path: Path) -> None:
    classes, _ = write_devkit(tmp_path)
    (tmp_path / "SegmentationObject" / "a.png").unlink()
    both = load(tmp_path, masks="segmentation")
    assert both.train.skipped == {}  # void is no class
    found = masks_of(both.train.records[0])
    assert [name for name, _ in found] == ["bottle", "dog"]
    for kind, (_, mask) in zip((BOTTLE, DOG), found, strict=True):
        np.testing.assert_array_equal(mask, classes == kind)


def test_boxes_count_pixels_from_1_and_hold_the_last(tmp_path: Path) -> None:
    _, objects = write_devkit(tmp_path)
    both = load(tmp_path, masks="box")
    assert [r.file.name for r in both.train.records] == ["a.jpg", "b.jpg"]
    for number, (_, mask) in enumerate(masks_of(both.train.records[0]), start=1):
        assert mask.sum() > 0
        if number < 3:
            np.testing.assert_array_equal(mask, objects == number)
    assert both.train.records[0].annotations[2].boxes == ((9, 6, 6, 5),)
    assert both.train.skipped == {"part of an object": 4}


def test_auto_takes_the_segmentation_where_there_is_one(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    both = load(tmp_path)
    a, b = both.train.records
    assert all(x.rle is not None for x in a.annotations)
    assert all(x.boxes for x in b.annotations)


def test_difficult_and_parts(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    both = load(tmp_path, masks="box", difficult="skip", parts="use")
    assert [a.concept for a in both.train.records[0].annotations] == ["dog", "bottle", "head"]
    assert both.train.records[0].annotations[2].make_mask(H, W).sum() == 1
    assert both.train.skipped == {"difficult object": 4}


def test_colours_of_a_label_map(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nhot dog:10,20,30::\nmug:::\n", "utf-8"
    )
    pixels = np.zeros((H, W, 3), dtype=np.uint8)
    pixels[2:4, 2:6], pixels[0], pixels[8, 8] = (10, 20, 30), (224, 224, 192), (0, 128, 0)
    pixels[9] = (9, 9, 9)
    Image.fromarray(pixels).save(tmp_path / "SegmentationClass" / "a.png")
    (tmp_path / "SegmentationObject" / "a.png").unlink()
    (tmp_path / "SegmentationClass" / "c.png").unlink()
    both = load(tmp_path)
    found = dict(masks_of(both.train.records[0]))
    assert set(found) == {"hot dog", "mug"}  # the third line's colour is that of 2 in VOC's palette: 0, 128, 0
    assert (found["hot dog"].sum(), found["mug"].sum()) == (8, 1)
    assert both.train.skipped["mask of no known class"] == 1
    (tmp_path / "labelmap.txt").write_text("dog:300,0,0::\n")
    with pytest.raises(UserError, match=r"labelmap\.txt: found 'dog:300,0,0::'; allowed: name:red,green,blue"):
        load(tmp_path)


def test_xml_files_beside_the_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_picture(tmp_path / "train" / "1.png")
    write_picture(tmp_path / "train" / "other name.JPG")
    write_picture(tmp_path / "valid" / "2.jpg")
    write_picture(tmp_path / "valid" / "bare.jpg")
    write_xml(tmp_path / "train" / "1.xml", "<path>C:\\mine\\1.png</path>", box("cup", ("0.5", 0, "4.5", 3)), size="")
    (tmp_path / "train" / "x.xml").write_text(
        "<annotation><folder>../..</folder><filename>/home/me/other name.jpg</filename><size><width>0</width>"
        f"<height>0</height></size>{box('dog', (0, 0, W, H))}</annotation>"
    )
    write_xml(tmp_path / "valid" / "2.xml", box("cup", (1, 1, 2, 2)))
    write_xml(tmp_path / "valid" / "3.xml", box("cup", (1, 1, 2, 2)))
    both = load(tmp_path, coordinates="zero_based")
    assert [r.key for r in both.train.records] == ["train/1.png", "train/other name.JPG"]
    assert both.train.records[0].annotations[0].boxes == ((0.5, 0, 4, 3),)
    assert both.train.records[1].annotations[0].make_mask(H, W).all()
    assert both.train.skipped == {"picture that is not there": 1, "picture without an XML file": 1}
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "lavise"):
        load(tmp_path)
    assert "2 boxes of" in caplog.text
    assert "reference.coordinates=zero_based" in caplog.text


def test_one_folder_is_split_by_picture(tmp_path: Path) -> None:
    for i in range(10):
        write_picture(tmp_path / f"{i}.jpg")
        write_xml(tmp_path / f"{i}.xml", box("cup", (1, 1, 2, 2)))
    both = load(tmp_path, evaluation_share=0.3)
    assert (len(both.train.records), len(both.evaluation.records)) == (7, 3)
    named = load(tmp_path, max_images=4, evaluation_share=0.5)
    assert sorted(r.key for part in (named.train, named.evaluation) for r in part.records) == [
        f"{i}.jpg" for i in range(4)
    ]


def test_named_parts(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    both = load(tmp_path, train="Segmentation/train", evaluation="Main/val")
    assert (len(both.train.records), len(both.evaluation.records)) == (1, 2)
    with pytest.raises(UserError, match=r"^reference\.evaluation: found 'Main/test'; neither .* is there; allowed"):
        load(tmp_path, train="Main/train", evaluation="Main/test")
    with pytest.raises(UserError, match="leads out of"):
        load(tmp_path, train="../x", evaluation="Main/val")
    with pytest.raises(ValueError, match="train and evaluation must both be given or neither"):
        load(tmp_path, train="Main/train")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    write_xml(
        tmp_path / "Annotations" / "b.xml",
        box("", (1, 1, 2, 2)),
        box("cup", (3, 3, 2, 5)),
        box("cup", (W + 1, 1, W + 3, 3)),
        box("cup", (1, "nan", 2, 2)),
        "<object><name>cup</name><robndbox/></object>",
        box("cup", (1, 1, 1, 1)),
    )
    write_picture(tmp_path / "JPEGImages" / "d.jpg", (H, W))
    (tmp_path / "JPEGImages" / "c.jpg").unlink()
    for name in "ef":
        write_picture(tmp_path / "JPEGImages" / f"{name}.jpg")
    (tmp_path / "JPEGImages" / "f.jpg").write_bytes(b"no picture")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("c\nd\ne\nf\n")
    both = load(tmp_path, masks="box", parts="use")
    assert [a.boxes for a in both.train.records[1].annotations] == [((0, 0, 1, 1),)]
    assert both.train.skipped == {
        "object without a name": 1,
        "object with an empty box": 1,
        "object outside its picture": 1,
        "object without a box": 2,
        "picture that is not there": 1,
        "picture of another size than its XML file says": 1,
        "picture without an XML file": 1,
    }
    assert [r.file.name for r in both.evaluation.records] == ["f.jpg"]  # counted when it is decoded


def test_segmentation_of_another_size(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    write_picture(tmp_path / "JPEGImages" / "a.jpg", (W + 1, H))
    assert load(tmp_path).train.skipped == {
        "picture of another size than its segmentation": 1,
        "part of an object": 2,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation>", r"b\.xml: no XML: .*; allowed: an XML file of Pascal VOC$"),
        ("<html/>", r"b\.xml: found <html>; allowed"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', r"b\.xml: has a document type"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', r"b\.xml: "),
    ],
)
def test_xml_that_is_not_read(tmp_path: Path, content: str, message: str) -> None:
    write_devkit(tmp_path)
    (tmp_path / "Annotations" / "b.xml").write_text(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_files_outside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_devkit(root)
    (root / "ImageSets" / "Main" / "train.txt").write_text("../../secret\n")
    with pytest.raises(UserError, match=r"file name 'Annotations/\.\./\.\./secret\.xml' leads out of"):
        load(root)


def test_broken_segmentation(tmp_path: Path) -> None:
    write_devkit(tmp_path)
    (tmp_path / "SegmentationClass" / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"SegmentationClass/a\.png: not readable: no PNG picture; allowed"):
        load(tmp_path)


def test_root_that_is_one_level_too_high(tmp_path: Path) -> None:
    write_devkit(tmp_path / "VOCdevkit" / "VOC2007")
    with pytest.raises(UserError, match=r"^reference\.root: found .*; set reference\.root to '.*/VOCdevkit/VOC2007'$"):
        load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^reference\.root: found .* no XML files of its own; allowed"):
        load(tmp_path / "empty")
