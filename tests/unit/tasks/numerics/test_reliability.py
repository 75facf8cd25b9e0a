"""Reliability by hand, and its intervals by their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss

from lavise.tasks.numerics.reliability import measure_reliability, wilson_interval


def test_reliability_by_hand() -> None:
    confidence = np.array([0.0, 0.05, 0.1, 0.3, 0.35, 0.7, 0.95, 1.0])
    right = np.array([0, 0, 1, 0, 1, 1, 1, 0], bool)
    found = measure_reliability(confidence, right)
    assert [b.count for b in found.bins] == [2, 1, 0, 2, 0, 0, 0, 1, 0, 2]
    assert found.bins[2].confidence is found.bins[2].share is found.bins[2].share_low is None
    assert (found.bins[3].confidence, found.bins[3].share) == (pytest.approx(0.325), 0.5)
    assert (found.bins[9].low, found.bins[9].high, found.bins[9].share) == (0.9, 1.0, 0.5)
    error = (2 * 0.025 + 0.9 + 2 * 0.175 + 0.3 + 2 * 0.475) / 8
    assert found.expected_calibration_error == pytest.approx(error)
    assert found.brier == pytest.approx(brier_score_loss(right, confidence))
    assert (found.base_rate, found.base_brier) == (0.5, 0.25)
    assert found.gain == pytest.approx(found.base_brier - found.brier)
    assert measure_reliability(confidence, right, np.full(8, 0.9)).base_brier == pytest.approx((0.81 + 0.01) / 2)


def test_certain_and_wrong_counts_as_an_error() -> None:
    assert measure_reliability(np.zeros(4), np.ones(4, bool)).expected_calibration_error == 1.0


def test_wilson_interval_by_its_formula() -> None:
    """The ends are the shares from which 7 of 20 is 1.96 standard errors away."""
    for end in wilson_interval(7, 20):
        assert abs(7 / 20 - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 20), rel=1e-5)
    assert wilson_interval(0, 20)[0] == 0
    assert wilson_interval(20, 20)[1] == 1


def test_interval_of_the_gain_is_over_concepts() -> None:
    """The same statements ten times over are no more evidence, if they are about the same concepts."""
    rng = np.random.default_rng(0)
    confidence, groups = rng.random(60), np.arange(60)
    right = rng.random(60) < confidence
    one = measure_reliability(confidence, right, groups_S=groups)
    ten = measure_reliability(np.tile(confidence, 10), np.tile(right, 10), groups_S=np.tile(groups, 10))
    assert (ten.gain_low, ten.gain_high) == (pytest.approx(one.gain_low), pytest.approx(one.gain_high))
    gain = (right.mean() - right) ** 2 - (confidence - right) ** 2
    expected = stats.ttest_1samp(gain, 0).confidence_interval()
    assert (one.gain_low, one.gain_high) == (pytest.approx(expected.low), pytest.approx(expected.high))
