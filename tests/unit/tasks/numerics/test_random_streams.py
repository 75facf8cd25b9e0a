"""No two streams draw alike, and whatever draws from an audit's seed is in the list."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from lavise.tasks.numerics.random_streams import Stream, make_rng

ROOT = Path(__file__).resolve().parents[4]


def test_streams_and_their_parts_draw_differently() -> None:
    draws = [tuple(make_rng(3, s, *parts).integers(0, 2**32, 4)) for s in Stream for parts in ((), (0, 1), (1, 0))]
    assert len(set(draws)) == len(draws)


def test_numpy_takes_trailing_zeros_for_nothing() -> None:
    """Why a stream that has parts must not share its number: seen with numpy 2.4."""
    one, other = np.random.default_rng([5, 11]), np.random.default_rng([5, 11, 0, 0])
    assert one.integers(0, 2**32, 4).tolist() == other.integers(0, 2**32, 4).tolist()


def test_tasks_and_flows_draw_from_no_number_of_their_own() -> None:
    """Permutations of groups get a seed that was made of their stream."""
    files = itertools.chain((ROOT / "tasks").rglob("*.py"), (ROOT / "flows").rglob("*.py"))
    found = {f.name for f in files if "default_rng(" in f.read_text("utf-8")}
    assert found == {"random_streams.py", "group_tests.py"}
