"""Rank tests against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from lavise.tasks.numerics.float16_bits import order_bits
from lavise.tasks.numerics.mann_whitney import RankedRows


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
