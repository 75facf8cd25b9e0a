"""Adjusted p-values against scipy, and the rate that they keep."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lavise.tasks.numerics.false_discovery import adjust_false_discovery


@pytest.mark.parametrize("unseen", [0, 1, 500])
def test_adjustment_vs_scipy(unseen: int) -> None:
    rng = np.random.default_rng(2)
    p = np.concatenate([rng.random(40), rng.random(20) ** 6, np.repeat([0.01, 0.2, 0.0, 1.0], 5)])
    rng.shuffle(p)
    found = adjust_false_discovery(p, len(p) + unseen)
    expected = stats.false_discovery_control(np.concatenate([p, np.ones(unseen)]))[: len(p)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    order = np.argsort(p)
    assert (np.diff(found[order]) >= 0).all()
    for value in np.unique(p):
        assert len(set(found[p == value])) == 1


@pytest.mark.parametrize(("p", "num"), [([0.1, 0.2], 1), ([1.1], 5), ([-0.1], 5), ([np.nan], 5)])
def test_adjustment_of_what_is_no_p_value(p: list[float], num: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        adjust_false_discovery(np.array(p), num)


def test_false_discovery_rate_is_kept() -> None:
    """Mean share of false ones among the rejected, with true ones in half of 200 hypotheses."""
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(300):
        p = rng.random(200)
        p[:100] = p[:100] ** 8
        rejected = adjust_false_discovery(p, 200) <= 0.1
        shares.append(rejected[100:].sum() / max(rejected.sum(), 1))
    assert 0.03 < np.mean(shares) < 0.06
