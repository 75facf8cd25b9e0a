"""Lists that are kept packed are the lists that were given."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavise.storage.packed_list import PackedList


@given(st.lists(st.integers(), max_size=200), st.integers(-210, 210), st.integers(-210, 210), st.integers(1, 5))
def test_it_is_the_list(items: list[int], start: int, stop: int, step: int) -> None:
    packed = PackedList(items)
    assert list(packed) == items
    assert len(packed) == len(items)
    assert packed == items
    assert packed == PackedList(items)
    assert packed[start:stop:step] == tuple(items[start:stop:step])
    assert [packed[i] for i in range(-len(items), len(items))] == items + items
    for index in (len(items), -len(items) - 1):
        with pytest.raises(IndexError):
            packed[index]


def test_other_lists_are_other() -> None:
    packed = PackedList(range(100))
    assert packed != list(range(99))
    assert packed != [*range(99), 0]
    assert packed != 3


def test_two_readers_do_not_disturb_each_other() -> None:
    packed = PackedList(range(300))
    for one, other in zip(packed, reversed(range(300)), strict=True):
        assert packed[other] == other
        assert one == 299 - other


def test_it_goes_to_another_process() -> None:
    packed = PackedList([{"a": n} for n in range(130)])
    packed[100]
    assert pickle.loads(pickle.dumps(packed)) == packed


def test_what_repeats_takes_little() -> None:
    items = [{"name": f"{n:06}.jpg", "box": (0.5, 1.5, n % 7, 3.5)} for n in range(6400)]
    assert len(pickle.dumps(PackedList(items))) < len(pickle.dumps(items)) / 2
