"""Word vectors of word2vec and fastText in their own binary forms.

Of fastText the vectors of words are their own rows and those of their parts (n-grams of letters), as gensim composes
them; nothing but numbers and texts is in these files, so that nothing of them can be run.

Shape legend: V words, B buckets of n-grams, E dimensions.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

from lavise.storage.array_types import FloatArray
from lavise.storage.words.text_vectors import parse_header
from lavise.storage.words.vector_forms import FASTTEXT_MAGIC, is_packed, open_vectors
from lavise.storage.words.vector_rows import MAX_DIMENSIONS, ReadVectors, RowCollector, keep_first

BEYOND_ROWS = "byte after the last row that the header tells of"
_CHUNK_BYTES = 1 << 20
_MAX_WORD_BYTES = 1 << 16
_MAX_HEADER_BYTES = 200


class _Bytes:
    """A file that is read in pieces of known ends.

    Attributes:
        position: of what comes next.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._chunk, self._start = file, b"", 0
        self.position = 0

    def take(self, number: int) -> bytes:
        """So many bytes.

        Raises:
            EOFError: there are fewer.
        """
        while len(self._chunk) - self._start < number:
            self._read_more()
        return self._advance(number)

    def take_until(self, end: bytes, limit: int, what: str) -> bytes:
        """All before a byte, which is passed over.

        Raises:
            EOFError: it does not come.
            ValueError: not within so many bytes.
        """
        found = self._chunk.find(end, self._start)
        while found < 0:
            if len(self._chunk) - self._start > limit:
                raise ValueError(f"{what} has no end")
            self._read_more()
            found = self._chunk.find(end, self._start)
        return self._advance(found + 1 - self._start)[:-1]

    def unpack(self, form: str) -> tuple[Any, ...]:
        """Numbers, as `struct` has them."""
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def count_rest(self) -> int:
        """Bytes to the end, but for line ends that follow at once."""
        rest = self._chunk[self._start :].lstrip(b"\r\n")
        number = len(rest)
        while chunk := self._file.read(_CHUNK_BYTES):
            number += len(chunk) if number else len(chunk.lstrip(b"\r\n"))
        return number

    def _advance(self, number: int) -> bytes:
        taken = self._chunk[self._start : self._start + number]
        self._start += number
        self.position += number
        return taken

    def _read_more(self) -> None:
        more = self._file.read(_CHUNK_BYTES)
        if not more:
            raise EOFError
        self._chunk, self._start = self._chunk[self._start :] + more, 0


def read_word2vec_binary(file: IO[bytes]) -> ReadVectors:
    """All rows.

    Raises:
        ValueError: no header, or the file ends before it says.
    """
    data = _Bytes(file)
    try:
        header = data.take_until(b"\n", _MAX_HEADER_BYTES, "its header")
    except EOFError:
        raise ValueError("it has no header") from None
    number, dimensions = parse_header(header)
    rows = RowCollector(dimensions)
    for position in range(number):
        try:
            # Some writers end each row with a line end.
            word = data.take_until(b" ", _MAX_WORD_BYTES, f"word {position + 1}").decode("utf-8", "replace")
            row_E = np.frombuffer(data.take(4 * dimensions), dtype="<f4")
        except EOFError:
            raise ValueError(f"it ends after {position} of {number} rows") from None
        rows.add(word.lstrip("\n"), row_E)
    if rest := data.count_rest():
        rows.left_out[BEYOND_ROWS] = rest
    return rows.finish()


def read_fasttext(path: Path) -> ReadVectors:
    """The words of a fastText model, and a function for all others.

    Raises:
        ValueError: damaged, a classifier, quantised, or of a version before the file had a mark.
    """
    with open_vectors(path) as file:
        data = _Bytes(file)
        try:
            return _read_fasttext(data, path)
        except EOFError:
            raise ValueError("it ends too early") from None


def _read_fasttext(data: _Bytes, path: Path) -> ReadVectors:
    if data.take(4) != FASTTEXT_MAGIC:
        raise ValueError("it does not begin as a fastText model does; models of before 2017 have to be saved anew")
    data.unpack("<i")  # version
    dimensions, _, _, _, _, _, _, _, buckets, shortest, longest, _ = data.unpack("<12i")
    data.unpack("<d")
    number, num_words, num_labels = data.unpack("<3i")
    _, num_pruned = data.unpack("<2q")
    if num_labels > 0:
        raise ValueError("it is a classifier (supervised fastText), whose vectors are no word vectors")
    if not 0 < dimensions <= MAX_DIMENSIONS or number != num_words or number <= 0 or buckets < 0:
        raise ValueError(f"it tells of {num_words} words, {buckets} buckets and {dimensions} dimensions")
    if num_pruned > 0:
        raise ValueError("it is quantised; use the model that it was made from")
    words = []
    for position in range(number):
        word = data.take_until(b"\0", _MAX_WORD_BYTES, f"word {position + 1}")
        words.append(word.decode("utf-8", "backslashreplace"))
        data.take(9)  # count and kind
    if data.unpack("<?")[0]:
        raise ValueError("it is quantised; use the model that it was made from")
    shape = data.unpack("<2q")
    if shape != (number + buckets, dimensions):
        raise ValueError(f"its matrix is {shape[0]} x {shape[1]} instead of {number + buckets} x {dimensions}")
    matrix = _take_matrix(data, path, shape)
    return compose_words(words, matrix[:number], matrix[number:], shortest, longest)


def _take_matrix(data: _Bytes, path: Path, shape: tuple[int, int]) -> FloatArray:
    """Float32 [V + B, E]; left on the disk where the file is not packed."""
    num_rows, dimensions = shape
    if not is_packed(path):
        if path.stat().st_size < data.position + 4 * num_rows * dimensions:
            raise EOFError
        return np.memmap(path, dtype="<f4", mode="r", offset=data.position, shape=shape)
    parts, step = [], max(1, _CHUNK_BYTES // (4 * dimensions))
    for start in range(0, num_rows, step):
        rows = min(step, num_rows - start)
        parts.append(np.frombuffer(data.take(4 * rows * dimensions), dtype="<f4").reshape(rows, dimensions))
    return np.concatenate(parts)


def compose_words(
    words: list[str], own_VE: FloatArray, parts_BE: FloatArray, shortest: int, longest: int
) -> ReadVectors:
    """Vectors of words from their own rows and those of their n-grams, in gensim's order of sums.

    Args:
        shortest, longest: n-grams, in letters.
    """
    from gensim.models.fasttext import ft_ngram_hashes

    buckets = len(parts_BE)

    def find_parts(word: str) -> list[int]:
        return ft_ngram_hashes(word, shortest, longest, buckets) if buckets else []

    def compose(word: str) -> FloatArray:
        found = find_parts(word)
        total = np.zeros(own_VE.shape[1], dtype=np.float32)
        for row in found:
            total += parts_BE[row]
        return total / np.float32(len(found)) if found else total

    read = keep_first(words, own_VE)
    if buckets:
        matrix = np.array(read.matrix, dtype=np.float32)
        for position, word in enumerate(read.words):
            found = find_parts(word)
            for row in found:
                matrix[position] += parts_BE[row]
            matrix[position] /= len(found) + 1
        read.matrix = matrix
    read.compose = compose if buckets and longest > 0 else None
    return read
