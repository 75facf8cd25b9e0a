"""ADE20K in its three forms, made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import Ade20kReference
from lavise.storage.datasets.base import Reference
from lavise.storage.datasets.readers.ade20k import load_ade20k

H, W = 12, 16
# Beyond 255, so that red counts: 312 = 1 * 256 + 56.
BUILDING, DOOR, HANDLE = 312, 774, 3
NAMES = {BUILDING: "building, edifice", DOOR: "door", HANDLE: "handle"}
IntArray = np.ndarray[Any, Any]


def write_png(path: Path, objects: list[tuple[int, int, IntArray]]) -> None:
    """(class, blue, mask) each."""
    pixels = np.zeros((H, W, 3), dtype=np.uint8)
    for number, blue, mask in objects:
        pixels[mask] = (number // 256 * 10, number % 256, blue)
    Image.fromarray(pixels).save(path)


def draw(rows: slice, columns: slice) -> IntArray:
    mask = np.zeros((H, W), dtype=bool)
    mask[rows, columns] = True
    return mask


HOUSES = [draw(slice(0, 6), slice(0, 8)), draw(slice(0, 6), slice(8, 12))]
GATE = draw(slice(7, 12), slice(2, 5))
KNOB = draw(slice(8, 9), slice(3, 5))


def write_set(root: Path, below: str = "images") -> list[Path]:
    """Two pictures with two buildings side by side, a door and, as a part of it, a handle."""
    paths = []
    for part, name in (("training/s/street", "ADE_train_1"), ("validation", "ADE_val_1")):
        folder = root / below / part
        folder.mkdir(parents=True)
        paths.append(folder / f"{name}.jpg")
        Image.new("RGB", (W, H)).save(paths[-1])
        blues = [(BUILDING, 90, HOUSES[0]), (BUILDING, 200, HOUSES[1]), (DOOR, 130, GATE)]
        write_png(folder / f"{name}_seg.png", blues)
        write_png(folder / f"{name}_parts_1.png", [(HANDLE, 255, KNOB)])
    return paths


def write_index(root: Path) -> None:
    names = np.array([NAMES.get(i, f"thing {i}") for i in range(1, 800)], dtype=object)
    savemat(root / "index_ade20k.mat", {"index": {"objectnames": names, "filename": np.array(["x"], dtype=object)}})


def write_attributes(path: Path) -> None:
    rows = [(1, 0, "building, edifice"), (3, 0, "building, edifice"), (2, 0, "door"), (1, 1, "handle")]
    lines = [f'{number:03d} # {level} # 0 # {name} # raw # "attribute"' for number, level, name in rows]
    path.with_name(f"{path.stem}_atr.txt").write_text("\n".join(lines) + "\n")


def write_description(path: Path, encoding: str = "utf-8", **changes: Any) -> None:
    objects = [
        {"id": i, "name": name, "raw_name": "raw", "name_ndx": number, "parts": {"part_level": int(number == HANDLE)}}
        for i, (number, name) in enumerate(NAMES.items())
    ]
    content = {"annotation": {"filename": path.name, "object": objects, "note": "façade", **changes}}
    path.with_suffix(".json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))


def load(root: Path, **changes: Any) -> Reference:
    return load_ade20k(Ade20kReference.model_validate({"kind": "ade20k", "root": root, **changes}), 0)


def check(both: Reference, with_parts: bool) -> None:
    for part in (both.train, both.evaluation):
        (record,) = part.records
        found = [(a.concept, a.make_mask(H, W)) for a in record.annotations]
        expected = [("building, edifice", HOUSES[0]), ("building, edifice", HOUSES[1]), ("door", GATE)]
        expected += [("handle", KNOB)] if with_parts else []
        assert [name for name, _ in found] == [name for name, _ in expected]
        for (_, ours), (_, theirs) in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("parts", ["skip", "use"])
@pytest.mark.parametrize("form", ["index", "attributes", "2021", "2021 in Latin-1"])
def test_objects_and_parts_are_exact(tmp_path: Path, form: str, parts: str) -> None:
    paths = write_set(tmp_path, "images/ADE" if form.startswith("2021") else "images")
    if form == "index":
        write_index(tmp_path)
    for path in paths:
        if form == "attributes":
            write_attributes(path)
        elif form.startswith("2021"):
            write_description(path, "latin-1" if "Latin" in form else "utf-8")
    both = load(tmp_path, parts=parts)
    check(both, parts == "use")
    assert both.train.skipped == ({} if parts == "use" else {"file of parts": 2})


def test_attributes_of_a_picture_without_free_pixels(tmp_path: Path) -> None:
    for path in write_set(tmp_path):
        write_png(path.with_name(f"{path.stem}_seg.png"), [(BUILDING, 90, HOUSES[0]), (DOOR, 130, ~HOUSES[0])])
        path.with_name(f"{path.stem}_atr.txt").write_text('1 # 0 # 0 # a # a # ""\n2 # 0 # 0 # b # b # ""\n')
    record = load(tmp_path).train.records[0]
    assert [a.concept for a in record.annotations] == ["a", "b"]


def test_scene_parsing(tmp_path: Path) -> None:
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t2\t3\t1\twall\n2\t0.1\t2\t3\t1\tbuilding, edifice\n"
    )
    pixels = np.zeros((H, W), dtype=np.uint8)
    pixels[2:4], pixels[5, 5], pixels[7] = 2, 1, 151
    for part in ("training", "validation"):
        for below, name in (("images", "a.jpg"), ("annotations", "a.png")):
            (tmp_path / below / part).mkdir(parents=True)
            picture = Image.new("RGB", (W, H)) if below == "images" else Image.fromarray(pixels)
            picture.save(tmp_path / below / part / name)
    Image.new("RGB", (W, H)).save(tmp_path / "images" / "training" / "b.jpg")
    both = load(tmp_path)
    (record,) = both.train.records
    assert [a.concept for a in record.annotations] == ["wall", "building, edifice"]
    np.testing.assert_array_equal(record.annotations[1].make_mask(H, W), pixels == 2)
    assert both.train.skipped == {
        "object of a class without a name": 2,
        "picture without a file in annotations": 1,
    }
    (tmp_path / "objectInfo150.txt").write_text("1\twall\n")
    with pytest.raises(UserError, match=r"objectInfo150\.txt: not SceneParse150's; allowed: a table with tabs"):
        load(tmp_path)


def test_one_part_is_split_by_picture(tmp_path: Path) -> None:
    for path in write_set(tmp_path, "anywhere"):
        write_description(path)
    check(load(tmp_path), with_parts=False)
    named = load(tmp_path, train="anywhere/validation", evaluation="anywhere/training")
    assert named.train.records[0].file.name == "ADE_val_1.jpg"
    with pytest.raises(UserError, match=r"^reference\.train: found '.*none', which is no folder"):
        load(tmp_path, train="none", evaluation="anywhere")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    first, second = write_set(tmp_path)
    write_description(first, object=[{"name": "door", "name_ndx": DOOR}])
    write_description(second)
    for name in ("bare", "small"):
        Image.new("RGB", (W + 1, H)).save(first.with_name(f"{name}.jpg"))
    write_png(first.with_name("small_seg.png"), [(DOOR, 1, GATE)])
    write_description(first.with_name("small.jpg"))
    both = load(tmp_path, parts="use")
    assert [a.concept for a in both.train.records[0].annotations] == ["door"]
    assert both.train.skipped == {
        "object of a class without a name": 3,
        "picture without a _seg.png": 1,
        "picture of another size than its labels": 1,
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ADE_train_1.json", b'{"annotation": {}}', r"ADE_train_1\.json: not ADE20K's \(KeyError: 'object'\); allowed"),
        ("ADE_train_1.json", b"{", r"ADE_train_1\.json: no JSON .*; allowed: a picture's description in ADE20K 2021"),
        ("ADE_train_1_atr.txt", b"door", r"ADE_train_1_atr\.txt: line 1: found 'door'; allowed: number # level"),
        ("ADE_train_1_seg.png", b"x", r"ADE_train_1_seg\.png: not readable: no PNG picture; allowed"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    first, second = write_set(tmp_path)
    if "json" not in name:
        write_attributes(first)
    write_attributes(second)
    first.with_name(name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_names_that_nothing_says(tmp_path: Path) -> None:
    first, _ = write_set(tmp_path)
    with pytest.raises(
        UserError, match=r"nothing says what its classes are called; allowed: ADE_train_1\.json, ADE_tra"
    ):
        load(tmp_path)
    (tmp_path / "index_ade20k.mat").write_bytes(b"no matrix" * 50)
    with pytest.raises(UserError, match=r"index_ade20k\.mat: not ADE20K's index \(.*\); allowed: index\.objectnames"):
        load(tmp_path)
    savemat(tmp_path / "index_ade20k.mat", {"other": 1})
    with pytest.raises(UserError, match=r"index_ade20k\.mat: not ADE20K's index \(KeyError: 'index'\)"):
        load(tmp_path)
    Image.new("L", (W, H)).save(first.with_name("ADE_train_1_seg.png"))
    write_index(tmp_path)
    with pytest.raises(UserError, match=r"ADE_train_1_seg\.png: no coloured PNG file; allowed: classes as red"):
        load(tmp_path)
