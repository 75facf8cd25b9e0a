"""Average precision against scikit-learn, and against all ways of dealing marks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from lavise.tasks.numerics import average_precision as average_precision_module
from lavise.tasks.numerics.average_precision import average_precision, expect_precision, sum_tied_shares
from lavise.tasks.numerics.bootstrap import draw_image_weights
from lavise.tasks.numerics.float16_bits import order_bits


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_average_precision_vs_sklearn(data: st.DataObject) -> None:
    """Any scores, with ties, on any pictures, each repeated as often as its weight says."""
    num, cells = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    values = st.sampled_from([-3.0, -0.0, 0.0, 0.5, 1.0, 6.0, 60000.0])
    scores = np.array(data.draw(st.lists(values, min_size=num * cells, max_size=num * cells)), np.float16)
    marks = np.array(data.draw(st.lists(st.booleans(), min_size=num * cells, max_size=num * cells)))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num)))
    scores, marks = scores.reshape(num, cells), marks.reshape(num, cells)
    owners = np.flatnonzero(marks.any(axis=1))
    columns = np.stack([np.ones(num), weights], axis=1)
    found = average_precision(order_bits(scores), owners, marks[owners], columns)
    for column, times in zip(found, (np.ones(num, int), weights), strict=True):
        repeated_marks = np.repeat(marks, times, axis=0).ravel()
        if repeated_marks.any():
            expected = average_precision_score(repeated_marks, np.repeat(scores, times, axis=0).ravel())
            assert column == pytest.approx(expected, rel=1e-12)
        else:
            assert np.isnan(column)


def test_average_precision_of_many_steps_uses_the_sparse_table_and_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    scores, marks = rng.normal(size=(300, 4)).astype(np.float16), rng.random((300, 4)) < 0.5
    weights = draw_image_weights(300, 5, 0)
    owners = np.flatnonzero(marks.any(axis=1))
    dense = average_precision(order_bits(scores), owners, marks[owners], weights)
    monkeypatch.setattr(average_precision_module, "_DENSE_ENTRIES", 0)
    np.testing.assert_array_equal(average_precision(order_bits(scores), owners, marks[owners], weights), dense)
    for b in range(5):
        times = weights[:, b].astype(int)
        expected = average_precision_score(np.repeat(marks, times, 0).ravel(), np.repeat(scores, times, 0).ravel())
        assert dense[b] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scores", [[5, 4, 3, 2, 1, 0], [6, 6, 6, 2, 1, 1], [0, 0, 0, 0, 0, 0], [3, 2, 2, 0, 0, 0]])
@pytest.mark.parametrize("num_marked", [1, 2, 5, 6])
def test_expected_precision_vs_all_ways_of_dealing_marks(scores: list[int], num_marked: int) -> None:
    values = np.array(scores, np.float16)
    every = [
        average_precision_score(np.isin(np.arange(6), chosen), values)
        for chosen in itertools.combinations(range(6), num_marked)
    ]
    tied = np.array([sum_tied_shares(order_bits(values))])
    assert expect_precision(np.array([float(num_marked)]), 6, tied)[0] == pytest.approx(np.mean(every), rel=1e-12)
