"""Statistics of two groups, against scipy, enumeration and published figures."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from lavise.tasks.numerics.group_tests import (
    LEAST_P_VALUE,
    cohen_h,
    exact_p_values,
    informative_strata,
    least_difference,
    least_mean_difference,
    mean_difference,
    newcombe_difference,
    permutation_p_values,
    reached_level,
    stratified_difference,
    stratified_mean_difference,
)
from tests.unit.tasks.helpers import AnyArray


def fisher(a: AnyArray, b: AnyArray, num_a: int, num_b: int) -> AnyArray:
    return exact_p_values(a[:, None], b[:, None], np.array([num_a]), np.array([num_b]))


# The exact test


@pytest.mark.parametrize(("num_a", "num_b"), [(1, 1), (5, 5), (7, 12), (40, 3), (150, 90)])
def test_exact_test_vs_scipy(num_a: int, num_b: int) -> None:
    pairs = np.array(list(itertools.product(range(num_a + 1), range(num_b + 1))))
    pairs = pairs[np.random.default_rng(0).permutation(len(pairs))[:150]]
    expected = [stats.fisher_exact([[a, num_a - a], [b, num_b - b]])[1] for a, b in pairs]
    np.testing.assert_allclose(
        fisher(pairs[:, 0], pairs[:, 1], num_a, num_b), np.maximum(expected, LEAST_P_VALUE), rtol=1e-8
    )


def enumerate_strata(a_S: AnyArray, b_S: AnyArray, num_a_S: AnyArray, num_b_S: AnyArray) -> float:
    """Every set of tables with these margins, in whole numbers: number of ways to pick group a's qualified pictures."""
    ways: dict[int, int] = {}
    supports = [range(max(0, k - nb), min(k, na) + 1) for k, na, nb in zip(a_S + b_S, num_a_S, num_b_S, strict=True)]
    for counts in itertools.product(*supports):
        number = 1
        for x, k, na, nb in zip(counts, a_S + b_S, num_a_S, num_b_S, strict=True):
            number *= math.comb(int(na), int(x)) * math.comb(int(nb), int(k - x))
        ways[sum(counts)] = ways.get(sum(counts), 0) + number
    observed = ways[int(a_S.sum())]
    return float(Fraction(sum(w for w in ways.values() if w <= observed), sum(ways.values())))


def test_exact_test_in_strata_vs_enumeration() -> None:
    rng = np.random.default_rng(1)
    num_a, num_b = np.array([4, 7, 1, 5]), np.array([6, 3, 4, 5])
    a, b = rng.integers(0, num_a + 1, (40, 4)), rng.integers(0, num_b + 1, (40, 4))
    a[0], b[0] = 0, 0
    a[1], b[1] = num_a, num_b
    a[2], b[2] = num_a, 0
    expected = [enumerate_strata(x, y, num_a, num_b) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(exact_p_values(a, b, num_a, num_b), expected, rtol=1e-9)
    assert expected[:2] == [1, 1]


def test_exact_test_of_an_empty_side_in_a_stratum_changes_nothing() -> None:
    a, b = np.array([[8, 3], [2, 0]]), np.array([[1, 0], [5, 0]])
    with_empty = exact_p_values(a, b, np.array([10, 6]), np.array([9, 0]))
    np.testing.assert_allclose(with_empty, fisher(a[:, 0], b[:, 0], 10, 9), rtol=1e-12)


def test_exact_test_of_what_is_next_to_impossible() -> None:
    assert fisher(np.array([500, 250]), np.array([0, 250]), 500, 500).tolist() == [LEAST_P_VALUE, 1.0]
    a, b = np.array([[300, 300]]), np.array([[0, 0]])
    assert exact_p_values(a, b, np.array([300, 300]), np.array([300, 300])).tolist() == [LEAST_P_VALUE]


def test_confounded_tables() -> None:
    """A difference that is only one between the strata."""
    a, b = np.array([[80, 10]]), np.array([[20, 40]])
    num_a, num_b = np.array([100, 50]), np.array([25, 200])
    assert fisher(a.sum(axis=1), b.sum(axis=1), 150, 225)[0] < 1e-9
    assert exact_p_values(a, b, num_a, num_b)[0] == 1
    assert stratified_difference(a, b, num_a, num_b).value[0] == pytest.approx(0)


# Intervals and effect sizes


@pytest.mark.parametrize(
    ("a", "num_a", "b", "num_b", "low", "high"),
    [
        # Newcombe 1998, table II, method 10.
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0),
        (10, 10, 0, 10, 0.6075, 1.0),
    ],
)
def test_newcombe_published(a: int, num_a: int, b: int, num_b: int, low: float, high: float) -> None:
    found = newcombe_difference(np.array([a]), num_a, np.array([b]), num_b)
    assert found.value[0] == pytest.approx(a / num_a - b / num_b)
    assert (round(found.low[0], 4), round(found.high[0], 4)) == (low, high)


def sato(a: AnyArray, b: AnyArray, num_a: AnyArray, num_b: AnyArray) -> tuple[float, float]:
    """Difference and standard error, stratum by stratum."""
    top = weight = p = q = 0.0
    for x, y, m, n in zip(a, b, num_a, num_b, strict=True):
        total = m + n
        weight += m * n / total
        top += (x * n - y * m) / total
        p += (m * m * y - n * n * x + m * n * (n - m) / 2) / total**2
        q += (x * (n - y) + y * (m - x)) / (2 * total)
    return top / weight, math.sqrt(top / weight * p + q) / weight


def test_stratified_difference_vs_formula() -> None:
    rng = np.random.default_rng(2)
    num_a, num_b = np.array([12, 30, 7, 0]), np.array([20, 15, 9, 11])
    a, b = rng.integers(0, num_a + 1, (20, 4)), rng.integers(0, num_b + 1, (20, 4))
    found = stratified_difference(a, b, num_a, num_b)
    for t in range(20):
        value, error = sato(a[t, :3], b[t, :3], num_a[:3], num_b[:3])
        assert found.value[t] == pytest.approx(value)
        assert found.low[t] == pytest.approx(max(value - stats.norm.ppf(0.975) * error, -1))
        assert found.high[t] == pytest.approx(min(value + stats.norm.ppf(0.975) * error, 1))


@pytest.mark.parametrize(("strata", "per_group"), [(2, 150), (120, 2)])
def test_stratified_interval_covers(strata: int, per_group: int) -> None:
    """Few large strata and many small ones: 95 % of 4000 intervals have the true difference, .15, in them."""
    rng = np.random.default_rng(3)
    base = np.linspace(0.1, 0.7, strata)
    size = np.full(strata, per_group)
    a = rng.binomial(per_group, base + 0.15, (4000, strata))
    b = rng.binomial(per_group, base, (4000, strata))
    found = stratified_difference(a, b, size, size)
    assert found.value.mean() == pytest.approx(0.15, abs=0.005)
    assert ((found.low <= 0.15) & (found.high >= 0.15)).mean() == pytest.approx(0.95, abs=0.012)


def test_nothing_to_compare_in_strata() -> None:
    found = stratified_difference(np.array([[3, 0]]), np.array([[0, 2]]), np.array([5, 0]), np.array([0, 5]))
    assert np.isnan([*found.value, *found.low, *found.high]).all()
    flat = stratified_difference(np.array([[0]]), np.array([[0]]), np.array([5]), np.array([5]))
    assert (flat.value[0], flat.low[0], flat.high[0]) == (0, 0, 0)


def test_cohen_h() -> None:
    """By hand: from 0 to 1 it is π, from 0 to 1/2 half of that; and what is published for .5 against .4: .2014."""
    found = cohen_h(np.array([1, 0.5, 0.5, 0.3, 0]), np.array([0, 0, 0.4, 0.3, 0.5]))
    np.testing.assert_allclose(found, [np.pi, np.pi / 2, 0.20135792, 0, -np.pi / 2], atol=1e-8)


# What could have been shown


def exact_power(a: float, b: float, num_a: int, num_b: int, level: float) -> float:
    """Of Fisher's test, over all tables."""
    x, y = np.arange(num_a + 1), np.arange(num_b + 1)
    X, Y = (m.ravel() for m in np.meshgrid(x, y, indexing="ij"))
    rejected = (fisher(X, Y, num_a, num_b) <= level).reshape(num_a + 1, num_b + 1)
    return float(stats.binom.pmf(x, num_a, a) @ rejected @ stats.binom.pmf(y, num_b, b))


@pytest.mark.parametrize(
    ("pooled", "num", "level", "power"),
    [(0.3, 100, 0.05, 0.8), (0.5, 150, 0.05, 0.9), (0.5, 150, 1e-3, 0.8), (0.7, 150, 1e-4, 0.5), (0.3, 200, 4e-5, 0.8)],
)
def test_least_difference_has_the_power(pooled: float, num: int, level: float, power: float) -> None:
    least = float(least_difference(np.array([pooled]), num, num, level, power)[0])
    assert exact_power(pooled + least / 2, pooled - least / 2, num, num, level) == pytest.approx(power, abs=0.03)


@pytest.mark.parametrize("pooled", [0.3, 0.5, 0.7])
def test_least_difference_of_unequal_groups_either_way(pooled: float) -> None:
    """In both directions the power is at least what was asked, less .03, and in one not much more."""
    least = float(least_difference(np.array([pooled]), 60, 140, 0.01, 0.8)[0])
    shift = least * np.array([0.7, -0.3])
    powers = [exact_power(pooled + sign * shift[0], pooled + sign * shift[1], 60, 140, 0.01) for sign in (1, -1)]
    assert 0.77 <= min(powers) <= 0.84


def test_least_difference_without_room() -> None:
    found = least_difference(np.array([0, 1, 0.01, 0.5]), 20, 20, 0.001, 0.8)
    assert np.isnan(found).tolist() == [True, True, True, False]
    low, high = least_difference(np.array([0.2, 0.8]), 50, 90, 0.01, 0.8)
    assert low == pytest.approx(high)
    # A rare filter can be shown to be more frequent in the small group, never to be less.
    assert np.isfinite(least_difference(np.array([0.05]), 50, 350, 0.001, 0.8))


def test_reached_level() -> None:
    assert reached_level(0.05, 0, 100) == 0.05 / 100
    assert reached_level(0.05, 7, 100) == 0.05 * 7 / 100
    assert reached_level(0.05, 0, 0) == 0.05


# Scores


def make_scores(num: int = 40, words: int = 6, seed: int = 4) -> tuple[AnyArray, AnyArray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 5, (num, words)), rng.random(num) < 0.4


def test_mean_difference_vs_scipy() -> None:
    scores, in_a = make_scores()
    found, effect = mean_difference(scores, in_a)
    for w in range(scores.shape[1]):
        a, b = scores[in_a, w], scores[~in_a, w]
        interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert (found.low[w], found.high[w]) == (pytest.approx(interval.low), pytest.approx(interval.high))
        pooled = math.sqrt((a.var(ddof=1) * (len(a) - 1) + b.var(ddof=1) * (len(b) - 1)) / (len(scores) - 2))
        assert effect[w] == pytest.approx((a.mean() - b.mean()) / pooled)


def test_mean_difference_of_equal_scores() -> None:
    in_a = np.array([True, True, False, False, False])
    found, effect = mean_difference(np.array([[2, 3], [2, 3], [2, 1], [2, 1], [2, 1]]), in_a)
    assert found.value.tolist() == found.low.tolist() == found.high.tolist() == [0, 2]
    assert effect.tolist() == [0, 0]
    with pytest.raises(ValueError, match="expected two pictures in each group, found 1 and 4"):
        mean_difference(np.zeros((5, 1), int), np.arange(5) == 0)


def test_stratified_mean_difference_is_that_of_shares() -> None:
    """Of scores 0 and 1 it is Mantel & Haenszel's; the variance by hand."""
    rng = np.random.default_rng(5)
    scores, in_a, stratum = rng.integers(0, 2, (50, 3)), rng.random(50) < 0.5, rng.integers(-1, 3, 50)
    found = stratified_mean_difference(scores, in_a, stratum)
    counts = [np.array([scores[(stratum == s) & side].sum(axis=0) for s in range(3)]).T for side in (in_a, ~in_a)]
    sizes = [np.array([((stratum == s) & side).sum() for s in range(3)]) for side in (in_a, ~in_a)]
    np.testing.assert_allclose(found.value, stratified_difference(*counts, *sizes).value)
    weights = sizes[0] * sizes[1] / (sizes[0] + sizes[1])
    variance = sum(w * scores[stratum == s].var(axis=0, ddof=1) for s, w in enumerate(weights))
    np.testing.assert_allclose(found.high - found.value, stats.norm.ppf(0.975) * np.sqrt(variance) / weights.sum())
    assert np.isnan(stratified_mean_difference(scores, in_a, np.where(in_a, 0, 1)).value).all()


def test_least_mean_difference_has_the_power() -> None:
    rng = np.random.default_rng(6)
    in_a = np.arange(120) < 40
    scores = rng.integers(0, 9, (120, 1))
    least = float(least_mean_difference(scores, in_a, 0.01, 0.8)[0])
    deviation = math.sqrt((scores[in_a].var() * 40 + scores[~in_a].var() * 80) / 118)
    shifted = rng.normal(size=(3000, 120)) * deviation + least * in_a
    p = stats.ttest_ind(shifted[:, in_a], shifted[:, ~in_a], axis=1).pvalue
    assert (p <= 0.01).mean() == pytest.approx(0.8, abs=0.04)
    assert np.isnan(least_mean_difference(np.ones((120, 1), int), in_a, 0.01, 0.8)).all()


# The permutation test


def enumerate_permutations(scores: AnyArray, in_a: AnyArray, stratum: AnyArray) -> float:
    """p over all relabellings within strata, in fractions."""
    strata = [np.flatnonzero(stratum == s) for s in np.unique(stratum[stratum >= 0])]
    expected = sum((Fraction(int(scores[r].sum()) * int(in_a[r].sum()), len(r)) for r in strata), Fraction())
    choices = [itertools.combinations(r.tolist(), int(in_a[r].sum())) for r in strata]
    sums = [sum(int(scores[i]) for part in chosen for i in part) for chosen in itertools.product(*choices)]
    observed = sum(int(scores[r][in_a[r]].sum()) for r in strata)
    far = [abs(s - expected) >= abs(observed - expected) for s in sums]
    return sum(far) / len(far)


@pytest.mark.parametrize("stratified", [False, True])
def test_permutations_vs_enumeration(stratified: bool) -> None:
    rng = np.random.default_rng(7)
    scores, in_a = rng.integers(0, 4, (11, 5)), np.arange(11) % 3 == 0
    stratum = np.array([0] * 5 + [1] * 5 + [-1]) if stratified else np.zeros(11, int)
    found = permutation_p_values(scores, in_a, stratum, 20_000, (0, 1))
    expected = [enumerate_permutations(scores[:, w], in_a, stratum) for w in range(5)]
    np.testing.assert_allclose(found, expected, atol=0.012)
    assert len(set(expected)) > 2


def test_permutations_by_hand() -> None:
    """Equal scores have p = 1; a difference that no relabelling reaches has 1 / (1 + P)."""
    in_a = np.arange(60) < 30
    scores = np.stack([np.full(60, 3), in_a.astype(int)], axis=1)
    steps: list[int] = []
    found = permutation_p_values(scores, in_a, np.zeros(60, int), 1000, (0,), steps.append)
    assert found.tolist() == [1, 1 / 1001]
    assert sum(steps) == 1000
    assert np.isnan(permutation_p_values(scores, in_a, np.where(in_a, 0, 1), 10, (0,))).all()
    assert permutation_p_values(scores[:, :0], in_a, np.zeros(60, int), 10, (0,)).shape == (0,)


def test_permutations_repeat_and_need_no_order_of_words() -> None:
    scores, in_a = make_scores()
    stratum = np.arange(40) % 3
    first = permutation_p_values(scores, in_a, stratum, 1500, (3, 1))
    np.testing.assert_array_equal(first, permutation_p_values(scores, in_a, stratum, 1500, (3, 1)))
    np.testing.assert_array_equal(first[::-1], permutation_p_values(scores[:, ::-1], in_a, stratum, 1500, (3, 1)))
    assert (first != permutation_p_values(scores, in_a, stratum, 1500, (4, 1))).any()


def test_permutations_of_large_scores() -> None:
    """Sums above 2^24 are exact too: scores with a common offset have the same p."""
    scores, in_a = make_scores(words=3)
    plain = permutation_p_values(scores, in_a, np.zeros(40, int), 800, (0,))
    np.testing.assert_array_equal(plain, permutation_p_values(scores + (1 << 22), in_a, np.zeros(40, int), 800, (0,)))


def test_informative_strata() -> None:
    in_a = np.array([True, False, True, True, False, False])
    found = informative_strata(in_a, np.array([2, 2, 0, 0, -1, 1]))
    assert [rows.tolist() for rows in found] == [[0, 1]]
