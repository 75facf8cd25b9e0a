"""The bootstrap over pictures."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from scipy import stats
from threadpoolctl import threadpool_limits

from lavise.storage.array_files import ColumnFile
from lavise.storage.array_types import DoubleArray, FloatArray, IntArray
from lavise.tasks.numerics.random_streams import Stream, make_rng

RESAMPLINGS = 2000
_INTERVAL = (0.025, 0.975)
_BLOCK_ENTRIES = 1 << 22
_DRAWS = 64
# Weightings in memory at a time: as many as have so many entries, but at least so many.
_WEIGHT_ENTRIES, _LEAST_WEIGHTINGS = 1 << 20, 32


class Estimate(TypedDict):
    """A mean, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def draw_weights(num: int, samples: int, rng: np.random.Generator) -> DoubleArray:
    """How often each resample of `num` things draws each of them: float64 [samples, num], whole numbers.

    Drawn in several calls with one generator, the rows are those of a single call.
    """
    return rng.multinomial(num, np.full(num, 1 / num), size=samples).astype(np.float64)


def draw_image_weights(num_images: int, samples: int, seed: int) -> DoubleArray:
    """How often each resample draws each picture: float64 [N, samples], whole numbers, columns add up to N.

    The draws of `ImageBootstrap` with this seed, where its pairs are of all N pictures.
    """
    return np.ascontiguousarray(draw_weights(num_images, samples, make_rng(seed, Stream.BOOTSTRAP_IMAGES)).T)


class ImageWeights:
    """Weightings of N pictures, on the disk, a few of them in memory at a time: the first counts each picture once, the
    others are the resamples of `draw_image_weights`. Use as a context manager.

    Attributes:
        num_images: N.
        num: of the weightings, B.
    """

    def __init__(
        self,
        num_images: int,
        samples: int,
        seed: int,
        num_entries: int = _WEIGHT_ENTRIES,
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            folder: on whose disk they are, without a name; None: the system's own.
            num_entries: in memory at a time, where these are of enough weightings.
        """
        self.num_images, self.num = num_images, samples + 1
        self._size = size = min(max(num_entries // max(num_images, 1), _LEAST_WEIGHTINGS), self.num)
        self._file = ColumnFile(folder, np.uint8, (-(-self.num // size), num_images, size))
        rng, left = make_rng(seed, Stream.BOOTSTRAP_IMAGES), samples
        for block in range(self._file.shape[0]):
            drawn = min(size - (block == 0), left)
            weights = draw_weights(num_images, drawn, rng)
            held = np.zeros((num_images, size), np.uint8)
            held[:, 0] = 1  # of the first block; else it is written over
            held[:, int(block == 0) : drawn + int(block == 0)] = _hold_counts(weights).T
            self._file.write_rows(block, held[None])
            left -= drawn

    def __enter__(self) -> ImageWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def list_blocks(self, num: int | None = None) -> list[slice]:
        """The weightings that `read` gives at a time; of all, or of the first `num`."""
        num = self.num if num is None else num
        return [slice(start, min(start + self._size, num)) for start in range(0, num, self._size)]

    def read(self, block: slice, images: IntArray | slice = slice(None)) -> DoubleArray:
        """One of `list_blocks`, for some pictures: float64 [images, b]."""
        row = block.start // self._size
        if isinstance(images, slice):
            start, stop, _ = images.indices(self.num_images)
            held = self._file.read_columns(row, start, stop)
        else:
            held = self._file.read_columns(row, 0, self.num_images)[images]
        return held[:, : block.stop - block.start].astype(np.float64)


def _hold_counts(weights: DoubleArray) -> npt.NDArray[np.uint8]:
    """In a byte each. By chance no picture is ever drawn 256 times out of N draws."""
    if weights.size and weights.max() > 255:
        raise ValueError(f"a picture was drawn {weights.max():.0f} times")
    return weights.astype(np.uint8)


def bootstrap_means(values_NU: FloatArray, rng: np.random.Generator) -> list[tuple[float, float]]:
    """95 % percentile interval of the mean of each column over resamples of the rows."""
    num, values = len(values_NU), values_NU.astype(np.float64)
    step = max(_BLOCK_ENTRIES // num, 1)
    with threadpool_limits(1):
        parts = [
            draw_weights(num, min(step, RESAMPLINGS - start), rng) @ values / num
            for start in range(0, RESAMPLINGS, step)
        ]
    low, high = np.quantile(np.concatenate(parts), _INTERVAL, axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def bootstrap_share(votes_S: IntArray, images_S: IntArray) -> tuple[DoubleArray, DoubleArray]:
    """Ends of the 95 % percentile interval of votes / images over resamples of the pictures; exact, nothing is drawn.

    A resample of n pictures, k of which vote, has Binomial(n, k / n) votes. With no or all votes every resample is
    the same: the interval is a point. NaN where there are no pictures.
    """
    votes_S, images_S = np.asarray(votes_S), np.asarray(images_S)
    # Few distinct pairs: quantiles are looked up, not computed for each row.
    distinct, inverse = np.unique(np.stack([votes_S, images_S]), axis=1, return_inverse=True)
    k, n = distinct.astype(np.float64)
    share = np.divide(k, n, out=np.full(len(n), np.nan), where=n > 0)
    low, high = (np.asarray(stats.binom.ppf(q, n, share), np.float64) / np.where(n > 0, n, np.nan) for q in _INTERVAL)
    inverse = inverse.reshape(votes_S.shape)
    return low[inverse], high[inverse]


def _draw_counts(num: int, samples: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """`draw_weights` in bytes, a few resamples at a time."""
    counts = np.empty((samples, num), np.uint8)
    for start in range(0, samples, _DRAWS):
        counts[start : start + _DRAWS] = _hold_counts(draw_weights(num, min(_DRAWS, samples - start), rng))
    return counts


class ImageBootstrap:
    """Resamples pictures, the same ones for every method, so that differences are paired.

    The value is the mean over pairs; a picture drawn twice counts all of its pairs twice.
    """

    def __init__(self, image_P: IntArray, samples: int, seed: int) -> None:
        _, self._group = np.unique(image_P, return_inverse=True)
        num = int(self._group.max()) + 1 if len(image_P) else 0
        self._draws = _draw_counts(num, samples, make_rng(seed, Stream.BOOTSTRAP_IMAGES)) if num else None
        self._sizes = np.bincount(self._group, minlength=num).astype(np.float64)

    def sample_means(self, values_P: npt.NDArray[np.floating[Any]]) -> DoubleArray:
        """Mean over pairs in each resample: [B]."""
        if self._draws is None:
            return np.zeros(0)
        sums = np.bincount(self._group, values_P.astype(np.float64), minlength=len(self._sizes))
        parts = []
        for start in range(0, len(self._draws), _DRAWS):
            draws = self._draws[start : start + _DRAWS].astype(np.float64)
            parts.append((draws @ sums) / (draws @ self._sizes))
        return np.concatenate(parts)

    def summarise(self, values_P: npt.NDArray[np.floating[Any]]) -> Estimate:
        """Mean and the ends of its 95 % percentile interval."""
        means = self.sample_means(values_P)
        low, high = np.quantile(means, [0.025, 0.975])
        return {"value": float(values_P.mean()), "low": float(low), "high": float(high)}
