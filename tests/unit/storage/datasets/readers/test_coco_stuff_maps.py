"""COCO stuff as pixel maps in both of its forms, held against a reading pixel by pixel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import CocoStuffMapsReference
from lavise.storage.datasets.base import Reference
from lavise.storage.datasets.formats import find_format
from lavise.storage.datasets.readers.coco_stuff_maps import find_form, load_coco_stuff_maps, read_category_names

H, W = 6, 9
# As in COCO-Stuff's labels.txt, without most of its lines.
NAMES = {1: "person", 2: "bicycle", 11: "fire hydrant", 12: "street sign", 13: "stop sign", 92: "banner"}
NAMES |= {124: "grass", 156: "shelf", 157: "sky-other", 181: "window-other", 182: "wood"}
IntArray = np.ndarray[Any, Any]


def write_labels(root: Path) -> None:
    lines = ["0: unlabeled", *(f"{number}: {name}" for number, name in NAMES.items())]
    (root / "labels.txt").write_text("\n".join(lines) + "\n")


def draw(values: list[int], seed: int = 0) -> IntArray:
    """uint8 [H, W] with all of the values, mixed."""
    drawn = np.random.default_rng(seed).choice(values, (H, W)).astype(np.uint8)
    drawn.ravel()[: len(values)] = values
    return drawn


def write_set(root: Path, maps: Mapping[str, IntArray], mode: str = "L") -> None:
    """Pictures and maps, by `PART/NAME`."""
    root.mkdir(exist_ok=True)
    write_labels(root)
    for name, values in maps.items():
        picture, file = root / f"{name}.jpg", root / "stuffthingmaps" / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (W, H), (len(name), 80, 90)).save(picture)
        drawn = Image.fromarray(values)
        if mode == "P":
            drawn.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
            assert drawn.mode == "P"
        elif mode != "L":
            drawn = drawn.convert(mode)
        drawn.save(file)


def load(root: Path, **changes: Any) -> Reference:
    settings = {"kind": "coco_stuff_maps", "root": root, **changes}
    return load_coco_stuff_maps(CocoStuffMapsReference.model_validate(settings), 0)


def read_masks(reference: Reference) -> dict[str, dict[str, IntArray]]:
    """Of each picture, each category's mask."""
    records = [*reference.train.records, *reference.evaluation.records]
    return {r.key: {a.concept: coco_mask.decode(a.rle) for a in r.annotations} for r in records}


def read_slowly(values: IntArray, offset: int, void: int, names: Mapping[int, str]) -> dict[str, list[list[int]]]:
    """What a map says, one pixel after the other."""
    found: dict[str, list[list[int]]] = {}
    for y in range(H):
        for x in range(W):
            value = int(values[y, x])
            if value != void and value + offset in names:
                mask = found.setdefault(names[value + offset], [[0] * W for _ in range(H)])
                mask[y][x] = 1
    return found


IDS = {"train2017/a": draw([0, 92, 157, 182]), "train2017/b": draw([0, 124, 183], 1), "val2017/c": draw([92, 181], 2)}
MINUS_1 = {name: np.where(v == 0, 255, np.where(v == 183, 0, v - 1)).astype(np.uint8) for name, v in IDS.items()}


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
@pytest.mark.parametrize(("maps", "offset", "void"), [(IDS, 0, 0), (MINUS_1, 1, 255)])
def test_masks_are_those_of_a_reading_by_pixel(
    tmp_path: Path, maps: Mapping[str, IntArray], offset: int, void: int, mode: str
) -> None:
    write_set(tmp_path, maps, mode)
    reference = load(tmp_path)
    found = read_masks(reference)
    assert set(found) == {f"{name}.jpg" for name in maps}
    for name, values in maps.items():
        slowly = read_slowly(values, offset, void, NAMES)
        assert set(found[f"{name}.jpg"]) == set(slowly)
        for concept, mask in slowly.items():
            np.testing.assert_array_equal(found[f"{name}.jpg"][concept], mask)
    assert "unlabeled" not in reference.train.concepts
    assert ("person" in reference.train.concepts) == (offset == 1)
    (said, *others) = reference.train.notes
    assert ("minus 1" in said) == (offset == 1)
    # 183 stands for all things; labels.txt has no name for it.
    assert others == ([] if offset else ["values of the maps that are no category: 183"])
    assert dict(reference.train.skipped) == ({} if offset else {"mask of a value that is no category": 1})


def test_both_forms_of_the_same_labels_are_the_same_pairs(tmp_path: Path) -> None:
    stuff = {name: np.where(values == 183, 0, values).astype(np.uint8) for name, values in IDS.items()}
    write_set(tmp_path / "ids", stuff)
    write_set(tmp_path / "minus", {n: np.where(v == 0, 255, v - 1).astype(np.uint8) for n, v in stuff.items()})
    ids, minus = load(tmp_path / "ids"), load(tmp_path / "minus")
    for one, other in ((ids.train, minus.train), (ids.evaluation, minus.evaluation)):
        assert one.compute_digest() == other.compute_digest()


def test_categories_of_the_annotations_name_what_they_have(tmp_path: Path) -> None:
    write_set(tmp_path, IDS)
    entries = [{"id": n, "name": name} for n, name in {**NAMES, 183: "other"}.items() if n >= 92]
    (tmp_path / "stuff.json").write_text(json.dumps({"images": [], "annotations": [], "categories": entries}))
    (tmp_path / "list.json").write_text(json.dumps(entries))
    for name in ("stuff.json", "list.json"):
        reference = load(tmp_path, categories=name)
        assert "other" in reference.train.concepts
        assert reference.train.skipped == {}


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ({0, 92, 183}, "ids"),
        ({0, 182}, "ids"),
        ({0, 1, 255}, "ids_minus_1"),
        ({0, 181}, None),
        ({10, 92, 255}, None),  # 93 is no category here, and 255 is none anywhere
        ({12, 0}, "ids_minus_1"),  # no picture has a street sign
        ({11, 0}, "ids"),  # nor, one less, here
        ({1, 156}, None),
        ({182, 255}, None),
        ({254}, None),
    ],
)
def test_the_form_follows_from_the_values(values: set[int], form: str | None) -> None:
    names = {**NAMES, 182: "wood"}
    if form is None:
        with pytest.raises(UserError, match=r"reference\.values: .*set it to ids \(.*\) or ids_minus_1 \("):
            find_form(values, names)
    else:
        assert find_form(values, names) == form


def test_what_may_be_either_is_asked_and_then_taken_at_its_word(tmp_path: Path) -> None:
    write_set(tmp_path, {"train2017/a": draw([1, 156]), "val2017/b": draw([1, 156], 3)})
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        "reference.values: the maps' values (1, 156) may be ids of categories, and ids minus 1; set it to ids (ids of "
        "categories, 0 is no label) or ids_minus_1 (ids of categories minus 1, 255 is no label)"
    )
    assert load(tmp_path, values="ids").train.concepts == ("person", "shelf")
    reference = load(tmp_path, values="ids_minus_1")
    assert reference.train.concepts == ("bicycle", "sky-other")
    assert reference.train.notes == ()


def test_what_fits_neither_is_named(tmp_path: Path) -> None:
    write_set(tmp_path, {"train2017/a": draw([182, 255]), "val2017/b": draw([182])})
    with pytest.raises(UserError, match=r"255 cannot be ids of categories, .*; 182 cannot be ids of categories minus"):
        load(tmp_path)
    reference = load(tmp_path, values="ids")
    assert reference.train.skipped == {"mask of a value that is no category": 1}
    assert reference.train.notes == ("values of the maps that are no category: 255",)


def test_pictures_without_a_fitting_map_are_counted(tmp_path: Path) -> None:
    write_set(tmp_path, MINUS_1)
    Image.new("RGB", (W, H)).save(tmp_path / "train2017/none.jpg")
    Image.new("RGB", (W, H)).save(tmp_path / "train2017/other.jpg")
    Image.new("L", (W, H - 1)).save(tmp_path / "stuffthingmaps/train2017/other.png")
    # What other tools leave beside the maps is no map.
    Image.new("L", (W, H)).save(tmp_path / "stuffthingmaps/train2017/a_labelTrainIds.png")
    reference = load(tmp_path)
    assert [r.key for r in reference.train.records] == ["train2017/a.jpg", "train2017/b.jpg"]
    assert reference.train.skipped == {"picture without a map": 1, "picture of another size than its map": 1}


def test_one_folder_is_split_by_picture_and_the_first_are_taken(tmp_path: Path) -> None:
    write_set(tmp_path, {f"train2017/{n}": MINUS_1["train2017/a"] for n in "abcdefgh"})
    reference = load(tmp_path, evaluation_images=None, max_images=5, evaluation_share=0.4)
    keys = [r.key for part in (reference.train, reference.evaluation) for r in part.records]
    assert sorted(keys) == [f"train2017/{n}.jpg" for n in "abcde"]
    assert len(reference.evaluation.records) == 2


def test_faults_are_one_line(tmp_path: Path) -> None:
    write_set(tmp_path, MINUS_1)
    file = tmp_path / "stuffthingmaps/train2017/a.png"
    for content, line in (
        (Image.fromarray(np.stack([IDS["train2017/a"]] * 2 + [IDS["train2017/b"]], axis=2)), "found colours"),
        (None, "allowed: a PNG file of labels"),
    ):
        file.write_bytes(b"\x89PNG broken")
        if content is not None:
            content.save(file)
        with pytest.raises(UserError, match=line) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"reference\.train_masks: found .*nowhere"):
        load(tmp_path, train_masks="nowhere")
    with pytest.raises(UserError, match=r"no pictures in train2017 of .*; left out: 2 picture without a map"):
        load(tmp_path, train_masks="train2017", evaluation_images=None)
    Image.fromarray(MINUS_1["train2017/a"]).save(file)
    with pytest.raises(UserError, match="in both parts"):
        load(tmp_path, evaluation_images="train2017", evaluation_masks="stuffthingmaps/train2017")
    with pytest.raises(UserError, match="leads out of"):
        load(tmp_path, categories="../labels.txt")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", "1 person", "line 1 is '1 person'; allowed: `ID: NAME` in each line"),
        ("a.txt", "1: person\n1: dog", "the id '1' stands twice"),
        ("a.txt", "1: dog\n2: dog", "the name 'dog' stands twice"),
        ("a.txt", "0: nothing\n2: dog", "'nothing' with id 0"),
        ("a.txt", "0: unlabeled", "found no category"),
        ("a.json", '{"images": []}', "no categories; allowed: a list of categories"),
        ("a.json", '[{"id": "1", "name": "dog"}]', "no categories; allowed"),
        ("a.json", '{"categories": [{"id": 1}]}', "no categories; allowed"),
        ("a.json", "{", "no JSON"),
    ],
)
def test_lists_of_categories_that_are_none(tmp_path: Path, name: str, content: str, line: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=line.replace("[", r"\[")) as caught:
        read_category_names(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_needed_files_are_those_that_the_settings_name(tmp_path: Path) -> None:
    settings = CocoStuffMapsReference(kind="coco_stuff_maps", root=tmp_path)
    needed = find_format("coco_stuff_maps").list_files(settings)
    assert needed == {
        "train_images": ("train2017",),
        "train_masks": ("stuffthingmaps/train2017",),
        "categories": ("labels.txt",),
        "evaluation_images": ("val2017",),
        "evaluation_masks": ("stuffthingmaps/val2017",),
    }
    split = settings.model_copy(update={"evaluation_images": None})
    assert set(find_format("coco_stuff_maps").list_files(split)) == {"train_images", "train_masks", "categories"}
