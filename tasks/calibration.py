"""Whether a word is right for a filter, and the confidence that follows from its evidence.

Right is judged on pictures with masks that played no part in naming: the filter must respond where the concept is,
more than it responds to pictures without the concept (`detect_concepts`). On the words that are categories of the
reference this says how often evidence of a kind is right; a logistic regression on that turns the evidence of any word
into a confidence. That it carries over from categories to other words is an assumption that no mask can check.

Shape legend: N pictures, C filters, K concepts, M pairs (picture, concept in it), S statements "u means t", F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from storage.activations import ActivationStore, read_shard_maps
from storage.geometry import BoolArray, DoubleArray, FloatArray
from tasks.agreement import ConceptMasks
from tasks.evidence import Evidence
from tasks.stage import Stage
from tasks.statistics import IntArray, order_bits

DETECTION = Stage("detect", version=1)
MIN_AUROC, MAX_P_VALUE = 0.75, 0.05
LOGISTIC, BASE_RATE = "logistic", "base rate"
MIN_STATEMENTS = 30
NUM_FOLDS = 5
NUM_BINS = 10

_MAX_LOG_P = 30.0
# Of the base rate's Brier score. A gain this large, over so many concepts, is worth having even if it is not certain.
_MIN_GAIN, _MIN_CONCEPTS = 0.05, 20
_PENALTY = 1.0  # of half the squared coefficients; scikit-learn's C = 1
_MARGIN = 1e-6  # from 0 and 1, which no finite number of statements supports
_EXACT_UP_TO = 8  # pictures of the smaller group; as scipy
_RANK_ENTRIES, _MOST_ROWS = 1 << 22, 1 << 16

BitArray = npt.NDArray[np.uint16]


# ---------------------------------------------------------------- right or wrong


@dataclass(frozen=True)
class Detection:
    """How well each filter detects each concept.

    Attributes:
        auroc: float32 [C, K], probability that the filter responds more to a picture with the concept, where it is,
            than to one without; NaN where the concept is in no picture or in all.
        p_value: float32 [C, K], one-sided Mann-Whitney test; NaN likewise.
        right: bool [C, K], both are good enough; False where they are NaN.
        num_images: int64 [K], pictures with each concept.
    """

    auroc: FloatArray
    p_value: FloatArray
    right: BoolArray
    num_images: IntArray


def detect_concepts(
    store: ActivationStore, masks: ConceptMasks, min_auroc: float = MIN_AUROC, max_p_value: float = MAX_P_VALUE
) -> Detection:
    """Whether filter u responds to concept t, for all of them, on pictures with masks.

    A picture with t counts with the max activation of u over the cells that t's mask touches, one without with its
    peak. So a filter of noise is right for at most about the share `max_p_value` of the concepts, and a filter that
    responds to what is beside the concept gets no credit.

    Args:
        masks: of the concepts on the store's pictures.

    Raises:
        ValueError: the masks are of other activations.
    """
    num, channels, height, width = store.shape
    if masks.presence.shape[0] != num or masks.coverage.shape[1] != height * width:
        raise ValueError(f"the masks are of other activations than {store.folder}")
    num_concepts = masks.presence.shape[1]
    inside_MC = _read_covered_peaks(store, masks)
    peaks_NC = order_bits(store.read_peaks())
    auroc, p_value = np.full((2, channels, num_concepts), np.nan, np.float32)
    right = np.zeros((channels, num_concepts), dtype=bool)
    num_images = masks.presence.sum(axis=0).astype(np.int64)
    rows_of = {t: np.flatnonzero(masks.concept == t) for t in np.flatnonzero((num_images > 0) & (num_images < num))}
    step = min(max(_RANK_ENTRIES // max(num, 1), 1), _MOST_ROWS)
    for start in range(0, channels, step):
        block = slice(start, start + step)
        ranked = RankedRows(peaks_NC[:, block].T)
        for concept, rows in rows_of.items():
            area, p = ranked.compare(peaks_NC[masks.image[rows], block].T, inside_MC[rows, block].T)
            auroc[block, concept], p_value[block, concept] = area, p
            right[block, concept] = (area >= min_auroc) & (p <= max_p_value)
    return Detection(auroc, p_value, right, num_images)


def _read_covered_peaks(store: ActivationStore, masks: ConceptMasks) -> BitArray:
    """Max activation of each filter over the cells that each mask touches, by `order_bits`: uint16 [M, C]."""
    out = np.empty((len(masks.image), store.shape[1]), dtype=np.uint16)
    ends = np.searchsorted(masks.image, np.arange(store.shape[0] + 1))
    for shard in range(store.num_shards):
        start, stop = store.starts[shard], store.starts[shard + 1]
        if ends[start] == ends[stop]:
            continue
        maps = read_shard_maps(store.shard_path(shard))
        for image in range(start, stop):
            if ends[image] < ends[image + 1]:
                bits_CP = order_bits(maps[image - start]).reshape(store.shape[1], -1)
            for row in range(ends[image], ends[image + 1]):
                out[row] = bits_CP[:, masks.coverage[row] > 0].max(axis=1)
    return out


class RankedRows:
    """Rows of values, sorted once: any group of them is then compared with the rest at the cost of that group alone."""

    def __init__(self, bits_CN: BitArray) -> None:
        """`bits_CN`: values as by `order_bits`; at most 65,536 rows."""
        self.num = bits_CN.shape[1]
        self._row_C1 = np.arange(len(bits_CN), dtype=np.uint32)[:, None] << np.uint32(16)
        self._keys = self._sort(bits_CN)
        distinct, counts = np.unique(self._keys, return_counts=True)
        self._ties_C = self._sum_by_row(distinct, counts**3 - counts)

    def compare(self, taken_CM: BitArray, given_CM: BitArray) -> tuple[DoubleArray, DoubleArray]:
        """AUROC of a group's values against the other values of the row, and p of the one-sided Mann-Whitney test.

        As `scipy.stats.mannwhitneyu(alternative="greater")` of each row: exact where the group or the rest has at most
        8 and the row has no equal values, else the normal approximation with corrections for ties and continuity.
        Where all values are equal p is 1.

        Args:
            taken_CM: values of the group in the rows, some but not all; they are no part of the rest.
            given_CM: values that the group is compared with instead; may be the same.

        Returns:
            float64 [C] each.
        """
        inside, outside = taken_CM.shape[1], self.num - taken_CM.shape[1]
        taken, given = self._sort(taken_CM), self._sort(given_CM)
        below = _count_below_twice(self._keys, given) - _count_below_twice(taken, given)
        # Counts include all of the rows above.
        rows = np.arange(len(taken_CM))
        wins = (below.reshape(given_CM.shape).sum(axis=1) - 2 * rows * outside * inside) / 2
        touched, place = np.unique(np.concatenate([taken, given]), return_inverse=True)
        moved = np.bincount(place, np.repeat([-1, 1], len(taken)), minlength=len(touched)).astype(np.int64)
        before = np.searchsorted(self._keys, touched, "right") - np.searchsorted(self._keys, touched, "left")
        after = before + moved
        ties = self._ties_C + self._sum_by_row(touched, (after**3 - after) - (before**3 - before))
        variance = inside * outside / 12 * (self.num + 1 - ties / (self.num * (self.num - 1)))
        spread = np.sqrt(np.where(variance > 1e-9, variance, 1))
        p_value = np.where(variance > 1e-9, special.ndtr(-(wins - inside * outside / 2 - 0.5) / spread), 1.0)
        if min(inside, outside) <= _EXACT_UP_TO:
            exact = ties == 0
            p_value[exact] = _tail_of_wins(min(inside, outside), max(inside, outside))[wins[exact].astype(np.int64)]
        return wins / (inside * outside), p_value

    def _sort(self, bits_CM: BitArray) -> npt.NDArray[np.uint32]:
        """Row and value in one number each, rising; one row after the other."""
        ordered = np.sort(np.ascontiguousarray(bits_CM), axis=1, kind="stable")  # by radix
        return (ordered.astype(np.uint32) | self._row_C1).ravel()

    def _sum_by_row(self, keys: npt.NDArray[np.uint32], values: IntArray) -> IntArray:
        """Sums of whole numbers, exact: int64 [C]."""
        totals = np.concatenate([[0], np.cumsum(values)])
        ends = np.searchsorted(keys >> np.uint32(16), np.arange(len(self._row_C1) + 1, dtype=np.uint32))
        return np.diff(totals[ends])


def _count_below_twice(ordered: npt.NDArray[np.uint32], wanted: npt.NDArray[np.uint32]) -> IntArray:
    """Twice the number of keys below each wanted one, equal ones as half."""
    return np.searchsorted(ordered, wanted, "left") + np.searchsorted(ordered, wanted, "right")


@lru_cache(maxsize=4 * _EXACT_UP_TO)
def _tail_of_wins(few: int, many: int) -> DoubleArray:
    """P(U >= u) for u in 0..few·many, all orders equally likely; exact, in whole numbers up to the last division.

    The number of orders with U = u is a coefficient of the Gaussian binomial, Π over i of (1 - q^(many+i)) / (1 - q^i).
    """
    counts = np.zeros(few * many + 1, dtype=object)
    counts[0] = 1
    for i in range(1, few + 1):
        if many + i < len(counts):
            counts[many + i :] = counts[many + i :] - counts[: -many - i]
        for rest in range(i):
            counts[rest::i] = np.add.accumulate(counts[rest::i])
    tail = np.add.accumulate(counts[::-1])[::-1]
    return (tail / comb(few + many, few)).astype(np.float64)


# ---------------------------------------------------------------- confidence


@dataclass(frozen=True)
class Calibration:
    """From features of the evidence to the probability that a statement is right.

    Attributes:
        kind: LOGISTIC, or BASE_RATE where nothing better is supported; then every confidence is the base rate.
        mean, scale: of the features, by which they are standardised.
        coefficients: of the standardised features, none below 0: more evidence is never less confidence.
        intercept: of the logistic regression.
        base_rate: share of right statements, (right + 1) / (statements + 2).
        num_statements, num_right: what it was fitted to.
        note: why there is only a base rate; empty otherwise.
    """

    kind: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    base_rate: float
    num_statements: int
    num_right: int
    note: str

    def predict(self, features_SF: DoubleArray) -> DoubleArray:
        """Confidence of each statement, above 0 and below 1: float64 [S].

        Raises:
            ValueError: other features than it was fitted to.
        """
        features_SF = np.asarray(features_SF, np.float64)
        if features_SF.ndim != 2 or features_SF.shape[1] != len(self.mean):
            raise ValueError(f"expected features [S, {len(self.mean)}], found {features_SF.shape}")
        if self.kind == BASE_RATE:
            return np.full(len(features_SF), self.base_rate)
        standard = (features_SF - np.array(self.mean)) / np.array(self.scale)
        confidence = special.expit(standard @ np.array(self.coefficients) + self.intercept)
        return np.clip(confidence, _MARGIN, 1 - _MARGIN)

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        """What `to_json` made."""
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in content.items()}
        return cls(**values)


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


def make_features(evidence: Evidence) -> DoubleArray:
    """Root of -log10 of the p value, cut off at 30: float64 [S, 1].

    Measured on scenes, the log odds of being right are linear in it; with the share of votes and the log of share over
    background beside it, statements about concepts left out of the fit were judged worse.
    """
    tiny = np.finfo(np.float64).tiny
    strength = np.minimum(-np.log10(np.maximum(evidence.p_value, tiny)), _MAX_LOG_P)
    return np.sqrt(strength)[:, None]


def fit_calibration(features_SF: DoubleArray, right_S: BoolArray) -> Calibration:
    """Logistic regression of right on the features, coefficients at least 0 and with an L2 penalty.

    Only a base rate where there are fewer than MIN_STATEMENTS statements, or all are right, or all are wrong.
    """
    features_SF, right_S = np.asarray(features_SF, np.float64), np.asarray(right_S, bool)
    num, num_right = len(right_S), int(right_S.sum())
    mean = features_SF.mean(axis=0) if num else np.zeros(features_SF.shape[1])
    scale = features_SF.std(axis=0) if num else np.ones(features_SF.shape[1])
    scale = np.where(scale > 1e-12, scale, 1.0)
    base_rate = (num_right + 1) / (num + 2)
    note = ""
    if num < MIN_STATEMENTS:
        note = f"base rate only: {num} statements can be judged, at least {MIN_STATEMENTS} are needed"
    elif num_right in (0, num):
        note = f"base rate only: all {num} statements are {'right' if num_right else 'wrong'}"
    coefficients, intercept = np.zeros(len(mean)), float(special.logit(base_rate))
    if not note:
        coefficients, intercept = _fit_logistic((features_SF - mean) / scale, right_S)
    return Calibration(
        BASE_RATE if note else LOGISTIC,
        tuple(mean.tolist()),
        tuple(scale.tolist()),
        tuple(coefficients.tolist()),
        intercept,
        base_rate,
        num,
        num_right,
        note,
    )


def _fit_logistic(standard_SF: DoubleArray, right_S: BoolArray) -> tuple[DoubleArray, float]:
    """Coefficients, at least 0, and intercept, which has no penalty."""
    sign = np.where(right_S, 1.0, -1.0)

    def measure(parameters: DoubleArray) -> tuple[float, DoubleArray]:
        margin = sign * (standard_SF @ parameters[1:] + parameters[0])
        loss = np.logaddexp(0, -margin).sum() + _PENALTY / 2 * (parameters[1:] ** 2).sum()
        slope = -sign * special.expit(-margin)
        return float(loss), np.concatenate([[slope.sum()], slope @ standard_SF + _PENALTY * parameters[1:]])

    start = np.zeros(standard_SF.shape[1] + 1)
    start[0] = special.logit(right_S.mean())
    found = optimize.minimize(
        measure,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(None, None), *[(0, None)] * standard_SF.shape[1]],
        options={"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-9},
    )
    return found.x[1:], float(found.x[0])


def deal_folds(groups_S: IntArray, seed: int = 0, num_folds: int = NUM_FOLDS) -> IntArray:
    """Fold of each statement, int64 [S]; a group is in one fold. Largest groups first, each to the emptiest fold."""
    groups, inverse, sizes = np.unique(groups_S, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng([seed, 11]).permutation(len(groups))
    fold, load = np.zeros(len(groups), np.int64), np.zeros(num_folds, np.int64)
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold[group] = load.argmin()
        load[fold[group]] += sizes[group]
    return fold[inverse]


def cross_fit(
    features_SF: DoubleArray, right_S: BoolArray, groups_S: IntArray, seed: int = 0
) -> tuple[DoubleArray, DoubleArray]:
    """Confidence of each statement, and base rate, from the statements about the concepts of other folds: [S] each.

    Args:
        groups_S: the concept of each statement. Whether it can be detected at all is shared by all statements about
            it, so it must not be in both halves.
    """
    right_S = np.asarray(right_S, bool)
    fold_S = deal_folds(groups_S, seed)
    confidence, base_rate = np.zeros(len(right_S)), np.zeros(len(right_S))
    for fold in np.unique(fold_S):
        inside = fold_S == fold
        calibration = fit_calibration(features_SF[~inside], right_S[~inside])
        confidence[inside] = calibration.predict(features_SF[inside])
        base_rate[inside] = calibration.base_rate
    return confidence, base_rate


def calibrate(
    features_SF: DoubleArray, right_S: BoolArray, groups_S: IntArray, seed: int = 0
) -> tuple[Calibration, Reliability]:
    """Calibration on all statements, and its reliability on concepts left out of the fit (see `cross_fit`).

    A regression that does not predict concepts left out better than the base rate does, by more than chance explains,
    is given up for the base rate.
    """
    calibration = fit_calibration(features_SF, right_S)
    confidence, base_rate = cross_fit(features_SF, right_S, groups_S, seed)
    reliability = measure_reliability(confidence, right_S, base_rate, groups_S)
    is_large = reliability.gain >= _MIN_GAIN * reliability.base_brier
    worthwhile = reliability.informative or (is_large and len(np.unique(groups_S)) >= _MIN_CONCEPTS)
    if calibration.kind == LOGISTIC and not worthwhile:
        note = (
            "base rate only: on concepts left out of the fit, the evidence does not tell right from wrong better than "
            f"the base rate does (Brier score {reliability.brier:.4f} against {reliability.base_brier:.4f})"
        )
        calibration = replace(calibration, kind=BASE_RATE, note=note)
    if calibration.kind == BASE_RATE:
        reliability = measure_reliability(base_rate, right_S, base_rate, groups_S)
    return calibration, replace(reliability, note=calibration.note)


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
