"""Reliability of stated confidences: how often statements of each confidence are right, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from lavise.storage.array_types import BoolArray, DoubleArray, IntArray

NUM_BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Statements whose confidence is in [low, high), in the last bin [low, high].

    Attributes:
        confidence: their mean; None if there are none, as all that follows.
        share: of right ones; share_low, share_high: its 95 % Wilson interval. It takes statements for independent,
            which those about one concept are not: it is too narrow.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    share: float | None
    share_low: float | None
    share_high: float | None


@dataclass(frozen=True)
class Reliability:
    """How far confidence can be taken at its word, on statements about concepts that it was not fitted to.

    Attributes:
        expected_calibration_error: mean over statements of |share right - mean confidence| of their bin.
        brier: mean of (confidence - right)²; 0 at best.
        base_rate: share of right statements.
        base_brier: Brier score of a confidence that is the same for all; what has to be beaten.
        gain: base_brier - brier.
        gain_low, gain_high: its 95 % interval over concepts; None where there are fewer than two.
        note: as in the calibration.
    """

    bins: tuple[ReliabilityBin, ...]
    count: int
    expected_calibration_error: float
    brier: float
    base_rate: float
    base_brier: float
    gain: float
    gain_low: float | None
    gain_high: float | None
    note: str = ""

    @property
    def informative(self) -> bool:
        """Whether confidence says more than the base rate does, beyond what chance explains."""
        return self.gain_low is not None and self.gain_low > 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bins": [asdict(b) for b in self.bins]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Reliability:
        """What `to_json` made."""
        return cls(**{**content, "bins": tuple(ReliabilityBin(**b) for b in content["bins"])})


def measure_reliability(
    confidence_S: DoubleArray,
    right_S: BoolArray,
    base_rate_S: DoubleArray | None = None,
    groups_S: IntArray | None = None,
) -> Reliability:
    """Reliability of confidences, ten bins.

    Args:
        base_rate_S: what a confidence without evidence would have been; the share of right ones unless given.
        groups_S: concept of each statement, for the interval of the gain; each its own unless given.
    """
    confidence_S, right_S = np.asarray(confidence_S, np.float64), np.asarray(right_S, bool)
    num = len(right_S)
    if not num:
        edges = [(n / NUM_BINS, (n + 1) / NUM_BINS) for n in range(NUM_BINS)]
        empty = tuple(ReliabilityBin(low, high, 0, None, None, None, None) for low, high in edges)
        return Reliability(empty, 0, 0.0, 0.0, 0.0, 0.0, 0.0, None, None)
    bins = _fill_bins(confidence_S, right_S)
    error = sum(
        b.count / num * abs(b.share - b.confidence) for b in bins if b.share is not None and b.confidence is not None
    )
    share = float(right_S.mean())
    base_S = np.full(num, share) if base_rate_S is None else base_rate_S
    loss_S, base_loss_S = (confidence_S - right_S) ** 2, (base_S - right_S) ** 2
    gain_S = base_loss_S - loss_S
    low, high = _bound_mean(gain_S, np.arange(num) if groups_S is None else groups_S)
    return Reliability(
        bins, num, error, float(loss_S.mean()), share, float(base_loss_S.mean()), float(gain_S.mean()), low, high
    )


def _fill_bins(confidence_S: DoubleArray, right_S: BoolArray) -> tuple[ReliabilityBin, ...]:
    # Compared with the edges themselves: 0.29 · 100 is not 29, and no edge may depend on such rounding.
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    bin_S = np.clip(np.searchsorted(edges, confidence_S, side="right") - 1, 0, NUM_BINS - 1)
    bins = []
    for number in range(NUM_BINS):
        own = bin_S == number
        count, low, high = int(own.sum()), float(edges[number]), float(edges[number + 1])
        found: tuple[float | None, ...] = (None,) * 4
        if count:
            num_right = int(right_S[own].sum())
            found = (float(confidence_S[own].mean()), num_right / count, *wilson_interval(num_right, count))
        bins.append(ReliabilityBin(low, high, count, *found))
    return tuple(bins)


def _bound_mean(values_S: DoubleArray, groups_S: IntArray) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval (Student's t, linearised) of a mean of values independent between groups only."""
    _, inverse, sizes = np.unique(groups_S, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return None, None
    mean = float(values_S.mean())
    rest = np.bincount(inverse, values_S) - mean * sizes
    error = np.sqrt(len(sizes) / (len(sizes) - 1) * (rest**2).sum()) / len(values_S)
    spread = float(stats.t.ppf(0.975, len(sizes) - 1) * error)
    return mean - spread, mean + spread


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Ends of the 95 % Wilson score interval of a share."""
    found = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)
