"""Maps with zeros, ties and a filter that never responds."""

from __future__ import annotations

import numpy as np

from tests.unit.tasks.helpers import AnyArray


def make_maps(num: int = 7, seed: int = 0) -> AnyArray:
    """Six filters, signed; one is zero everywhere, one constant, one clipped, one rectified."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(num, 6, 4, 5))
    maps[:, 1] = 0
    maps[:, 2] = 0.75
    maps[:, 3] = np.clip(maps[:, 3] * 8, 0, 6)
    maps[:, 4] = np.maximum(maps[:, 4], 0)
    return maps.astype(np.float16)


THRESHOLDS = np.array([0.4, -1, 0.5, 5.9, 0.3, -0.2], np.float32)
