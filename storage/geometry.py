"""The one geometry that pictures and masks go through.

A geometry is a box in the picture that becomes the square input of the network. Because pictures, masks and maps are
all resampled from that same box, no augmentation can move one against the other.

Shape legend: h x w source pixels, S input pixels, H x W map cells. Coordinates are [y, x]; PIL's (w, h) stays in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Geometry:
    """From a picture of any size to S x S.

    Attributes:
        size_px: S.
        fit: `squash` takes the whole picture, `center_crop` the centred square of `crop_share` of the shorter side.
        interpolation: of the picture, `bilinear` or `bicubic` (both antialiased); masks are always resized by area.
    """

    size_px: int
    fit: str = "squash"
    crop_share: float = 0.875
    interpolation: str = "bicubic"

    def source_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(top, left, bottom, right) in source pixels."""
        if self.fit == "squash":
            return 0.0, 0.0, float(height), float(width)
        side = self.crop_share * min(height, width)
        top, left = (height - side) / 2, (width - side) / 2
        return top, left, top + side, left + side

    def resize_picture(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """RGB picture -> uint8 [S, S, 3]."""
        top, left, bottom, right = self.source_box(picture.height, picture.width)
        how = Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR
        square = picture.resize((self.size_px, self.size_px), how, box=(left, top, right, bottom))
        return np.asarray(square, dtype=np.uint8)

    def shrink_mask(self, mask_hw: BoolArray, height: int, width: int) -> FloatArray:
        """Mask [h, w] -> float32 [H, W]: the share of each cell's area that the mask covers, in 0..1.

        Exact: a source pixel that lies across the border of two cells counts in each by its overlap, so that no mask
        inside the box vanishes, however small.
        """
        top, left, bottom, right = self.source_box(*mask_hw.shape)
        rows = area_weights(mask_hw.shape[0], top, bottom, height)
        columns = area_weights(mask_hw.shape[1], left, right, width)
        return np.asarray(rows @ mask_hw.astype(np.float32) @ columns.T, dtype=np.float32)

    def mask_at_input(self, mask_hw: BoolArray) -> BoolArray:
        """Mask [h, w] -> bool [S, S]: pixels of which at least half the area is covered."""
        return self.shrink_mask(mask_hw, self.size_px, self.size_px) >= 0.5


@lru_cache(maxsize=512)
def area_weights(size: int, start: float, stop: float, cells: int) -> FloatArray:
    """[cells, size]: weight of each source pixel in the mean over each of `cells` equal parts of [start, stop]."""
    edges = np.linspace(start, stop, cells + 1, dtype=np.float64)
    pixels = np.arange(size, dtype=np.float64)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) / ((stop - start) / cells)).astype(np.float32)


@lru_cache(maxsize=64)
def bilinear_weights(cells: int, size: int) -> FloatArray:
    """[size, cells]: weights that upsample `cells` values to `size`, half-pixel centres, borders repeated.

    The same sampling as torch's `interpolate(mode="bilinear", align_corners=False)`.
    """
    at = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    low = np.minimum(np.floor(at).astype(int), max(cells - 2, 0))
    weights = np.zeros((size, cells), dtype=np.float32)
    if cells == 1:
        weights[:] = 1
        return weights
    share = (at - low).astype(np.float32)
    weights[np.arange(size), low] = 1 - share
    weights[np.arange(size), low + 1] = share
    return weights


def upsample_maps(maps_ahw: FloatArray, size_px: int) -> FloatArray:
    """Maps [A, H, W] -> [A, S, S], bilinear."""
    rows = bilinear_weights(maps_ahw.shape[1], size_px)
    columns = bilinear_weights(maps_ahw.shape[2], size_px)
    return np.asarray(rows @ maps_ahw @ columns.T, dtype=np.float32)


def find_regions(maps_AHW: FloatArray, thresholds_A: FloatArray, size_px: int) -> BoolArray:
    """Regions R_u at the input's size: bool [A, S, S], true where the upsampled map is above the filter's threshold.

    The threshold is taken off before upsampling: interpolation may round a plateau that lies exactly at T_u up.
    """
    return upsample_maps(maps_AHW - thresholds_A[:, None, None], size_px) > 0
