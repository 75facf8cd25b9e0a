"""Word vectors in text: a word and its numbers in each line, with word2vec's header or without (GloVe).

Tokens may hold spaces (GloVe 840B), since the numbers are counted from the end of the line. Words as ConceptNet writes
them (`/c/en/hot_dog`) are taken of one language, without that prefix.

Shape legend: E dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import IO

import numpy as np

from lavise.storage.array_types import FloatArray
from lavise.storage.words.vector_forms import skip_mark
from lavise.storage.words.vector_rows import MAX_DIMENSIONS, ReadVectors, RowCollector

OTHER_LANGUAGE = "word of another language"
BEYOND_HEADER = "row beyond the number that the header tells"
_CONCEPTNET = b"/c/"
_MAX_LINE_BYTES = 1 << 24
_FIRST_LINES = 100


def read_text(file: IO[bytes], *, has_header: bool, language: str) -> ReadVectors:
    """All rows.

    Args:
        language: code of the words to take where words are ConceptNet's.

    Raises:
        ValueError: a row has not as many numbers as the others, or the file ends before the header says.
    """
    skip_mark(file)
    lines = _number_lines(file)
    promised = None
    if has_header:
        promised, dimensions = parse_header(next(lines, (1, b""))[1])
    else:
        first = list(islice(lines, _FIRST_LINES))
        dimensions, lines = _find_dimensions(first), chain(first, lines)
    rows, prefix = RowCollector(dimensions), _CONCEPTNET + language.encode() + b"/"
    number_of_rows = 0
    for number, line in lines:
        if promised is not None and number_of_rows == promised:
            rows.left_out[BEYOND_HEADER] += 1
            continue
        number_of_rows += 1
        if line.startswith(_CONCEPTNET):
            if not line.startswith(prefix):
                rows.left_out[OTHER_LANGUAGE] += 1
                continue
            line = line[len(prefix) :]
        word, row_E = _parse_row(line, dimensions, number)
        rows.add(word.decode("utf-8", "replace"), row_E)
    if promised is not None and number_of_rows < promised:
        raise ValueError(f"it ends after {number_of_rows} of {promised} rows")
    return rows.finish()


def parse_header(line: bytes) -> tuple[int, int]:
    """Numbers of words and dimensions.

    Raises:
        ValueError: it is no header.
    """
    parts = line.split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise ValueError("it does not begin with a line of two numbers, of words and of dimensions")
    words, dimensions = map(int, parts)
    if not words or not 0 < dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"its header tells of {words} words of {dimensions} dimensions")
    return words, dimensions


def _number_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, without what stands at their ends; empty ones are passed over."""
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), start=1):
        if len(line) == _MAX_LINE_BYTES:
            raise ValueError(f"line {number} has no end")
        if stripped := line.rstrip():
            yield number, stripped


def _find_dimensions(first: list[tuple[int, bytes]]) -> int:
    """How many numbers most of the first rows end with; of as many the first row's."""
    counts = Counter(len(_list_last_numbers(line)) for _, line in first)
    dimensions = max(counts, key=counts.__getitem__, default=0)
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise ValueError("its lines are not a word and numbers, separated by single spaces")
    return dimensions


def _parse_row(line: bytes, dimensions: int, number: int) -> tuple[bytes, FloatArray]:
    word, _, rest = line.partition(b" ")
    row = _parse_numbers(rest)
    if row is not None and len(row) == dimensions:
        return word, row
    if row is None:  # the word may hold spaces; a last part that is a number belongs to the numbers
        word, *numbers = line.rsplit(b" ", dimensions)
        row = _parse_numbers(b" ".join(numbers))
        if row is not None and len(row) == dimensions and _parse_numbers(word.rpartition(b" ")[2]) is None:
            return word, row
        found = len(_list_last_numbers(line))
    else:
        found = len(row)
    raise ValueError(f"line {number} has {found} numbers instead of {dimensions}")


def _parse_numbers(text: bytes) -> FloatArray | None:
    """None where something is no number. As float32 of the nearest double, which is what gensim reads."""
    try:
        return np.fromstring(text, dtype=np.float32, sep=" ")
    except ValueError:
        return None


def _list_last_numbers(line: bytes) -> list[bytes]:
    numbers: list[bytes] = []
    for part in reversed(line.split(b" ")[1:]):
        if _parse_numbers(part) is None:
            break
        numbers.append(part)
    return numbers
