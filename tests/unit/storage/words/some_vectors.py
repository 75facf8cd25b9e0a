"""Word vectors for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lavise.storage.words.word_vectors import WordVectors

# In the order of frequency, as every format keeps it; the words that the rule drops are among them on purpose.
WORDS = "the , dog cat hot of hot_dog 2nd zebra Paris ox tree new fire-hydrant".split()
MATRIX = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)


def vectors_of(words: Sequence[str], matrix: npt.NDArray[Any] | None = None) -> WordVectors:
    if matrix is None:
        matrix = np.random.default_rng(1).normal(size=(len(words), 4))
    return WordVectors(list(words), np.asarray(matrix, dtype=np.float32))


def unit(vector: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    vector = np.asarray(vector, dtype=np.float64)
    return vector / np.sqrt((vector**2).sum())
