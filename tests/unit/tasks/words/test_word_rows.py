"""Rows of filters, why nothing can be said of one, and what a peak weighs, by loops and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.words.word_rows import WordRows, find_shortage, weigh_peaks


def make_rows(units: list[int]) -> WordRows:
    num = np.zeros(len(units))
    return WordRows(
        filter=np.array(units, np.int64),
        word=np.arange(len(units)),
        score=num,
        votes=np.zeros(len(units), np.int64),
        share=num,
        share_low=num,
        share_high=num,
        weight=num,
        background=num,
        p_value=num,
        q_value=num,
        confidence=num,
        significant=np.zeros(len(units), bool),
        kind=[""] * len(units),
        auroc=num,
        auroc_low=num,
        auroc_high=num,
    )


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 3))
def test_rows_of_each_filter_vs_loops(units: list[int], more: int) -> None:
    """Also of filters that have none."""
    rows = make_rows(sorted(units))
    num_filters = 6 + more
    found = rows.rows_of(num_filters)
    assert len(found) == num_filters
    for unit, own in enumerate(found):
        assert rows.word[own].tolist() == [i for i, u in enumerate(sorted(units)) if u == unit]


@pytest.mark.parametrize(
    ("num_qualified", "min_images", "invalid", "expected"),
    [
        (0, 5, "", "never above its threshold"),
        (0, 1, "the explainer is no good", "never above its threshold"),
        (4, 5, "", "only 4 pictures above the threshold (explain.min_images is 5)"),
        (4, 5, "the explainer is no good", "only 4 pictures above the threshold (explain.min_images is 5)"),
        (5, 5, "the explainer is no good", "the explainer is no good"),
        (5, 5, "", ""),
    ],
)
def test_the_first_shortage_is_told(num_qualified: int, min_images: int, invalid: str, expected: str) -> None:
    """What lies in the filter goes before what lies in the explainer."""
    assert find_shortage(num_qualified, min_images, invalid) == expected


def make_pairs(peaks: dict[int, list[float]]) -> Pairs:
    units = [u for u, own in peaks.items() for _ in own]
    values = [p for own in peaks.values() for p in own]
    return Pairs(np.array(units, np.int64), np.arange(len(units)), np.array(values, np.float32))


def test_weights_are_shares_of_the_filters_own_peaks() -> None:
    found = weigh_peaks(make_pairs({0: [6, 3, 1], 2: [0.5], 3: [2, 2]}))
    np.testing.assert_allclose(found, [0.6, 0.3, 0.1, 1, 0.5, 0.5])


def test_peaks_below_zero_weigh_nothing() -> None:
    np.testing.assert_allclose(weigh_peaks(make_pairs({0: [3, 1, -8]})), [0.75, 0.25, 0])


@pytest.mark.parametrize("peaks", [[0.0, 0.0], [-1.0, -2.0], [-3.0, 0.0, -0.5, 0.0]])
def test_where_no_peak_is_above_zero_all_weigh_the_same(peaks: list[float]) -> None:
    np.testing.assert_allclose(weigh_peaks(make_pairs({4: peaks})), [1 / len(peaks)] * len(peaks))


def test_no_pairs_have_no_weights() -> None:
    assert weigh_peaks(make_pairs({})).shape == (0,)


@given(st.dictionaries(st.integers(0, 6), st.lists(st.floats(-4, 6e4, width=16), min_size=1, max_size=5), max_size=4))
def test_weights_of_each_filter_sum_to_1(peaks: dict[int, list[float]]) -> None:
    pairs = make_pairs(dict(sorted(peaks.items())))
    found = weigh_peaks(pairs)
    assert (found >= 0).all()
    for unit in peaks:
        assert found[pairs.filter == unit].sum() == pytest.approx(1)
