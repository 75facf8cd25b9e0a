"""The calibration against scikit-learn, on concepts left out, and where nothing can be fitted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats
from sklearn.linear_model import LogisticRegression

from lavise.tasks.numerics.reliability import Reliability
from lavise.tasks.words.evidence import count_votes, find_evidence
from lavise.tasks.words.vote_calibration import (
    BASE_RATE,
    LOGISTIC,
    Calibration,
    calibrate,
    cross_fit,
    deal_folds,
    fit_calibration,
    make_features,
)
from tests.unit.tasks.helpers import AnyArray


def make_statements(seed: int = 0, num: int = 6000, num_groups: int = 200) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Features, right or wrong, concepts; the probability is logistic in the first two features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num, 3)) * [3, 0.2, 1] + [5, 0.3, 0]
    probability = special.expit(0.7 * (features[:, 0] - 6) + 3 * features[:, 1])
    return features, rng.random(num) < probability, rng.integers(0, num_groups, num)


def test_features() -> None:
    words = np.array([[0]] * 8 + [[1]] * 2 + [[2]] * 10)
    found = find_evidence(count_votes(words, np.repeat([0, 1], 10), 2))
    features = make_features(found)
    first = (found.word == 1).argmax()
    # 2 of 10 votes; nobody else names it: rate 0.5 / 10.
    p = stats.binom.sf(1, 10, 0.05)
    np.testing.assert_allclose(features[first], [np.sqrt(-np.log10(p))])
    certain = make_features(replace(found, p_value=np.zeros(3)))
    assert certain[:, 0].tolist() == [np.sqrt(30.0)] * 3


def test_fit_vs_scikit_learn() -> None:
    features, right, _ = make_statements()
    features[:, 2] += right  # so that no coefficient is at its bound
    found = fit_calibration(features, right)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(standard, right)
    np.testing.assert_allclose(found.coefficients, reference.coef_[0], atol=1e-4)
    np.testing.assert_allclose(found.predict(features), reference.predict_proba(standard)[:, 1], atol=1e-4)
    assert (found.kind, found.note) == (LOGISTIC, "")


def test_more_evidence_is_never_less_confidence() -> None:
    """A feature that speaks against being right is left out, as if it were not there."""
    features, right, _ = make_statements()
    features[:, 2] = ~right + np.random.default_rng(1).normal(size=len(right))
    found = fit_calibration(features, right)
    assert found.coefficients[2] == 0
    without = fit_calibration(features[:, :2], right).predict(features[:, :2])
    np.testing.assert_allclose(found.predict(features), without, atol=1e-5)
    for column in range(3):
        raised = features + np.eye(3)[column]
        assert (found.predict(raised) >= found.predict(features)).all()


def test_confidence_is_never_certain() -> None:
    features = np.linspace(-1, 1, 200)[:, None]
    found = fit_calibration(features, features[:, 0] > 0)
    confidence = found.predict(np.array([[-1e9], [1e9]]))
    assert 0 < confidence[0] < 0.01
    assert 0.99 < confidence[1] < 1


@pytest.mark.parametrize(
    ("num", "num_right", "note"),
    [(29, 10, "29 statements"), (0, 0, "0 statements"), (100, 100, "all 100 statements are right"), (40, 0, "wrong")],
)
def test_base_rate_where_nothing_can_be_fitted(num: int, num_right: int, note: str) -> None:
    features = np.random.default_rng(0).normal(size=(num, 3))
    found, reliability = calibrate(features, np.arange(num) < num_right, np.arange(num) % 7)
    assert found.kind == BASE_RATE
    assert note in found.note == reliability.note
    np.testing.assert_allclose(found.predict(np.ones((2, 3))), (num_right + 1) / (num + 2))
    assert not reliability.informative


def test_other_features_are_refused() -> None:
    features, right, _ = make_statements(num=100)
    with pytest.raises(ValueError, match=r"\[S, 3\]"):
        fit_calibration(features, right).predict(features[:, :2])


def test_confidence_is_calibrated_on_concepts_left_out() -> None:
    features, right, groups = make_statements()
    found, reliability = calibrate(features, right, groups)
    assert (found.kind, reliability.informative, reliability.note) == (LOGISTIC, True, "")
    assert reliability.expected_calibration_error < 0.03
    assert reliability.brier < reliability.base_brier - 0.05
    filled = [b for b in reliability.bins if b.count > 50]
    assert len(filled) >= 8
    for b in filled:
        assert b.low <= (b.confidence or 0) <= b.high
        assert (b.share_low or 0) - 0.05 < (b.confidence or 0) < (b.share_high or 0) + 0.05
    assert (reliability.bins[-1].share or 0) > 0.85


def test_evidence_that_says_nothing_is_given_up() -> None:
    """Whether a statement is right depends on its concept only, and so do the features, but not on each other."""
    kinds = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(12), 50)
        features = rng.normal(size=(12, 3))[groups] + 0.1 * rng.normal(size=(600, 3))
        right = rng.random(600) < rng.random(12)[groups]
        found, reliability = calibrate(features, right, groups)
        kinds.append(found.kind)
        if found.kind == BASE_RATE:
            assert "no" in found.note
            assert len(set(found.predict(features))) == 1
            assert reliability.brier == reliability.base_brier
    assert kinds.count(LOGISTIC) <= 2


def test_folds() -> None:
    groups = np.random.default_rng(0).integers(0, 40, 1000) ** 2
    folds = deal_folds(groups, seed=1)
    assert all(len(set(folds[groups == g])) == 1 for g in set(groups))
    assert np.bincount(folds, minlength=5) == pytest.approx(200, abs=20)
    order = np.random.default_rng(1).permutation(1000)
    np.testing.assert_array_equal(deal_folds(groups[order], seed=1), folds[order])
    assert (deal_folds(groups, seed=2) != folds).any()


def test_a_concept_does_not_judge_itself() -> None:
    features, right, groups = make_statements(num=600, num_groups=20)
    other = np.where(groups == 3, ~right, right)
    first, base = cross_fit(features, right, groups)
    second, other_base = cross_fit(features, other, groups)
    np.testing.assert_array_equal(first[groups == 3], second[groups == 3])
    np.testing.assert_array_equal(base[groups == 3], other_base[groups == 3])
    assert (first != second).any()


def test_a_single_concept_says_nothing_of_others() -> None:
    features, right, _ = make_statements(num=100)
    confidence, base = cross_fit(features, right, np.zeros(100, np.int64))
    assert set(confidence) == set(base) == {0.5}
    assert calibrate(features, right, np.zeros(100, np.int64))[0].kind == BASE_RATE


def test_json_round_trip() -> None:
    features, right, groups = make_statements(num=400)
    for chosen in (slice(None), slice(0, 10), slice(0, 0)):
        calibration, reliability = calibrate(features[chosen], right[chosen], groups[chosen])
        content = json.dumps([calibration.to_json(), reliability.to_json()], allow_nan=False)
        first, second = json.loads(content)
        assert Calibration.from_json(first) == calibration
        assert Reliability.from_json(second) == reliability
        np.testing.assert_array_equal(Calibration.from_json(first).predict(features), calibration.predict(features))
