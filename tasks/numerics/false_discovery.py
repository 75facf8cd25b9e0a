"""False discovery rate: p-values adjusted for the number of hypotheses."""

from __future__ import annotations

import numpy as np

from lavise.storage.array_types import DoubleArray


def adjust_false_discovery(p_S: DoubleArray, num_hypotheses: int) -> DoubleArray:
    """q values by Benjamini & Hochberg (1995): the lowest false discovery rate at which each hypothesis is rejected.

    q_(i) = min over j >= i of p_(j) · m / j, at most 1. Rejecting what has q <= a keeps the expected share of false
    ones among the rejected at or below a if the p values are independent, or positively dependent in the sense of PRDS
    (Benjamini & Yekutieli 2001). Filters that share pictures are positively dependent; words compete for the s places
    of a picture, which is not covered, and the p values are discrete, which makes the method stricter. Under any
    dependence whatever the bound holds with a times 1 + 1/2 + ... + 1/m.

    Args:
        p_S: p values in 0..1.
        num_hypotheses: m, at least S; those that are not in p_S have p = 1 and count.

    Raises:
        ValueError: p values out of range, or more than m.
    """
    p_S = np.asarray(p_S, np.float64)
    if num_hypotheses < len(p_S):
        raise ValueError(f"expected at least {len(p_S)} hypotheses, found {num_hypotheses}")
    if not ((p_S >= 0) & (p_S <= 1)).all():
        raise ValueError("expected p values in 0..1")
    order = np.argsort(p_S, kind="stable")
    raw = p_S[order] * (num_hypotheses / np.arange(1, len(p_S) + 1))
    out = np.empty_like(p_S)
    out[order] = np.minimum(np.minimum.accumulate(raw[::-1])[::-1], 1)
    return out
