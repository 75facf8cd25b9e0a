"""Words that stand twice in a row, against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lavise.tasks.numerics.ranked_lists import find_repeated
from tests.unit.tasks.helpers import AnyArray


def find_by_looking_left(words: AnyArray) -> list[list[bool]]:
    return [[word in row[:place] for place, word in enumerate(row)] for row in words.tolist()]


@given(hnp.arrays(np.int64, st.tuples(st.integers(0, 5), st.integers(1, 8)), elements=st.integers(-2, 4)))
def test_repeated_words_vs_looking_left(words: AnyArray) -> None:
    found = find_repeated(words)
    assert found.dtype == bool
    assert found.tolist() == find_by_looking_left(words)


def test_first_of_each_word_is_kept() -> None:
    words = np.random.default_rng(0).integers(0, 50, (40, 60))
    found = find_repeated(words)
    for row, again in zip(words, found, strict=True):
        assert sorted(row[~again]) == sorted(set(row))
        firsts = [int(np.flatnonzero(row == word)[0]) for word in row[~again]]
        assert firsts == np.flatnonzero(~again).tolist()


@pytest.mark.parametrize("shape", [(0, 3), (3, 1), (2, 0)])
def test_rows_too_short_to_repeat_anything(shape: tuple[int, int]) -> None:
    found = find_repeated(np.full(shape, 7))
    assert found.shape == shape
    assert not found.any()


def test_the_words_are_left_as_they_are() -> None:
    words = np.array([[5, 2, 5, 1]])
    find_repeated(words)
    assert words.tolist() == [[5, 2, 5, 1]]
