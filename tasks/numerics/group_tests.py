"""How two groups of pictures differ: exact and permutation tests, intervals, and what could have been shown at all.

Group a is compared with group b, on its own or within strata. A picture qualifies for a filter or it does not, which
gives 2 x 2 tables; or it has a score, the number of a word's filters that it qualifies for.

Shape legend: N pictures, T tests (filters), S strata, W words, P permutations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from lavise.storage.array_types import BoolArray, DoubleArray, IntArray

# Exact p values below are given as this: probabilities that small are cut off.
LEAST_P_VALUE = 1e-60
_LEVEL = 0.95
_TIES = 1e-7
_CHUNK = 512
_BISECTIONS = 60
_EXACT_SUMS_FLOAT32 = 1 << 24


@dataclass(frozen=True)
class Difference:
    """A difference a - b of shares or means, each float64 [T].

    Attributes:
        value: NaN where nothing can be compared.
        low, high: ends of its 95 % interval.
    """

    value: DoubleArray
    low: DoubleArray
    high: DoubleArray

    def times(self, factor: DoubleArray) -> Difference:
        """In other units; the factor is above 0."""
        return Difference(self.value * factor, self.low * factor, self.high * factor)


# ---------------------------------------------------------------- tables


def exact_p_values(count_a_TS: IntArray, count_b_TS: IntArray, num_a_S: IntArray, num_b_S: IntArray) -> DoubleArray:
    """Exact conditional test of no difference in any stratum, two-sided; with one stratum Fisher's exact test.

    Given the margins of every table, the counts of group a are hypergeometric, independently. Their sum over the
    strata is the statistic, its distribution the convolution of theirs (Mantel & Haenszel 1959 approximate it; the
    exact version: Gart 1970). p is the sum of the probabilities that are not above that of what was observed.

    Args:
        count_a_TS, count_b_TS: qualified pictures.
        num_a_S, num_b_S: pictures.

    Returns:
        float64 [T], not below LEAST_P_VALUE; 1 where the margins leave one table only.
    """
    count_a_TS, count_b_TS = np.asarray(count_a_TS, np.int64), np.asarray(count_b_TS, np.int64)
    sizes = [(int(a), int(b)) for a, b in zip(num_a_S, num_b_S, strict=True)]
    log_factorials = special.gammaln(np.arange(max((a + b for a, b in sizes), default=0) + 1) + 1.0)
    totals, inverse = np.unique(count_a_TS + count_b_TS, axis=0, return_inverse=True)
    observed_T, inverse = count_a_TS.sum(axis=1), inverse.reshape(-1)
    tables: dict[tuple[int, int], tuple[int, DoubleArray]] = {}
    p_T = np.ones(len(count_a_TS))
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(len(totals) + 1))
    for row, total_S in enumerate(totals.tolist()):
        start, pmf = 0, np.ones(1)
        for s, total in enumerate(total_S):
            if (s, total) not in tables:
                tables[s, total] = _hypergeometric(total, *sizes[s], log_factorials)
            first, of_stratum = tables[s, total]
            start, pmf = start + first, np.convolve(pmf, of_stratum)
        rows = order[bounds[row] : bounds[row + 1]]
        p_T[rows] = _sum_not_above(pmf, observed_T[rows] - start)
    return p_T


def _hypergeometric(total: int, num_a: int, num_b: int, log_factorials: DoubleArray) -> tuple[int, DoubleArray]:
    """First count of group a that is possible, and the probabilities from there on; tails next to 0 are cut."""
    lf = log_factorials
    counts = np.arange(max(0, total - num_b), min(total, num_a) + 1)
    log_p = (lf[num_a] - lf[counts] - lf[num_a - counts]) + (
        lf[num_b] - lf[total - counts] - lf[num_b - total + counts]
    )
    pmf = np.exp(log_p - (lf[num_a + num_b] - lf[total] - lf[num_a + num_b - total]))
    kept = np.flatnonzero(pmf > LEAST_P_VALUE)
    return int(counts[kept[0]]), pmf[kept[0] : kept[-1] + 1]


def _sum_not_above(pmf: DoubleArray, places: IntArray) -> DoubleArray:
    """Sum of the probabilities that are not above the one at each place; those within 1e-7 of it are equal."""
    rising = np.sort(pmf)
    inside = (places >= 0) & (places < len(pmf))
    bound = np.where(inside, pmf[np.clip(places, 0, len(pmf) - 1)], 0) * (1 + _TIES)
    sums = np.concatenate([[0.0], np.cumsum(rising)])
    return np.maximum(sums[np.searchsorted(rising, bound, side="right")] / sums[-1], LEAST_P_VALUE)


def newcombe_difference(count_a: IntArray, num_a: int, count_b: IntArray, num_b: int) -> Difference:
    """Difference of two shares with Newcombe's hybrid score interval (Newcombe 1998, method 10)."""
    share_a, share_b = np.asarray(count_a) / num_a, np.asarray(count_b) / num_b
    (low_a, high_a), (low_b, high_b) = _wilson(share_a, num_a), _wilson(share_b, num_b)
    value = share_a - share_b
    low = value - np.hypot(share_a - low_a, high_b - share_b)
    high = value + np.hypot(high_a - share_a, share_b - low_b)
    return Difference(value, np.maximum(low, -1), np.minimum(high, 1))


def _wilson(share: DoubleArray, num: int) -> tuple[DoubleArray, DoubleArray]:
    """Wilson's score interval of a share."""
    z = _normal_quantile(_LEVEL)
    centre, width = share + z * z / (2 * num), z * np.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return (centre - width) / (1 + z * z / num), (centre + width) / (1 + z * z / num)


def stratified_difference(
    count_a_TS: IntArray, count_b_TS: IntArray, num_a_S: IntArray, num_b_S: IntArray
) -> Difference:
    """Mantel & Haenszel's weighted difference of shares, with Sato's interval (Sato 1989).

    Stratum s weighs w_s = n_a n_b / (n_a + n_b). The variance holds for few large strata and for many small ones alike:
    (δ Σ P_s + Σ Q_s) / (Σ w_s)², P = (n_a² y - n_b² x + n_a n_b (n_b - n_a) / 2) / n², Q = (x (n_b - y) + y (n_a - x))
    / (2 n), x and y the qualified of a and b. Strata in which one of the groups has no picture weigh nothing.
    """
    x, y = np.asarray(count_a_TS, np.float64), np.asarray(count_b_TS, np.float64)
    a, b = np.asarray(num_a_S, np.float64), np.asarray(num_b_S, np.float64)
    filled = (a > 0) & (b > 0)
    x, y, a, b = x[:, filled], y[:, filled], a[filled], b[filled]
    if not filled.any():
        return _nothing(len(x))
    n = a + b
    weight = (a * b / n).sum()
    value = ((x * b - y * a) / n).sum(axis=1) / weight
    p = ((a**2 * y - b**2 * x + a * b * (b - a) / 2) / n**2).sum(axis=1)
    q = ((x * (b - y) + y * (a - x)) / (2 * n)).sum(axis=1)
    width = _normal_quantile(_LEVEL) * np.sqrt(np.maximum(value * p + q, 0)) / weight
    return Difference(value, np.maximum(value - width, -1), np.minimum(value + width, 1))


def cohen_h(share_a: DoubleArray, share_b: DoubleArray) -> DoubleArray:
    """Effect size of a difference of shares, 2 arcsin √a - 2 arcsin √b (Cohen 1988): .2 small, .5 medium, .8 large."""
    return np.asarray(2 * np.arcsin(np.sqrt(share_a)) - 2 * np.arcsin(np.sqrt(share_b)))


def reached_level(false_discovery_rate: float, num_found: int, num_tested: int) -> float:
    """Level of the step that the method of Benjamini & Hochberg reached: what a p value had to be at most."""
    return false_discovery_rate * max(num_found, 1) / max(num_tested, 1)


def least_difference(pooled_T: DoubleArray, num_a: int, num_b: int, level: float, power: float) -> DoubleArray:
    """Least difference of shares that Fisher's exact test at `level` finds with this power, whichever group has more;
    where the share leaves room for a difference in one direction only, in that one.

    By the normal approximation with a correction for continuity (Casagrande, Pike & Smith 1978; groups of different
    sizes: Fleiss, Tytun & Ury 1980): z_power = (d - (1/n_a + 1/n_b) / 2 - z √(p q (1/n_a + 1/n_b))) / √(p_a q_a / n_a +
    p_b q_b / n_b), p the share in both groups together, which is kept. Held
    against the exact power at .8: .80 to .83 with 200 pictures a group and shares of .3 to .7, .80 to .89 at a share of
    .1; with 30 pictures against 370 and a share of .05 down to .64.

    Returns:
        float64 [T]; NaN where the share leaves no room for such a difference.
    """
    pooled = np.asarray(pooled_T, np.float64)
    both = [_least_above(pooled, num_a, num_b, level, power), _least_above(1 - pooled, num_a, num_b, level, power)]
    return np.asarray(np.fmax(*both))


def _least_above(pooled: DoubleArray, num_a: int, num_b: int, level: float, power: float) -> DoubleArray:
    """The same where group a has the higher share; lower shares of it are higher shares of what does not qualify."""
    num, inverse = num_a + num_b, 1 / num_a + 1 / num_b
    room = np.minimum((1 - pooled) * num / num_b, pooled * num / num_a)
    critical = inverse / 2 + stats.norm.isf(level / 2) * np.sqrt(pooled * (1 - pooled) * inverse)

    def reaches(d: DoubleArray) -> BoolArray:
        a, b = np.clip(pooled + d * num_b / num, 0, 1), np.clip(pooled - d * num_a / num, 0, 1)
        spread = np.sqrt(a * (1 - a) / num_a + b * (1 - b) / num_b)
        return np.asarray(d - critical >= stats.norm.ppf(power) * spread)

    low, high = np.zeros_like(pooled), room.copy()
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        enough = reaches(middle)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(reaches(room) & (room > 0), high, np.nan)


# ---------------------------------------------------------------- scores


def mean_difference(scores_NW: IntArray, in_a_N: BoolArray) -> tuple[Difference, DoubleArray]:
    """Difference of mean scores with Welch's interval, and the standardised difference (Cohen's d, pooled; 0 if flat).

    Raises:
        ValueError: a group of fewer than two pictures.
    """
    parts = [np.asarray(scores_NW[in_a_N], np.float64), np.asarray(scores_NW[~in_a_N], np.float64)]
    num_a, num_b = (len(part) for part in parts)
    if min(num_a, num_b) < 2:
        raise ValueError(f"expected two pictures in each group, found {num_a} and {num_b}")
    value = parts[0].mean(axis=0) - parts[1].mean(axis=0)
    var_a, var_b = (part.var(axis=0, ddof=1) for part in parts)
    error_a, error_b = var_a / num_a, var_b / num_b
    flat = error_a + error_b == 0
    freedom = (error_a + error_b) ** 2 / np.where(flat, 1, error_a**2 / (num_a - 1) + error_b**2 / (num_b - 1))
    width = np.where(flat, 0, stats.t.ppf((1 + _LEVEL) / 2, np.where(flat, 1, freedom)))
    width = width * np.sqrt(error_a + error_b)
    pooled = np.sqrt(((num_a - 1) * var_a + (num_b - 1) * var_b) / (num_a + num_b - 2))
    effect = np.divide(value, pooled, out=np.zeros_like(value), where=pooled > 0)
    return Difference(value, value - width, value + width), effect


def stratified_mean_difference(scores_NW: IntArray, in_a_N: BoolArray, stratum_N: IntArray) -> Difference:
    """Difference of mean scores within strata, weighted as by Mantel & Haenszel, with a normal 95 % interval.

    The variance is that of the permutation distribution within strata, which needs no two pictures of each group:
    Σ_s w_s σ_s² / (Σ w_s)², w_s = n_a n_b / n and σ_s² the variance (n - 1) of all scores of a stratum.
    """
    value, variance = np.zeros(scores_NW.shape[1]), np.zeros(scores_NW.shape[1])
    weights = 0.0
    for rows in informative_strata(in_a_N, stratum_N):
        scores, in_a = np.asarray(scores_NW[rows], np.float64), in_a_N[rows]
        weight = in_a.sum() * (~in_a).sum() / len(rows)
        value += weight * (scores[in_a].mean(axis=0) - scores[~in_a].mean(axis=0))
        variance += weight * scores.var(axis=0, ddof=1)
        weights += weight
    if not weights:
        return _nothing(scores_NW.shape[1])
    width = _normal_quantile(_LEVEL) * np.sqrt(variance) / weights
    return Difference(value / weights, value / weights - width, value / weights + width)


def least_mean_difference(scores_NW: IntArray, in_a_N: BoolArray, level: float, power: float) -> DoubleArray:
    """Least difference of mean scores that a test at `level` finds with this power, by the normal approximation:
    (z_level + z_power) σ √(1/n_a + 1/n_b), σ the deviation within the groups; NaN where all scores are equal in them.
    """
    num_a, num_b = int(in_a_N.sum()), int((~in_a_N).sum())
    squares = sum(np.asarray(scores_NW[rows], np.float64).var(axis=0) * rows.sum() for rows in (in_a_N, ~in_a_N))
    deviation = np.sqrt(squares / (num_a + num_b - 2) * (1 / num_a + 1 / num_b))
    z = stats.norm.isf(level / 2) + stats.norm.ppf(power)
    return np.asarray(np.where(deviation > 0, np.maximum(z, 0) * deviation, np.nan))


def permutation_p_values(
    scores_NW: IntArray,
    in_a_N: BoolArray,
    stratum_N: IntArray,
    permutations: int,
    seed: tuple[int, ...],
    advance: Callable[[int], None] = lambda steps: None,
) -> DoubleArray:
    """Two-sided permutation test of no difference of mean scores: who is in group a is permuted within strata.

    The statistic is the sum of group a's scores; up to a constant and a factor it is the weighted difference of
    `stratified_mean_difference`. p = (1 + permutations at least as far from the expected sum) / (1 + permutations)
    (Phipson & Smyth 2010). Scores are whole numbers, so sums are exact and ties are ties on every machine.

    Args:
        scores_NW: whole numbers, none below 0.
        stratum_N: 0 everywhere for one stratum; -1 leaves a picture out.
        seed: of the random generator.
        advance: told how many permutations were done.

    Returns:
        float64 [W]; NaN if no stratum has pictures of both groups.
    """
    strata = informative_strata(in_a_N, stratum_N)
    if not strata:
        return np.full(scores_NW.shape[1], np.nan)
    rows = np.concatenate(strata)
    # Partial sums of whole numbers are exact in any order while they stay below 2^24 or 2^53.
    largest = int(scores_NW[rows].sum(axis=0).max(initial=0))
    scores = scores_NW[rows].astype(np.float32 if largest < _EXACT_SUMS_FLOAT32 else np.float64)
    labels = in_a_N[rows]
    expected, start, blocks = np.zeros(scores.shape[1]), 0, []
    for stratum in strata:
        block = slice(start, start + len(stratum))
        expected += scores[block].sum(axis=0, dtype=np.float64) * labels[block].mean()
        blocks.append(block)
        start = block.stop
    # Expected sums are fractions, rounded; sums at the same distance on either side of one count as tied.
    bound = np.abs(scores[labels].sum(axis=0, dtype=np.float64) - expected) - _TIES
    rng, reached = np.random.default_rng(seed), np.zeros(scores.shape[1], dtype=np.int64)
    for first in range(0, permutations, _CHUNK):
        num = min(_CHUNK, permutations - first)
        drawn = np.empty((num, len(rows)), dtype=scores.dtype)
        for block in blocks:
            drawn[:, block] = rng.permuted(np.tile(labels[block], (num, 1)), axis=1)
        reached += (np.abs((drawn @ scores).astype(np.float64) - expected) >= bound).sum(axis=0)
        advance(num)
    return (1 + reached) / (1 + permutations)


def informative_strata(in_a_N: BoolArray, stratum_N: IntArray) -> list[IntArray]:
    """Pictures of each stratum that has some of both groups; -1 is no stratum."""
    strata = [np.flatnonzero(stratum_N == s) for s in np.unique(stratum_N[stratum_N >= 0])]
    return [rows for rows in strata if 0 < in_a_N[rows].sum() < len(rows)]


def _nothing(num: int) -> Difference:
    nan: DoubleArray = np.full(num, np.nan)
    return Difference(nan, nan, nan)


def _normal_quantile(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))
