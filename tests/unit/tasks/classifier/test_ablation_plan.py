"""What is ablated, and what is left out where passes are limited; never without a note."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lavise.configs.schema import CauseSettings
from lavise.tasks.classifier.ablation_plan import AblationPlan, group_words, plan_ablations

WORDS = [["dog", "cat"], ["cat"], ["bird", "cat", "cat"], [], ["dog"], ["ant"]]
ACTIVE = np.arange(6)


def plan(by_passes: bool = False, seed: int = 0, active: Any = ACTIVE, **settings: Any) -> AblationPlan:
    return plan_ablations(WORDS, active, CauseSettings(**settings), seed, by_passes)


def test_words_by_number_of_filters_then_by_name() -> None:
    assert group_words(WORDS) == [("cat", (0, 1, 2)), ("dog", (0, 4)), ("ant", (5,)), ("bird", (2,))]
    assert group_words([]) == []


def test_everything_fits() -> None:
    found = plan(random_sets=99)
    assert found.words == ("cat", "dog", "ant", "bird")
    assert [u.tolist() for u in found.sets] == [[0, 1, 2], [0, 4], [5], [2]]
    assert sorted(found.singles) == [0, 1, 2, 4, 5]
    assert {size: len(sets) for size, sets in found.random.items()} == {1: 99, 2: 99, 3: 99}
    # 4 words at p = 1/100 each: one alone has q = 0.04.
    assert found.notes == ()
    assert found.num_ablations == 4 + 5 + 3 * 99


def test_random_sets_are_different_active_filters_and_seeded() -> None:
    found = plan(active=np.array([1, 3, 5]), random_sets=200)
    assert {tuple(s) for s in found.random[2]} == {(1, 3), (1, 5), (3, 5)}
    assert {tuple(s) for s in found.random[3]} == {(1, 3, 5)}
    again, other = plan(random_sets=200), plan(random_sets=200, seed=1)
    assert [s.tolist() for s in again.random[2]] == [s.tolist() for s in plan(random_sets=200).random[2]]
    assert [s.tolist() for s in again.random[2]] != [s.tolist() for s in other.random[2]]


def test_each_filter_is_drawn_as_often() -> None:
    """2,000 sets of 2 from 6: each filter in a third of them, ± 4 standard errors."""
    counts = np.bincount(np.concatenate(plan(random_sets=2000).random[2]), minlength=6)
    np.testing.assert_allclose(counts / 2000, 1 / 3, atol=4 * np.sqrt(1 / 3 * 2 / 3 / 2000))


def test_sizes_of_random_sets_do_not_depend_on_other_words() -> None:
    assert [s.tolist() for s in plan(max_words=1).random[3]] == [s.tolist() for s in plan().random[3]]


def test_fewer_active_filters_than_a_word_has() -> None:
    found = plan(active=np.array([4]))
    assert {tuple(s) for s in found.random[3]} == {(4,)}
    assert {tuple(s) for s in plan(active=np.zeros(0, np.int64)).random[3]} == {()}


def test_words_above_the_limit_are_noted_and_their_filters_come_last() -> None:
    found = plan(max_words=2)
    assert found.words == ("cat", "dog")
    assert found.singles == (0, 1, 2, 4, 5)
    assert found.notes == (
        "looked at the 2 words that name the most filters; 2 others were left out (causes.max_words)",
    )


def test_passes_are_not_limited_where_none_are_made() -> None:
    assert plan(max_passes=3).num_ablations == plan().num_ablations


@pytest.mark.parametrize("max_passes", [*range(1, 70), 400])
def test_never_more_passes_than_allowed(max_passes: int) -> None:
    found = plan(by_passes=True, random_sets=19, max_passes=max_passes)
    assert 1 + found.num_ablations <= max_passes
    complete = len(found.words) == 4 and len(found.singles) == 5 and found.num_random_sets == 19
    assert complete == (max_passes >= 1 + 4 + 5 + 3 * 19)
    assert complete or any("causes.max_passes" in note for note in found.notes)


def test_passes_by_hand() -> None:
    """1 without ablation, 1 + 19 for cat, 1 + 19 for dog, 1 + 19 for ant, 1 for bird, which shares ant's sets."""
    found = plan(by_passes=True, random_sets=19, max_passes=63)
    assert found.words == ("cat", "dog", "ant", "bird")
    assert found.singles == (0,)
    assert found.notes[0] == "4 of 5 single filters were left out (causes.max_passes)"
    found = plan(by_passes=True, random_sets=19, max_passes=45)
    assert found.words == ("cat", "dog")
    assert found.singles == (0, 1, 2, 4)
    assert found.notes[:2] == (
        "2 of 4 words were left out (causes.max_passes)",
        "1 of 5 single filters were left out (causes.max_passes)",
    )


def test_fewer_random_sets_where_not_even_one_word_fits() -> None:
    found = plan(by_passes=True, random_sets=99, max_passes=50)
    assert (found.words, found.num_random_sets, len(found.random[3])) == (("cat",), 48, 48)
    assert found.notes[0] == "only 48 random sets of 99 (causes.max_passes)"
    found = plan(by_passes=True, random_sets=99, max_passes=1)
    assert (found.words, found.singles, found.num_ablations) == ((), (), 0)


def test_note_where_the_random_sets_cannot_show_much() -> None:
    assert plan(random_sets=39).notes == (
        "with 39 random sets no p value is below 0.025; among 4 words none counts as used unless at least 2 of them "
        "have that one (causes.random_sets)",
    )
    assert plan(by_passes=True, random_sets=19, max_passes=19).notes[-1] == (
        "with 17 random sets no p value is below 0.0556; among 1 words none can count as used (causes.random_sets)"
    )


def test_no_words() -> None:
    found = plan_ablations([[], []], np.arange(2), CauseSettings(), 0, by_passes=True)
    assert (found.words, found.singles, found.random, found.notes) == ((), (), {}, ())
