from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from lavise.storage.array_types import FloatArray
from lavise.storage.images.geometry import Geometry, area_weights, bilinear_weights, find_regions, upsample_maps


def _find_region(map_hw: FloatArray, threshold: float, size_px: int) -> npt.NDArray[np.bool_]:
    return find_regions(map_hw[None], np.array([threshold], dtype=np.float32), size_px)[0]


def shrink_slowly(
    mask_hw: npt.NDArray[np.bool_], box: tuple[float, float, float, float], height: int, width: int
) -> npt.NDArray[np.float64]:
    """Area share of each cell, pixel by pixel: the overlap of two rectangles, straight from the definition."""
    top, left, bottom, right = box
    cell_h, cell_w = (bottom - top) / height, (right - left) / width
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y0, x0 = top + i * cell_h, left + j * cell_w
            for y in range(mask_hw.shape[0]):
                for x in range(mask_hw.shape[1]):
                    if mask_hw[y, x]:
                        high = max(0.0, min(y0 + cell_h, y + 1) - max(y0, y))
                        wide = max(0.0, min(x0 + cell_w, x + 1) - max(x0, x))
                        out[i, j] += high * wide / (cell_h * cell_w)
    return out


def test_box_of_squash_is_the_whole_picture() -> None:
    assert Geometry(8).source_box(30, 50) == (0.0, 0.0, 30.0, 50.0)


def test_box_of_center_crop_by_hand() -> None:
    # Shorter side 40, half of it is 20: rows 10 to 30; columns from (100 - 20) / 2 = 40 to 60.
    assert Geometry(8, "center_crop", 0.5).source_box(40, 100) == (10.0, 40.0, 30.0, 60.0)
    assert Geometry(8, "center_crop", 0.5).source_box(100, 40) == (40.0, 10.0, 60.0, 30.0)


@pytest.mark.parametrize("fit", ["squash", "center_crop"])
@pytest.mark.parametrize(("h", "w", "height", "width"), [(13, 29, 7, 7), (29, 13, 3, 5), (5, 6, 7, 8), (1, 9, 2, 2)])
def test_shrink_mask_vs_brute_force(fit: str, h: int, w: int, height: int, width: int) -> None:
    mask = np.random.default_rng(h * w).random((h, w)) < 0.3
    geometry = Geometry(64, fit)
    expected = shrink_slowly(mask, geometry.source_box(h, w), height, width)
    found = geometry.shrink_mask(mask, height, width)
    assert found.dtype == np.float32
    assert found.shape == (height, width)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_shrink_mask_of_whole_blocks_is_their_mean() -> None:
    mask = np.random.default_rng(0).random((14, 21)) < 0.5
    expected = mask.reshape(7, 2, 7, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(Geometry(64).shrink_mask(mask, 7, 7), expected, atol=1e-6)


def test_single_pixel_survives_where_nearest_neighbour_loses_it() -> None:
    mask = np.zeros((480, 640), dtype=bool)
    mask[3, 637] = True
    nearest = np.asarray(Image.fromarray(mask).resize((7, 7), Image.Resampling.NEAREST))
    assert not nearest.any()
    shrunk = Geometry(224).shrink_mask(mask, 7, 7)
    assert np.argwhere(shrunk).tolist() == [[0, 6]]
    np.testing.assert_allclose(shrunk.sum() * (480 / 7) * (640 / 7), 1.0, rtol=1e-4)


def test_no_single_pixel_vanishes() -> None:
    for y in range(11):
        for x in range(17):
            mask = np.zeros((11, 17), dtype=bool)
            mask[y, x] = True
            shrunk = Geometry(64).shrink_mask(mask, 3, 2)
            np.testing.assert_allclose(shrunk.sum(), (3 / 11) * (2 / 17), rtol=1e-5)


def test_full_and_empty_masks() -> None:
    for geometry in (Geometry(31), Geometry(31, "center_crop")):
        np.testing.assert_allclose(geometry.shrink_mask(np.ones((37, 53), dtype=bool), 7, 5), 1.0, atol=1e-6)
        assert not geometry.shrink_mask(np.zeros((37, 53), dtype=bool), 7, 5).any()
        assert geometry.mask_at_input(np.ones((37, 53), dtype=bool)).all()
        assert not geometry.mask_at_input(np.zeros((37, 53), dtype=bool)).any()


def test_center_crop_drops_what_is_outside_the_box() -> None:
    mask = np.zeros((40, 100), dtype=bool)
    mask[:, :39] = True
    assert not Geometry(8, "center_crop", 0.5).shrink_mask(mask, 4, 4).any()
    assert Geometry(8).shrink_mask(mask, 4, 4).any()


def test_mask_at_input_takes_half_covered_pixels() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, 0] = mask[0, 1] = True  # half of the first 2 x 2 block
    mask[2, 2] = True  # a quarter of the last
    assert Geometry(2).mask_at_input(mask).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("fit", ["squash", "center_crop"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("h", "w"), [(61, 97), (97, 61), (48, 48), (200, 333)])
def test_picture_and_mask_stay_on_top_of_each_other(fit: str, interpolation: str, h: int, w: int) -> None:
    """A red rectangle drawn as picture and as mask, both through the geometry, is the same rectangle."""
    top, left, bottom, right = round(0.2 * h), round(0.35 * w), round(0.6 * h), round(0.55 * w)
    picture = Image.new("RGB", (w, h), (0, 0, 255))
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=(255, 0, 0))
    mask = np.zeros((h, w), dtype=bool)
    mask[top:bottom, left:right] = True

    geometry = Geometry(56, fit, 0.875, interpolation)
    seen = geometry.resize_image(picture)
    assert seen.shape == (56, 56, 3)
    assert seen.dtype == np.uint8
    red, masked = seen[..., 0] >= 128, geometry.mask_at_input(mask)
    assert masked.sum() > 50
    iou = (red & masked).sum() / (red | masked).sum()
    assert iou > 0.93
    # The same up to one pixel of blur at the border: no shift, no flip, no other axis.
    np.testing.assert_allclose(np.argwhere(red).mean(axis=0), np.argwhere(masked).mean(axis=0), atol=0.3)


def test_picture_is_not_transposed() -> None:
    picture = Image.new("RGB", (90, 30))
    picture.paste((255, 255, 255), (0, 0, 90, 15))  # the upper half
    seen = Geometry(10).resize_image(picture)
    assert seen[:4].min() > 200
    assert seen[6:].max() < 50


def test_area_weights_by_hand() -> None:
    # Three pixels into two cells: the pixel in the middle lies across the border.
    expected = np.array([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    np.testing.assert_allclose(area_weights(3, 0.0, 3.0, 2), expected, atol=1e-6)


@pytest.mark.parametrize(("size", "start", "stop", "cells"), [(10, 0, 10, 7), (10, 1.25, 8.75, 3), (3, 0, 3, 11)])
def test_area_weights_sum_to_one(size: int, start: float, stop: float, cells: int) -> None:
    weights = area_weights(size, start, stop, cells)
    assert weights.shape == (cells, size)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(7, 7, 224), (1, 1, 5), (1, 4, 9), (2, 3, 11), (14, 5, 7), (8, 8, 8)]
)
def test_upsampling_vs_torch(height: int, width: int, size: int) -> None:
    maps = np.random.default_rng(size).normal(size=(3, height, width)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=(size, size), mode="bilinear", align_corners=False
    )[0]
    found = upsample_maps(maps, size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_bilinear_weights_by_hand() -> None:
    # Two cells to four pixels: centres at -0.25, 0.25, 0.75, 1.25 of the cells; the outer two repeat the border.
    expected = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(bilinear_weights(2, 4), expected, atol=1e-6)


def test_upsampling_does_not_mix_the_axes() -> None:
    maps = np.zeros((1, 2, 4), dtype=np.float32)
    maps[0, 0] = 1
    found = upsample_maps(maps, 8)[0]
    assert (found[0] == 1).all()
    assert (found[-1] == 0).all()


def test_region_vs_torch() -> None:
    map_hw = np.random.default_rng(1).normal(size=(7, 7)).astype(np.float32)
    upsampled = torch.nn.functional.interpolate(
        torch.from_numpy(map_hw)[None, None], size=(64, 64), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    found = _find_region(map_hw, 0.7, 64)
    assert found.dtype == bool
    clear = np.abs(upsampled - 0.7) > 1e-4
    assert clear.mean() > 0.99
    assert (found[clear] == (upsampled > 0.7)[clear]).all()


def test_region_is_strictly_above_the_threshold() -> None:
    flat = np.full((3, 3), 2.0, dtype=np.float32)
    assert not _find_region(flat, 2.0, 9).any()
    assert _find_region(flat, 1.99, 9).all()
    assert not _find_region(np.zeros((3, 3), dtype=np.float32), 0.0, 9).any()


def test_region_of_a_map_that_is_not_a_number_is_empty() -> None:
    assert not _find_region(np.full((3, 3), np.nan, dtype=np.float32), 0.0, 9).any()


def test_covered_cells_are_covered_by_one_exactly() -> None:
    """A cell that a mask covers has coverage 1, not .99999988, whatever the sizes."""
    for h, w in ((37, 53), (480, 640), (427, 640), (1, 3), (333, 500)):
        for geometry in (Geometry(224), Geometry(224, "center_crop", 0.9)):
            for cells in (7, 14, 5):
                assert (geometry.shrink_mask(np.ones((h, w), dtype=bool), cells, cells) == 1).all()


def test_half_covered_pixels_count_exactly() -> None:
    """Two thirds of a pixel by three quarters is half of it; in floating point it is a little less or more."""
    mask = np.zeros((4, 3), dtype=bool)
    mask[:1, :1] = True
    assert Geometry(3).mask_at_input(mask)[0, 0]  # 3/4 of the height, all of the width
    mask = np.zeros((4, 3), dtype=bool)
    mask[:1, :1] = True
    covered = Geometry(2).shrink_mask(mask, 3, 2)  # 3/4 of the height of a cell, 2/3 of its width
    assert covered[0, 0] == 0.5


DIGEST = """
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from lavise.storage.images.geometry import Geometry, find_regions

rng = np.random.default_rng(0)
found = hashlib.sha256()
for h, w in ((427, 640), (480, 361), (97, 333)):
    for fit in ("squash", "center_crop"):
        for share in (0.1, 0.5, 0.9):
            mask = rng.random((h, w)) < share
            geometry = Geometry(64, fit, 0.875)
            found.update(geometry.shrink_mask(mask, 7, 7).tobytes())
            found.update(geometry.mask_at_input(np.kron(mask[::16, ::16], np.ones((16, 16))) > 0).tobytes())
maps = np.clip(rng.normal(size=(64, 7, 7)) * 4, 0, 6).astype(np.float16).astype(np.float32)
thresholds = np.sort(maps.reshape(64, -1), axis=1)[:, 40]
found.update(find_regions(maps, thresholds, 224).tobytes())
print(found.hexdigest())
"""


@pytest.mark.parametrize("kernel", ["Haswell", "Nehalem"])
def test_no_bit_hangs_on_the_processor(kernel: str) -> None:
    """The same masks and regions with another processor's matrix products."""
    done = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, **extra},
            cwd=Path(__file__).parents[4],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for extra in ({}, {"OPENBLAS_CORETYPE": kernel})
    ]
    assert done[0] == done[1]
    assert len(done[0].strip()) == 64


def test_a_map_with_an_infinite_value_does_not_stop_the_others() -> None:
    maps = np.zeros((2, 3, 3), np.float32)
    maps[0, 1, 1] = np.inf
    maps[1, 1, 1] = 4
    found = find_regions(maps, np.array([1, 1], np.float32), 9)
    assert found[1, 4, 4]
    assert not found[1, 0, 0]


def test_values_far_apart_in_size() -> None:
    """float16 spans 40 bits; what is held to 29 of them decides the same but where it is below 2^-29 of the largest."""
    map_hw = np.array([[60000.0, 2.0], [1.0, 0.0]], np.float32)
    found = _find_region(map_hw, 1.0, 2)
    assert found.tolist() == [[True, True], [False, False]]


# ---------------------------------------------------------------- inputs that are not square


@pytest.mark.parametrize(
    ("size", "h", "w", "box"),
    [
        # The picture is wide: 40 rows, and of 100 columns the middle 40 * 64 / 96.
        ((96, 64), 40, 100, (0, 50 - 40 / 3, 40, 50 + 40 / 3)),
        # The picture is high: 40 columns, and of 100 rows the middle 40 * 96 / 64.
        ((96, 64), 100, 40, (20, 0, 80, 40)),
        ((64, 96), 90, 90, (15, 0, 75, 90)),
        ((30, 50), 30, 50, (0, 0, 30, 50)),
    ],
)
def test_crop_has_the_aspect_ratio_of_the_input(
    size: tuple[int, int], h: int, w: int, box: tuple[float, float, float, float]
) -> None:
    whole = Geometry(size, "center_crop", 1.0)
    np.testing.assert_allclose(whole.source_box(h, w), box, atol=1e-4)
    middle = np.array([h / 2, w / 2, h / 2, w / 2])
    part = np.array(Geometry(size, "center_crop", 0.5).source_box(h, w))
    np.testing.assert_allclose(part - middle, (np.array(box) - middle) / 2, atol=1e-4)


@given(
    size=st.tuples(st.integers(8, 400), st.integers(8, 400)),
    h=st.integers(1, 3000),
    w=st.integers(1, 3000),
    share=st.floats(0.05, 1),
)
def test_crop_lies_in_the_picture_and_is_the_largest(size: tuple[int, int], h: int, w: int, share: float) -> None:
    top, left, bottom, right = Geometry(size, "center_crop", share).source_box(h, w)
    assert 0 <= top < bottom <= h
    assert 0 <= left < right <= w
    assert top == pytest.approx(h - bottom, abs=1e-6)
    assert left == pytest.approx(w - right, abs=1e-6)
    assert max((bottom - top) / h, (right - left) / w) == pytest.approx(share, abs=1e-4)
    # To half of 1/10,000 of a pixel.
    assert abs((bottom - top) * size[1] - (right - left) * size[0]) <= 0.6e-4 * max(size)


@pytest.mark.parametrize("side", [8, 64, 224])
@pytest.mark.parametrize("share", [0.3, 0.875, 1.0])
def test_a_square_given_by_both_sides_is_a_square(side: int, share: float) -> None:
    one, other = Geometry(side, "center_crop", share), Geometry((side, side), "center_crop", share)
    mask = np.random.default_rng(side).random((37, 53)) < 0.4
    assert one.source_box(37, 53) == other.source_box(37, 53)
    np.testing.assert_array_equal(one.mask_at_input(mask), other.mask_at_input(mask))
    np.testing.assert_array_equal(one.shrink_mask(mask, 5, 7), other.shrink_mask(mask, 5, 7))


@pytest.mark.parametrize("fit", ["squash", "center_crop"])
@pytest.mark.parametrize(("h", "w", "size"), [(13, 29, (9, 6)), (29, 13, (6, 9)), (11, 11, (10, 4))])
def test_mask_at_input_vs_brute_force(fit: str, h: int, w: int, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(h * w).random((h, w)) < 0.5
    geometry = Geometry(size, fit)
    shares = shrink_slowly(mask, geometry.source_box(h, w), *size)
    found = geometry.mask_at_input(mask)
    assert found.shape == size
    clear = np.abs(shares - 0.5) > 1e-6
    np.testing.assert_array_equal(found[clear], (shares > 0.5)[clear])
    np.testing.assert_allclose(
        geometry.shrink_mask(mask, 3, 2), shrink_slowly(mask, geometry.source_box(h, w), 3, 2), atol=1e-6
    )


@pytest.mark.parametrize("size", [(96, 64), (97, 223), (31, 4096)])
def test_covered_cells_of_any_aspect_ratio_are_covered_by_one_exactly(size: tuple[int, int]) -> None:
    for h, w in ((37, 53), (480, 640), (1, 3), (2000, 333)):
        geometry = Geometry(size, "center_crop", 0.9)
        assert (geometry.shrink_mask(np.ones((h, w), dtype=bool), 7, 5) == 1).all()
        assert geometry.mask_at_input(np.ones((h, w), dtype=bool)).all()


@pytest.mark.parametrize("fit", ["squash", "center_crop"])
@pytest.mark.parametrize(("h", "w"), [(61, 97), (97, 61), (48, 48), (200, 333)])
@pytest.mark.parametrize("size", [(72, 48), (40, 80)])
def test_picture_mask_and_region_lie_on_top_of_each_other(fit: str, h: int, w: int, size: tuple[int, int]) -> None:
    """A red rectangle as picture, as mask and as the region of a map that is the picture's own means."""
    top, left, bottom, right = round(0.3 * h), round(0.4 * w), round(0.7 * h), round(0.6 * w)
    picture = Image.new("RGB", (w, h), (0, 0, 255))
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=(255, 0, 0))
    mask = np.zeros((h, w), dtype=bool)
    mask[top:bottom, left:right] = True
    geometry = Geometry(size, fit, 0.9, "bilinear")
    seen = geometry.resize_image(picture)
    assert seen.shape == (*size, 3)
    red, masked = seen[..., 0] >= 128, geometry.mask_at_input(mask)
    cells = (seen[..., 0] / 255).reshape(size[0] // 4, 4, size[1] // 4, 4).mean(axis=(1, 3)).astype(np.float32)
    region = find_regions(cells[None], np.array([0.5], np.float32), size)[0]
    assert masked.sum() > 50
    assert (red & masked).sum() / (red | masked).sum() > 0.93
    assert (region & masked).sum() / (region | masked).sum() > 0.7
    np.testing.assert_allclose(np.argwhere(region).mean(axis=0), np.argwhere(masked).mean(axis=0), atol=1)


@pytest.mark.parametrize(("cells", "size"), [((7, 5), (96, 64)), ((1, 4), (9, 30)), ((6, 4), (24, 10))])
def test_upsampling_and_regions_of_any_aspect_ratio_vs_torch(cells: tuple[int, int], size: tuple[int, int]) -> None:
    maps = np.random.default_rng(3).normal(size=(4, *cells)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=size, mode="bilinear", align_corners=False
    )[0].numpy()
    np.testing.assert_allclose(upsample_maps(maps, size), expected, atol=2e-5)
    found = find_regions(maps, np.full(4, 0.3, np.float32), size)
    clear = np.abs(expected - 0.3) > 1e-4
    np.testing.assert_array_equal(found[clear], (expected > 0.3)[clear])


def test_scaled_geometry_keeps_the_aspect_ratio() -> None:
    assert Geometry((96, 64), "center_crop", 0.8).scale_to(48) == Geometry((48, 32), "center_crop", 0.8)
    assert Geometry(224).scale_to(80) == Geometry(80)
    assert Geometry((8, 4096)).scale_to(24).shape == (1, 24)
