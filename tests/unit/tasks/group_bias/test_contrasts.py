"""What is compared with what, shares and means by counting, and q values over all comparisons together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from lavise.configs.errors import UserError
from lavise.storage.datasets.groups import Grouping
from lavise.storage.state.progress import Bar
from lavise.tasks.group_bias.contrasts import (
    OTHERS,
    Contrast,
    ContrastFigures,
    compare_filters,
    compare_words,
    count_scores,
    decide_contrasts,
    give_verdict,
    index_words,
    make_contrasts,
)
from lavise.tasks.numerics.group_tests import Difference
from tests.unit.tasks.helpers import AnyArray


def grouping(of_image: Sequence[int] | AnyArray, *names: str) -> Grouping:
    return Grouping("colour", names, np.asarray(of_image, np.int64))


def contrast_of(in_group: Sequence[bool] | AnyArray, stratum: Sequence[int] | AnyArray | None = None) -> Contrast:
    """All pictures, in two groups."""
    side = np.asarray(in_group, bool)
    of_stratum = np.zeros(len(side), np.int64) if stratum is None else np.asarray(stratum, np.int64)
    return Contrast("a", "b", np.arange(len(side)), side, of_stratum)


# What is compared with what


def test_two_groups_are_compared_with_each_other() -> None:
    """Pictures of no group, and of a group that is too small, are in neither."""
    (found,) = make_contrasts(grouping([1, 0, -1, 1, 2, 0, 1], "red", "blue", "rare"), None, 2)
    assert (found.group, found.other) == ("red", "blue")
    assert found.rows.tolist() == [0, 1, 3, 5, 6]
    assert found.in_group.tolist() == [False, True, False, True, False]
    assert (found.num_group, found.num_other) == (2, 3)
    assert found.stratum.tolist() == [0] * 5


def test_of_more_groups_each_is_compared_with_all_others() -> None:
    found = make_contrasts(grouping([0, 1, 2, 0, 1, 2, -1], "red", "blue", "green"), None, 2)
    assert [(c.group, c.other, c.num_group, c.num_other) for c in found] == [
        ("red", OTHERS, 2, 4),
        ("blue", OTHERS, 2, 4),
        ("green", OTHERS, 2, 4),
    ]
    assert np.array([c.in_group for c in found]).sum(axis=0).tolist() == [1] * 6


def test_strata_follow_their_pictures() -> None:
    strata = grouping([0, 1, 1, -1, 0], "day", "night")
    (found,) = make_contrasts(grouping([-1, 0, 1, 0, 1], "red", "blue"), strata, 2)
    assert found.rows.tolist() == [1, 2, 3, 4]
    assert found.stratum.tolist() == [1, 1, -1, 0]


def test_groups_with_too_few_pictures_are_listed() -> None:
    with pytest.raises(UserError, match=r"found 0 groups by colour with 3 pictures or more: red \(2\), blue \(1\)"):
        make_contrasts(grouping([0, 0, 1], "red", "blue"), None, 3)


# Filters


def test_shares_and_p_values_of_filters_vs_fisher() -> None:
    rng = np.random.default_rng(0)
    qualified = rng.random((60, 8)) < np.linspace(0, 1, 8)
    rows = np.sort(rng.choice(60, 45, replace=False))
    contrast = Contrast("a", "b", rows, rng.random(45) < 0.4, np.zeros(45, np.int64))
    found = compare_filters(qualified, contrast, stratified=False)
    a, b = (qualified[rows[contrast.in_group == side]] for side in (True, False))
    for unit in range(8):
        table = [[own[:, unit].sum(), (~own[:, unit]).sum()] for own in (a, b)]
        assert found.p_value[unit] == pytest.approx(stats.fisher_exact(table).pvalue)
        assert found.share_group[unit] == a[:, unit].mean()
        assert found.share_other[unit] == b[:, unit].mean()
        assert found.difference.value[unit] == pytest.approx(a[:, unit].mean() - b[:, unit].mean())
    assert found.tested.tolist() == [bool(0 < q < 45) for q in qualified[rows].sum(axis=0)]
    assert found.tested.tolist()[0::7] == [False, False]
    assert np.isnan(found.p_within).all()
    assert np.isnan(found.within.value).all()


def test_filters_within_strata_of_one_group_only_have_no_p() -> None:
    qualified = np.eye(6, dtype=bool)
    found = compare_filters(qualified, contrast_of([True] * 3 + [False] * 3, [0, 0, 0, 1, 1, 1]), stratified=True)
    assert np.isnan(found.p_within).all()
    assert np.isfinite(found.p_value).all()


def test_filters_within_a_single_stratum_are_as_without() -> None:
    rng = np.random.default_rng(1)
    qualified, side = rng.random((50, 5)) < 0.4, rng.random(50) < 0.5
    found = compare_filters(qualified, contrast_of(side), stratified=True)
    np.testing.assert_allclose(found.p_within, found.p_value)
    np.testing.assert_allclose(found.within.value, found.difference.value, atol=1e-12)


def test_pictures_of_no_stratum_are_left_out_within_strata_only() -> None:
    """Among those of the one stratum, the groups are the same."""
    qualified = np.array([1, 1, 0, 0, 1, 0, 1, 0, 1, 0], bool)[:, None]
    side = [True, True, False, False, True, True, False, False, True, False]
    stratum = [-1, -1, -1, -1, 0, 0, 0, 0, -1, -1]
    found = compare_filters(qualified, contrast_of(side, stratum), stratified=True)
    assert found.difference.value[0] == pytest.approx(4 / 5 - 1 / 5)
    assert found.within.value[0] == 0
    assert found.p_within[0] == 1


# Words


def test_words_are_sorted_and_know_their_filters() -> None:
    words, member = index_words([["dog", "cat"], [], ["cat"], ["ant", "ant"]])
    assert words == ["ant", "cat", "dog"]
    assert member.astype(int).tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_no_words_at_all() -> None:
    words, member = index_words([[], []])
    assert words == []
    assert member.shape == (2, 0)


def test_scores_vs_counting() -> None:
    rng = np.random.default_rng(2)
    qualified, member = rng.random((13, 7)) < 0.5, rng.random((7, 4)) < 0.4
    found = count_scores(qualified, member)
    assert found.dtype == np.int64
    expected = [[sum(q and m for q, m in zip(own, column, strict=True)) for column in member.T] for own in qualified]
    assert found.tolist() == expected


def test_a_words_share_is_the_mean_over_its_filters() -> None:
    rng = np.random.default_rng(3)
    qualified, side = rng.random((40, 6)) < 0.5, np.arange(40) < 15
    words, member = index_words([["x", "y"], ["x"], ["x"], ["y"], ["z"], []])
    scores = count_scores(qualified, member)
    found = compare_words(scores, member.sum(axis=0), contrast_of(side), False, 1000, (0,))
    for place in range(len(words)):
        own = qualified[:, member[:, place]]
        assert found.share_group[place] == pytest.approx(own[side].mean())
        assert found.share_other[place] == pytest.approx(own[~side].mean())
        assert found.difference.value[place] == pytest.approx(own[side].mean() - own[~side].mean())
        low, high = stats.ttest_ind(own[side].mean(1), own[~side].mean(1), equal_var=False).confidence_interval()
        assert (found.difference.low[place], found.difference.high[place]) == pytest.approx((low, high))


def test_p_values_of_words_vs_all_deals() -> None:
    """Of seven pictures three are in the group; with many permutations p comes near the share of all 35 deals."""
    scores = np.array([[3], [2], [3], [0], [1], [0], [1]])
    side = np.array([True, True, True, False, False, False, False])
    observed = abs(scores[side].mean() - scores[~side].mean())
    deals = [np.isin(np.arange(7), chosen) for chosen in combinations(range(7), 3)]
    exact = np.mean([abs(scores[d].mean() - scores[~d].mean()) >= observed - 1e-9 for d in deals])
    found = compare_words(scores, np.array([3]), contrast_of(side), False, 20_000, (1,))
    assert found.p_value[0] == pytest.approx(exact, abs=0.01)


def test_a_word_whose_pictures_all_score_the_same_is_no_test() -> None:
    scores = np.array([[2, 1], [2, 0], [2, 1], [2, 0], [2, 1], [2, 0]])
    found = compare_words(scores, np.array([2, 1]), contrast_of([True] * 3 + [False] * 3), False, 1000, (0,))
    assert found.tested.tolist() == [False, True]
    assert found.p_value[0] == 1


@pytest.mark.parametrize("stratified", [False, True])
def test_progress_counts_the_permutations(stratified: bool) -> None:
    seen: list[tuple[str, int]] = []
    steps: list[int] = []

    class Counter:
        def advance(self, steps_done: int = 1) -> None:
            steps.append(steps_done)

    @contextmanager
    def count(title: str, total: int) -> Iterator[Bar]:
        seen.append((title, total))
        yield Counter()

    scores = np.random.default_rng(4).integers(0, 3, (12, 2))
    contrast = contrast_of([True, False] * 6, [0, 0, 1, 1] * 3)
    compare_words(scores, np.array([2, 2]), contrast, stratified, 1500, (0,), count)
    ((title, total),) = seen
    assert (title, total) == ("words of a", 3000 if stratified else 1500)
    assert sum(steps) == total


def test_the_seed_alone_decides_the_permutations() -> None:
    rng = np.random.default_rng(5)
    scores, contrast = rng.integers(0, 4, (40, 6)), contrast_of(rng.random(40) < 0.5)
    first, again, other = (
        compare_words(scores, np.full(6, 3), contrast, False, 1000, seed).p_value for seed in ((1, 2), (1, 2), (1, 3))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(first, other, atol=0.1)


# Verdicts


def comparison_of(
    p_value: Sequence[float], tested: Sequence[bool] | None = None, p_within: Sequence[float] | None = None
) -> ContrastFigures:
    """Differences of +.3; within strata the same."""
    n = len(p_value)
    same = Difference(np.full(n, 0.3), np.full(n, 0.1), np.full(n, 0.5))
    within = np.full(n, np.nan) if p_within is None else np.array(p_within)
    is_tested = np.ones(n, bool) if tested is None else np.array(tested)
    ones = np.ones(n)
    return ContrastFigures(ones, ones, same, ones, np.array(p_value), is_tested, same, within)


def test_all_contrasts_are_adjusted_together_and_what_is_no_test_not_at_all() -> None:
    first = comparison_of([0.001, 1.0, 0.02], [True, False, True])
    second = comparison_of([0.04, 0.3])
    q = stats.false_discovery_control([0.001, 0.02, 0.04, 0.3])
    decided = decide_contrasts([first, second], 0.05, stratified=False)
    assert decided[0].q_value.tolist() == pytest.approx([q[0], 1.0, q[1]])
    assert decided[1].q_value.tolist() == pytest.approx(q[2:].tolist())
    assert [j.found.tolist() for j in decided] == [[True, False, True], [False, False]]
    assert [j.verdict for j in decided] == [["differs", "same", "differs"], ["same", "same"]]
    assert np.isnan(decided[0].q_within).all()


def test_p_values_within_strata_are_adjusted_among_themselves() -> None:
    comparison = comparison_of([0.001, 0.001, 0.001], p_within=[0.01, np.nan, 0.04])
    (decided,) = decide_contrasts([comparison], 0.05, stratified=True)
    q = stats.false_discovery_control([0.01, 0.04])
    assert decided.q_within[[0, 2]].tolist() == pytest.approx(q.tolist())
    assert np.isnan(decided.q_within[1])
    assert decided.verdict == ["differs", "undecided", "differs"]


def test_a_difference_at_the_very_rate_is_found() -> None:
    (decided,) = decide_contrasts([comparison_of([0.05])], 0.05, stratified=False)
    assert decided.found.tolist() == [True]


def test_nothing_to_judge() -> None:
    (decided,) = decide_contrasts([comparison_of([])], 0.05, stratified=True)
    assert (decided.verdict, decided.found.tolist()) == ([], [])


def test_what_was_not_found_is_the_same_whatever_its_strata_say() -> None:
    comparison = comparison_of([0.9, 0.9], p_within=[0.001, 0.9])
    assert give_verdict(comparison, np.array([False, False]), 0.05, True) == ["same", "same"]
