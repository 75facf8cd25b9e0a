"""Mosaics of patterns: what is labelled is what is drawn, and the same seed gives the same bits."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lavise.configs.loading import load_config
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.readers.coco import load_coco_instances
from lavise.storage.datasets.readers.patterns import (
    MOST,
    WORDS,
    describe_sources,
    draw_mosaic,
    fill,
    find_main_colour,
    write_patterns,
)
from lavise.storage.datasets.readers.textures import COLOURS, TEXTURES, find_colours
from lavise.storage.images.images import open_image
from lavise.storage.words.word_vectors import load_word_vectors

SIZE_PX = 72
NUM = 60


def hash_tree(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def read(root: Path, split: str) -> Dataset:
    return load_coco_instances(root / split, root / "annotations" / f"instances_{split}.json", f"patterns/{split}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patterns")
    for split in ("train", "evaluation"):
        write_patterns(folder, split, NUM, SIZE_PX, seed=5)
    return folder


@pytest.mark.parametrize("index", range(6))
def test_masks_are_where_the_pattern_is(index: int) -> None:
    """Each filling drawn again by itself is the picture within its mask, and another one is not."""
    picture, regions = draw_mosaic((5, 1, index), SIZE_PX)
    for region in regions:
        again = fill(region.key, region.texture, region.terms, SIZE_PX)
        assert np.array_equal(again[region.mask], picture[region.mask])
        around = ~region.mask
        assert not np.array_equal(again[around], picture[around])


def test_regions_cover_the_picture_once_with_different_words() -> None:
    numbers = set()
    for index in range(30):
        _, regions = draw_mosaic((5, 1, index), SIZE_PX)
        assert np.array_equal(np.sum([r.mask for r in regions], axis=0), np.ones((SIZE_PX, SIZE_PX)))
        assert len({r.texture for r in regions}) == len(regions)
        assert min(r.mask.mean() for r in regions) > 0.02
        numbers.add(len(regions))
    assert numbers == {2, 3, 4}


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_files_hold_what_was_drawn(root: Path, split: str) -> None:
    """A region's texture and its colour have the same mask; by the pixels of the file, the colour covers most of it."""
    data = read(root, split)
    assert data.skipped == {}
    assert data.concepts == WORDS
    assert len(data.records) == NUM
    with_colour = 0
    for record in data.records:
        pixels = np.asarray(open_image(record.path))
        assert pixels.shape == (SIZE_PX, SIZE_PX, 3)
        colour_of = {
            a.make_mask(SIZE_PX, SIZE_PX).tobytes(): a.concept for a in record.annotations if a.concept in COLOURS
        }
        textures = [a for a in record.annotations if a.concept in TEXTURES]
        assert 2 <= len(textures) <= 4
        for annotation in textures:
            mask = annotation.make_mask(SIZE_PX, SIZE_PX)
            colour = colour_of.pop(mask.tobytes(), None)
            shares = {term: (find_colours(pixels[mask]) == n).mean() for n, term in enumerate(COLOURS)}
            assert [term for term, share in shares.items() if share > MOST] == ([colour] if colour else [])
            with_colour += colour is not None
        assert not colour_of
    assert with_colour > NUM


def test_all_words_are_in_both_parts(root: Path) -> None:
    for split in ("train", "evaluation"):
        counts = read(root, split).count_images_with()
        assert set(counts) == set(WORDS)


def test_all_words_have_vectors() -> None:
    vectors = load_word_vectors(load_config("demo").words)
    assert [word for word in WORDS if word not in vectors.index] == []
    assert len(set(WORDS)) == len(WORDS) == 25


def test_same_seed_same_bytes_also_in_another_process(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lavise.storage.datasets.readers.patterns import write_patterns\n"
        f"write_patterns(Path(sys.argv[1]), 'train', {NUM}, {SIZE_PX}, seed=5)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).resolve().parents[4])
    expected = {name: digest for name, digest in hash_tree(root).items() if "evaluation" not in name}
    assert hash_tree(tmp_path) == expected


@pytest.mark.parametrize(("seed", "split"), [(6, "train"), (5, "training")])
def test_other_seed_or_split_other_pictures(root: Path, tmp_path: Path, seed: int, split: str) -> None:
    write_patterns(tmp_path, split, 4, SIZE_PX, seed=seed)
    mine = {digest for name, digest in hash_tree(tmp_path).items() if name.endswith(".png")}
    assert len(mine) == 4
    assert not mine & set(hash_tree(root).values())


def test_no_picture_is_in_both_parts(root: Path) -> None:
    pictures = [digest for name, digest in hash_tree(root).items() if name.endswith(".png")]
    assert len(set(pictures)) == 2 * NUM


def test_true_coco_layout(root: Path) -> None:
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    assert [c["name"] for c in content["categories"]] == list(WORDS)
    assert [c["id"] for c in content["categories"]] == list(range(1, 26))
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))


def test_a_colour_needs_more_than_half() -> None:
    red, white = [220, 10, 10], [255, 255, 255]
    assert find_main_colour(np.array([red, red, white], np.uint8)) == "red"
    assert find_main_colour(np.array([red, white], np.uint8)) is None
    assert find_main_colour(np.array([[0, 255, 255]], np.uint8)) is None


@pytest.mark.parametrize("terms", [("black", "black"), ("white", "white"), ("red", "red"), ("blue", "orange")])
def test_tones_can_be_told_apart(terms: tuple[str, str]) -> None:
    for number in range(10):
        picture = fill((number,), "checkered", terms, 64).astype(int)
        assert np.ptp(picture.reshape(-1, 3), axis=0).max() >= 45


def test_sources_name_the_versions_that_the_pictures_depend_on() -> None:
    sources = describe_sources()
    assert set(sources) == {"scikit-image", "scipy", "pillow", "numpy", "words"}
    assert describe_sources() == sources
