"""How far an audit's words and confidences agree with what reviewers say of them, and reviewers with each other.

A statement is a reviewer's verdict on a filter. Where several say something of one filter, their statements are not
independent: intervals are over filters.

Shape legend: S statements, G filters, B resamplings, K distinct confidences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.tasks.history.review_notes import VERDICTS, ReviewNote
from lavise.tasks.numerics.bootstrap import RESAMPLINGS, draw_weights
from lavise.tasks.numerics.random_streams import Stream, make_rng
from lavise.tasks.numerics.reliability import measure_reliability

_BLOCK = 250  # resamplings at a time
Row = Mapping[str, Any]


@dataclass(frozen=True)
class ConfidenceAgreement:
    """Stated confidence against verdicts, where some of these count as right.

    Attributes:
        num: statements.
        share_right: of them.
        mean_confidence: of all of them.
        auroc: how often a statement that is right has the higher confidence of two; None where all are right or none.
        auroc_low, auroc_high: its 95 % interval over filters.
        brier, base_brier, expected_calibration_error: see tasks.numerics.reliability.
        gain, gain_low, gain_high: base_brier - brier, with its interval over filters.
    """

    num: int
    share_right: float
    mean_confidence: float
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    brier: float
    base_brier: float
    expected_calibration_error: float
    gain: float
    gain_low: float | None
    gain_high: float | None


@dataclass(frozen=True)
class ReviewerAgreement:
    """Two reviewers on the filters that both have judged.

    Attributes:
        agreed: share of the filters of which both say the same.
        kappa: Cohen's (1960), of three verdicts without weights; None where both always say one and the same thing.
    """

    first: str
    second: str
    num_filters: int
    agreed: float
    kappa: float | None


def measure_review(filters: Sequence[Row], notes: Sequence[ReviewNote], seed: int) -> dict[str, Any]:
    """review.json.

    Args:
        filters: rows of filters.parquet, all layers.
        notes: those without a verdict are not counted.

    Returns:
        reviewers; all, and layers by name (see `_measure_part`); agreement of every two reviewers.
    """
    layers = list(dict.fromkeys(row["layer"] for row in filters))
    names = sorted({note.reviewer for note in notes})
    pairs = [compare_reviewers(notes, *two) for two in combinations(names, 2)]
    return {
        "reviewers": names,
        "num_notes": len(notes),
        "all": _measure_part(filters, notes, seed),
        "layers": {
            layer: _measure_part(
                [r for r in filters if r["layer"] == layer], [n for n in notes if n.layer == layer], seed
            )
            for layer in layers
        },
        "agreement": [asdict(pair) for pair in pairs if pair is not None],
    }


def list_metrics(measured: Mapping[str, Any]) -> dict[str, float]:
    """What a tracking store shows of `measure_review`, by review/NAME, of several layers also review/LAYER/NAME."""
    parts = {"review": measured["all"]}
    if len(measured["layers"]) > 1:
        parts |= {f"review/{layer}": part for layer, part in measured["layers"].items()}
    found: dict[str, float | None] = {}
    for prefix, part in parts.items():
        found[f"{prefix}/num_reviewed"] = part["num_reviewed"]
        for verdict in VERDICTS:
            found[f"{prefix}/share_{verdict}"] = part["words"][f"share_{verdict}"]
            found[f"{prefix}/guesses_share_{verdict}"] = part["guesses"][f"share_{verdict}"]
        found |= {f"{prefix}/confidence_{name}": value for name, value in part["mean_confidence"].items()}
        strict = part["confidence"]["fits"] or {}
        for name in ("auroc", "brier", "expected_calibration_error"):
            found[f"{prefix}/{name}"] = strict.get(name)
    kappas = [pair["kappa"] for pair in measured["agreement"] if pair["kappa"] is not None]
    found["review/kappa"] = float(np.mean(kappas)) if kappas else None
    return {name: float(value) for name, value in found.items() if value is not None}


def compare_reviewers(notes: Sequence[ReviewNote], first: str, second: str) -> ReviewerAgreement | None:
    """None where there is no filter that both have judged."""
    said: dict[str, dict[tuple[str, int], str]] = {first: {}, second: {}}
    for note in notes:
        if note.verdict and note.reviewer in said:
            said[note.reviewer][note.layer, note.filter] = note.verdict
    shared = sorted(said[first].keys() & said[second].keys())
    if not shared:
        return None
    one, other = (np.array([VERDICTS.index(said[name][key]) for key in shared]) for name in (first, second))
    agreed = float((one == other).mean())
    shares = [np.bincount(found, minlength=len(VERDICTS)) / len(shared) for found in (one, other)]
    by_chance = float(shares[0] @ shares[1])
    kappa = None if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)
    return ReviewerAgreement(first, second, len(shared), agreed, kappa)


def _measure_part(filters: Sequence[Row], notes: Sequence[ReviewNote], seed: int) -> dict[str, Any]:
    """Of a layer, or of all.

    Returns:
        num_filters; num_reviewed, the filters that have a verdict; words and guesses, the verdicts on explained filters
        and on the best guesses of others (see `_count_verdicts`); mean_confidence of explained filters by verdict;
        confidence, their agreement where only `fits` counts as right, and where `partly` does as well.
    """
    rows = {(row["layer"], row["filter"]): row for row in filters}
    judged = [(note, rows[note.layer, note.filter]) for note in notes if note.verdict]
    on_words = [(note, row) for note, row in judged if row["explained"]]
    by_verdict = {v: [row["confidence"] for note, row in on_words if note.verdict == v] for v in VERDICTS}
    return {
        "num_filters": len(filters),
        "num_reviewed": len({(note.layer, note.filter) for note, _ in judged}),
        "words": _count_verdicts([note.verdict for note, _ in on_words]),
        "guesses": _count_verdicts([note.verdict for note, row in judged if not row["explained"]]),
        "mean_confidence": {v: float(np.mean(own)) if own else None for v, own in by_verdict.items()},
        "confidence": {
            "fits": _measure_confidence(on_words, ("fits",), seed),
            "fits_or_partly": _measure_confidence(on_words, ("fits", "partly"), seed),
        },
    }


def _count_verdicts(verdicts: Sequence[str]) -> dict[str, Any]:
    """num_verdicts; num_V and share_V of each verdict V, None where there are none."""
    return {
        "num_verdicts": len(verdicts),
        **{f"num_{v}": verdicts.count(v) for v in VERDICTS},
        **{f"share_{v}": verdicts.count(v) / len(verdicts) if verdicts else None for v in VERDICTS},
    }


def _measure_confidence(
    statements: Sequence[tuple[ReviewNote, Row]], counted: tuple[str, ...], seed: int
) -> dict[str, Any] | None:
    """None where there are no statements."""
    if not statements:
        return None
    confidence_S = np.array([row["confidence"] for _, row in statements], np.float64)
    right_S = np.array([note.verdict in counted for note, _ in statements])
    keys = {key: place for place, key in enumerate(dict.fromkeys((n.layer, n.filter) for n, _ in statements))}
    filter_S = np.array([keys[note.layer, note.filter] for note, _ in statements])
    found = measure_reliability(confidence_S, right_S, groups_S=filter_S)
    auroc, low, high = bootstrap_auroc(confidence_S, right_S, filter_S, seed)
    return asdict(
        ConfidenceAgreement(
            num=found.count,
            share_right=found.base_rate,
            mean_confidence=float(confidence_S.mean()),
            auroc=auroc,
            auroc_low=low,
            auroc_high=high,
            brier=found.brier,
            base_brier=found.base_brier,
            expected_calibration_error=found.expected_calibration_error,
            gain=found.gain,
            gain_low=found.gain_low,
            gain_high=found.gain_high,
        )
    )


def bootstrap_auroc(
    confidence_S: DoubleArray, right_S: BoolArray, filter_S: IntArray, seed: int, samples: int = RESAMPLINGS
) -> tuple[float | None, float | None, float | None]:
    """AUROC of confidence for being right, and its 95 % percentile interval over resamples of the filters.

    Resamples in which all are right, or none, have no AUROC and are left out; where all statements are so, the answer
    is None.

    Args:
        filter_S: number of the filter that each statement is about, 0..G-1.
    """
    if right_S.all() or not right_S.any():
        return None, None, None
    num_filters = int(filter_S.max()) + 1
    (value,) = _measure_aurocs(confidence_S, right_S, np.ones((1, len(right_S))))
    rng, parts = make_rng(seed, Stream.REVIEWED_FILTERS), []
    for start in range(0, samples, _BLOCK):
        weights_BG = draw_weights(num_filters, min(_BLOCK, samples - start), rng)
        parts.append(_measure_aurocs(confidence_S, right_S, weights_BG[:, filter_S]))
    drawn = np.concatenate(parts)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(value), float(low), float(high)


def _measure_aurocs(confidence_S: DoubleArray, right_S: BoolArray, weights_BS: DoubleArray) -> DoubleArray:
    """AUROC of weighted statements, equal confidences as half: float64 [B]; NaN where one kind has no weight."""
    order = np.argsort(confidence_S, kind="stable")
    _, starts = np.unique(confidence_S[order], return_index=True)
    right_BK = np.add.reduceat((weights_BS * right_S)[:, order], starts, axis=1)
    wrong_BK = np.add.reduceat((weights_BS * ~right_S)[:, order], starts, axis=1)
    wins_B = (right_BK * (np.cumsum(wrong_BK, axis=1) - wrong_BK / 2)).sum(axis=1)
    pairs_B = right_BK.sum(axis=1) * wrong_BK.sum(axis=1)
    found: DoubleArray = np.divide(wins_B, pairs_B, out=np.full(len(pairs_B), np.nan), where=pairs_B > 0)
    return found
