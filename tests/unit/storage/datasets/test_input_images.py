"""Pictures as networks take them: colours or bands, through the same geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from lavise.storage.datasets.input_images import load_input, load_shown, make_blank, open_input, read_input_size
from lavise.storage.images.geometry import Geometry
from lavise.storage.images.images import BrokenImageError, open_image

GEOMETRIES = [Geometry(16), Geometry((12, 20), "center_crop", 0.9, "bilinear"), Geometry((20, 12))]


def write_bands(path: Path, height: int = 30, width: int = 50, channels: int = 5) -> np.ndarray:
    bands = np.random.default_rng(0).integers(0, 256, size=(height, width, channels), dtype=np.uint8)
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
    return bands


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_bands_are_resized_as_colours_are(tmp_path: Path, geometry: Geometry) -> None:
    """The first three of five bands are what the same numbers give as red, green and blue, but for rounding."""
    bands = write_bands(tmp_path / "a.tif")
    Image.fromarray(np.ascontiguousarray(bands[..., :3])).save(tmp_path / "a.png")
    found = load_input(tmp_path / "a.tif", geometry, 5)
    colours = load_input(tmp_path / "a.png", geometry)
    assert found.shape == (*geometry.shape, 5)
    assert (found.dtype, colours.dtype) == (np.float32, np.uint8)
    np.testing.assert_allclose(found[..., :3] * 255, colours, atol=1.01)
    assert found.min() >= 0
    assert found.max() <= 1


def test_three_and_one_channels_are_read_as_colours(tmp_path: Path) -> None:
    Image.fromarray(write_bands(tmp_path / "a.tif", channels=3)).save(tmp_path / "a.png")
    for channels in (1, 3):
        found = open_input(tmp_path / "a.png", channels)
        assert found.shape == (30, 50)
        np.testing.assert_array_equal(np.asarray(found.content), np.asarray(open_image(tmp_path / "a.png")))


def test_blank_pictures_are_like_others(tmp_path: Path) -> None:
    write_bands(tmp_path / "a.tif")
    for channels in (5, 3, 1):
        blank = make_blank(GEOMETRIES[1], channels)
        assert blank.shape == (12, 20, 5 if channels == 5 else 3)
        assert not blank.any()
    assert make_blank(GEOMETRIES[1], 5).dtype == load_input(tmp_path / "a.tif", GEOMETRIES[1], 5).dtype


def test_what_is_shown_is_what_the_network_sees(tmp_path: Path) -> None:
    write_bands(tmp_path / "a.tif")
    shown = load_shown(tmp_path / "a.tif", GEOMETRIES[1], 5, (5,))
    band = load_input(tmp_path / "a.tif", GEOMETRIES[1], 5)[..., 4]
    assert shown.shape == (12, 20, 3)
    assert np.corrcoef(shown[..., 0].ravel(), band.ravel())[0, 1] > 0.99


def test_sizes_are_read_from_colours_and_from_bands(tmp_path: Path) -> None:
    write_bands(tmp_path / "a.tif")
    Image.new("RGB", (7, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    assert read_input_size(tmp_path / "a.tif") == (30, 50)
    assert read_input_size(tmp_path / "a.png") == (9, 7)
    with pytest.raises(BrokenImageError, match=r"^not readable"):
        read_input_size(tmp_path / "b.png")
