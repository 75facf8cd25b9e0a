"""Words by the votes of a filter's top pictures, as published, with their evidence (rankings `evidence`, `frequency`,
`peak_weighted`).

A word is kept if it has evidence: more of the filter's pictures name it than its background rate explains, exactly
tested, with the false discovery rate of the layer under control (tasks.words.evidence). How sure one may be that it is
right follows from the words that can be judged (tasks.words.vote_calibration).

Shape legend: P pairs (filter, picture), C filters, V words, s words per picture, K concepts, S rows (filter, word).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np

from lavise.configs.registry import RANKINGS
from lavise.configs.schema import ExplainSettings
from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.storage.words.lemmas import find_category, index_categories
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.numerics.reliability import Reliability
from lavise.tasks.words.evidence import Evidence, find_evidence
from lavise.tasks.words.ranking import NamedFilters, Ranking, WordTruth, find_least_confidence
from lavise.tasks.words.vote_calibration import Calibration, calibrate, make_features
from lavise.tasks.words.word_rows import FoundWords, WordRows, find_shortage, weigh_peaks

# Of the evidence [S] and the weights of its words [S] -> the order of its rows among words with equal standing.
Leading = Callable[[Evidence, DoubleArray], DoubleArray]


def find_voted_words(named: NamedFilters, leading: Leading | None) -> FoundWords:
    """The words of every filter, by the votes of its top pictures.

    Args:
        leading: what words are ordered by, highest first; None for the order of their evidence.
    """
    votes, pairs, qualified_C, settings = named.votes, named.pairs, named.qualified_C, named.settings
    truth = named.truth
    num_filters = len(qualified_C)
    evidence = find_evidence(votes, qualified_C >= settings.min_images, named.whole_V)
    rank = np.arange(len(evidence)) - np.searchsorted(evidence.filter, evidence.filter)
    printed = evidence.take(rank < settings.num_words)
    calibration, reliability, statements = calibrate_words(printed, named.vocabulary, truth, named.seed)
    confidence = calibration.predict(make_features(evidence)) if len(evidence) else np.zeros(0)
    tested = (evidence.q_value <= settings.false_discovery_rate) & (not truth.invalid)
    significant = tested & (confidence >= find_least_confidence(settings))
    has_evidence = np.bincount(evidence.filter[tested], minlength=num_filters) > 0
    weights = _weigh_votes(named.words_Ps, pairs, evidence)
    order = _rank_rows(evidence, leading(evidence, weights) if leading else None, significant)
    place = np.arange(len(order)) - np.searchsorted(evidence.filter[order], evidence.filter[order])
    order = order[place < settings.num_words]
    unmeasured = np.full(len(order), np.nan)
    rows = WordRows(
        evidence.filter[order],
        evidence.word[order],
        evidence.score[order],
        evidence.votes[order],
        evidence.share[order],
        evidence.share_low[order],
        evidence.share_high[order],
        weights[order],
        evidence.background[order],
        evidence.p_value[order],
        evidence.q_value[order],
        confidence[order],
        significant[order],
        ("",) * len(order),
        *(unmeasured,) * 3,
    )
    reasons, guesses = [], np.full(num_filters, -1, dtype=np.int64)
    for unit, own in enumerate(rows.rows_of(num_filters)):
        found = bool(rows.significant[own].any())
        reason = _find_reason(int(qualified_C[unit]), settings, found, bool(has_evidence[unit]), truth.invalid)
        reasons.append(reason)
        if reason and own.stop > own.start:
            guesses[unit] = rows.word[own.start]
    return FoundWords(
        rows,
        reasons,
        guesses,
        {
            "rule": settings.ranking,
            "calibration": calibration.to_json(),
            "reliability": reliability.to_json(),
            "statements": statements,
        },
        {"advice": ""},
    )


def calibrate_words(
    evidence: Evidence, vocabulary: Vocabulary, truth: WordTruth, seed: int
) -> tuple[Calibration, Reliability, dict[str, int]]:
    """Confidence from the words that are categories of the reference, by lemma: only these can be right or wrong.

    Args:
        evidence: of the words with the most evidence of each filter, as many as are printed.

    Returns:
        the calibration, its reliability on concepts left out of the fit, and {num_judged, num_right}.
    """
    index = index_categories(truth.concepts, vocabulary.language)
    words = np.unique(evidence.word)
    concept_of = np.full(int(words.max()) + 1 if len(words) else 1, -1, dtype=np.int64)
    for word in words.tolist():
        found = find_category(vocabulary.words[word], index, vocabulary.language)
        if found is not None and truth.present_K[found]:
            concept_of[word] = found
    concept = concept_of[evidence.word] if len(evidence) else np.zeros(0, np.int64)
    rows = np.flatnonzero(concept >= 0)
    right = truth.right[evidence.filter[rows], concept[rows]]
    calibration, reliability = calibrate(make_features(evidence.take(rows)), right, concept[rows], seed)
    return calibration, reliability, {"num_judged": len(rows), "num_right": int(right.sum())}


def _weigh_votes(words_Ps: IntArray, pairs: Pairs, evidence: Evidence) -> DoubleArray:
    """Share of the peaks of a filter's pictures that name the word, of each row of the evidence."""
    width = int(words_Ps.max()) + 1 if words_Ps.size else 1
    keys = (pairs.filter[:, None] * width + words_Ps).ravel()
    distinct, inverse = np.unique(keys, return_inverse=True)
    weights = np.bincount(inverse, np.repeat(weigh_peaks(pairs), words_Ps.shape[1]), minlength=len(distinct))
    return np.asarray(weights[np.searchsorted(distinct, evidence.filter * width + evidence.word)], np.float64)


def _rank_rows(evidence: Evidence, leading_S: DoubleArray | None, significant_S: BoolArray) -> IntArray:
    """Rows of the evidence by filter; in each, words with evidence first, then as asked for, ties by mean score."""
    if leading_S is None:
        return np.lexsort((np.arange(len(evidence)), ~significant_S, evidence.filter))
    return np.lexsort((evidence.word, -evidence.score, -leading_S, ~significant_S, evidence.filter))


def _find_reason(
    num_qualified: int, settings: ExplainSettings, has_words: bool, has_evidence: bool, invalid: str
) -> str:
    """Why a filter is unexplained; empty where it is explained."""
    shortage = find_shortage(num_qualified, settings.min_images, invalid)
    if shortage or has_words:
        return shortage
    if has_evidence:
        least = f"explain.min_confidence is {find_least_confidence(settings):g}"
        return f"words with its evidence are right too seldom where that can be judged ({least})"
    return "its pictures name no word more often than those of other filters do"


LEADING: Mapping[str, Leading | None] = MappingProxyType(
    {
        "evidence": None,
        "frequency": lambda evidence, weights_S: evidence.votes.astype(np.float64),
        "peak_weighted": lambda evidence, weights_S: weights_S,
    }
)
"""By ranking."""

for _name, _leading in LEADING.items():
    RANKINGS.register(_name)(Ranking(partial(find_voted_words, leading=_leading)))
