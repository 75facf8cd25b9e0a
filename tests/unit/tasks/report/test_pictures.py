"""Pictures of the report: outlines lie where the region is, maps are means, and the size is kept."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lavise.storage.activations import ActivationStore, ShardGrid, finish_store, write_shard
from lavise.storage.images.geometry import Geometry, area_weights
from lavise.tasks.report.outlines import BLOCK_MAPS, outline_region
from lavise.tasks.report.pictures import (
    ImageBook,
    ReportImages,
    cut_maps,
    describe_bands,
    draw_filter,
    draw_pairs,
    encode_images,
    quantise_maps,
)
from tests.unit.tasks.helpers import MEAN, STD, write_image, write_store

GEOMETRY = Geometry(32, "squash", interpolation="bilinear")


# ---------------------------------------------------------------- maps


def test_small_map_is_as_it_is_and_large_one_is_means() -> None:
    rng = np.random.default_rng(0)
    small = rng.normal(size=(7, 7)).astype(np.float32)
    np.testing.assert_allclose(cut_maps(small[None])[0], small, rtol=1e-6)
    large = rng.normal(size=(16, 24)).astype(np.float32)
    np.testing.assert_allclose(cut_maps(large[None])[0], large.reshape(8, 2, 8, 3).mean(axis=(1, 3)), atol=1e-6)
    uneven = rng.normal(size=(14, 5)).astype(np.float32)
    fine = np.repeat(uneven, 8, axis=0)  # each of 8 cells is 14 of these 112 rows
    np.testing.assert_allclose(cut_maps(uneven[None])[0], fine.reshape(8, 14, 5).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, -2.0], ids=["plain", "signed"])
def test_quantised_maps_are_within_half_a_level(shift: float) -> None:
    maps = (4 * np.random.default_rng(0).random((3, 7, 6)) + shift).astype(np.float32)
    contents, low, high = quantise_maps(maps)
    assert (low, high) == (pytest.approx(min(0, maps.min())), pytest.approx(maps.max()))
    levels = np.stack([np.frombuffer(base64.b64decode(c), np.uint8).reshape(7, 6) for c in contents])
    assert np.abs(low + levels / 255 * (high - low) - maps).max() <= (high - low) / 510 + 1e-6


def test_maps_of_nothing_and_of_one_value() -> None:
    assert quantise_maps(np.zeros((0, 1, 1), np.float32)) == ([], 0.0, 0.0)
    contents, low, high = quantise_maps(np.zeros((1, 2, 2), np.float32))
    assert (base64.b64decode(contents[0]), low, high) == (b"\0" * 4, 0.0, 0.0)


def test_pairs_are_drawn_from_their_own_maps(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).normal(size=(5, 3, 4, 4))
    store = write_store(tmp_path, maps, shard_images=2)
    filters, images = np.array([0, 2, 1, 2]), np.array([4, 0, 4, 3])
    thresholds = np.array([0.1, 0.2, 0.3], np.float32)
    drawn = draw_pairs(store, thresholds, filters, images, np.array([3, 0, 2]))
    assert sorted(drawn) == [0, 2, 3]
    for position, pair in drawn.items():
        own = maps[images[position], filters[position]].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(pair.cells, own)
        assert pair.outline == outline_region(own, float(thresholds[filters[position]]))
    assert draw_pairs(store, thresholds, filters, images, np.zeros(0, np.int64)) == {}


def test_pairs_in_blocks_are_those_drawn_one_by_one(tmp_path: Path) -> None:
    """More pairs than a block holds, some of which go on into the next picture."""
    maps = np.random.default_rng(1).normal(size=(6, 50, 11, 9))
    store = write_store(tmp_path, maps, shard_images=4)
    filters, images = (a.ravel() for a in np.meshgrid(np.arange(50), np.arange(6)))
    thresholds = np.linspace(-0.5, 2.5, 50, dtype=np.float32)
    drawn = draw_pairs(store, thresholds, filters, images, np.arange(len(filters)))
    assert len(drawn) == 300 > 4 * BLOCK_MAPS
    for position, pair in drawn.items():
        own = maps[images[position], filters[position]].astype(np.float16).astype(np.float32)
        assert pair.outline == outline_region(own, float(thresholds[filters[position]]))
        np.testing.assert_array_equal(pair.cells, cut_maps(own[None])[0])
        rows, columns = area_weights(11, 0, 11, 8), area_weights(9, 0, 9, 8)
        np.testing.assert_array_equal(pair.cells, rows @ own @ columns.T)


# ---------------------------------------------------------------- size


def make_book(folder: Path, num: int, num_large: int) -> tuple[ImageBook, dict[str, dict[str, Path]]]:
    """Pictures of noise, which are the hardest to make small."""
    book, paths = ImageBook(), {}
    for i in range(num):
        if i == num_large:
            book.end_large()
        assert book.add("target", f"{i}.png") == i
        noise = np.random.default_rng(i).integers(0, 256, size=(96, 96, 3)).astype(np.uint8)
        paths[f"{i}.png"] = folder / f"{i}.png"
        Image.fromarray(noise).save(paths[f"{i}.png"])
    return book, {"target": paths}


def size_of(content: str) -> int:
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.format == "WEBP"
        assert picture.width == picture.height
        return picture.width


def test_pictures_are_as_large_as_asked_where_there_is_room(tmp_path: Path) -> None:
    book, paths = make_book(tmp_path, 6, 2)
    found = encode_images(book, ReportImages(GEOMETRY, paths), 80, 1e6)
    assert (found.large_px, found.small_px, found.as_asked, found.fits) == (80, 80, True, True)
    assert [size_of(c) for c in found.contents] == [80] * 6


def test_pictures_become_smaller_until_they_fit(tmp_path: Path) -> None:
    """The first pictures of a filter keep their size for longer."""
    book, paths = make_book(tmp_path, 8, 2)
    full = sum(map(len, encode_images(book, ReportImages(GEOMETRY, paths), 80, 1e6).contents))
    found = encode_images(book, ReportImages(GEOMETRY, paths), 80, full / 2)
    assert sum(map(len, found.contents)) <= full / 2
    assert found.fits
    assert not found.as_asked
    assert 80 >= found.large_px > found.small_px >= 24
    assert [size_of(c) for c in found.contents] == [found.large_px] * 2 + [found.small_px] * 6


def test_estimate_of_many_pictures_keeps_the_size(tmp_path: Path) -> None:
    """Only a sample is looked at; the easy half of the pictures does not hide the hard one."""
    book, paths = ImageBook(), {}
    for i in range(400):
        book.add("target", str(i))
        paths[str(i)] = write_image(tmp_path / f"{i}.png", 40, 40, i)
    limit = 0.6 * sum(map(len, encode_images(book, ReportImages(GEOMETRY, {"target": paths}), 40, 1e9).contents))
    found = encode_images(book, ReportImages(GEOMETRY, {"target": paths}), 40, limit)
    assert sum(map(len, found.contents)) <= limit
    assert found.fits


def test_page_that_cannot_be_that_small_says_so(tmp_path: Path) -> None:
    book, paths = make_book(tmp_path, 3, 1)
    found = encode_images(book, ReportImages(GEOMETRY, paths), 80, 10)
    assert not found.fits
    assert found.small_px == 24


def test_contents_are_those_of_their_own_pictures(tmp_path: Path) -> None:
    """Encoded in threads and in the order of the data set, which is not that of the page."""
    book, paths = ImageBook(), {}
    for i in range(300):
        Image.new("RGB", (8, 8), (i % 256, 40 * (i // 256), 128)).save(tmp_path / f"{i}.png")
        paths[str(i)] = tmp_path / f"{i}.png"
    for i in reversed(range(300)):
        book.add("target", str(i))
    found = encode_images(book, ReportImages(GEOMETRY, {"target": paths}), 32, 1e9)
    for (_, key), content in zip(book.addresses, found.contents, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            colour = np.asarray(picture.convert("RGB")).astype(int).mean(axis=(0, 1))
        number = int(key)
        np.testing.assert_allclose(colour, (number % 256, 40 * (number // 256), 128), atol=6)


def test_equal_pictures_have_one_number() -> None:
    book = ImageBook()
    assert [book.add("target", "a"), book.add("train", "a"), book.add("target", "a")] == [0, 1, 0]
    assert book.addresses == [("target", "a"), ("train", "a")]


# ---------------------------------------------------------------- other inputs


def test_pictures_keep_the_aspect_ratio_of_the_input(tmp_path: Path) -> None:
    book = ImageBook()
    book.add("target", "a.png")
    pictures = ReportImages(
        Geometry((96, 64), interpolation="bilinear"), {"target": {"a.png": write_image(tmp_path / "a.png", 50, 40)}}
    )
    found = encode_images(book, pictures, 48, 1e6)
    with Image.open(io.BytesIO(base64.b64decode(found.contents[0]))) as picture:
        assert (picture.height, picture.width) == (48, 32)
    assert pictures.load("target", "a.png", 30).shape == (30, 20, 3)
    gone = ReportImages(pictures.geometry, {"target": {"b.png": tmp_path / "b.png"}})
    assert gone.load("target", "b.png", 30).shape == (30, 20, 3)
    assert not gone.load("target", "b.png", 30).any()


def test_chosen_bands_are_shown(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 256, size=(16, 24, 5), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig")
    paths = {"target": {"a.tif": tmp_path / "a.tif"}}
    geometry = Geometry((16, 24), interpolation="bilinear")
    for chosen in ((5, 1, 3), (2,), None):
        found = ReportImages(geometry, paths, 5, chosen).load("target", "a.tif", 24)
        for colour, band in enumerate(chosen * 3 if chosen == (2,) else chosen or (1, 2, 3)):
            own = bands[..., band - 1].astype(float)
            low, high = np.percentile(own, (2, 98))
            np.testing.assert_allclose(found[..., colour], 255 * np.clip((own - low) / (high - low), 0, 1), atol=1)


@pytest.mark.parametrize(
    ("channels", "bands", "expected"),
    [
        (3, None, ""),
        (1, None, ""),
        (5, None, "Pictures have 5 bands. Shown: bands 1, 2, 3 as red, green and blue, each from"),
        (5, (4,), "Pictures have 5 bands. Shown: band 4 as grey, each from"),
        (2, None, "Pictures have 2 bands. Shown: band 1 as grey, each from"),
    ],
)
def test_page_says_which_bands_are_shown(channels: int, bands: tuple[int, ...] | None, expected: str) -> None:
    found = describe_bands(channels, bands)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


def test_drawn_filter_has_the_aspect_ratio_of_the_input(tmp_path: Path) -> None:
    """A patch of the picture, the map's cells on it, and the outline that is drawn around them."""
    pixels = np.zeros((120, 40, 3), np.uint8)
    pixels[15:45, 20:40] = (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    maps = np.zeros((1, 1, 12, 4), np.float16)
    maps[0, 0, 1:5, 2:] = 1
    framing = {"size_px": [120, 40], "fit": "squash", "interpolation": "bilinear", "mean": MEAN, "std": STD}
    grid = ShardGrid(1, 4)
    folder = tmp_path / "s"
    folder.mkdir()
    write_shard(folder, 0, maps, ["a.png"], {}, {"preprocessing": json.dumps(framing)})
    finish_store(folder, grid)
    row = {"layer": "l", "filter": 0, "words": ["w"], "threshold": 0.5, "top_images": ["a.png"]}
    png = draw_filter(ActivationStore(folder), row, {"a.png": tmp_path / "a.png"}, 1, 120, "x")
    with Image.open(io.BytesIO(png)) as drawn:
        seen = np.asarray(drawn.convert("RGB")).astype(int)
    blue = np.argwhere((seen[..., 2] > 200) & (seen[..., 0] < 60) & (seen[..., 1] < 60))
    line = np.argwhere((seen[..., 0] > 200) & (seen[..., 1] > 180) & (seen[..., 2] < 120))
    black = np.argwhere(seen.max(axis=2) < 30)
    (top, left), (bottom, right) = black.min(axis=0), black.max(axis=0)
    high, wide = np.ptp(blue, axis=0)
    assert high / wide == pytest.approx(30 / 20, rel=0.1)
    assert (line.min(axis=0)[0] + line.max(axis=0)[0]) / 2 == pytest.approx(blue[:, 0].mean(), abs=0.15 * high)
    assert line[:, 1].min() == pytest.approx(blue[:, 1].min(), abs=0.15 * wide)
    assert (bottom - top) > 0
    assert (right - left) > 0
