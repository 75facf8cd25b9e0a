"""Textures and colours by name, drawn on the machine.

A texture is a field of how much figure there is in each pixel: 0 is ground, 1 is figure. Colour comes on top. The words
of textures are of the kind that DTD (Cimpoi et al., Describing Textures in the Wild, 2014) and Broden (Bau et al.,
Network Dissection, 2017) use, those of colours the eleven basic colour terms of English (Berlin and Kay, Basic Color
Terms, 1969). The ranges of colours are lavise's own: cores on which people agree, with gaps between them, so that
what lies between two terms has no word.

Shape legend: S height and width of a picture in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from lavise.storage.array_types import DoubleArray

ByteArray = npt.NDArray[np.uint8]
Texture = Callable[[np.random.Generator, int], DoubleArray]
"""Draws a field float64 [S, S]."""
# Lengths below are for pictures of this size and grow with them: 4 to 24 px, what a receptive field of 30 px can see.
_USUAL_PX = 224


# ---------------------------------------------------------------- colours


@dataclass(frozen=True)
class ColourRange:
    """What is called by a colour term: hue in degrees (from the first to the second, upwards, through 360), saturation
    and value in 0..1; HSV of sRGB."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]


COLOURS: Mapping[str, ColourRange] = {
    "black": ColourRange((0, 360), (0, 1), (0, 0.13)),
    "white": ColourRange((0, 360), (0, 0.06), (0.92, 1)),
    "grey": ColourRange((0, 360), (0, 0.08), (0.3, 0.7)),
    "red": ColourRange((350, 369), (0.72, 1), (0.45, 1)),
    "orange": ColourRange((22, 38), (0.75, 1), (0.82, 1)),
    "yellow": ColourRange((49, 63), (0.55, 1), (0.8, 1)),
    "green": ColourRange((88, 155), (0.45, 1), (0.3, 0.95)),
    "blue": ColourRange((203, 246), (0.5, 1), (0.4, 1)),
    "purple": ColourRange((266, 294), (0.4, 1), (0.3, 0.85)),
    "pink": ColourRange((318, 349), (0.22, 0.62), (0.86, 1)),
    "brown": ColourRange((14, 34), (0.5, 0.95), (0.22, 0.52)),
}
# Drawn colours keep away from the ends of a range, for rounding to 8 bits.
_INSET = 0.06


def find_colours(pixels: ByteArray) -> npt.NDArray[np.intp]:
    """Which of `COLOURS` is the word for each pixel.

    Args:
        pixels: uint8 [..., 3], red, green, blue.

    Returns:
        [...], numbers of terms; -1 where no term is sure. Ranges do not overlap.
    """
    hue, saturation, value = to_hsv(pixels)
    found = np.full(hue.shape, -1, np.intp)
    for number, wanted in enumerate(COLOURS.values()):
        turned = (hue - wanted.hue[0]) % 360 <= wanted.hue[1] - wanted.hue[0]
        in_saturation = (saturation >= wanted.saturation[0]) & (saturation <= wanted.saturation[1])
        found[turned & in_saturation & (value >= wanted.value[0]) & (value <= wanted.value[1])] = number
    return found


def to_hsv(pixels: ByteArray) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Hue in degrees, saturation and value in 0..1, each [...]; hue and saturation of black are 0."""
    whole = pixels.astype(np.int32)
    red, green, blue = whole[..., 0], whole[..., 1], whole[..., 2]
    high, low = whole.max(axis=-1), whole.min(axis=-1)
    span = np.maximum(high - low, 1)
    hue = np.where(
        high == red, (green - blue) / span, np.where(high == green, 2 + (blue - red) / span, 4 + (red - green) / span)
    )
    return (hue * 60) % 360, (high - low) / np.maximum(high, 1), high / 255


def draw_colour(rng: np.random.Generator, term: str) -> ByteArray:
    """A colour that the term is the word for: uint8 [3]."""
    wanted = COLOURS[term]
    hue, saturation, value = (
        low + (high - low) * rng.uniform(_INSET, 1 - _INSET)
        for low, high in (wanted.hue, wanted.saturation, wanted.value)
    )
    sector = (hue % 360) / 60
    parts = [max(0.0, min(1.0, abs((sector + turn) % 6 - 3) - 1)) for turn in (0, 4, 2)]
    return np.array([round(255 * value * (1 - saturation * (1 - part))) for part in parts], np.uint8)


# ---------------------------------------------------------------- textures


def _scale(rng: np.random.Generator, low: float, high: float, size_px: int) -> float:
    """A length in pixels; the logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) * size_px / _USUAL_PX


def _turn(rng: np.random.Generator, size_px: int) -> tuple[DoubleArray, DoubleArray]:
    """Coordinates of the pixels along two axes at a random angle, from a random origin: [S, S] each, in pixels."""
    angle, (left, top) = rng.uniform(0, np.pi), rng.uniform(0, size_px, 2)
    y, x = np.mgrid[:size_px, :size_px].astype(np.float64)
    x, y = x - left, y - top
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _soften(inside_px: DoubleArray) -> DoubleArray:
    """0..1 from how far inside an edge a pixel is, over one pixel."""
    return np.clip(0.5 + inside_px, 0, 1)


def _to_band(position: DoubleArray, period: float, share: float) -> DoubleArray:
    """Bands across `position`, of which the figure has a share."""
    from_middle = np.abs(position / period - np.floor(position / period) - 0.5) * period
    return _soften(share * period / 2 - from_middle)


def _draw_smooth(rng: np.random.Generator, size_px: int) -> DoubleArray:
    return np.zeros((size_px, size_px))


def _draw_striped(rng: np.random.Generator, size_px: int) -> DoubleArray:
    across, _ = _turn(rng, size_px)
    return _to_band(across, _scale(rng, 4, 20, size_px), rng.uniform(0.3, 0.6))


def _draw_dotted(rng: np.random.Generator, size_px: int) -> DoubleArray:
    u, v = _turn(rng, size_px)
    period = _scale(rng, 7, 22, size_px)
    row = np.floor(v / period)
    du = (u / period + 0.5 * (row % 2)) % 1 - 0.5
    dv = v / period - row - 0.5
    return _soften(rng.uniform(0.24, 0.36) * period - np.hypot(du, dv) * period)


def _draw_checkered(rng: np.random.Generator, size_px: int) -> DoubleArray:
    u, v = _turn(rng, size_px)
    period = _scale(rng, 8, 24, size_px)
    one, other = (2 * _to_band(axis, period, 0.5) - 1 for axis in (u, v))
    return (1 + one * other) / 2


def _draw_grid(rng: np.random.Generator, size_px: int) -> DoubleArray:
    u, v = _turn(rng, size_px)
    period = _scale(rng, 7, 22, size_px)
    share = max(rng.uniform(0.12, 0.25), 1.2 / period)
    return np.maximum(_to_band(u, period, share), _to_band(v, period, share))


def _draw_zigzag(rng: np.random.Generator, size_px: int) -> DoubleArray:
    u, v = _turn(rng, size_px)
    period, length = _scale(rng, 6, 14, size_px), _scale(rng, 12, 24, size_px)
    swing = np.abs(2 * ((v / length) % 1) - 1) * length * rng.uniform(0.4, 0.65)
    return _to_band(u + swing, period, rng.uniform(0.35, 0.55))


def _draw_woven(rng: np.random.Generator, size_px: int) -> DoubleArray:
    """Strands over and under each other, rounded, with a gap between them."""
    u, v = _turn(rng, size_px)
    period = _scale(rng, 5, 12, size_px)
    over = (np.floor(u / period) + np.floor(v / period)) % 2 == 0
    strand, along = np.where(over, v, u), np.where(over, u, v)
    across = np.abs((strand / period) % 1 - 0.5) * 2
    end = np.abs((along / period) % 1 - 0.5) * 2
    return (1 - across**2) * (1 - 0.6 * end**2)


def _draw_gradient(rng: np.random.Generator, size_px: int) -> DoubleArray:
    across, _ = _turn(rng, size_px)
    return (across - across.min()) / (across.max() - across.min())


def _draw_grainy(rng: np.random.Generator, size_px: int) -> DoubleArray:
    noise = gaussian_filter(rng.normal(size=(size_px, size_px)), _scale(rng, 0.4, 1.0, size_px), mode="wrap")
    return np.clip(0.5 + 0.3 * noise / noise.std(), 0, 1)


def _scatter(rng: np.random.Generator, spacing: float, size_px: int, jitter: float) -> DoubleArray:
    """Points around those of a square lattice that reaches beyond the picture: [n, 2]."""
    axis = np.arange(-1.5 * spacing, size_px + 1.5 * spacing, spacing)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return points + rng.uniform(-jitter * spacing, jitter * spacing, points.shape)


def _measure_distances(points: DoubleArray, size_px: int, number: int) -> tuple[DoubleArray, npt.NDArray[np.intp]]:
    """Distances to the nearest points and which ones: [S * S, number] each."""
    y, x = np.mgrid[:size_px, :size_px]
    distance, which = cKDTree(points).query(np.stack([x.ravel(), y.ravel()], axis=1), k=number)
    return distance.reshape(size_px**2, number), which.reshape(size_px**2, number)


def _draw_cracked(rng: np.random.Generator, size_px: int) -> DoubleArray:
    """The edges of a Voronoi diagram."""
    spacing = _scale(rng, 10, 22, size_px)
    distance, _ = _measure_distances(_scatter(rng, spacing, size_px, 0.5), size_px, 2)
    width = _scale(rng, 1.2, 2.4, size_px)
    return _soften(width / 2 - (distance[:, 1] - distance[:, 0]) / 2).reshape(size_px, size_px)


def _draw_bubbly(rng: np.random.Generator, size_px: int) -> DoubleArray:
    """Rings of many sizes with a light in each."""
    spacing = _scale(rng, 10, 20, size_px)
    points = _scatter(rng, spacing, size_px, 0.2)
    distance, which = _measure_distances(points, size_px, 1)
    radius = rng.uniform(0.22, 0.42, len(points))[which[:, 0]] * spacing
    ring = _soften(0.7 * size_px / _USUAL_PX - np.abs(distance[:, 0] - radius))
    light, _ = _measure_distances(points - 0.12 * spacing, size_px, 1)
    return np.maximum(ring, _soften(0.07 * spacing - light[:, 0])).reshape(size_px, size_px)


@lru_cache(maxsize=8)
def _load_photograph(name: str) -> Image.Image:
    with resources.as_file(resources.files("skimage") / "data" / name) as path, Image.open(path) as picture:
        return picture.convert("L")


def _crop_photograph(name: str) -> Texture:
    def draw(rng: np.random.Generator, size_px: int) -> DoubleArray:
        """A part of the photograph, from its darkest twentieth to its lightest."""
        photograph = _load_photograph(name)
        side = int(min(photograph.size) * rng.uniform(0.5, 1.0))
        left, top = (int(rng.integers(0, n - side + 1)) for n in photograph.size)
        part = photograph.crop((left, top, left + side, top + side)).resize((size_px, size_px))
        if rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        grey = np.asarray(part, np.float64)
        low, high = np.percentile(grey, [5, 95])
        return np.clip((grey - low) / max(high - low, 1.0), 0, 1)

    return draw


PHOTOGRAPHS = {"brick": "brick.png", "grass": "grass.png", "gravel": "gravel.png"}
"""Photographs of materials in scikit-image's package that are CC0 (THIRD_PARTY.md)."""
TEXTURES: Mapping[str, Texture] = {
    "striped": _draw_striped,
    "dotted": _draw_dotted,
    "checkered": _draw_checkered,
    "grid": _draw_grid,
    "zigzag": _draw_zigzag,
    "woven": _draw_woven,
    "gradient": _draw_gradient,
    "grainy": _draw_grainy,
    "smooth": _draw_smooth,
    "cracked": _draw_cracked,
    "bubbly": _draw_bubbly,
    **{word: _crop_photograph(name) for word, name in PHOTOGRAPHS.items()},
}
