"""What the doctor says of the data of an audit."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavise.configs.pictures import CsvLabelsReference, PathListTarget
from lavise.configs.schema import (
    CocoReference,
    CombinedReference,
    Config,
    ImageFolderReference,
    ImageFolderTarget,
    StorageSettings,
    WordSettings,
)
from lavise.flows.doctor import Check, contents, run_check
from lavise.flows.doctor.contents import check_contents
from lavise.flows.doctor.inputs import check_data
from lavise.flows.doctor.samples import draw_sheet
from lavise.storage.datasets.base import Annotation, ImageRecord
from lavise.storage.images.images import num_decoded
from tests.unit.flows.doctor.helpers import look_all, make_config


def make_picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def config_of(root: Path, **settings: object) -> Config:
    reference = ImageFolderReference.model_validate({"kind": "image_folder", "root": root / "ref", **settings})
    target = ImageFolderTarget(root=root / "target")
    return make_config(reference=reference, target=target, storage=StorageSettings(root=root / "state"))


def make_folders(root: Path, classes: int = 3) -> None:
    for c in range(classes):
        for i in range(3 + c):
            make_picture(root / "ref" / f"class_{c}" / f"{i}.png", i)
    for i in range(30):
        make_picture(root / "target" / f"{i}.png", i)


def said(checks: list[Check]) -> dict[str, str]:
    return {c.name: c.found for c in checks}


def test_class_folders_and_a_target(tmp_path: Path) -> None:
    make_folders(tmp_path)
    before = num_decoded()
    checks = run_check("contents", partial(check_contents, config_of(tmp_path, evaluation_share=0.25)))
    assert num_decoded() - before == 9 + 10, "samples only"
    assert [(c.name, c.status) for c in checks] == [
        ("reference, to train on", "ok"),
        ("reference, to evaluate on", "ok"),
        ("words of categories", "ok"),
        ("categories", "warning"),
        ("reference pictures", "ok"),
        ("target contents", "ok"),
        ("target pictures", "ok"),
        ("samples", "ok"),
    ]
    found = said(checks)
    assert found["reference, to train on"].startswith("ref/train: 9 pictures, 9 labels, 3 categories: class ")
    assert found["reference, to evaluate on"].startswith("ref/evaluation: 3 pictures, 3 labels, 3 categories: class ")
    assert found["target contents"] == "target: 30 pictures"
    assert found["target pictures"] == "30 headers can be read"
    path = tmp_path / "state" / "doctor" / "small.png"
    assert found["samples"].endswith(str(path))
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    with Image.open(path) as sheet:
        assert sheet.size == (8 + 5 * 248, 2 * 30 + 4 * (240 + 44 + 8))


def test_categories_with_the_most_and_the_fewest_pictures(tmp_path: Path) -> None:
    make_folders(tmp_path, 8)
    text = said(run_check("c", partial(check_contents, config_of(tmp_path, evaluation_share=0.01))))
    assert (
        "8 categories; on the most pictures: class 7 (10), class 5 (8), class 6 (8); " in text["reference, to train on"]
    )
    assert text["reference, to train on"].endswith("class 0 (3)")


def test_what_was_left_out_and_decided(tmp_path: Path) -> None:
    make_folders(tmp_path)
    make_picture(tmp_path / "ref" / "class_0" / "deep" / "1.png")
    (tmp_path / "ref" / "class_0" / "a.heic").write_bytes(b"x")
    (tmp_path / "target" / "away.png").symlink_to(tmp_path / "ref" / "class_0" / "0.png")
    (tmp_path / "target" / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(
        tmp_path / "target" / "moving.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), (9, 99, 9))]
    )
    checks = run_check("contents", partial(check_contents, config_of(tmp_path)))
    lines = [(c.name, c.status, c.found, c.advice) for c in checks]
    assert ("reference notes", "ok", "left out 1 x file with the ending .heic", "") in lines
    depth = next(c for c in checks if "lie deeper than one folder" in c.found)
    assert (depth.status, depth.advice) == ("warning", "set reference.class_from to first, last or path")
    links = next(c for c in checks if "link that leads out" in c.found)
    assert (links.status, links.advice) == ("warning", "set target.follow_links=true to read it")
    of_target = [(c.status, c.found) for c in checks if c.name == "target pictures"]
    assert of_target == [
        (
            "warning",
            "1 of 32 headers cannot be read, for example broken.png: not readable: cannot identify image file "
            f"'{tmp_path}/target/broken.png'",
        ),
        ("ok", "1 of 32 headers have several frames or pages: the first is read"),
    ]


def test_grey_pictures_that_need_a_range(tmp_path: Path) -> None:
    make_folders(tmp_path)
    twelve = np.random.default_rng(0).integers(0, 2700, (40, 40), dtype=np.uint16)
    for i in range(30):
        Image.fromarray(twelve).save(tmp_path / "target" / f"{i}.png")
    Image.fromarray(twelve.astype(np.int32)).save(tmp_path / "ref" / "class_0" / "signed.tif")
    checks = run_check("contents", partial(check_contents, config_of(tmp_path)))
    dark = next(c for c in checks if c.name == "target samples")
    assert dark.found.startswith("10 of 10 samples use under 5 % of the range")
    assert "set target.value_range" in dark.advice
    signed = next(c for c in checks if c.name == "reference pictures")
    assert (signed.status, signed.found.split(":")[0]) == ("failed", "1 of 13 headers")
    assert signed.advice.startswith("set reference.value_range")
    ranged = run_check("contents", partial(check_contents, config_of(tmp_path, value_range=[0, 2699])))
    assert [c.status for c in ranged if c.name == "reference pictures"] == ["ok"]


def test_data_that_cannot_be_read_is_said_once(tmp_path: Path) -> None:
    make_folders(tmp_path)
    (tmp_path / "list.txt").write_text("../x.png\n")
    target = PathListTarget(kind="path_list", root=tmp_path / "target", file=tmp_path / "list.txt")
    config = make_config(
        reference=CocoReference(kind="coco", root=tmp_path / "none"),
        target=target,
        storage=StorageSettings(root=tmp_path),
    )
    (check,) = run_check("contents", partial(check_contents, config))
    assert (check.name, check.status) == ("target contents", "failed")
    assert "line 1 of" in check.found
    assert check.advice.startswith("allowed: paths")


def test_a_root_of_links_only(tmp_path: Path) -> None:
    make_folders(tmp_path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(tmp_path / "ref" / "class_0")
    config = config_of(tmp_path).model_copy(update={"target": ImageFolderTarget(root=tmp_path / "links")})
    assert "set target.follow_links=true" in look_all(partial(check_data, config))["target"].found
    followed = ImageFolderTarget(root=tmp_path / "links", follow_links=True)
    config = config_of(tmp_path).model_copy(update={"target": followed})
    assert look_all(partial(check_data, config))["target"].status == "ok"
    assert said(run_check("c", partial(check_contents, config)))["target contents"] == "links: 3 pictures"


def test_several_labels(tmp_path: Path) -> None:
    make_folders(tmp_path)
    (tmp_path / "l.csv").write_text("image,dog,cat\n0.png,1,1\n1.png,0,1\n2.png,0,0\n")
    reference = CsvLabelsReference(kind="csv_labels", root=tmp_path / "target", file=tmp_path / "l.csv")
    config = config_of(tmp_path).model_copy(update={"reference": reference})
    found = said(run_check("c", partial(check_contents, config)))["reference, to train on"]
    assert found.startswith("target/train: 2 pictures, ")
    missing = reference.model_copy(update={"file": tmp_path / "none.csv"})
    config = config_of(tmp_path).model_copy(update={"reference": missing})
    assert (
        look_all(partial(check_data, config))["reference"].found == f"reference.file: {tmp_path / 'none.csv'} not there"
    )


def test_several_sources(tmp_path: Path) -> None:
    make_folders(tmp_path)
    make_picture(tmp_path / "b" / "sea" / "0.png", 90)
    make_picture(tmp_path / "b" / "class 0" / "1.png", 91)
    sources = [{"kind": "image_folder", "root": tmp_path / "ref"}, {"kind": "image_folder", "root": tmp_path / "b"}]
    reference = CombinedReference.model_validate({"kind": "combined", "sources": sources})
    config = config_of(tmp_path).model_copy(update={"reference": reference})
    assert look_all(partial(check_data, config))["reference"].found == (
        f"0-image_folder: {tmp_path / 'ref'}; 1-image_folder: {tmp_path / 'b'}"
    )
    found = run_check("c", partial(check_contents, config))
    notes = [c.found for c in found if c.name == "reference notes"]
    assert "1 of 4 categories are of several sources" in notes
    assert "merged: 'class 0' is 'class 0' of 1-image_folder" not in notes
    assert "0-image_folder is ref/train: 10 pictures, 10 labels, 3 categories" in notes
    assert "1-image_folder is b/train: 1 pictures, 1 labels, 2 categories" in notes
    assert said(found)["reference, to train on"].startswith("ref/train + b/train: 11 pictures, 11 labels, 4 categories")
    (tmp_path / "b").rename(tmp_path / "c")
    missing = look_all(partial(check_data, config))["reference"]
    assert missing.found == f"reference.sources.1.root: '{tmp_path / 'b'}' is no folder"
    assert "--set reference.sources.1.root=PATH" in missing.advice


def test_reading_that_takes_long_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folders(tmp_path)
    release = threading.Event()
    monkeypatch.setattr(contents, "_READ_SECONDS", 0.05)
    monkeypatch.setattr(contents, "_read", lambda role, config: release.wait() and None)
    try:
        checks = run_check("contents", partial(check_contents, config_of(tmp_path)))
        assert [(c.name, c.status) for c in checks] == [
            ("reference contents", "warning"),
            ("target contents", "warning"),
        ]
    finally:
        release.set()


def test_masks_and_hostile_names_on_the_sheet(tmp_path: Path) -> None:
    """The mask's left half is shaded red; the picture itself is grey."""
    Image.new("RGB", (200, 100), (100, 100, 100)).save(tmp_path / "a.png")
    name = "\x1b[31m<b>" + "\u202e" + "x" * 500
    records = [
        ImageRecord("a.png", tmp_path / "a.png", (Annotation("half", boxes=((0, 0, 100, 100),)),)),
        ImageRecord("none.png", tmp_path / "none.png", (Annotation("whole"),)),
        ImageRecord(name, tmp_path / "a.png", (Annotation(name),)),
    ]
    flat = draw_sheet({"reference": records}, tmp_path / "sheet.png")
    assert json.dumps(flat) == json.dumps({"reference": ["a.png", name]})
    with Image.open(tmp_path / "sheet.png") as sheet:
        seen = np.asarray(sheet).astype(int)
    middle = 30 + 120
    assert seen[middle, 8 + 30].tolist() == [158, 66, 88]  # 0.55 of 100 and 0.45 of (230, 25, 75), rounded down
    assert seen[middle, 8 + 190].tolist() == [100, 100, 100]
    assert seen[middle, 8 + 248 + 120].tolist() == [200, 200, 200]


def test_crowds_are_named_once(tmp_path: Path) -> None:
    make_folders(tmp_path)
    names = sorted(path.name for path in (tmp_path / "ref" / "class_2").iterdir())
    entries = [
        {"id": n, "image_id": n // 2, "category_id": 1, "bbox": [n, 1, 9, 9], "iscrowd": int(n == 3), "area": 81}
        for n in range(2 * len(names))
    ]
    content = {
        "images": [{"id": i, "file_name": name, "width": 60, "height": 40} for i, name in enumerate(names)],
        "annotations": [*entries, {**entries[0], "id": 99, "bbox": [0, 0, 0, 4]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    reference = CocoReference(
        kind="coco",
        root=tmp_path,
        train_images="ref/class_2",
        train_annotations="labels.json",
        evaluation_annotations=None,
    )
    config = config_of(tmp_path).model_copy(update={"reference": reference})
    notes = [c.found for c in run_check("c", partial(check_contents, config)) if c.name == "reference notes"]
    assert [note for note in notes if "crowd" in note] == [
        "1 annotations are marked iscrowd=1 and left out; reference.crowds=use reads them"
    ]
    assert "left out 1 x box of size 0" in notes


def write_vectors(path: Path, *words: str) -> Path:
    path.write_text("".join(f"{word} {n + 1}.0 1.0\n" for n, word in enumerate((*words, "sky", "tree"))), "utf-8")
    return path


@pytest.mark.parametrize(("known", "status"), [((), "failed"), (("class_0",), "warning")])
def test_categories_without_a_word_vector(tmp_path: Path, known: tuple[str, ...], status: str) -> None:
    """A run would end there, or go on without them."""
    make_folders(tmp_path)
    vectors = write_vectors(tmp_path / "vectors.txt", *known)
    config = config_of(tmp_path).model_copy(update={"words": WordSettings(vectors=str(vectors))})
    (found,) = [c for c in run_check("c", partial(check_contents, config)) if c.name == "words of categories"]
    assert found.status == status
    assert found.found.startswith(f"{3 - len(known)} of 3 categories have no word vector: class ")


def test_without_word_vectors_the_rest_is_looked_at_all_the_same(tmp_path: Path) -> None:
    """Another check says that they are away."""
    make_folders(tmp_path)
    config = config_of(tmp_path).model_copy(update={"words": WordSettings(vectors=str(tmp_path / "away.txt"))})
    checks = {c.name: c.status for c in run_check("c", partial(check_contents, config))}
    assert "words of categories" not in checks
    assert (checks["target contents"], checks["samples"]) == ("ok", "ok")
    assert "failed" not in checks.values()


def test_few_categories_to_judge_an_explainer_by(tmp_path: Path) -> None:
    make_folders(tmp_path)
    checks = run_check("c", partial(check_contents, config_of(tmp_path, evaluation_share=0.5)))
    (found,) = [c for c in checks if c.name == "categories"]
    assert found.found.startswith("3 categories; the test over categories, ")
