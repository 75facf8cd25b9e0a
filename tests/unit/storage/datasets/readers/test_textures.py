"""Colours lie in their ranges, textures are what they are called."""

from __future__ import annotations

import colorsys
from itertools import combinations

import numpy as np
import pytest

from lavise.storage.datasets.readers.textures import COLOURS, TEXTURES, draw_colour, find_colours, to_hsv

SIZE_PX = 96
DRAWN = [word for word in TEXTURES if word not in ("gradient", "smooth")]


def make_rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 7])


def test_hsv_is_that_of_the_standard_library() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3), dtype=np.uint8)
    pixels[:3] = [[0, 0, 0], [255, 255, 255], [9, 9, 9]]
    hue, saturation, value = to_hsv(pixels)
    expected = np.array([colorsys.rgb_to_hsv(*(p / 255)) for p in pixels.astype(float)])
    np.testing.assert_allclose(hue / 360, expected[:, 0], atol=1e-9)
    np.testing.assert_allclose(saturation, expected[:, 1], atol=1e-9)
    np.testing.assert_allclose(value, expected[:, 2], atol=1e-9)


@pytest.mark.parametrize("term", COLOURS)
def test_drawn_colours_lie_in_their_range(term: str) -> None:
    rng = make_rng(1)
    pixels = np.array([draw_colour(rng, term) for _ in range(300)])
    assert {list(COLOURS)[n] for n in find_colours(pixels)} == {term}
    assert len(np.unique(pixels, axis=0)) > 20


def test_ranges_do_not_overlap() -> None:
    """Of any two terms, some side of HSV is apart."""
    for one, other in combinations(COLOURS.values(), 2):
        apart = any(
            a[1] < b[0] or b[1] < a[0] for a, b in ((one.saturation, other.saturation), (one.value, other.value))
        )
        turn = (other.hue[0] - one.hue[0]) % 360
        hues_apart = turn > one.hue[1] - one.hue[0] and 360 - turn > other.hue[1] - other.hue[0]
        assert apart or hues_apart


@pytest.mark.parametrize(
    ("pixel", "term"),
    [
        ((0, 0, 0), "black"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "grey"),
        ((255, 0, 0), "red"),
        ((255, 140, 0), "orange"),
        ((255, 235, 0), "yellow"),
        ((0, 128, 0), "green"),
        ((0, 0, 255), "blue"),
        ((120, 50, 170), "purple"),
        ((255, 160, 190), "pink"),
        ((101, 67, 33), "brown"),
        ((0, 255, 255), None),
        ((200, 255, 0), None),
    ],
)
def test_colours_that_everybody_knows(pixel: tuple[int, int, int], term: str | None) -> None:
    number = int(find_colours(np.array([pixel], np.uint8))[0])
    assert (list(COLOURS)[number] if number >= 0 else None) == term


@pytest.mark.parametrize("texture", TEXTURES)
def test_fields_are_shares_and_come_again(texture: str) -> None:
    fields = [TEXTURES[texture](make_rng(seed), SIZE_PX) for seed in (1, 1, 2)]
    assert all(field.shape == (SIZE_PX, SIZE_PX) for field in fields)
    assert all(field.min() >= 0 and field.max() <= 1 for field in fields)
    assert np.array_equal(fields[0], fields[1])
    assert texture == "smooth" or not np.array_equal(fields[0], fields[2])


@pytest.mark.parametrize("texture", DRAWN)
def test_textures_show_within_thirty_pixels(texture: str) -> None:
    """At the usual size, most windows of 32 px have figure and ground."""
    for seed in range(4):
        field = TEXTURES[texture](make_rng(seed), 224)
        windows = field.reshape(7, 32, 7, 32).swapaxes(1, 2).reshape(49, -1)
        spread = windows.max(axis=1) - windows.min(axis=1)
        assert np.mean(spread > 0.4) > 0.8


def measure_coherence(field: np.ndarray) -> float:
    """1 where all slopes have one direction, 0 where all are as frequent."""
    down, across = np.gradient(field)
    xx, yy, xy = (across**2).sum(), (down**2).sum(), (across * down).sum()
    return float(np.hypot(xx - yy, 2 * xy) / (xx + yy))


def test_stripes_have_one_direction_and_others_do_not() -> None:
    def mean(texture: str) -> float:
        return float(np.mean([measure_coherence(TEXTURES[texture](make_rng(seed), 224)) for seed in range(6)]))

    assert mean("striped") > 0.95
    assert all(mean(texture) < 0.3 for texture in ("dotted", "checkered", "grid", "grainy", "cracked", "bubbly"))


def test_smooth_is_flat_and_a_gradient_rises_steadily() -> None:
    assert not TEXTURES["smooth"](make_rng(1), SIZE_PX).any()
    field = TEXTURES["gradient"](make_rng(1), SIZE_PX)
    assert (field.min(), field.max()) == (0, 1)
    down, across = np.gradient(field)
    assert np.ptp(down) < 1e-9
    assert np.ptp(across) < 1e-9
    assert np.hypot(down, across).min() > 0


def test_patterns_grow_with_the_picture() -> None:
    """Twice the pixels, the same stripes: half as many turns for each pixel."""
    turns = [np.abs(np.diff(TEXTURES["striped"](make_rng(3), size) > 0.5, axis=1)).sum() / size for size in (224, 448)]
    assert turns[1] == pytest.approx(turns[0], rel=0.1)
