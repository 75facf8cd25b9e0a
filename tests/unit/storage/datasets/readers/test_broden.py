"""Broden as Network Dissection has it, made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import BrodenReference
from lavise.storage.datasets.base import Reference
from lavise.storage.datasets.readers.broden import load_broden

SIZE, SMALL = 8, 4
LABELS = {1: "black-c", 2: "sky", 300: "wheel", 301: "leg", 5: "wood", 6: "street-s", 7: "dotted", 8: "car"}
KINDS = {"color": [1], "object": [2, 8], "part": [300, 301], "material": [5], "scene": [6], "texture": [7]}


def write_png(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.dstack([pixels % 256, pixels // 256, np.full_like(pixels, 77)]).astype(np.uint8)).save(path)


def write_set(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Four pictures; PNG files of half the size. Gives what was drawn, by file."""
    lines = ["image,split,ih,iw,sh,sw,color,object,part,material,scene,texture"]
    drawn: dict[str, np.ndarray[Any, Any]] = {}
    for number, split in enumerate(["train", "train", "val", "val"]):
        image = f"ade20k/{number}.jpg"
        (root / "images" / "ade20k").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIZE, SIZE)).save(root / "images" / image)
        for kind, values in (("color", [1]), ("object", [2, 8]), ("part_1", [300]), ("part_2", [301])):
            pixels = np.zeros((SMALL, SMALL), dtype=np.int64)
            for place, value in enumerate(values):
                pixels[place, number : number + 2] = value
            drawn[f"ade20k/{number}_{kind}.png"] = pixels
            write_png(root / "images" / f"ade20k/{number}_{kind}.png", pixels)
        parts = f"ade20k/{number}_part_1.png;ade20k/{number}_part_2.png"
        lines.append(
            f"{image},{split},{SIZE},{SIZE},{SMALL},{SMALL},ade20k/{number}_color.png,ade20k/{number}_object.png,{parts}"
            ",,6,"
        )
    (root / "images" / "dtd").mkdir()
    Image.new("RGB", (SIZE, SIZE)).save(root / "images" / "dtd" / "t.jpg")
    lines.append(f"dtd/t.jpg,train,{SIZE},{SIZE},{SMALL},{SMALL},,,,,,7;5")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    rows = [f"{number},{name},object(3),3,0.5,{name};x" for number, name in LABELS.items()]
    (root / "label.csv").write_text("\n".join(["number,name,category,frequency,coverage,syns", *rows]) + "\n")
    for kind, numbers in KINDS.items():
        rows = [f"{code},{number},{LABELS[number]},3,0.5" for code, number in enumerate(numbers, start=1)]
        (root / f"c_{kind}.csv").write_text("\n".join(["code,number,name,frequency,coverage", *rows]) + "\n")
    return drawn


def load(root: Path, *kinds: str, **changes: Any) -> Reference:
    given = {"kinds": kinds} if kinds else {}
    return load_broden(BrodenReference.model_validate({"kind": "broden", "root": root, **given, **changes}), 0)


def test_objects_and_parts_are_exact(tmp_path: Path) -> None:
    drawn = write_set(tmp_path)
    both = load(tmp_path)
    assert [r.key for r in both.train.records] == ["images/ade20k/0.jpg", "images/ade20k/1.jpg"]
    assert [r.key for r in both.evaluation.records] == ["images/ade20k/2.jpg", "images/ade20k/3.jpg"]
    assert both.train.concepts == ("car", "leg", "sky", "wheel")
    numbers = {name: number for number, name in LABELS.items()}
    for part in (both.train, both.evaluation):
        for record in part.records:
            assert sorted(a.concept for a in record.annotations) == ["car", "leg", "sky", "wheel"]
            for a in record.annotations:
                own = [p for name, p in drawn.items() if name.startswith(f"ade20k/{record.file.stem}_")]
                small = sum((p == numbers[a.concept]) for p in own)
                np.testing.assert_array_equal(a.make_mask(SIZE, SIZE), np.kron(small, np.ones((2, 2))).astype(bool))
    assert both.train.skipped == {"picture without a label of these kinds": 1}


def test_labels_of_whole_pictures_and_endings_of_names(tmp_path: Path) -> None:
    write_set(tmp_path)
    both = load(tmp_path, "color", "scene", "texture")
    found = {r.file.name: [a.concept for a in r.annotations] for r in both.train.records}
    assert found == {"0.jpg": ["black", "street"], "1.jpg": ["black", "street"], "t.jpg": ["dotted"]}
    assert both.train.records[0].annotations[1].make_mask(SIZE, SIZE).all()
    assert both.train.skipped == {"label without a name in c_texture.csv": 1}


def test_one_part_is_split_by_picture(tmp_path: Path) -> None:
    write_set(tmp_path)
    index = tmp_path / "index.csv"
    index.write_text(index.read_text().replace(",val,", ",train,"))
    both = load(tmp_path, evaluation_share=0.25)
    assert (len(both.train.records), len(both.evaluation.records)) == (3, 1)
    assert len(load(tmp_path, max_images=2).train.records) == 1
    index.write_text(index.read_text().replace("0.jpg,train,", "0.jpg,val,").replace("1.jpg,train,", "1.jpg,test,"))
    assert load(tmp_path).train.skipped["picture of the part 'test'"] == 1


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "images" / "ade20k" / "0.jpg").unlink()
    assert load(tmp_path).train.skipped["picture that is not there"] == 1


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("index.csv", "ade20k/0_object.png", "../../x.png", r"leads out of"),
        ("index.csv", "ade20k/0_object.png", "ade20k/none.png", r"none\.png: not found; allowed: a PNG file of labels"),
        ("index.csv", "object,part", "things,part", r"index\.csv: no column 'object', found"),
        ("index.csv", "ade20k/1.jpg", "ade20k/0.jpg", r"index\.csv: line 3: 'ade20k/0\.jpg' stands twice; allowed"),
        ("c_object.csv", "2,sky", "99,sky", r"c_object\.csv: line 2: number 99 is not in label\.csv; allowed"),
        ("label.csv", "300,wheel", "many,wheel", r"label\.csv: line 4: number: found 'many'; allowed: a whole number"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    write_set(tmp_path)
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_files_that_are_missing(tmp_path: Path) -> None:
    write_set(tmp_path)
    Image.new("L", (SMALL, SMALL)).save(tmp_path / "images" / "ade20k" / "0_object.png")
    with pytest.raises(UserError, match=r"0_object\.png: no coloured PNG file; allowed: labels as red \+ 256"):
        load(tmp_path)
    (tmp_path / "c_part.csv").unlink()
    with pytest.raises(UserError, match=r"^reference\.kinds: found '.*c_part\.csv', which is no file"):
        load(tmp_path)
    (tmp_path / "index.csv").unlink()
    with pytest.raises(UserError, match=r"^reference\.root: found '.*index\.csv', which is no file"):
        load(tmp_path)
