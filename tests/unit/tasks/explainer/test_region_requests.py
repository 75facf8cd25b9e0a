"""Rows of a data frame as features and regions, boxes as shares of cells, and pooling, without MLflow around them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lavise.storage.array_types import HalfArray
from lavise.storage.images.geometry import Geometry
from lavise.storage.models.packed_network import PackedNetwork
from lavise.tasks.explainer.region_requests import Region, pool_images, read_rows, shrink_box
from tests.unit.tasks.helpers import AnyArray, make_model, write_image

SQUASH, CROP = Geometry(32), Geometry(32, "center_crop", 0.5)
HEIGHT, WIDTH = 24, 40

# Rows


def test_rows_are_sorted_into_features_and_regions() -> None:
    """By position, whatever the index of the frame is."""
    rows: list[dict[str, Any]] = [
        {"region_features": [1, 2.5], "image": None, "box": None},
        {"region_features": None, "image": b"one", "box": (1, 2, 3.5, 4)},
        {"region_features": np.array([0.0, -3.0]), "image": None, "box": None},
        {"region_features": None, "image": bytearray(b"two"), "box": None},
    ]
    features, regions = read_rows(pd.DataFrame(rows, index=[7, 7, 0, 3]), 2)
    assert {row: value.tolist() for row, value in features.items()} == {0: [1, 2.5], 2: [0, -3]}
    assert all(value.dtype == np.float32 for value in features.values())
    assert regions == [Region(1, b"one", (1, 2, 3.5, 4)), Region(3, b"two", None)]


@pytest.mark.parametrize("nothing", [None, float("nan"), pd.NA, "", b""], ids=repr)
def test_what_was_not_given_is_absent(nothing: Any) -> None:
    frame = pd.DataFrame({"region_features": [[1.0], nothing], "image": [nothing, b"x"], "box": [nothing, nothing]})
    features, regions = read_rows(frame, 1)
    assert list(features) == [0]
    assert regions == [Region(1, b"x", None)]


def test_text_is_base64_with_or_without_breaks() -> None:
    content = bytes(range(256))
    text = base64.b64encode(content).decode()
    frame = pd.DataFrame({"image": [text, f"  {text[:100]}\r\n{text[100:]}\n"]})
    assert [r.image for r in read_rows(frame, 3)[1]] == [content, content]


def test_other_columns_are_not_looked_at() -> None:
    frame = pd.DataFrame({"path": ["a.png"], "region_features": [[1.0, 2.0]], "words": [None]})
    features, regions = read_rows(frame, 2)
    assert (list(features), regions) == ([0], [])


def test_a_frame_without_rows_has_none() -> None:
    assert read_rows(pd.DataFrame({"region_features": []}), 2) == ({}, [])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"box": [[0, 0, 1, 1]]}, "^input: found no column that is known"),
        ({"image": [b"x"], "box": [[True, 0, 3]]}, r"^row 0: box has the shape \[3\]"),
        ({"image": [3.5]}, "^row 0: image is float; allowed: bytes of a picture file, or base64$"),
        ({"region_features": [[1.0, None]]}, "^row 0: region_features are not finite"),
        ({"region_features": [3.0]}, r"^row 0: region_features has the shape \[\]; allowed: \[2\]"),
        ({"region_features": ["1 2"]}, "^row 0: region_features is no list of numbers; allowed: 2 numbers$"),
        ({"region_features": [[[1.0, 2.0]]]}, r"^row 0: region_features has the shape \[1, 2\]"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(pd.DataFrame(columns), 2)
    assert "\n" not in str(caught.value)


def test_the_first_row_that_is_wrong_is_named() -> None:
    frame = pd.DataFrame({"region_features": [[1.0], [1.0, 2.0], "text"]}, index=[10, 20, 30])
    with pytest.raises(ValueError, match=r"^row 1: "):
        read_rows(frame, 1)


# Boxes


def cover_by_sampling(box: tuple[float, ...], seen: tuple[float, ...], height: int, width: int) -> AnyArray:
    """Share of each cell, by 60 x 60 points in each; `seen` and `box` are (left, top, right, bottom)."""
    points = 60
    xs = seen[0] + (np.arange(width * points) + 0.5) / (width * points) * (seen[2] - seen[0])
    ys = seen[1] + (np.arange(height * points) + 0.5) / (height * points) * (seen[3] - seen[1])
    inside = ((ys > box[1]) & (ys < box[3]))[:, None] & ((xs > box[0]) & (xs < box[2]))
    return inside.reshape(height, points, width, points).mean(axis=(1, 3))


@pytest.mark.parametrize("box", [(0, 0, 40, 24), (3.3, 5.1, 17.9, 6.2), (-5, 20, 60, 90), (19.5, 11.5, 20.5, 12.5)])
@pytest.mark.parametrize(
    ("geometry", "seen"), [(SQUASH, (0, 0, 40, 24)), (CROP, (14, 6, 26, 18))], ids=["squash", "crop"]
)
def test_box_vs_points(geometry: Geometry, seen: tuple[float, ...], box: tuple[float, float, float, float]) -> None:
    """The crop is half of the shorter side: 12 x 12 in the middle of 24 x 40."""
    found = shrink_box(box, geometry, (HEIGHT, WIDTH), 3, 5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, cover_by_sampling(box, seen, 3, 5), atol=0.05)


def test_no_box_is_the_whole_of_what_the_network_sees() -> None:
    for geometry in (SQUASH, CROP):
        np.testing.assert_array_equal(shrink_box(None, geometry, (HEIGHT, WIDTH), 3, 5), np.ones((3, 5)))


def test_a_box_outside_the_crop_covers_nothing() -> None:
    assert not shrink_box((0, 0, 14, 24), CROP, (HEIGHT, WIDTH), 3, 5).any()


corner = st.floats(-10, 60, allow_nan=False)


@given(st.tuples(corner, corner, corner, corner), st.integers(1, 7), st.integers(1, 7))
def test_covered_area_is_that_of_the_box(corners: tuple[float, float, float, float], height: int, width: int) -> None:
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    found = shrink_box((left, top, right, bottom), SQUASH, (HEIGHT, WIDTH), height, width)
    seen = max(0.0, min(right, WIDTH) - max(left, 0)) * max(0.0, min(bottom, HEIGHT) - max(top, 0))
    assert float(found.mean()) == pytest.approx(seen / (HEIGHT * WIDTH), abs=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6


@given(st.floats(1, 39), st.integers(1, 9))
def test_two_halves_make_the_whole(cut: float, width: int) -> None:
    size = (HEIGHT, WIDTH)
    parts = [shrink_box((a, 3, b, 20), SQUASH, size, 4, width) for a, b in ((0.0, cut), (cut, 40.0))]
    np.testing.assert_allclose(sum(parts), shrink_box((0, 3, 40, 20), SQUASH, size, 4, width), atol=1e-6)


# Pooling


def run_colours(images_NSS3: npt.NDArray[np.uint8]) -> HalfArray:
    """Maps of 2 x 2 cells: the mean of red, and of green, in each quarter of the picture."""
    quarters = images_NSS3.reshape(len(images_NSS3), 2, 16, 2, 16, 3).mean(axis=(2, 4))
    return quarters.transpose(0, 3, 1, 2)[:, :2].astype(np.float16)


def pack() -> PackedNetwork:
    return PackedNetwork(make_model(size_px=32), None, "tail")


def test_a_region_is_the_mean_of_map_times_mask(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16, 0], pixels[:16, 16:, 0], pixels[16:, :, 1] = 200, 100, 80
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = (tmp_path / "a.png").read_bytes()
    boxes: list[tuple[float, float, float, float] | None] = [None, (0, 0, 16, 16), (16, 0, 32, 32), (12, 8, 20, 24)]
    regions = [Region(row, image, box) for row, box in enumerate(boxes)]
    found = pool_images(pack(), regions, run_colours)
    expected = {
        0: (300 / 4, 160 / 4),
        1: (200 / 4, 0),
        2: (100 / 4, 80 / 4),
        # An eighth of each quarter: 4 of 16 columns and 8 of 16 rows.
        3: ((200 + 100) / 8 / 4, (80 + 80) / 8 / 4),
    }
    assert list(found) == list(expected)
    for row, feature in found.items():
        np.testing.assert_allclose(feature, expected[row], rtol=1e-3)


def test_rows_keep_their_numbers(tmp_path: Path) -> None:
    """Pictures come in turns; each is run once."""
    images = [write_image(tmp_path / f"{i}.png", 32, 32, seed=i).read_bytes() for i in range(2)]
    sizes = []

    def run(pictures: npt.NDArray[np.uint8]) -> HalfArray:
        sizes.append(len(pictures))
        return run_colours(pictures)

    regions = [Region(row, images[row % 2], None) for row in (9, 4, 3, 6)]
    found = pool_images(pack(), regions, run)
    assert sizes == [2]
    assert set(found) == {9, 4, 3, 6}
    np.testing.assert_array_equal(found[9], found[3])
    np.testing.assert_array_equal(found[4], found[6])
    assert not np.array_equal(found[9], found[4])


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_activation_that_is_not_finite_names_the_first_row_of_its_picture(tmp_path: Path, value: float) -> None:
    images = [write_image(tmp_path / f"{i}.png", 32, 32, seed=i).read_bytes() for i in range(2)]

    def run(pictures: npt.NDArray[np.uint8]) -> HalfArray:
        maps = run_colours(pictures)
        maps[1, 0, 0, 1] = value
        return maps

    regions = [Region(row, images[which], None) for row, which in enumerate((0, 0, 1, 1))]
    with pytest.raises(ValueError, match=r"^row 2: image: the layer's activation is not finite or above 65,504$"):
        pool_images(pack(), regions, run)


def test_no_regions_need_no_network() -> None:
    def run(pictures: npt.NDArray[np.uint8]) -> HalfArray:
        raise AssertionError("the network ran")

    assert pool_images(pack(), [], run) == {}
