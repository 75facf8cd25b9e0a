"""The one geometry that pictures and masks go through.

A geometry is a box in the picture that becomes the input of the network. Because pictures, masks and maps are
all resampled from that same box, no augmentation can move one against the other.

Areas and regions are compared with bounds (half of a pixel, a threshold). What is compared is therefore exact: whole
numbers in float64, whose sums are the same in whatever order a processor's BLAS adds them up.

Shape legend: h x w source pixels, Y x X input pixels, H x W map cells. Coordinates are [y, x]; PIL's (w, h) stays in
here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import lcm

import numpy as np
import numpy.typing as npt
from PIL import Image

from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray

# Denominator of a crop's share, and of its sides in pixels, at most: areas then stay whole numbers below 2^53 for
# pictures of any usual size.
_MAX_DENOMINATOR = 10_000
# Bits that a map's values are held to before they are interpolated; with the weights' they fit float64 exactly.
_VALUE_BITS = 29

Size = int | tuple[int, int]
"""Pixels of an input: its side where it is square, else (height, width)."""


def split_size(size_px: Size) -> tuple[int, int]:
    """(height, width)."""
    return (size_px, size_px) if isinstance(size_px, int) else size_px


def describe_size(size_px: Size) -> str:
    """For people: height x width."""
    height, width = split_size(size_px)
    return f"{height} x {width}"


@dataclass(frozen=True)
class Geometry:
    """From a picture of any size to Y x X.

    Attributes:
        size_px: of the input.
        fit: `squash` takes the whole picture, `center_crop` the centred box of the input's aspect ratio: `crop_share`
            of the largest one that the picture holds. A square input has that share of the picture's shorter side.
        interpolation: of the picture, `bilinear` or `bicubic` (both antialiased); masks are always resized by area.
    """

    size_px: Size
    fit: str = "squash"
    crop_share: float = 0.875
    interpolation: str = "bicubic"

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X)."""
        return split_size(self.size_px)

    def scale_to(self, longest_px: int) -> Geometry:
        """The same of another size, whose longer side is given."""
        height, width = (max(1, round(longest_px * side / max(self.shape))) for side in self.shape)
        return replace(self, size_px=height if height == width else (height, width))

    def source_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) in source pixels."""
        top, left, bottom, right = self._exact_box(height, width)
        return float(top), float(left), float(bottom), float(right)

    def _exact_box(self, height: int, width: int) -> tuple[Fraction, Fraction, Fraction, Fraction]:
        if self.fit == "squash":
            return Fraction(0), Fraction(0), Fraction(height), Fraction(width)
        own_height, own_width = self.shape
        share = Fraction(self.crop_share).limit_denominator(_MAX_DENOMINATOR)
        scale = share * min(Fraction(height, own_height), Fraction(width, own_width))
        # Exact where the picture ends; a side that hangs on the aspect ratio is held to parts of a pixel.
        high, wide = (_hold_to_parts(scale * own, share) for own in (own_height, own_width))
        top, left = (height - high) / 2, (width - wide) / 2
        return top, left, top + high, left + wide

    def resize_image(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB picture -> uint8 [Y, X, 3]."""
        return np.asarray(self._resize(picture), dtype=np.uint8)

    def resize_bands(self, bands_hwN: FloatArray) -> FloatArray:
        """Bands on the scale 0..1, float32 [h, w, N] -> float32 [Y, X, N], on the same scale: what an interpolation
        puts beyond it is cut off."""
        resized = [np.asarray(self._resize(Image.fromarray(band))) for band in np.moveaxis(bands_hwN, 2, 0)]
        return np.clip(np.stack(resized, axis=2), 0, 1)

    def _resize(self, picture: Image.Image) -> Image.Image:
        top, left, bottom, right = self.source_box(picture.height, picture.width)
        how = Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR
        height, width = self.shape
        return picture.resize((width, height), how, box=(left, top, right, bottom))

    def shrink_mask(self, mask_hw: BoolArray, height: int, width: int) -> FloatArray:
        """Mask [h, w] -> float32 [H, W]: the share of each cell's area that the mask covers, in 0..1.

        Exact, and rounded once: a source pixel that lies across the border of two cells counts in each by its overlap,
        so that no mask inside the box vanishes, however small, and a cell that is covered is covered by 1.
        """
        covered, whole = self._count_area(mask_hw, height, width)
        return (covered / whole).astype(np.float32)

    def mask_at_input(self, mask_hw: BoolArray) -> BoolArray:
        """Mask [h, w] -> bool [Y, X]: pixels of which at least half the area is covered."""
        covered, whole = self._count_area(mask_hw, *self.shape)
        return np.asarray(2 * covered >= whole, dtype=bool)

    def _count_area(self, mask_hw: BoolArray, height: int, width: int) -> tuple[DoubleArray, float]:
        """Covered area of each cell [H, W] and area of a whole one, in a unit that makes both whole numbers."""
        top, left, bottom, right = self._exact_box(*mask_hw.shape)
        rows, cell_height = _count_overlaps(mask_hw.shape[0], top, bottom, height)
        columns, cell_width = _count_overlaps(mask_hw.shape[1], left, right, width)
        return rows @ mask_hw.astype(np.float64) @ columns.T, float(cell_height * cell_width)


def _hold_to_parts(length: Fraction, share: Fraction) -> Fraction:
    """A length as it is where its parts are those of the share, else to the next 1/10,000 of a pixel."""
    is_exact = length.denominator <= share.denominator
    return length if is_exact else Fraction(round(length * _MAX_DENOMINATOR), _MAX_DENOMINATOR)


@lru_cache(maxsize=512)
def area_weights(size: int, start: float, stop: float, cells: int) -> FloatArray:
    """[cells, size]: weight of each source pixel in the mean over each of `cells` equal parts of [start, stop]."""
    counts, whole = _count_overlaps(size, Fraction(start), Fraction(stop), cells)
    return (counts / whole).astype(np.float32)


@lru_cache(maxsize=512)
def _count_overlaps(size: int, start: Fraction, stop: Fraction, cells: int) -> tuple[DoubleArray, int]:
    """[cells, size]: length that each pixel shares with each of `cells` equal parts of [start, stop], and the length
    of such a part, in a unit that makes all of them whole numbers."""
    scale = lcm(start.denominator, stop.denominator)
    first, length, unit = int(start * scale) * cells, int((stop - start) * scale), scale * cells
    edges = first + length * np.arange(cells + 1, dtype=np.int64)
    pixels = unit * np.arange(size + 1, dtype=np.int64)
    overlap = np.minimum(edges[1:, None], pixels[1:]) - np.maximum(edges[:-1, None], pixels[:-1])
    return np.clip(overlap, 0, None).astype(np.float64), length


@lru_cache(maxsize=64)
def bilinear_weights(cells: int, size: int) -> FloatArray:
    """[size, cells]: weights that upsample `cells` values to `size`, half-pixel centres, borders repeated.

    The same sampling as torch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    return (count_bilinear(cells, size) / (2 * size)).astype(np.float32)


@lru_cache(maxsize=64)
def count_bilinear(cells: int, size: int) -> DoubleArray:
    """`bilinear_weights` times twice the size: whole numbers."""
    at = np.clip((2 * np.arange(size) + 1) * cells - size, 0, 2 * size * (cells - 1))
    low = np.minimum(at // (2 * size), max(cells - 2, 0))
    weights = np.zeros((size, cells))
    weights[np.arange(size), low] = 2 * size - (at - 2 * size * low)
    if cells > 1:
        weights[np.arange(size), low + 1] = at - 2 * size * low
    return weights


def upsample_maps(maps_ahw: FloatArray, size_px: Size) -> FloatArray:
    """Maps [A, H, W] -> [A, Y, X], bilinear."""
    height, width = split_size(size_px)
    rows = bilinear_weights(maps_ahw.shape[1], height)
    columns = bilinear_weights(maps_ahw.shape[2], width)
    return np.asarray(rows @ maps_ahw @ columns.T, dtype=np.float32)


def find_regions(maps_AHW: FloatArray, thresholds_A: FloatArray, size_px: Size) -> BoolArray:
    """Regions R_u at the input's size: bool [A, Y, X], true where the upsampled map is above the filter's threshold.

    The threshold is taken off before upsampling: interpolation may round a plateau that lies exactly at T_u up. Each
    pixel is a sum of two products, twice; with whole weights, and differences held to 29 bits, all of them are exact.
    """
    above = take_thresholds_off(maps_AHW, thresholds_A)
    height, width = split_size(size_px)
    rows = count_bilinear(maps_AHW.shape[1], height)
    columns = count_bilinear(maps_AHW.shape[2], width)
    with np.errstate(invalid="ignore"):  # a map that is not finite has no region, and takes no other's away
        return np.asarray(rows @ above @ columns.T > 0, dtype=bool)


def take_thresholds_off(maps_AHW: FloatArray, thresholds_A: FloatArray) -> DoubleArray:
    """How far maps are above their thresholds, [A, H, W], so that products with `count_bilinear` are exact."""
    return _hold_to_bits(maps_AHW.astype(np.float64) - thresholds_A.astype(np.float64)[:, None, None])


def _hold_to_bits(values_AHW: DoubleArray) -> DoubleArray:
    """Values rounded to a multiple of 2^-29 of the power of two above the largest of their map."""
    largest = np.abs(values_AHW).max(axis=(1, 2), keepdims=True, initial=0)
    _, exponent = np.frexp(np.where(np.isfinite(largest), largest, 0))
    unit = np.ldexp(1.0, exponent - _VALUE_BITS)
    return np.rint(values_AHW / unit) * unit
