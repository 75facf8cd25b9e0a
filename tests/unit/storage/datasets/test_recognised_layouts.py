"""Layouts are recognised by their files, and the settings are such that the reader finds the labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from lavise.configs.errors import UserError
from lavise.configs.schema import ReferenceSettings
from lavise.storage.datasets.base import Reference
from lavise.storage.datasets.formats import find_format
from lavise.storage.datasets.recognised_layouts import guess_layouts
from tests.unit.storage.datasets.readers import (
    test_ade20k,
    test_broden,
    test_coco,
    test_coco_panoptic,
    test_coco_stuff_maps,
    test_open_images,
    test_pascal_voc,
    test_yolo,
)
from tests.unit.tasks.helpers import write_image

SQUARE = [[2, 2, 9, 2, 9, 9, 2, 9]]


def read(settings: dict[str, Any]) -> Reference:
    checked: Any = TypeAdapter(ReferenceSettings).validate_python(settings)
    return find_format(checked.kind).read(checked, 0)


def write_coco(root: Path) -> None:
    for split, number in (("train2017", 1), ("val2017", 2)):
        test_coco.write_split(root, split, [test_coco.image(number)], [test_coco.annotation(number, number, SQUARE)])


def write_roboflow(root: Path) -> None:
    """Each part with its JSON beside the pictures."""
    write_coco(root)
    for split, short in (("train2017", "train"), ("val2017", "valid")):
        (root / split).rename(root / short)
        (root / "annotations" / f"instances_{split}.json").rename(root / short / "_annotations.coco.json")
    (root / "annotations").rmdir()


def write_classes(root: Path) -> None:
    for number, name in enumerate(("dog", "cat", "dog", "cat", "dog")):
        (root / name).mkdir(parents=True, exist_ok=True)
        write_image(root / name / f"{number}.png", 20, 20, number)


def write_table(root: Path) -> None:
    rows = []
    for number, name in enumerate(("dog", "cat", "dog", "cat", "dog")):
        write_image(root / f"{number}.png", 20, 20, number)
        rows.append(f"{number}.png,{int(name == 'dog')},{int(name == 'cat')}")
    (root / "labels.csv").write_text("\n".join(["image,dog,cat", *rows]) + "\n", "utf-8")


def write_pixelmaps(root: Path) -> None:
    """One part, in the folders of the challenge."""
    maps = {name: drawn for name, drawn in test_coco_stuff_maps.IDS.items() if name.startswith("train2017")}
    test_coco_stuff_maps.write_set(root, maps)
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    (root / "labels.txt").rename(root / "annotations" / "labels.txt")
    (root / "stuffthingmaps" / "train2017").rename(root / "annotations" / "stuff_train2017_pixelmaps")
    (root / "stuffthingmaps").rmdir()
    (root / "train2017").rename(root / "images" / "train2017")


def write_devkit(root: Path) -> None:
    test_pascal_voc.write_devkit(root / "VOCdevkit" / "VOC2012")


def write_ade20k(root: Path) -> None:
    test_ade20k.write_set(root)
    test_ade20k.write_index(root)


WRITERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "coco": ("coco", write_coco),
    "roboflow": ("coco", write_roboflow),
    "panoptic": ("coco_panoptic", test_coco_panoptic.write),
    "stuff": ("coco_stuff_maps", lambda root: test_coco_stuff_maps.write_set(root, test_coco_stuff_maps.MINUS_1)),
    "pixelmaps": ("coco_stuff_maps", write_pixelmaps),
    "voc": ("pascal_voc", write_devkit),
    "yolo": ("yolo", lambda root: test_yolo.write_set(root, f"0 {test_yolo.BOX}")),
    "open_images": ("open_images", test_open_images.write_set),
    "ade20k": ("ade20k", write_ade20k),
    "broden": ("broden", test_broden.write_set),
    "classes": ("image_folder", write_classes),
    "table": ("csv_labels", write_table),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_first_guess_is_read(tmp_path: Path, name: str) -> None:
    kind, write = WRITERS[name]
    write(tmp_path)
    guesses = list(guess_layouts(tmp_path))
    assert guesses[0]["kind"] == kind
    found = read(guesses[0])
    assert found.train.records
    assert found.evaluation.records
    assert found.train.concepts


@pytest.mark.parametrize("name", WRITERS)
def test_read_by_a_relative_path_it_is_the_same(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, write = WRITERS[name]
    (tmp_path / "own" / "set").mkdir(parents=True)
    write(tmp_path / "own" / "set")
    monkeypatch.chdir(tmp_path / "own")
    relative, absolute = (next(guess_layouts(root)) for root in (Path("set"), tmp_path / "own" / "set"))
    assert {k: v for k, v in relative.items() if k != "root"} == {k: v for k, v in absolute.items() if k != "root"}
    near, far = (read(settings) for settings in (relative, absolute))
    for one, other in ((near.train, far.train), (near.evaluation, far.evaluation)):
        assert one.concepts == other.concepts
        assert [r.key for r in one.records] == [r.key for r in other.records]
        assert [r.annotations for r in one.records] == [r.annotations for r in other.records]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("file,label\n{0},milk can\n{1},dog\n{2},dog\n", {"image_column": "file", "label_column": "label"}),
        ("id,image,class\n7,{0},dog\n8,{1},cat\n9,{2},cat\n", {"image_column": "image", "label_column": "class"}),
        ("file,labels\n{0},dog|cat\n{1},dog\n{2},cat\n", {"label_column": "labels", "separator": "|"}),
        ("file,kind of thing\n{0},dog\n{1},cat\n{2},cat\n", {"label_column": "kind of thing"}),
    ],
)
@pytest.mark.parametrize("is_stem", [False, True])
def test_a_table_with_a_column_of_labels(tmp_path: Path, text: str, settings: dict[str, str], is_stem: bool) -> None:
    """Beside one, first by its name, that is about something else."""
    for number in range(3):
        (tmp_path / "shots").mkdir(exist_ok=True)
        write_image(tmp_path / "shots" / f"{number}.png", 20, 20, number)
    (tmp_path / "camera.csv").write_text("lens,aperture\n50,1.8\n", "utf-8")
    names = [f"{number}{'' if is_stem else '.png'}" for number in range(3)]
    (tmp_path / "labels.csv").write_text(text.format(*names), "utf-8")
    (guess,) = guess_layouts(tmp_path)
    assert guess["kind"] == "csv_labels"
    assert {k: guess.get(k) for k in settings} == settings
    assert read(guess).train.concepts == tuple(sorted({"dog", "milk can"} if "milk" in text else {"cat", "dog"}))


@pytest.mark.parametrize("stray", ["classes.txt", "LICENSE.txt", "camera.csv"])
def test_class_folders_with_a_stray_file(tmp_path: Path, stray: str) -> None:
    write_classes(tmp_path)
    (tmp_path / "dataset.yaml").write_text("made: by hand\n", "utf-8")
    (tmp_path / stray).write_text("lens,aperture\n50,1.8\n", "utf-8")
    assert [guess["kind"] for guess in guess_layouts(tmp_path)] == ["image_folder"]


def test_the_parts_of_coco_are_told_apart(tmp_path: Path) -> None:
    for write in (write_coco, write_roboflow):
        root = tmp_path / write.__name__
        write(root)
        found = read(next(guess_layouts(root)))
        assert [len(part.records) for part in (found.train, found.evaluation)] == [1, 1]
        assert [r.key for r in found.train.records] == ["000000000001.jpg"]


def test_folders_of_a_layout_are_no_classes(tmp_path: Path) -> None:
    for name in ("images", "masks", "train2017", "val2017"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "a.png", 20, 20)
    assert list(guess_layouts(tmp_path)) == []


def test_pictures_alone_are_no_layout(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 20, 20)
    (tmp_path / "other.json").write_text("[1, 2", "utf-8")
    assert list(guess_layouts(tmp_path)) == []


def test_a_name_that_leads_out_is_not_looked_for(tmp_path: Path) -> None:
    write_image(tmp_path / "000000000001.jpg", 20, 20)
    root = tmp_path / "root"
    root.mkdir()
    test_coco.write_split(root, "train2017", [test_coco.image(1, "../../000000000001.jpg")], [])
    assert list(guess_layouts(root)) == []


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels: found .* which is no folder; give the folder"):
        next(guess_layouts(tmp_path / "none"))


def test_a_name_that_no_file_can_have_and_a_folder_that_is_closed(tmp_path: Path) -> None:
    test_coco.write_split(tmp_path, "train2017", [test_coco.image(1, "a" * 300)], [test_coco.annotation(1, 1, SQUARE)])
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    try:
        assert list(guess_layouts(tmp_path)) == []
    finally:
        closed.chmod(0o700)
