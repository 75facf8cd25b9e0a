"""Label maps: exact run lengths, colours as they are stored, nearest stretching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from lavise.storage.datasets.readers.label_maps import (
    draw_polygon,
    join_colour,
    read_label_picture,
    resize_labels,
    split_labels,
)
from lavise.storage.images.images import BrokenImageError


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_split_is_what_pycocotools_makes_of_each_mask(height: int, width: int, labels: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(0, labels, (height, width))
    found = split_labels(drawn)
    assert list(found) == sorted(set(drawn.ravel().tolist()) - {0})
    for label, rle in found.items():
        np.testing.assert_array_equal(coco_mask.decode(rle), drawn == label)
        assert rle == coco_mask.encode(np.asfortranarray((drawn == label).astype(np.uint8)))


def test_labels_that_are_none() -> None:
    assert list(split_labels(np.array([[0, 1, 255]]), without=(0, 255))) == [1]
    assert split_labels(np.zeros((2, 3), dtype=np.int64)) == {}


def test_stretching_takes_the_label_at_the_centre() -> None:
    small = np.array([[1, 2], [3, 4]])
    np.testing.assert_array_equal(resize_labels(small, 4, 4), np.kron(small, np.ones((2, 2))))
    # Centres of three pixels in two: 1/3, 1, 5/3 of a pixel; the middle one begins the second.
    np.testing.assert_array_equal(resize_labels(small, 3, 2), [[1, 2], [3, 4], [3, 4]])
    np.testing.assert_array_equal(resize_labels(np.arange(16).reshape(4, 4), 2, 2), [[5, 7], [13, 15]])


def test_pixels_as_they_are_stored(tmp_path: Path) -> None:
    drawn = np.array([[0, 7], [200, 3]], dtype=np.uint8)
    palette = Image.fromarray(drawn, mode="P")
    palette.putpalette([v for i in range(256) for v in (i, 255 - i, 9)])
    palette.save(tmp_path / "palette.png")
    found = read_label_picture(tmp_path / "palette.png")
    np.testing.assert_array_equal(found.values, drawn)
    assert found.colours()[0, 1] == join_colour(np.array([7, 248, 9])) == (7 << 16) + (248 << 8) + 9
    Image.fromarray(drawn.astype(np.uint16) * 300).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_label_picture(tmp_path / "deep.png").values, drawn.astype(np.int64) * 300)
    Image.fromarray(drawn > 5).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_label_picture(tmp_path / "one.png").values, drawn > 5)
    rgba = np.dstack([drawn, drawn + 1, drawn + 2, np.full_like(drawn, 128)])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_label_picture(tmp_path / "rgba.png").values, rgba[..., :3])


def test_what_is_no_png(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "a.bmp")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(BrokenImageError, match=r"^not found$"):
        read_label_picture(tmp_path / "none.png")
    for name in ("a.bmp", "cut.png"):
        with pytest.raises(BrokenImageError, match=r"^not readable"):
            read_label_picture(tmp_path / name)


def test_polygon() -> None:
    rle = draw_polygon(np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]]), 4, 5)
    assert rle is not None
    expected = np.zeros((4, 5))
    expected[0:2, 1:3] = 1
    np.testing.assert_array_equal(coco_mask.decode(rle), expected)
    assert draw_polygon(np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), 4, 5) is None
