"""Mosaics of patterns in COCO's layout: what filters of early layers can be called, with exact masks.

A picture has two to four regions of random shape. Each is filled with a texture in two tones. It has the texture's word
and, where one basic colour covers most of it, that one's, with the same mask. The same seed gives the same bits: layout
and fillings of a picture have random generators of their own.

Shape legend: S height and width of a picture in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from lavise.storage.array_types import DoubleArray
from lavise.storage.datasets.readers.drawn_coco import DrawnObject, describe_object, name_picture, write_instances
from lavise.storage.datasets.readers.textures import COLOURS, TEXTURES, ByteArray, draw_colour, find_colours
from lavise.storage.state.digest import digest_of
from lavise.storage.state.progress import Progress, no_progress

PATTERNS_VERSION = 1
WORDS = (*TEXTURES, *COLOURS)
"""The categories, in the order of their ids."""
MOST = 0.5
"""A colour is a region's if it covers more than this share of it."""
_DRAW_THREADS = 2
_TRIES = 6
_ROUGH_PX = 48
_LEAST_CONTRAST = 70
_ONE_COLOUR_SHARE = 0.7


@dataclass(frozen=True)
class Region:
    """A piece of a mosaic.

    Attributes:
        mask: bool [S, S].
        texture: its word.
        colour: the term that covers most of it; None where none does.
        key: what the filling is drawn from again.
        terms: of the two tones.
    """

    mask: npt.NDArray[np.bool_]
    texture: str
    colour: str | None
    key: tuple[int, ...]
    terms: tuple[str, str]


def describe_sources() -> dict[str, str]:
    """Words and versions of the packages that the pictures are made from, for their digest."""
    packages = ("scikit-image", "scipy", "pillow", "numpy")
    ranges = {term: [wanted.hue, wanted.saturation, wanted.value] for term, wanted in COLOURS.items()}
    return {**{p: metadata.version(p) for p in packages}, "words": digest_of([list(WORDS), ranges])}


def write_patterns(
    root: Path, split: str, num_images: int, size_px: int, seed: int, progress: Progress = no_progress
) -> None:
    """Make `num_images` pictures in root/split and root/annotations/instances_{split}.json.

    Args:
        split: names the folder; the pictures of two splits differ even with the same seed.
        size_px: height and width of a picture.
        seed: of the whole data set.
    """
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    split_key = int(digest_of(split)[:15], 16)
    number_of = {word: number for number, word in enumerate(WORDS, start=1)}
    drawn: list[list[DrawnObject]] = []

    def draw(index: int) -> list[DrawnObject]:
        picture, regions = draw_mosaic((seed, split_key, index), size_px)
        Image.fromarray(picture).save(folder / name_picture(index), compress_level=1)
        return [
            describe_object(index + 1, number_of[word], region.mask.astype(np.uint8))
            for region in regions
            for word in (region.texture, region.colour)
            if word is not None
        ]

    with progress(f"draw patterns ({split})", num_images) as bar, ThreadPoolExecutor(_DRAW_THREADS) as pool:
        for entries in pool.map(draw, range(num_images)):
            drawn.append(entries)
            bar.advance()
    description = "patterns drawn by lavise; brick, grass and gravel are photographs of scikit-image (CC0)"
    write_instances(root / "annotations" / f"instances_{split}.json", drawn, size_px, WORDS, "pattern", description)


def draw_mosaic(key: Sequence[int], size_px: int) -> tuple[ByteArray, tuple[Region, ...]]:
    """A picture uint8 [S, S, 3] and its regions, which cover it; textures and terms of one picture all differ.

    Args:
        key: of the picture's random numbers.
    """
    rng = np.random.default_rng(key)
    number = int(rng.integers(2, 5))
    owner = _lay_out(rng, number, size_px)
    textures = rng.choice(list(TEXTURES), number, replace=False).tolist()
    terms = rng.choice(list(COLOURS), 2 * number, replace=False).tolist()
    picture = np.zeros((size_px, size_px, 3), np.uint8)
    regions = []
    for place, texture in enumerate(textures):
        mask = owner == place
        both = (terms[2 * place], terms[2 * place + 1])
        if rng.random() < _ONE_COLOUR_SHARE:
            both = (both[0], both[0])
        own_key = (*key, place + 1)
        picture[mask] = fill(own_key, texture, both, size_px)[mask]
        regions.append(Region(mask, texture, find_main_colour(picture[mask]), own_key, both))
    return picture, tuple(regions)


def find_main_colour(pixels: ByteArray) -> str | None:
    """The term that is the word for most of the pixels, uint8 [n, 3]; None where none is."""
    found = find_colours(pixels)
    counts = np.bincount(found[found >= 0], minlength=len(COLOURS))
    return list(COLOURS)[int(counts.argmax())] if counts.max() > MOST * len(pixels) else None


def fill(key: Sequence[int], texture: str, terms: tuple[str, str], size_px: int) -> ByteArray:
    """A picture of one texture in a tone of each term: uint8 [S, S, 3]. Two tones of one term are lighter and darker.

    Tones that could hardly be told apart, as two of black, are drawn again; then the second is turned to the far end
    of the greys, so that the texture shows.
    """
    rng = np.random.default_rng(key)
    ground, figure = (draw_colour(rng, term).astype(np.float64) for term in terms)
    for _ in range(_TRIES):
        if np.abs(figure - ground).max() >= _LEAST_CONTRAST:
            break
        ground, figure = (draw_colour(rng, term).astype(np.float64) for term in terms)
    else:
        figure = np.full(3, 235.0 if ground.mean() < 128 else 30.0)
    if rng.random() < 0.5:
        ground, figure = figure, ground
    amount = TEXTURES[texture](rng, size_px)[..., None]
    return np.rint(ground + (figure - ground) * rng.uniform(0.75, 1) * amount).astype(np.uint8)


def _lay_out(rng: np.random.Generator, number: int, size_px: int) -> npt.NDArray[np.intp]:
    """Which region each pixel is of: [S, S]. Cells around random points with wavy borders; the most even of some."""
    plans = [(rng.uniform(0.1, 0.9, (number, 2)), rng.normal(0, 0.09, (number, 7, 7))) for _ in range(_TRIES)]
    least = [np.bincount(_find_owners(*plan, _ROUGH_PX).ravel(), minlength=number).min() for plan in plans]
    return _find_owners(*plans[int(np.argmax(least))], size_px)


def _find_owners(points: DoubleArray, heights: DoubleArray, size_px: int) -> npt.NDArray[np.intp]:
    """The point that each pixel is nearest to, where hills are in the way: [S, S].

    Args:
        points: [n, 2], x and y as shares of the picture.
        heights: [n, 7, 7], of hills, as shares of the picture.
    """
    y, x = (np.mgrid[:size_px, :size_px] + 0.5) / size_px
    far = []
    for (across, down), hills in zip(points, heights, strict=True):
        waves = Image.fromarray(hills.astype(np.float32)).resize((size_px, size_px), Image.Resampling.BICUBIC)
        far.append(np.hypot(x - across, y - down) + np.asarray(waves))
    return np.stack(far).argmin(axis=0)
