"""Words with their vectors as they are read from files, checked: no word twice, no number that is none.

Shape legend: V words, E dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lavise.storage.array_types import FloatArray

TWICE = "word that stands twice; the first is kept"
ZERO = "vector of zeros, which has no direction"
_CHUNK_BYTES = 1 << 24
MAX_DIMENSIONS = 1 << 20


@dataclass
class ReadVectors:
    """What a file holds.

    Attributes:
        words: V of them, each once.
        matrix: [V, E] of floating point.
        left_out: rows that nobody can use, by reason.
        compose: the vector [E] of a word that is not among them, by its parts; zero where it has none.
    """

    words: Sequence[str]
    matrix: FloatArray
    left_out: Counter[str] = field(default_factory=Counter)
    compose: Callable[[str], FloatArray] | None = None


class RowCollector:
    """Rows one by one, of which only the memory that they need is taken, whatever a header promises."""

    def __init__(self, dimensions: int) -> None:
        self.left_out: Counter[str] = Counter()
        self._matrix = np.empty((0, dimensions), dtype=np.float32)
        self._step = max(1, _CHUNK_BYTES // (4 * dimensions))
        self._seen: dict[str, None] = {}

    def add(self, word: str, row_E: FloatArray) -> None:
        """Append a row; of a word that was there before it is counted."""
        if word in self._seen:
            self.left_out[TWICE] += 1
            return
        position = len(self._seen)
        if position == len(self._matrix):
            # refcheck: nothing else looks at the matrix before it is finished.
            self._matrix.resize((position + self._step, self._matrix.shape[1]), refcheck=False)
        self._matrix[position] = row_E
        self._seen[word] = None

    def finish(self) -> ReadVectors:
        """All rows."""
        self._matrix.resize((len(self._seen), self._matrix.shape[1]), refcheck=False)
        return ReadVectors(list(self._seen), self._matrix, self.left_out)


def keep_first(words: Sequence[Any], matrix: Any) -> ReadVectors:
    """Words and a matrix that belong together; of words that stand twice the first.

    Raises:
        ValueError: no texts, no matrix of floating point, or not as many rows as words.
    """
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind != "f" or not matrix.size:
        shape = f"of shape {matrix.shape} and type {matrix.dtype}" if isinstance(matrix, np.ndarray) else "missing"
        raise ValueError(f"its matrix is {shape}, not a table of floating-point numbers")
    if len(words) != len(matrix):
        raise ValueError(f"it has {len(words)} words for a matrix of shape {matrix.shape}")
    strange = next((word for word in words if not isinstance(word, str)), None)
    if strange is not None or not all(isinstance(word, str) for word in words):
        raise ValueError(f"one of its words is no text ({type(strange).__name__})")
    first: dict[str, int] = {}
    for position, word in enumerate(words):
        first.setdefault(word, position)
    if len(first) == len(words):
        return ReadVectors(words, matrix)
    kept = np.fromiter(first.values(), dtype=np.int64)
    return ReadVectors(list(first), matrix[kept], Counter({TWICE: len(words) - len(first)}))


def check_numbers(read: ReadVectors) -> None:
    """Count vectors of zeros, and refuse numbers that are none.

    Raises:
        ValueError: a number is not finite.
    """
    zero = 0
    for start, rows in _slice(read.matrix):
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            word = read.words[start + int(np.argmin(finite))]
            raise ValueError(f"the vector of {word[:80]!r} is not finite; the file is damaged")
        zero += int((~rows.any(axis=1)).sum())
    if zero:
        read.left_out[ZERO] = zero


def _slice(matrix: FloatArray) -> Iterator[tuple[int, FloatArray]]:
    step = max(1, _CHUNK_BYTES // (matrix.shape[1] * matrix.itemsize))
    for start in range(0, len(matrix), step):
        yield start, np.asarray(matrix[start : start + step])
