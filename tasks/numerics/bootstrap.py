"""The bootstrap over pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lavise.storage.array_types import DoubleArray, IntArray


class ImageBootstrap:
    """Resamples pictures, the same ones for every method, so that differences are paired.

    The value is the mean over pairs; a picture drawn twice counts all of its pairs twice.
    """

    def __init__(self, image_P: IntArray, samples: int, seed: int) -> None:
        _, self._group = np.unique(image_P, return_inverse=True)
        num = int(self._group.max()) + 1 if len(image_P) else 0
        rng = np.random.default_rng([seed, 3])
        self._draws = rng.multinomial(num, np.full(num, 1 / num), size=samples).astype(np.float64) if num else None
        self._sizes = np.bincount(self._group, minlength=num).astype(np.float64)

    def sample_means(self, values_P: npt.NDArray[np.floating[Any]]) -> DoubleArray:
        """Mean over pairs in each resample: [B]."""
        if self._draws is None:
            return np.zeros(0)
        sums = np.bincount(self._group, values_P.astype(np.float64), minlength=len(self._sizes))
        means: DoubleArray = (self._draws @ sums) / (self._draws @ self._sizes)
        return means

    def summarise(self, values_P: npt.NDArray[np.floating[Any]]) -> dict[str, float]:
        """Mean and the ends of its 95 % percentile interval."""
        means = self.sample_means(values_P)
        low, high = np.quantile(means, [0.025, 0.975])
        return {"value": float(values_P.mean()), "low": float(low), "high": float(high)}
