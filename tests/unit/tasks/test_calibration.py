"""Right or wrong against scipy and scikit-learn; confidence on statements whose probability is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from storage.activations import ActivationStore
from tasks.agreement import ConceptMasks
from tasks.calibration import (
    BASE_RATE,
    LOGISTIC,
    Calibration,
    RankedRows,
    Reliability,
    calibrate,
    cross_fit,
    deal_folds,
    detect_concepts,
    fit_calibration,
    make_features,
    measure_reliability,
    wilson_interval,
)
from tasks.evidence import count_votes, find_evidence
from tasks.statistics import order_bits
from tests.unit.tasks.helpers import AnyArray, write_store

NUM_IMAGES, CELLS = 30, 12


def make_masks(presence_NK: AnyArray, seed: int = 0) -> ConceptMasks:
    """Masks over some of the 12 cells, coverage from barely above 0 to 1."""
    rng = np.random.default_rng(seed)
    image, concept = np.nonzero(presence_NK)
    coverage = rng.random((len(image), CELLS)).astype(np.float32) * (rng.random((len(image), CELLS)) < 0.3)
    coverage[np.arange(len(image)), rng.integers(0, CELLS, len(image))] = 0.01
    return ConceptMasks(image, concept, coverage, np.ones(len(image), np.int64), presence_NK)


def make_presence(shares: list[float], num: int = NUM_IMAGES, seed: int = 0) -> AnyArray:
    """bool [N, K]: each concept in the share of the pictures."""
    rng = np.random.default_rng(seed)
    columns = [rng.permutation(np.arange(num) < round(share * num)) for share in shares]
    return np.stack(columns, axis=1)


def make_statements(seed: int = 0, num: int = 6000, num_groups: int = 200) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Features, right or wrong, concepts; the probability is logistic in the first two features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num, 3)) * [3, 0.2, 1] + [5, 0.3, 0]
    probability = special.expit(0.7 * (features[:, 0] - 6) + 3 * features[:, 1])
    return features, rng.random(num) < probability, rng.integers(0, num_groups, num)


# ---------------------------------------------------------------- right or wrong


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("inside", [1, 3, 8, 9, 20, 33, 39])
def test_comparison_vs_scipy(inside: int, exchanged: bool) -> None:
    """Values without ties, with few levels, clipped, signed and apart; those of the group as they are, or others."""
    rng = np.random.default_rng(inside)
    values = rng.normal(size=(12, 40))
    values[3:6] = np.round(values[3:6] * 3)
    values[6:9] = np.minimum(values[6:9], 0.3)
    values[9, :inside] += 2
    values[10, :inside] -= 2
    halves = values.astype(np.float16)
    given = halves[:, rng.permutation(40)[:inside]] if exchanged else halves[:, :inside]
    bits = order_bits(halves)
    area, p = RankedRows(bits).compare(bits[:, :inside], order_bits(given))
    for row in range(12):
        own, rest = given[row].astype(float), halves[row, inside:].astype(float)
        assert p[row] == pytest.approx(stats.mannwhitneyu(own, rest, alternative="greater").pvalue, rel=1e-9), row
        assert area[row] == pytest.approx(roc_auc_score(np.arange(40) < inside, np.concatenate([own, rest])))


def test_equal_values_tell_nothing() -> None:
    bits = np.zeros((2, 10), np.uint16)
    area, p = RankedRows(bits).compare(bits[:, :4], bits[:, :4])
    assert (area.tolist(), p.tolist()) == ([0.5, 0.5], [1.0, 1.0])


@pytest.mark.parametrize("shard_images", [7, 100])
def test_detection_vs_loops(tmp_path: Path, shard_images: int) -> None:
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(NUM_IMAGES, 9, 3, 4)).astype(np.float16)
    maps[:, 7] = np.clip(maps[:, 7], 0, 1)
    maps[:, 8] = 2
    presence = make_presence([0.1, 0.3, 0.5, 0.9])
    masks = make_masks(presence)
    for row in np.flatnonzero(masks.concept == 1):
        maps[masks.image[row], :4].reshape(4, -1)[:, masks.coverage[row] > 0] += 3
    found = detect_concepts(write_store(tmp_path / "s", maps, shard_images), masks)
    assert found.num_images.tolist() == [3, 9, 15, 27]
    for u in range(9):
        for t in range(4):
            # In half precision scipy's ranks would be rounded.
            values = maps[:, u].reshape(NUM_IMAGES, -1).max(axis=1).astype(np.float64)
            for row in np.flatnonzero(masks.concept == t):
                values[masks.image[row]] = max(
                    maps[masks.image[row], u].ravel()[c] for c in range(CELLS) if masks.coverage[row, c] > 0
                )
            area = roc_auc_score(presence[:, t], values)
            p = stats.mannwhitneyu(values[presence[:, t]], values[~presence[:, t]], alternative="greater").pvalue
            assert found.auroc[u, t] == pytest.approx(area, abs=1e-6)
            assert found.p_value[u, t] == pytest.approx(p, abs=1e-6)
            assert found.right[u, t] == (area >= 0.75 and p <= 0.05)
    assert found.right[:4, 1].all()


def test_a_filter_that_responds_beside_the_concept_is_wrong(tmp_path: Path) -> None:
    """Both filters fire on pictures with the concept only; one on its mask, the other next to it."""
    presence = make_presence([0.4])
    coverage = np.zeros((12, CELLS), np.float32)
    coverage[:, 0] = 1
    masks = replace(make_masks(presence), coverage=coverage)
    maps = np.random.default_rng(2).random((NUM_IMAGES, 2, 3, 4))
    maps[presence[:, 0], 0, 0, 0] += 2
    maps[presence[:, 0], 1, 2, 2] += 2
    found = detect_concepts(write_store(tmp_path / "s", maps), masks)
    assert found.right.tolist() == [[True], [False]]
    assert found.auroc[0, 0] == 1.0


def test_concepts_that_cannot_be_judged(tmp_path: Path) -> None:
    presence = make_presence([0.0, 1.0, 0.5])
    found = detect_concepts(write_store(tmp_path / "s", np.ones((NUM_IMAGES, 2, 3, 4))), make_masks(presence))
    assert np.isnan(found.auroc[:, :2]).all()
    assert np.isnan(found.p_value[:, :2]).all()
    assert found.auroc[:, 2].tolist() == [0.5, 0.5]
    assert not found.right.any()


def test_noise_is_seldom_right(tmp_path: Path) -> None:
    """Also where the mask is the whole picture, so that nothing is against the filter."""
    maps = np.random.default_rng(3).random((60, 400, 3, 4))
    presence = make_presence([0.05, 0.1, 0.2, 0.5, 0.9], 60)
    masks = make_masks(presence)
    store = write_store(tmp_path / "s", maps, 100)
    assert detect_concepts(store, masks).right.mean() < 0.01
    whole = detect_concepts(store, replace(masks, coverage=np.ones_like(masks.coverage)), min_auroc=0)
    assert whole.right.mean() == pytest.approx(0.05, abs=0.015)


def test_masks_of_another_store(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", np.ones((NUM_IMAGES, 2, 4, 4)))
    with pytest.raises(ValueError, match="other activations"):
        detect_concepts(ActivationStore(store.folder), make_masks(make_presence([0.5])))


# ---------------------------------------------------------------- confidence


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


# ---------------------------------------------------------------- reliability


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


def test_json_round_trip() -> None:
    features, right, groups = make_statements(num=400)
    for chosen in (slice(None), slice(0, 10), slice(0, 0)):
        calibration, reliability = calibrate(features[chosen], right[chosen], groups[chosen])
        content = json.dumps([calibration.to_json(), reliability.to_json()], allow_nan=False)
        first, second = json.loads(content)
        assert Calibration.from_json(first) == calibration
        assert Reliability.from_json(second) == reliability
        np.testing.assert_array_equal(Calibration.from_json(first).predict(features), calibration.predict(features))
