"""Meanings of a filter: words that exclude each other, who belongs to which, and what any regions have in common."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from lavise.tasks.words.polysemanticity import MAX_P_VALUE, Meaning, find_meanings
from tests.unit.tasks.helpers import AnyArray

CAT, DOG, CAR, PET, KITTEN, FUR = 11, 7, 23, 5, 17, 3
Kind = tuple[int, Sequence[int], int]


def make_regions(*kinds: Kind, seed: int | None = None) -> tuple[AnyArray, AnyArray]:
    """Words [n, 4] and vectors [n, 5] of so many regions each that name these words and lie near this axis.

    The other words are named once only. Regions come kind by kind, or shuffled by a seed.
    """
    rng = np.random.default_rng(0)
    rows, axes = [], []
    for num, named, axis in kinds:
        rows += [list(named)] * num
        axes += [axis] * num
    words = 1000 + np.arange(len(rows) * 4).reshape(-1, 4)
    for row, own in zip(words, rows, strict=True):
        row[: len(own)] = own
    words = rng.permuted(words, axis=1)
    vectors = np.eye(5)[axes] + rng.normal(scale=0.05, size=(len(rows), 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.arange(len(rows)) if seed is None else np.random.default_rng(seed).permutation(len(rows))
    return words[order], vectors[order].astype(np.float32)


def plain(meanings: Sequence[Meaning]) -> list[tuple[tuple[int, ...], list[int], float]]:
    return [(m.words, m.members.tolist(), m.share) for m in meanings]


# ---------------------------------------------------------------- how many


def test_one_word_is_one_meaning() -> None:
    """However far apart its regions lie, and whoever does not name it."""
    words, vectors = make_regions((10, [CAT], 0), (8, [CAT], 1), (7, [], 2))
    assert plain(find_meanings(words, vectors, [CAT])) == [((CAT,), list(range(25)), 1.0)]


@pytest.mark.parametrize("num_dogs", [7, 12, 18])
def test_words_that_exclude_each_other_are_two_meanings(num_dogs: int) -> None:
    words, vectors = make_regions((25 - num_dogs, [CAT], 0), (num_dogs, [DOG], 1), seed=1)
    found = {m.words: m for m in find_meanings(words, vectors, [CAT, DOG])}
    assert set(found) == {(CAT,), (DOG,)}
    for word in (CAT, DOG):
        own = np.flatnonzero((words == word).any(axis=1))
        np.testing.assert_array_equal(found[word,].members, own)
        assert found[word,].share == len(own) / 25


def test_the_largest_goes_first_and_of_equals_the_better_word() -> None:
    for names in ([CAT, DOG], [DOG, CAT]):
        large = find_meanings(*make_regions((7, [CAT], 0), (18, [DOG], 1)), names)
        equal = find_meanings(*make_regions((12, [CAT], 0), (12, [DOG], 1)), names)
        assert [m.words for m in large] == [(DOG,), (CAT,)]
        assert [m.words for m in equal] == [(names[0],), (names[1],)]


def test_words_named_together_are_one_meaning_and_so_are_words_named_independently() -> None:
    words, vectors = make_regions((12, [CAT, FUR], 0), (13, [], 1))
    assert plain(find_meanings(words, vectors, [CAT, FUR])) == [((CAT,), list(range(25)), 1.0)]
    rng = np.random.default_rng(4)
    several = 0
    for _ in range(200):
        says = rng.random((25, 4)) < 0.5
        own = np.where(says, [CAT, DOG, CAR, PET], 1000)
        several += len(find_meanings(own, vectors, [CAT, DOG, CAR, PET])) > 1
    assert several <= 10  # at most MAX_P_VALUE of them, and less as the test is discrete


def test_three_meanings_and_room_for_fewer() -> None:
    words, vectors = make_regions((14, [CAT], 0), (13, [DOG], 1), (9, [CAR], 2), seed=2)
    names = [DOG, CAR, CAT]
    three = find_meanings(words, vectors, names)
    assert [m.words for m in three] == [(CAT,), (DOG,), (CAR,)]
    for meaning in three:
        np.testing.assert_array_equal(meaning.members, np.flatnonzero((words == meaning.words[0]).any(axis=1)))
    assert find_meanings(words, vectors, names, 9)[2].words == (CAR,)
    # Cats exclude dogs, the first word, more clearly than the fewer cars do; cars go where they lie.
    assert {m.words[0] for m in find_meanings(words, vectors, names, 2)} == {DOG, CAT}
    assert plain(find_meanings(words, vectors, names, 1)) == [((DOG,), list(range(36)), 1.0)]


def test_a_third_word_has_to_exclude_both() -> None:
    """Kittens exclude dogs, but are cats; and cars exclude dogs, but are named with cats as often as not."""
    words, vectors = make_regions((4, [CAT], 0), (9, [CAT, KITTEN], 0), (12, [DOG], 1), seed=3)
    found = find_meanings(words, vectors, [DOG, CAT, KITTEN])
    assert [m.words for m in found] == [(CAT, KITTEN), (DOG,)]
    words, vectors = make_regions((8, [CAT], 0), (5, [CAT, CAR], 0), (4, [CAR], 0), (12, [DOG], 1))
    assert [m.words for m in find_meanings(words, vectors, [DOG, CAT, CAR])] == [(CAT, CAR), (DOG,)]


def test_a_meaning_needs_three_pictures_that_name_its_word_alone() -> None:
    # Two of 25 that name just the other word: unlikely by chance (1/300, 1/50), but too few.
    for kinds in (
        [(23, [CAT], 0), (2, [DOG], 1)],
        [(21, [CAT], 0), (2, [CAT, DOG], 1), (2, [DOG], 1)],
    ):
        assert fisher_p(*make_regions(*kinds)) * 2 <= MAX_P_VALUE
        for names in ([CAT, DOG], [DOG, CAT]):
            (only,) = find_meanings(*make_regions(*kinds), names)
            assert (only.words[0], only.share) == (names[0], 1)
    found = find_meanings(*make_regions((22, [CAT], 0), (3, [DOG], 1)), [CAT, DOG])
    assert [m.members.tolist() for m in found] == [list(range(22)), [22, 23, 24]]


def fisher_p(words: AnyArray, _: AnyArray) -> float:
    """By scipy's own test of the table of the two words."""
    cat, dog = ((words == w).any(axis=1) for w in (CAT, DOG))
    table = [[int((a & b).sum()) for b in (dog, ~dog)] for a in (cat, ~cat)]
    return float(fisher_exact(table, alternative="less").pvalue)


def test_exclusion_is_fishers_test_over_all_words() -> None:
    """At the bound of either number of words, whatever the table."""
    borders = {2: 0, 9: 0}
    for cats, dogs, both in product(range(3, 12), range(3, 12), range(4)):
        rest = 24 - cats - dogs - both
        if rest < 0:
            continue
        words, vectors = make_regions((cats, [CAT], 0), (dogs, [DOG], 1), (both, [CAT, DOG], 0), (rest, [], 1))
        p_value = fisher_p(words, vectors)
        for num_words in borders:
            names = [CAT, DOG, *range(500, 498 + num_words)]
            assert len(find_meanings(words, vectors, names)) == 1 + (p_value * num_words <= MAX_P_VALUE)
            borders[num_words] += p_value * num_words <= MAX_P_VALUE
    assert borders[2] > borders[9] > 20


# ---------------------------------------------------------------- who belongs to which


def test_pictures_that_name_both_or_neither_go_where_they_lie() -> None:
    words, vectors = make_regions(
        (10, [CAT], 0), (10, [DOG], 1), (1, [CAT, DOG], 0), (1, [CAT, DOG], 1), (1, [], 0), (3, [], 1)
    )
    found = {m.words[0]: m for m in find_meanings(words, vectors, [CAT, DOG])}
    assert found[CAT].members.tolist() == [*range(10), 20, 22]
    assert found[DOG].members.tolist() == [*range(10, 20), 21, 23, 24, 25]


def test_a_picture_that_names_one_of_them_is_of_it_wherever_it_lies() -> None:
    words, vectors = make_regions((10, [CAT], 0), (2, [CAT], 1), (12, [DOG], 1))
    found = {m.words[0]: m.members.tolist() for m in find_meanings(words, vectors, [CAT, DOG])}
    assert found == {CAT: list(range(12)), DOG: list(range(12, 24))}


def test_nearest_is_by_angle_not_by_how_tightly_a_group_lies() -> None:
    """Means of scattered groups are short; only their directions count."""
    words, vectors = make_regions((10, [CAT], 0), (5, [DOG], 1), (5, [DOG], 2), (1, [], 0))
    vectors[-1] = np.array([0.6, 0.55, 0.55, 0, 0]) / np.linalg.norm([0.6, 0.55, 0.55])
    found = {m.words[0]: m.members.tolist() for m in find_meanings(words, vectors, [CAT, DOG])}
    assert 20 in found[DOG]


def test_words_of_a_meaning_are_those_that_half_of_it_names() -> None:
    words, vectors = make_regions(
        (5, [CAT, PET, KITTEN], 0), (1, [CAT, PET, FUR], 0), (4, [CAT, FUR], 0), (6, [DOG, PET], 1), (5, [DOG, FUR], 1)
    )
    found = {m.words[0]: m.words for m in find_meanings(words, vectors, [CAT, KITTEN, DOG, FUR, PET])}
    # Of 10: pets 6, kittens and fur 5, the better word first. Of 11: pets 6; fur 5 is less than half.
    assert found == {CAT: (CAT, PET, KITTEN, FUR), DOG: (DOG, PET)}
    # The word that another meaning is about is never a word of this one, however often it is named.
    words, vectors = make_regions((14, [CAT], 0), (4, [DOG], 1), (5, [CAT, DOG], 1))
    assert [(m.words, len(m.members)) for m in find_meanings(words, vectors, [CAT, DOG])] == [((CAT,), 14), ((DOG,), 9)]


# ---------------------------------------------------------------- whatever the regions


@st.composite
def regions(draw: st.DrawFn) -> tuple[AnyArray, AnyArray, list[int]]:
    """Groups that name a word of their own, often enough to be told apart, and some regions with any words."""
    sizes = draw(st.lists(st.integers(0, 18), min_size=1, max_size=4))
    strays = draw(st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True), min_size=1, max_size=10))
    kinds: list[Kind] = [(size, [word], word) for word, size in enumerate(sizes)]
    kinds += [(1, words, draw(st.integers(0, 4))) for words in strays]
    names = draw(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True))
    return *make_regions(*kinds, seed=draw(st.integers(0, 3))), names


@given(regions(), st.integers(1, 4))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_region_has_one_meaning(given_regions: tuple[AnyArray, AnyArray, list[int]], max_meanings: int) -> None:
    words, vectors, names = given_regions
    found = find_meanings(words, vectors, names, max_meanings)
    assert 1 <= len(found) <= max_meanings
    np.testing.assert_array_equal(np.sort(np.concatenate([m.members for m in found])), np.arange(len(words)))
    assert sum(m.share for m in found) == pytest.approx(1)
    assert [len(m.members) for m in found] == sorted((len(m.members) for m in found), reverse=True)
    seeds = [m.words[0] for m in found]
    assert names[0] in seeds
    says = {w: (words == w).any(axis=1) for w in names}
    for meaning in found:
        assert meaning.share == len(meaning.members) / len(words)
        assert (np.diff(meaning.members) > 0).all()
        seed, *others = meaning.words
        assert set(meaning.words) <= set(names)
        assert len(set(meaning.words)) == len(meaning.words)
        assert not set(others) & set(seeds)
        counts = [int(says[w][meaning.members].sum()) for w in others]
        assert all(2 * c >= len(meaning.members) for c in counts)
        assert counts == sorted(counts, reverse=True)
        if len(found) > 1:
            alone = says[seed] & (np.sum([says[s] for s in seeds], axis=0) == 1)
            assert alone.sum() >= 3
            assert set(np.flatnonzero(alone)) <= set(meaning.members)
    assert plain(find_meanings(words, vectors, names, max_meanings)) == plain(found)


@given(regions(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_order_of_the_regions_does_not_matter(
    given_regions: tuple[AnyArray, AnyArray, list[int]], random: Random
) -> None:
    words, vectors, names = given_regions
    order = np.array(random.sample(range(len(words)), len(words)))
    one = {m.words[0]: set(m.members.tolist()) for m in find_meanings(words, vectors, names)}
    other = {m.words[0]: set(order[m.members].tolist()) for m in find_meanings(words[order], vectors[order], names)}
    assert one == other


def test_the_invariants_are_tried_on_several_meanings() -> None:
    """Three groups with regions of any words beside them, as drawn above."""
    words, vectors = make_regions((16, [0], 0), (16, [1], 1), (16, [2], 2), (1, [0, 1], 3), (1, [], 4))
    assert len(find_meanings(words, vectors, [2, 5, 0, 1])) == 3
