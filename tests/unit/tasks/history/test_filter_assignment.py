"""Which filter of one audit is held for which of the other, given their correlations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavise.tasks.history.filter_matching import Match, assign_filters, match_filters
from tests.unit.tasks.helpers import AnyArray
from tests.unit.tasks.history.compared_layers import SETTINGS


def row_of(status: str, old: int | None, new: int | None, similarity: float | None = None) -> tuple[Any, ...]:
    return status, old, new, similarity


def match_all(correlation: AnyArray, low: Mapping[tuple[int, int], float], slots: bool) -> list[tuple[Any, ...]]:
    assigned = assign_filters(correlation, slots)
    full = {pair: float(correlation[pair]) for pair in assigned} | dict(low)
    found = match_filters(correlation, assigned, full, slots, SETTINGS)
    return [row_of(m.status, m.old, m.new, m.similarity) for m in found]


def test_thresholds_are_met_from_above() -> None:
    """0.9 is the same, just below it is changed; what counts for a match at another index is its interval's low end."""
    correlation = np.array([[0.1, 0.9, 0.0], [np.nextafter(0.9, 0), 0.1, 0.0], [0.0, 0.0, 0.0]])
    found = match_all(correlation, {(1, 0): 0.5}, slots=False)
    assert found == [
        row_of("changed", 1, 0, np.nextafter(0.9, 0)),
        row_of("same", 0, 1, 0.9),
        row_of("new", None, 2),
        row_of("lost", 2, None),
    ]
    found = match_all(correlation, {(1, 0): np.nextafter(0.5, 0)}, slots=False)
    assert [m[0] for m in found] == ["new", "same", "new", "lost", "lost"]


def test_what_stands_at_the_place_of_another_filter_is_changed() -> None:
    """The best assignment of two unrelated filters is crosswise; they are told apart by their place all the same."""
    correlation = np.array([[0.0, 0.3], [0.3, -0.1]])
    assert match_all(correlation, {}, slots=True) == [row_of("changed", 0, 0, 0.0), row_of("changed", 1, 1, -0.1)]
    assert [m[0] for m in match_all(correlation, {}, slots=False)] == ["new", "new", "lost", "lost"]


def test_filter_that_moved_leaves_its_place() -> None:
    """Old 0 is new 1; what stands at 0 now was nowhere, and what stood at 1 is gone."""
    correlation = np.array([[0.0, 0.95], [0.1, 0.0]])
    assert match_all(correlation, {}, slots=True) == [
        row_of("new", None, 0),
        row_of("same", 0, 1, 0.95),
        row_of("lost", 1, None),
    ]


@st.composite
def correlations(draw: st.DrawFn) -> tuple[AnyArray, AnyArray, bool]:
    """Correlations, lower ends of their intervals, and whether there are slots; with ties and values at the limits."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    value = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 0.9, 1.0]), st.floats(-1, 1, allow_subnormal=False))
    cells = draw(st.lists(value, min_size=rows * columns, max_size=rows * columns))
    below = draw(st.lists(st.floats(0, 1), min_size=rows * columns, max_size=rows * columns))
    correlation = np.array(cells).reshape(rows, columns)
    return correlation, correlation - np.array(below).reshape(rows, columns), rows == columns and draw(st.booleans())


@given(correlations())
def test_every_filter_has_just_one_row(found: tuple[AnyArray, AnyArray, bool]) -> None:
    correlation, low_CD, slots = found
    assigned = assign_filters(correlation, slots)
    assert len(assigned) == min(correlation.shape)
    low = {pair: float(low_CD[pair]) for pair in assigned}
    matches = match_filters(correlation, assigned, low, slots, SETTINGS)
    assert sorted(m.old for m in matches if m.old is not None) == list(range(correlation.shape[0]))
    assert sorted(m.new for m in matches if m.new is not None) == list(range(correlation.shape[1]))
    for m in matches:
        if m.old is None or m.new is None:
            assert (m.status, m.similarity) == ("new" if m.old is None else "lost", None)
            assert (m.old, m.new) != (None, None)
            continue
        assert m.similarity == correlation[m.old, m.new]
        is_same = (m.old, m.new) in assigned and correlation[m.old, m.new] >= 0.9
        assert m.status == ("same" if is_same else "changed")
        if m.status == "changed":
            assert low.get((m.old, m.new), -2.0) >= 0.5 or (slots and m.old == m.new)
    # With slots, nothing is left at an index whose old and new filter are both without a counterpart.
    lost, new = ({m.old if s == "lost" else m.new for m in matches if m.status == s} for s in ("lost", "new"))
    assert not (slots and lost & new)
    assert matches == sorted(matches, key=_order)


def _order(match: Match) -> tuple[int, int]:
    return 99 if match.new is None else match.new, 99 if match.old is None else match.old


@given(correlations())
def test_assignment_has_the_highest_sum(found: tuple[AnyArray, AnyArray, bool]) -> None:
    correlation, _, slots = found
    wide = correlation if correlation.shape[0] <= correlation.shape[1] else correlation.T
    best = max(
        sum(wide[u, v] for u, v in enumerate(columns)) for columns in permutations(range(wide.shape[1]), len(wide))
    )
    assigned = assign_filters(correlation, slots)
    assert sum(correlation[pair] for pair in assigned) == pytest.approx(best, abs=1e-7)
