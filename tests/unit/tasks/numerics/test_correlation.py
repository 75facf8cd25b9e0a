"""Pearson's r from sums against scipy, which has the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lavise.tasks.numerics.correlation import correlate
from tests.unit.tasks.helpers import AnyArray


def correlate_rows(first: AnyArray, second: AnyArray) -> AnyArray:
    """r of each row of one with the same row of the other, by way of the sums."""
    x, y = first.astype(np.float64), second.astype(np.float64)
    sums = [v.sum(axis=-1) for v in (x, x * x, y, y * y, x * y)]
    return correlate(x.shape[-1], *sums)


@pytest.mark.parametrize("offset", [0, 1, -40])
def test_maps_and_masks_vs_scipy(offset: float) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(20, 49)).astype(np.float16).astype(np.float64) + offset
    masks = rng.random((20, 49)) < rng.uniform(0.1, 0.9, (20, 1))
    maps[:10] += 2 * masks[:10]
    expected = [stats.pearsonr(a, b.astype(float)).statistic for a, b in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(correlate_rows(maps, masks), expected, atol=1e-11)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 1)), min_size=3, max_size=12))
def test_small_numbers_vs_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, np.float64).T
    found = correlate_rows(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found == 0
    else:
        assert found == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


def test_every_filter_with_every_concept_at_once() -> None:
    """Sums of columns and of rows are spread over the table."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))
    found = correlate(30, x.sum(0)[:, None], (x * x).sum(0)[:, None], y.sum(0)[None], (y * y).sum(0)[None], x.T @ y)
    np.testing.assert_allclose(found, np.corrcoef(x.T, y.T)[:4, 4:], atol=1e-12)


@pytest.mark.parametrize("factor", [1.0, -1.0, 1e-3, -7e4])
def test_a_multiple_is_1_and_no_more(factor: float) -> None:
    x = np.random.default_rng(2).normal(size=(200, 50))
    found = correlate_rows(x, factor * x)
    np.testing.assert_allclose(found, np.sign(factor), atol=1e-12)
    assert np.abs(found).max() <= 1


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.7, 0.1, 65504.0])
@pytest.mark.parametrize("which", ["x", "y", "both"])
def test_what_does_not_vary_is_correlated_with_nothing(constant: float, which: str) -> None:
    """Though its squares, summed in floating point, may seem to vary by their rounding."""
    values = np.random.default_rng(3).normal(size=(5, 97))
    same = np.full_like(values, constant)
    pair: dict[str, Any] = {"x": (same, values), "y": (values, same), "both": (same, same)}
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(correlate_rows(*pair[which]), np.zeros(5))


def test_a_single_place_that_differs_is_enough() -> None:
    """The least that a mask can vary."""
    x = np.zeros(10_000)
    x[17] = 1
    y = np.random.default_rng(4).normal(size=10_000)
    y[17] = 50
    assert correlate_rows(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert correlate_rows(1 - x, y) == pytest.approx(-stats.pearsonr(x, y).statistic, abs=1e-10)


def test_repeated_places_count_as_often_as_they_are_there() -> None:
    """Sums with weights, as a bootstrap makes them."""
    rng = np.random.default_rng(5)
    x, y, times = rng.normal(size=20), rng.normal(size=20), rng.integers(0, 4, 20)
    sums = [np.array(float((times * v).sum())) for v in (x, x * x, y, y * y, x * y)]
    expected = stats.pearsonr(np.repeat(x, times), np.repeat(y, times)).statistic
    assert correlate(float(times.sum()), *sums) == pytest.approx(expected, abs=1e-12)
