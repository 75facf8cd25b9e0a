"""Words by preference (ranking `auroc`): the word whose pictures a filter's peaks tell best from all others.

Two questions, kept apart. Does the filter prefer what the explainer calls w, on pictures that played no part in
choosing w (tasks.words.preference)? And when the explainer calls something w, is it w (tasks.words.naming_precision)?
The confidence is the product of both answers; a word of which one is no is a guess.

A thing that is on a handful of pictures only is often overlooked there, and no preference can be told. The filter's own
regions, which look just where it is, may still say it beyond doubt: a category that the exact test of its votes finds
at p <= 1e-7 (tasks.words.evidence) is the word of a filter that has no other, where what is called this category on the
evaluation part is right in at least 70 % of cases; that share is its confidence.

Shape legend: N pictures, C filters, W words whose presence is told, P pairs (filter, top picture), S rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr

from lavise.configs.registry import RANKINGS
from lavise.configs.schema import ExplainSettings
from lavise.storage.array_types import DoubleArray, IntArray
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.masks.detection import MIN_AUROC
from lavise.tasks.numerics.bootstrap import bootstrap_share
from lavise.tasks.numerics.false_discovery import adjust_false_discovery
from lavise.tasks.words.confidence import state_confidence
from lavise.tasks.words.evidence import Evidence, find_evidence
from lavise.tasks.words.named_images import HAS_WORD, NamedImages, name_images, prefer_words
from lavise.tasks.words.naming_check import MeasuredNaming
from lavise.tasks.words.naming_precision import NamingPrecision, trust_words
from lavise.tasks.words.preference import (
    LEAST_IMAGES,
    Contrast,
    Preferences,
    bound_below,
    contrast_turned,
    estimate_label_error,
)
from lavise.tasks.words.ranking import NamedFilters, Ranking, find_least_confidence
from lavise.tasks.words.word_images import ToldWords
from lavise.tasks.words.word_presence import list_words
from lavise.tasks.words.word_rows import FoundWords, WordRows, find_shortage, weigh_peaks
from lavise.tasks.words.word_truth import WHAT_HELPS

ADVISED_IMAGES = 30
"""Pictures of each kind with which a word can usually be believed."""

STRONG_EVIDENCE, STRONG_PRECISION = 1e-7, 0.7
"""p of the exact test, and expected share of right ones, from which on a category that a filter's own regions are
called is its word."""
REGIONS = "regions"
"""Kind of such a word."""

_NORMAL_95 = 1.96
_FEW = 0.1  # of the filters explained; below that advice is given


def find_preferred_words(given: NamedFilters) -> FoundWords:
    """The words of every filter."""
    store, pairs, qualified_C, settings = given.store, given.pairs, given.qualified_C, given.settings
    naming, vocabulary, invalid = given.naming, given.vocabulary, given.truth.invalid
    assert naming is not None, "the ranking says that it needs the precision"
    precision = naming.precision
    evidence = find_evidence(given.votes, qualified_C >= settings.min_images, given.whole_V)
    words = list_words(given.namer, vocabulary, given.truth.concepts)
    named = name_images(store, given.namer, words, precision, given.device)
    found = prefer_words(
        store, named, pairs, given.features_PC, given.namer, settings.min_share, given.seed, given.device
    )
    mean_precision, trust = trust_words(named.presence, named.words, precision, vocabulary.words)
    presence = named.presence.probability_NW
    with store.turn_peaks() as peaks:
        whole = contrast_turned(peaks, presence)
    rows = _make_rows(whole, found, named, pairs, trust, qualified_C, settings)
    rows = _add_told_by_regions(rows, evidence, precision, vocabulary, settings)
    usable = int((presence.sum(axis=0) >= LEAST_IMAGES).sum())
    is_disbelieved = usable == 0 and precision.category.best < find_least_confidence(settings)
    first_row = np.searchsorted(evidence.filter, np.arange(len(qualified_C) + 1))
    reasons, causes = [], Counter[str]()
    guesses = np.full(len(qualified_C), -1, dtype=np.int64)
    for unit, own in enumerate(rows.rows_of(len(qualified_C))):
        word = int(found.word[unit])
        name = vocabulary.words[named.words.row[word]] if word >= 0 else ""
        stated = (name, float(found.auroc[unit]), float(mean_precision[word]), float(trust[word])) if name else None
        is_clear = own.stop > own.start and float(rows.q_value[own.start]) <= settings.false_discovery_rate
        is_found = own.stop > own.start and bool(rows.significant[own.start]) and not invalid
        is_sure = own.stop > own.start and float(rows.confidence[own.start]) >= find_least_confidence(settings)
        shortage = find_shortage(int(qualified_C[unit]), settings.min_images, invalid)
        cause, reason = _find_reason(
            shortage, is_found, is_clear, is_sure, stated, is_disbelieved, settings, store.shape[0]
        )
        causes[cause] += 1
        reasons.append(reason)
        if reason and qualified_C[unit]:
            if word >= 0:
                guesses[unit] = named.words.row[word]
            elif first_row[unit] < first_row[unit + 1]:
                guesses[unit] = evidence.word[first_row[unit]]
    rows = _keep_explained(rows, reasons)
    facts = {
        "num_words_on_pictures": usable,
        **{f"num_{cause}": causes[cause] for cause in ("rare", "without_word", "unclear", "untrusted", "weak")},
        "advice": _advise(
            reasons, causes, store.shape[0], usable, naming, invalid, knows_classes=bool(named.words.has_classes.any())
        ),
    }
    calibration = {
        "rule": settings.ranking,
        "calibration": {"note": _describe_kinds(precision)},
        "reliability": naming.reliability,
        "statements": dict(naming.statements),
        "precision": precision.to_json(),
        "certainty": {"target": named.witnesses.certainty, "evaluation": naming.certainty},
    }
    return FoundWords(rows, reasons, guesses, calibration, facts, ToldWords(presence, named.words.row))


def _make_rows(
    whole: Contrast,
    found: Preferences,
    named: NamedImages,
    pairs: Pairs,
    trust_W: DoubleArray,
    qualified_C: IntArray,
    settings: ExplainSettings,
) -> WordRows:
    """The chosen word first, then the others by the lower bound of their AUROC on all pictures."""
    presence = named.presence.probability_NW
    num_filters, num_words = whole.auroc.shape
    total = presence.sum(axis=0)
    low = np.where(total >= LEAST_IMAGES, bound_below(whole), -np.inf)
    chosen = np.flatnonzero(found.word >= 0)
    low[chosen, found.word[chosen]] = np.inf
    ranked = np.argsort(-low, axis=1, kind="stable")[:, : settings.num_words]
    kept = np.take_along_axis(low, ranked, axis=1) > -np.inf
    unit, place = np.nonzero(kept)
    word = ranked[unit, place].astype(np.int64)
    is_first = (place == 0) & (found.word[unit] == word)
    auroc = np.where(is_first, found.auroc[unit], whole.auroc[unit, word])
    others = np.sqrt(whole.error[unit, word] ** 2 + estimate_label_error(presence)[word] ** 2)
    error = np.where(is_first, found.error[unit], others)
    confidence = state_confidence(auroc, error, trust_W[word])
    p_value = np.where(is_first, found.p_value[unit], ndtr(-whole.z[unit, word]))
    q_value = np.ones(len(unit))
    tested = qualified_C >= settings.min_images
    for rows, hypotheses in (
        (np.flatnonzero(is_first & tested[unit]), int(tested.sum())),
        (np.flatnonzero(~is_first & tested[unit]), int(tested.sum()) * max(num_words, 1)),
    ):
        q_value[rows] = adjust_false_discovery(p_value[rows], max(hypotheses, len(rows)))
    is_shown = named.find_shown(pairs, num_filters, settings.min_share)[unit, word]
    significant = (
        (confidence >= find_least_confidence(settings)) & (q_value <= settings.false_discovery_rate) & is_shown
    )
    votes, weight, score, images = _look_at_top_images(presence, pairs, unit, word, num_filters)
    share_low, share_high = bootstrap_share(votes, images)
    return WordRows(
        unit.astype(np.int64),
        named.words.row[word],
        score,
        votes,
        votes / np.maximum(images, 1),
        np.nan_to_num(share_low),
        np.nan_to_num(share_high),
        weight,
        total[word] / max(len(presence), 1),
        p_value,
        q_value,
        confidence,
        significant,
        [named.words.kind[w] for w in word],
        auroc,
        np.clip(auroc - _NORMAL_95 * error, 0, 1),
        np.clip(auroc + _NORMAL_95 * error, 0, 1),
    )


def _add_told_by_regions(
    rows: WordRows,
    evidence: Evidence,
    precision: NamingPrecision,
    vocabulary: Vocabulary,
    settings: ExplainSettings,
) -> WordRows:
    """Before the other words of filters without one: the category that their own regions say beyond doubt."""
    confidence_of = {
        row: precision.expect_right(vocabulary.words[row])
        for row in np.unique(evidence.word).tolist()
        if vocabulary.words[row] in precision.counted
    }
    num_filters = int(max(rows.filter.max(initial=-1), evidence.filter.max(initial=-1))) + 1
    is_explained = np.zeros(num_filters, dtype=bool)
    units, first = np.unique(rows.filter, return_index=True)
    is_explained[units] = rows.significant[first]
    is_strong = (evidence.p_value <= STRONG_EVIDENCE) & ~is_explained[evidence.filter]
    least = max(find_least_confidence(settings), STRONG_PRECISION)
    is_strong &= np.array([confidence_of.get(w, 0) >= least for w in evidence.word.tolist()], bool)
    strong = np.flatnonzero(is_strong)
    if not len(strong):
        return rows
    strong = strong[np.unique(evidence.filter[strong], return_index=True)[1]]  # the first is the strongest
    taken = evidence.take(strong)
    num = len(strong)
    unmeasured = np.full(num, np.nan)
    added = WordRows(
        taken.filter,
        taken.word,
        taken.score,
        taken.votes,
        taken.share,
        taken.share_low,
        taken.share_high,
        taken.share,
        taken.background,
        taken.p_value,
        taken.q_value,
        np.array([confidence_of[w] for w in taken.word.tolist()]),
        np.ones(num, dtype=bool),
        [REGIONS] * num,
        *(unmeasured,) * 3,
    )
    columns: dict[str, Any] = {
        name: np.concatenate([np.asarray(getattr(added, name)), np.asarray(value)])
        for name, value in vars(rows).items()
    }
    is_double = np.zeros(len(columns["filter"]), dtype=bool)
    for unit, word in zip(taken.filter.tolist(), taken.word.tolist(), strict=True):
        is_double[num:] |= (rows.filter == unit) & (rows.word == word)
    order = np.argsort(columns["filter"], kind="stable")
    order = order[~is_double[order]]
    place = np.arange(len(order)) - np.searchsorted(columns["filter"][order], columns["filter"][order])
    order = order[place < settings.num_words]
    return WordRows(**{name: value[order] for name, value in columns.items()})


def _look_at_top_images(
    presence_NW: DoubleArray, pairs: Pairs, unit_S: IntArray, word_S: IntArray, num_filters: int
) -> tuple[IntArray, DoubleArray, DoubleArray, IntArray]:
    """Of each row, on the filter's top pictures: how many have the word, with which share of the peaks, the word's mean
    probability, and how many pictures there are."""
    first = np.searchsorted(pairs.filter, np.arange(num_filters + 1))
    weights = weigh_peaks(pairs)
    votes, weight, score = np.zeros(len(unit_S), np.int64), np.zeros(len(unit_S)), np.zeros(len(unit_S))
    for row, (unit, word) in enumerate(zip(unit_S.tolist(), word_S.tolist(), strict=True)):
        own = slice(first[unit], first[unit + 1])
        probability = presence_NW[pairs.image[own], word]
        has_word = probability >= HAS_WORD
        votes[row] = has_word.sum()
        weight[row] = weights[own][has_word].sum()
        score[row] = probability.mean() if len(probability) else 0.0
    return votes, weight, score, np.diff(first)[unit_S]


def _keep_explained(rows: WordRows, reasons: Sequence[str]) -> WordRows:
    """Words of unexplained filters are none of theirs."""
    explained = np.array([not reason for reason in reasons], dtype=bool)
    return WordRows(**{**vars(rows), "significant": rows.significant & explained[rows.filter]})


def _find_reason(
    shortage: str,
    is_found: bool,
    is_clear: bool,
    is_sure: bool,
    stated: tuple[str, float, float, float] | None,
    is_disbelieved: bool,
    settings: ExplainSettings,
    num_images: int,
) -> tuple[str, str]:
    """(cause, why a filter is unexplained; both empty where it is explained).

    Args:
        is_clear, is_sure: its word's q is low enough; its confidence is high enough.
        stated: its word, with AUROC, mean precision and trust.
        is_disbelieved: the explainer says words of these pictures, and none of them can be believed.
    """
    if shortage:
        return "rare", shortage
    if is_found:
        return "", ""
    if is_disbelieved:
        return "untrusted", "what the explainer says of such pictures is right too seldom where that can be judged"
    if stated is None:
        least, advised = LEAST_IMAGES, ADVISED_IMAGES
        return "without_word", (
            f"no word is on enough of the {num_images} pictures ({least:g} are needed, {advised} of a kind are good)"
        )
    name, auroc, precision, trust = stated
    if not is_clear:
        return "unclear", (
            f"on pictures that played no part in choosing it, {name} is not preferred beyond chance (AUROC "
            f"{auroc:.2f}); more pictures would show weaker preferences"
        )
    if trust < find_least_confidence(settings):
        return "untrusted", (
            f"what the explainer calls {name} is {name} in {precision:.0%} of such cases where that can be judged"
        )
    if is_sure:
        return "weak", f"its peaks are higher where there is {name}, but too few of its top pictures have it"
    return "weak", (
        f"its best word, {name}, tells its pictures from others too weakly (AUROC {auroc:.2f}; {MIN_AUROC} for sure is "
        "needed)"
    )


def _describe_kinds(precision: NamingPrecision) -> str:
    """Notes of the kinds of words that nothing could be judged of."""
    kinds = (("categories", precision.category), ("class names", precision.class_name))
    return "; ".join(f"{title} are not believed: {kind.note}" for title, kind in kinds if kind.note)


def _advise(
    reasons: Sequence[str],
    causes: Mapping[str, int],
    num_images: int,
    num_usable: int,
    naming: MeasuredNaming,
    invalid: str,
    knows_classes: bool,
) -> str:
    """What would help where fewer than a tenth of the filters are explained; empty elsewhere."""
    num, explained = len(reasons), sum(not reason for reason in reasons)
    if explained >= _FEW * num:
        return ""
    few = f"{explained} of {num} filters explained on {num_images} pictures"
    if invalid:
        return f"{few}: {invalid}; {WHAT_HELPS}. Best guesses are marked as such."
    if causes["untrusted"] > max(causes["without_word"], causes["unclear"], causes["weak"]):
        note = _describe_kinds(naming.precision)
        names = "" if knows_classes else " or the names of the network's classes (model.class_names)"
        return (
            f"{few}: what the explainer says of such pictures is right too seldom where that can be judged"
            f"{f' ({note})' if note else ''}. A reference of the same kind of pictures, with more of them,{names} "
            "would help. Best guesses are marked as such."
        )
    return (
        f"{few}, with {num_usable} words that are on {LEAST_IMAGES:g} or more of them. A filter's word is believed "
        f"where its pictures can be told from others: give {ADVISED_IMAGES} or more pictures of each kind, fewer "
        "kinds with more pictures rather than many with few. Best guesses are marked as such."
    )


RANKINGS.register("auroc")(
    Ranking(find_preferred_words, needs_precision=True, least_confidence=0.3, by_preference=True)
)
