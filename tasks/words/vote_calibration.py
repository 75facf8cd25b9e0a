"""Confidence of voted words: the probability that a word is right, given its evidence, fitted where one can judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import optimize, special

from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.tasks.numerics.random_streams import Stream, make_rng
from lavise.tasks.numerics.reliability import Reliability, measure_reliability
from lavise.tasks.words.evidence import Evidence

LOGISTIC, BASE_RATE = "logistic", "base rate"
MIN_STATEMENTS = 30
NUM_FOLDS = 5
_MAX_LOG_P = 30.0

# Of the base rate's Brier score. A gain this large, over so many concepts, is worth having even if it is not certain.
_MIN_GAIN, _MIN_CONCEPTS = 0.05, 20
_PENALTY = 1.0  # of half the squared coefficients; scikit-learn's C = 1
_MARGIN = 1e-6  # from 0 and 1, which no finite number of statements supports


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
    shuffled = make_rng(seed, Stream.CALIBRATION_FOLDS).permutation(len(groups))
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
