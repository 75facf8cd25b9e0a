"""Bits of float16 against the values themselves, for every half."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lavise.tasks.numerics.float16_bits import order_bits, restore_bits
from tests.unit.tasks.halves import FINITE


def test_order_bits_sorts_like_the_values_for_every_half() -> None:
    distinct = FINITE[~((FINITE == 0) & np.signbit(FINITE))]
    by_bits = distinct[np.argsort(order_bits(distinct))].astype(np.float64)
    assert (np.diff(by_bits) > 0).all()
    assert len(np.unique(order_bits(distinct))) == len(distinct) == 2 * 31 * 1024 - 1


def test_restore_bits_inverts_order_bits_for_every_half() -> None:
    restored = restore_bits(order_bits(FINITE))
    np.testing.assert_array_equal(restored, FINITE)
    assert not np.signbit(restored[FINITE == 0]).any()


@given(st.floats(width=16, allow_nan=False), st.floats(width=16, allow_nan=False))
def test_order_bits_keeps_order_of_pairs(first: float, second: float) -> None:
    a, b = (int(order_bits(np.array([v], np.float16))[0]) for v in (first, second))
    assert (a < b) == (first < second) or first == second
