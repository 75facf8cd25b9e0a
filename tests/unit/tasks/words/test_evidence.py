"""Votes and their exact tests against loops and scipy; what noise and planted words give."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from lavise.tasks.numerics.bootstrap import bootstrap_share
from lavise.tasks.numerics.false_discovery import adjust_false_discovery
from lavise.tasks.numerics.ranked_lists import find_repeated
from lavise.tasks.words.evidence import Evidence, count_votes, estimate_background, find_evidence
from tests.unit.tasks.helpers import AnyArray

NUM_FILTERS, NUM_WORDS = 6, 12


def make_pairs(seed: int = 0) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Words, filters and scores of 40 pairs, shuffled; filter 4 has none; some words are -1 or named twice."""
    rng = np.random.default_rng(seed)
    words = rng.integers(-1, NUM_WORDS, size=(40, 4))
    return words, rng.choice([0, 1, 2, 3, 5], size=40), rng.random((40, 4)).astype(np.float32)


def draw_words(rng: np.random.Generator, num: int, num_words: int) -> AnyArray:
    """Words of pairs with the frequencies of a language: few frequent, many rare."""
    rates = 1 / np.arange(1, num_words + 1)
    return rng.choice(num_words, (num, 10), p=rates / rates.sum())


def test_votes_vs_loops() -> None:
    words, filters, scores = make_pairs()
    found = count_votes(words, filters, NUM_FILTERS, scores)
    expected = {}
    for u, w in product(range(NUM_FILTERS), range(NUM_WORDS)):
        own = [p for p in range(40) if filters[p] == u and w in words[p]]
        if own:
            cosines = [float(scores[p, words[p].tolist().index(w)]) for p in own]
            expected[u, w] = (len(own), np.mean(cosines))
    rows = zip(found.filter.tolist(), found.word.tolist(), found.votes, found.score, strict=True)
    assert [(u, w) for u, w, *_ in rows] == sorted(expected)
    assert found.votes.tolist() == [expected[key][0] for key in sorted(expected)]
    np.testing.assert_allclose(found.score, [expected[key][1] for key in sorted(expected)], rtol=1e-6)
    assert found.images.tolist() == [int((filters == u).sum()) for u in range(NUM_FILTERS)]
    named = [sum(w in row for row in words) for w in range(NUM_WORDS)]
    np.testing.assert_allclose(found.background, np.array(named) / 40)
    assert (found.num_pairs, found.num_words) == (40, NUM_WORDS)


def test_a_word_named_twice_has_one_vote() -> None:
    found = count_votes(np.array([[3, 3, 1], [1, 3, -1]]), np.array([0, 0]), 1)
    assert (found.word.tolist(), found.votes.tolist(), found.named.tolist()) == ([1, 3], [2, 2], [0, 2, 0, 2])
    assert find_repeated(np.array([[3, 1, 3, 3, 1]])).tolist() == [[False, False, True, True, True]]


def test_no_pairs() -> None:
    found = find_evidence(count_votes(np.zeros((0, 10), np.int64), np.zeros(0, np.int64), 3))
    assert (len(found), found.num_hypotheses) == (0, 0)


@pytest.mark.parametrize("filters", [[0, 1], [0, 1, 3], [-1, 0, 1]])
def test_votes_of_filters_that_are_not_there(filters: list[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        count_votes(np.zeros((3, 2), np.int64), np.array(filters), 3)


def test_background_leaves_out_the_own_pairs() -> None:
    words, filters, _ = make_pairs()
    found = count_votes(words, filters, NUM_FILTERS)
    for u, w, rate in zip(found.filter, found.word, estimate_background(found), strict=True):
        others = [p for p in range(40) if filters[p] != u]
        elsewhere = sum(w in words[p] for p in others)
        assert rate == pytest.approx((elsewhere or 0.5) / len(others))


def test_a_filter_cannot_raise_its_own_bar() -> None:
    """However often a filter names a word, and even if nobody else does, its background stays what the others say."""
    for own, others, expected in ((20, 3, 3 / 80), (1, 3, 3 / 80), (20, 0, 0.5 / 80)):
        words = np.zeros((100, 1), np.int64)
        words[:own] = 1
        words[20 : 20 + others] = 1
        found = find_evidence(count_votes(words, np.repeat(np.arange(5), 20), 5))
        assert found.background[(found.filter == 0) & (found.word == 1)] == pytest.approx(expected)


def test_without_other_filters_there_is_no_evidence() -> None:
    found = find_evidence(count_votes(np.zeros((20, 1), np.int64), np.zeros(20, np.int64), 1))
    assert (found.p_value.tolist(), found.q_value.tolist()) == ([1.0], [1.0])


def test_p_values_vs_scipy() -> None:
    words, filters, scores = make_pairs()
    found = find_evidence(count_votes(words, filters, NUM_FILTERS, scores))
    assert len(found) > 30
    for k, n, q, p in zip(found.votes, found.images, found.background, found.p_value, strict=True):
        assert p == pytest.approx(stats.binomtest(int(k), int(n), q, alternative="greater").pvalue, rel=1e-9)
    np.testing.assert_array_equal(found.share, found.votes / found.images)
    assert found.num_hypotheses == 5 * NUM_WORDS
    np.testing.assert_allclose(found.q_value, adjust_false_discovery(found.p_value, 60))


def test_rows_are_sorted() -> None:
    words, filters, scores = make_pairs()
    found = find_evidence(count_votes(words, filters, NUM_FILTERS, scores))
    columns = (found.filter, found.p_value, -found.votes, -found.score, found.word)
    rows = list(zip(*(c.tolist() for c in columns), strict=True))
    assert rows == sorted(rows)
    # Every word was named by the same pairs of all filters: only score, then word, can decide.
    words = np.tile([[5, 2, 9]], (4, 1))
    tied = find_evidence(count_votes(words, np.array([0, 0, 1, 1]), 2, np.tile([[0.1, 0.1, 0.9]], (4, 1))))
    assert tied.word.tolist() == [9, 2, 5] * 2


def test_filters_that_are_not_tested_are_background_only() -> None:
    words, filters, _ = make_pairs()
    votes = count_votes(words, filters, NUM_FILTERS)
    every = find_evidence(votes)
    tested = np.array([True, False, True, True, True, False])
    found = find_evidence(votes, tested)
    assert found.num_hypotheses == 3 * NUM_WORDS
    kept = every.take(np.isin(every.filter, [0, 2, 3]))
    for name in ("filter", "word", "background", "p_value"):
        np.testing.assert_array_equal(getattr(found, name), getattr(kept, name))
    assert isinstance(kept, Evidence)
    assert kept.num_hypotheses == every.num_hypotheses == 60


def test_background_is_not_below_the_floor() -> None:
    """The floor may know more words than are named; what follows from the rate, order included, follows from both."""
    words, filters, scores = make_pairs()
    votes = count_votes(words, filters, NUM_FILTERS, scores)
    floor = np.append(np.linspace(0, 1, NUM_WORDS), [0.3, 1.0])
    plain, found = find_evidence(votes), find_evidence(votes, floor_W=floor)
    keys, rates = zip(plain.filter, plain.word, strict=True), estimate_background(votes)
    expected = {}
    for u, w, k, own in zip(votes.filter, votes.word, votes.votes, rates, strict=True):
        rate = max(own, floor[w])
        expected[u, w] = (rate, stats.binomtest(int(k), int(votes.images[u]), rate, alternative="greater").pvalue)
    for u, w, rate, p in zip(found.filter, found.word, found.background, found.p_value, strict=True):
        assert (rate, p) == pytest.approx(expected.pop((u, w)), rel=1e-9)
    assert not expected
    np.testing.assert_allclose(found.q_value, adjust_false_discovery(found.p_value, 60))
    columns = (found.filter, found.p_value, -found.votes, -found.score, found.word)
    rows = list(zip(*(c.tolist() for c in columns), strict=True))
    assert rows == sorted(rows)
    assert list(keys) != list(zip(found.filter, found.word, strict=True))
    # Neither share nor interval nor the number of hypotheses has to do with it.
    assert found.num_hypotheses == plain.num_hypotheses
    order, other = (np.lexsort((e.word, e.filter)) for e in (found, plain))
    for name in ("votes", "images", "share", "share_low", "share_high"):
        np.testing.assert_array_equal(getattr(found, name)[order], getattr(plain, name)[other])


def test_a_floor_of_nothing_changes_nothing_and_a_floor_of_one_leaves_nothing() -> None:
    words, filters, _ = make_pairs()
    votes = count_votes(words, filters, NUM_FILTERS)
    plain, nothing, one = (find_evidence(votes, floor_W=f) for f in (None, np.zeros(NUM_WORDS), np.ones(NUM_WORDS)))
    for name, value in vars(plain).items():
        np.testing.assert_array_equal(value, vars(nothing)[name])
    assert {*one.p_value.tolist(), *one.q_value.tolist()} == {1.0}
    # Rows that are not tested have their floor left out with them.
    tested = np.array([False, True, False, True, True, False])
    floor = np.linspace(0, 0.9, NUM_WORDS)
    some, every = find_evidence(votes, tested, floor), find_evidence(votes, None, floor)
    kept = every.take(np.isin(every.filter, [1, 3]))
    for name in ("filter", "word", "background", "p_value"):
        np.testing.assert_array_equal(getattr(some, name), getattr(kept, name))


def test_a_filter_that_names_what_whole_pictures_are_named_has_no_evidence() -> None:
    """The others look at parts and never name it: only the floor tells that it says nothing about the filter."""
    words = np.repeat(np.arange(5), 20)[:, None]
    votes = count_votes(words, np.repeat(np.arange(5), 20), 5)
    floor = np.array([0.95, 0, 0, 0, 0])
    plain, found = find_evidence(votes), find_evidence(votes, floor_W=floor)
    assert (plain.q_value < 1e-9).all()
    assert [q < 0.05 for q in found.q_value] == [False, True, True, True, True]


def test_order_of_the_pairs_does_not_matter() -> None:
    words, filters, _ = make_pairs()
    order = np.random.default_rng(1).permutation(40)
    first = find_evidence(count_votes(words, filters, NUM_FILTERS))
    second = find_evidence(count_votes(words[order], filters[order], NUM_FILTERS))
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, vars(second)[name])


def test_planted_words_are_found_and_noise_is_not() -> None:
    """A tenth of the filters name a word of their own on a third of their pictures; the rest are all alike."""
    rng = np.random.default_rng(3)
    num_filters, num_images = 200, 20
    words = draw_words(rng, num_filters * num_images, 3000)
    filters = np.repeat(np.arange(num_filters), num_images)
    for u in range(20):
        words[u * num_images : u * num_images + 7, 4] = 100 + u
    found = find_evidence(count_votes(words, filters, num_filters))
    kept = found.take(found.q_value <= 0.05)
    planted = set(zip(kept.filter.tolist(), kept.word.tolist(), strict=True))
    assert {(u, 100 + u) for u in range(20)} <= planted
    assert len(planted) <= 22


def test_noise_is_seldom_significant() -> None:
    """Of layers without anything to find at most about one in twenty has a word that survives."""
    hits = 0
    for seed in range(40):
        words = draw_words(np.random.default_rng(seed), 60 * 15, 4000)
        found = find_evidence(count_votes(words, np.repeat(np.arange(60), 15), 60))
        hits += bool((found.q_value <= 0.05).any())
    assert hits <= 6


@pytest.mark.parametrize("votes", range(6))
def test_interval_vs_all_resamples(votes: int) -> None:
    named = np.arange(5) < votes
    shares = [named[list(draw)].mean() for draw in product(range(5), repeat=5)]
    low, high = bootstrap_share(np.array([votes, 3]), np.array([5, 5]))
    expected = np.quantile(shares, [0.025, 0.975], method="inverted_cdf")
    assert (low[0], high[0]) == pytest.approx(tuple(expected))


def test_interval_without_pictures() -> None:
    low, high = bootstrap_share(np.array([0, 2]), np.array([0, 2]))
    assert np.isnan([low[0], high[0]]).all()
    assert (low[1], high[1]) == (1, 1)
