"""Highest and mean value of each map: what is kept beside the maps of every picture.

Bit for bit what numpy's `max` and `astype(float32).mean` over the cells give, at a quarter of the time: numpy's float16
is computed value by value. Whole numbers are compared in its place, and means are taken of pieces that fit a
processor's cache.

Shape legend: N pictures, C filters, H x W cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lavise.storage.array_types import FloatArray, HalfArray

# torch converts up to so many values in the calling thread; of more, several threads would take part.
_SERIAL_VALUES = 32_767
_PIECE_VALUES = 2**20
_MINUS_ZERO = np.int16(-(2**15))


@dataclass(frozen=True)
class MapSummary:
    """Of the maps of N pictures.

    Attributes:
        peaks_NC: float16, highest value.
        means_NC: float32, mean; not finite where a value of the map is not.
    """

    peaks_NC: HalfArray
    means_NC: FloatArray


def summarise_maps(maps_NCHW: HalfArray) -> MapSummary:
    """Peaks and means; whatever is not finite makes its map's mean not finite, and its peak is then of no meaning."""
    num, channels, height, width = maps_NCHW.shape
    maps_RA = np.ascontiguousarray(maps_NCHW).reshape(num * channels, height * width)
    peaks_R = np.empty(len(maps_RA), np.float16)
    step = max(1, _PIECE_VALUES // max(height * width, 1))
    for start in range(0, len(maps_RA), step):
        peaks_R[start : start + step] = _find_peaks(maps_RA[start : start + step])
    return MapSummary(peaks_R.reshape(num, channels), _average(maps_RA).reshape(num, channels))


def _average(maps_RA: HalfArray) -> FloatArray:
    import torch

    num, area = maps_RA.shape
    means_R = np.empty(num, np.float32)
    step = max(1, _SERIAL_VALUES // area)
    wide = np.empty((min(step, num), area), np.float32)
    target = torch.from_numpy(wide).view(-1)
    source = torch.from_numpy(np.require(maps_RA, requirements="W")).view(-1)
    for start in range(0, num, step):
        stop = min(start + step, num)
        values = (stop - start) * area
        for at in range(0, values, _SERIAL_VALUES):
            end = min(at + _SERIAL_VALUES, values)
            target[at:end].copy_(source[start * area + at : start * area + end])
        # A sum of numbers that are not finite is none either; a sum of float16 cannot leave float32.
        with np.errstate(invalid="ignore"):
            wide[: stop - start].mean(axis=1, out=means_R[start:stop])
    return means_R


def _find_peaks(maps_RA: HalfArray) -> HalfArray:
    """Bits of float16 as signed whole numbers sort like the values where the sign is plus; of negative values the
    least whole number is the highest value, and of zeros the first one counts, as in numpy."""
    bits_RA: npt.NDArray[np.int16] = maps_RA.view(np.int16)
    bits_R = bits_RA.max(axis=1, initial=_MINUS_ZERO)
    negative = np.flatnonzero(bits_R < 0)
    bits_R[negative] = bits_RA[negative].min(axis=1, initial=np.int16(-1))
    zero = np.flatnonzero(bits_R == 0)
    zero = zero[bits_RA[zero].min(axis=1, initial=np.int16(0)) == _MINUS_ZERO]
    first = ((bits_RA[zero] & np.int16(0x7FFF)) == 0).argmax(axis=1)
    bits_R[zero] = bits_RA[zero, first]
    return bits_R.view(np.float16)
