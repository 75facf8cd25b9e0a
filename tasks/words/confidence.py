"""How sure one may be of a word: that the filter detects it, times the probability that it is what it says.

Words by votes have their confidence from a calibration (tasks.words.vote_calibration).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from lavise.storage.array_types import DoubleArray
from lavise.tasks.masks.detection import MIN_AUROC


def state_confidence(auroc: DoubleArray, error: DoubleArray, trust: DoubleArray) -> DoubleArray:
    """Probability that the filter detects the word: that its AUROC with true labels is at least 0.75, if the word is
    what it says, times the probability that it is."""
    return np.asarray(ndtr((auroc - MIN_AUROC) / np.maximum(error, 1e-9)) * trust, np.float64)
