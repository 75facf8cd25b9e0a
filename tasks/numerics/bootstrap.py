"""The bootstrap over pictures."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from scipy import stats
from threadpoolctl import threadpool_limits

from lavise.storage.array_types import DoubleArray, FloatArray, IntArray
from lavise.tasks.numerics.random_streams import Stream, make_rng

RESAMPLINGS = 2000
_INTERVAL = (0.025, 0.975)
_BLOCK_ENTRIES = 1 << 22


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


class ImageBootstrap:
    """Resamples pictures, the same ones for every method, so that differences are paired.

    The value is the mean over pairs; a picture drawn twice counts all of its pairs twice.
    """

    def __init__(self, image_P: IntArray, samples: int, seed: int) -> None:
        _, self._group = np.unique(image_P, return_inverse=True)
        num = int(self._group.max()) + 1 if len(image_P) else 0
        self._draws = draw_weights(num, samples, make_rng(seed, Stream.BOOTSTRAP_IMAGES)) if num else None
        self._sizes = np.bincount(self._group, minlength=num).astype(np.float64)

    def sample_means(self, values_P: npt.NDArray[np.floating[Any]]) -> DoubleArray:
        """Mean over pairs in each resample: [B]."""
        if self._draws is None:
            return np.zeros(0)
        sums = np.bincount(self._group, values_P.astype(np.float64), minlength=len(self._sizes))
        means: DoubleArray = (self._draws @ sums) / (self._draws @ self._sizes)
        return means

    def summarise(self, values_P: npt.NDArray[np.floating[Any]]) -> Estimate:
        """Mean and the ends of its 95 % percentile interval."""
        means = self.sample_means(values_P)
        low, high = np.quantile(means, [0.025, 0.975])
        return {"value": float(values_P.mean()), "low": float(low), "high": float(high)}
