"""From filters to words: all filters of a layer, in batches.

A word is kept if it has evidence: more of the filter's pictures name it than its background rate explains, exactly
tested, with the false discovery rate of the layer under control (tasks.evidence). How sure one may be that it is right
follows from the words that can be judged (tasks.calibration).

Shape legend: P pairs (filter, picture), C filters, E embedding, V words, s words per picture, K concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch

from configs.schema import ExplainSettings
from storage import lemmas
from storage.activations import ActivationStore
from storage.artefacts import write_json
from storage.geometry import BoolArray, FloatArray
from storage.lemmas import covers, find_category, index_categories
from storage.progress import Progress, no_progress
from storage.word_vectors import Vocabulary
from tasks.agreement import DoubleArray
from tasks.calibration import Calibration, Reliability, calibrate, make_features
from tasks.evidence import Evidence, count_votes, find_evidence
from tasks.figures import draw_reliability
from tasks.meanings import find_meanings
from tasks.naming import NamedRegions, Namer
from tasks.region_features import IntArray, MaskedForward, Pairs, pool_pairs, select_top_images
from tasks.stage import Stage

STAGE = Stage("explain", version=4, uses_device=True)
CALIBRATION_FILE, RELIABILITY_FILE = "calibration.json", "reliability.png"
OPEN: Mapping[str, torch.Tensor | None] = MappingProxyType({"open": None})
_NAME_ROWS = 2048
_WHOLE_PICTURES = 5000


@dataclass(frozen=True)
class NamedPairs:
    """Words of pairs of a filter and a picture.

    Attributes:
        words: int64 [P, s], best first: rows of the vocabulary, or positions among the candidates asked for.
        scores: float32 [P, s] (see tasks.naming).
        vectors: float32 [P, E], the semantic vector of each pair's region, length 1.
    """

    words: IntArray
    scores: FloatArray
    vectors: FloatArray


def name_pairs(
    store: ActivationStore,
    pairs: Pairs,
    method: str,
    thresholds_C: FloatArray,
    namer: Namer,
    num: int,
    device: str,
    vocabularies: Mapping[str, torch.Tensor | None] = OPEN,
    forward: MaskedForward | None = None,
    progress: Progress = no_progress,
) -> dict[str, NamedPairs]:
    """Region features of all pairs by one method, and their words.

    The store may have more filters than the explainer reads (tasks.planted): they can be explained as any other, but
    what they are explained by are the filters that it was trained on, which come first.

    Args:
        num: s.
        vocabularies: by name, rows of the vocabulary to choose from; None is all of it.
    """
    features = np.zeros((len(pairs), namer.facts.channels), np.float32)
    for positions, found in pool_pairs(store, pairs, method, thresholds_C, device, forward, progress):
        features[positions] = found[:, : namer.facts.channels].cpu().numpy()
    parts: dict[str, list[NamedRegions]] = {name: [] for name in vocabularies}
    with progress(f"words, {method.replace('_', ' ')}", len(pairs)) as bar:
        for start in range(0, max(len(pairs), 1), _NAME_ROWS):
            block = torch.from_numpy(features[start : start + _NAME_ROWS]).to(device)
            for name, rows in vocabularies.items():
                parts[name].append(namer.name(block, num, rows))
            bar.advance(len(block))
    return {name: _join(found) for name, found in parts.items()}


def _join(parts: Sequence[NamedRegions]) -> NamedPairs:
    words, scores, vectors = (
        torch.cat([getattr(p, field) for p in parts]).cpu().numpy() for field in ("words", "scores", "vectors")
    )
    return NamedPairs(words, scores, vectors)


@dataclass(frozen=True)
class Judgement:
    """What the evaluation part says about words; comes from pictures that no filter was named on.

    Attributes:
        concepts: the reference's categories.
        right: bool [C, K], whether a filter detects a concept (see tasks.calibration).
        judged_K: bool [K], concepts that are in some evaluation picture.
        invalid: why the explainer cannot be believed; empty where it can.
    """

    concepts: Sequence[str]
    right: BoolArray
    judged_K: BoolArray
    invalid: str = ""


def explain_filters(
    store: ActivationStore,
    thresholds_C: FloatArray,
    namer: Namer,
    vocabulary: Vocabulary,
    judgement: Judgement,
    settings: ExplainSettings,
    layer: str,
    seed: int,
    device: str,
    folder: Path,
    forward: MaskedForward | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Explain every filter; write explanations.parquet, filters.parquet, pairs.npz, calibration.json, reliability.png.

    Returns:
        facts: num_filters, num_explained, num_pairs, num_words_found, share_novel and others.
    """
    peaks_NC = store.read_peaks()
    qualified_C = (peaks_NC > thresholds_C).sum(axis=0)
    pairs = select_top_images(store, thresholds_C, settings.top_images)
    named = name_pairs(
        store, pairs, settings.method, thresholds_C, namer, settings.words_per_image, device, OPEN, forward, progress
    )["open"]
    num_filters = len(thresholds_C)
    whole = _name_whole_pictures(store, thresholds_C, namer, settings.words_per_image, device)
    votes = count_votes(named.words, pairs.filter, num_filters, named.scores)
    evidence = find_evidence(votes, qualified_C >= settings.min_images, whole)
    rank = np.arange(len(evidence)) - np.searchsorted(evidence.filter, evidence.filter)
    printed = evidence.take(rank < settings.num_words)
    calibration, reliability, statements = calibrate_words(printed, vocabulary, judgement, seed)
    confidence = calibration.predict(make_features(evidence)) if len(evidence) else np.zeros(0)
    tested = (evidence.q_value <= settings.false_discovery_rate) & (not judgement.invalid)
    significant = tested & (confidence >= settings.min_confidence)
    has_evidence = np.bincount(evidence.filter[tested], minlength=num_filters) > 0
    weights = _weigh_votes(named.words, pairs, evidence)
    order = _rank_rows(evidence, weights, significant, settings.ranking)
    covered = covers(namer.facts.supervised)
    is_novel = {w: lemmas.is_novel(vocabulary.words[w], covered) for w in np.unique(evidence.word).tolist()}
    first_pair = np.searchsorted(pairs.filter, np.arange(num_filters + 1))
    first_row = np.searchsorted(evidence.filter, np.arange(num_filters + 1))
    word_rows: list[dict[str, Any]] = []
    filter_rows: list[dict[str, Any]] = []
    for unit in range(num_filters):
        own = slice(first_pair[unit], first_pair[unit + 1])
        rows = order[first_row[unit] : first_row[unit + 1]][: settings.num_words]
        found = [int(r) for r in rows if significant[r]]
        reason = _find_reason(
            int(qualified_C[unit]), settings, bool(found), bool(has_evidence[unit]), judgement.invalid
        )
        names = [int(evidence.word[r]) for r in found]
        meanings = (
            find_meanings(named.words[own], named.vectors[own], names, settings.max_meanings) if not reason else []
        )
        filter_rows.append(
            {
                "layer": layer,
                "filter": unit,
                "threshold": float(thresholds_C[unit]),
                "peak": float(peaks_NC[:, unit].max()),
                "explained": not reason,
                "reason": reason,
                "confidence": float(confidence[found[0]]) if found and not reason else 0.0,
                "num_images": int(qualified_C[unit]),
                "words": [vocabulary.words[evidence.word[r]] for r in found] if not reason else [],
                "meanings": [
                    {
                        "share": m.share,
                        "words": [vocabulary.words[w] for w in m.words],
                        "top_images": [store.keys[pairs.image[own][i]] for i in m.members],
                    }
                    for m in meanings
                ],
                "top_images": [store.keys[i] for i in pairs.image[own]],
                "top_peaks": [float(p) for p in pairs.peak[own]],
            }
        )
        word_rows += [
            {
                "layer": layer,
                "filter": unit,
                "rank": rank,
                "word": vocabulary.words[evidence.word[r]],
                "score": float(evidence.score[r]),
                "votes": int(evidence.votes[r]),
                "weight": float(weights[r]),
                "share": float(evidence.share[r]),
                "share_low": float(evidence.share_low[r]),
                "share_high": float(evidence.share_high[r]),
                "background": float(evidence.background[r]),
                "p_value": float(evidence.p_value[r]),
                "q_value": float(evidence.q_value[r]),
                "significant": bool(significant[r]),
                "confidence": float(confidence[r]),
                "novel": is_novel[int(evidence.word[r])],
            }
            for rank, r in enumerate(rows, start=1)
        ]
    _write_tables(folder, word_rows, filter_rows)
    np.savez(folder / "pairs.npz", filter=pairs.filter, image=pairs.image, peak=pairs.peak)
    write_json(
        folder / CALIBRATION_FILE,
        {"calibration": calibration.to_json(), "reliability": reliability.to_json(), "statements": statements},
    )
    (folder / RELIABILITY_FILE).write_bytes(draw_reliability(reliability))
    return _summarise(filter_rows, word_rows, len(pairs), reliability)


def _name_whole_pictures(
    store: ActivationStore, thresholds_C: FloatArray, namer: Namer, num: int, device: str
) -> DoubleArray:
    """Share of the target's pictures that each word is named for as a whole: float64 [V].

    A filter without any preference attends to everything: its words are those of whole pictures, which other filters,
    who look at parts, name far less often. Of many pictures a sample at even distances is taken.
    """
    num_images = store.shape[0]
    chosen = np.unique(np.linspace(0, num_images - 1, min(num_images, _WHOLE_PICTURES)).astype(np.int64))
    pairs = Pairs(np.zeros(len(chosen), np.int64), chosen, np.ones(len(chosen), np.float32))
    words = name_pairs(store, pairs, "original", thresholds_C, namer, num, device)["open"].words
    return np.bincount(words.ravel(), minlength=len(namer.matrix_VE)) / len(chosen)


def calibrate_words(
    evidence: Evidence, vocabulary: Vocabulary, judgement: Judgement, seed: int
) -> tuple[Calibration, Reliability, dict[str, int]]:
    """Confidence from the words that are categories of the reference, by lemma: only these can be right or wrong.

    Args:
        evidence: of the words with the most evidence of each filter, as many as are printed.

    Returns:
        the calibration, its reliability on concepts left out of the fit, and {num_judged, num_right}.
    """
    index = index_categories(judgement.concepts)
    words = np.unique(evidence.word)
    concept_of = np.full(int(words.max()) + 1 if len(words) else 1, -1, dtype=np.int64)
    for word in words.tolist():
        found = find_category(vocabulary.words[word], index)
        if found is not None and judgement.judged_K[found]:
            concept_of[word] = found
    concept = concept_of[evidence.word] if len(evidence) else np.zeros(0, np.int64)
    rows = np.flatnonzero(concept >= 0)
    right = judgement.right[evidence.filter[rows], concept[rows]]
    calibration, reliability = calibrate(make_features(evidence.take(rows)), right, concept[rows], seed)
    return calibration, reliability, {"num_judged": len(rows), "num_right": int(right.sum())}


def _weigh_votes(words_Ps: IntArray, pairs: Pairs, evidence: Evidence) -> DoubleArray:
    """Share of the peaks of a filter's pictures that name the word, of each row of the evidence."""
    above_P = np.clip(pairs.peak.astype(np.float64), 0, None)  # a signed layer can have top pictures below 0
    num_filters = int(pairs.filter.max()) + 1 if len(pairs) else 0
    sums = np.bincount(pairs.filter, above_P, minlength=num_filters)
    counts = np.bincount(pairs.filter, minlength=num_filters)
    share_P = np.where(
        sums[pairs.filter] > 0, above_P / np.maximum(sums[pairs.filter], 1e-300), 1 / counts[pairs.filter]
    )
    width = int(words_Ps.max()) + 1 if words_Ps.size else 1
    keys = (pairs.filter[:, None] * width + words_Ps).ravel()
    distinct, inverse = np.unique(keys, return_inverse=True)
    weights = np.bincount(inverse, np.repeat(share_P, words_Ps.shape[1]), minlength=len(distinct))
    return np.asarray(weights[np.searchsorted(distinct, evidence.filter * width + evidence.word)], np.float64)


def _rank_rows(evidence: Evidence, weights_S: DoubleArray, significant_S: BoolArray, ranking: str) -> IntArray:
    """Rows of the evidence by filter; in each, words with evidence first, then as asked for, ties by mean score."""
    if ranking == "evidence":
        return np.lexsort((np.arange(len(evidence)), ~significant_S, evidence.filter))
    leading = evidence.votes if ranking == "frequency" else weights_S
    return np.lexsort((evidence.word, -evidence.score, -leading, ~significant_S, evidence.filter))


def _find_reason(
    num_qualified: int, settings: ExplainSettings, has_words: bool, has_evidence: bool, invalid: str
) -> str:
    """Why a filter is unexplained; empty where it is explained."""
    if num_qualified == 0:
        return "never above its threshold"
    if num_qualified < settings.min_images:
        return f"only {num_qualified} pictures above the threshold (explain.min_images is {settings.min_images})"
    if invalid:
        return invalid
    if not has_words and has_evidence:
        least = f"explain.min_confidence is {settings.min_confidence:g}"
        return f"words with its evidence are right too seldom where that can be judged ({least})"
    if not has_words:
        return "its pictures name no word more often than those of other filters do"
    return ""


def _summarise(
    filters: Sequence[Mapping[str, Any]],
    words: Sequence[Mapping[str, Any]],
    num_pairs: int,
    reliability: Reliability,
) -> dict[str, Any]:
    explained = [r for r in filters if r["explained"]]
    found = [w for w in words if w["significant"]]
    return {
        "num_filters": len(filters),
        "num_explained": len(explained),
        "num_pairs": num_pairs,
        "num_words_found": len(found),
        "num_novel_words": sum(bool(w["novel"]) for w in found),
        "share_novel": sum(bool(w["novel"]) for w in found) / len(found) if found else 0.0,
        "num_distinct_first_words": len({r["words"][0] for r in explained}),
        "num_several_meanings": sum(len(r["meanings"]) > 1 for r in explained),
        "mean_confidence": float(np.mean([r["confidence"] for r in explained])) if explained else 0.0,
        "calibration_error": reliability.expected_calibration_error,
        "brier": reliability.brier,
        "base_brier": reliability.base_brier,
    }


EXPLANATIONS_SCHEMA = pa.schema(
    [
        ("layer", pa.string()),
        ("filter", pa.int32()),
        ("rank", pa.int32()),
        ("word", pa.string()),
        ("score", pa.float64()),
        ("votes", pa.int32()),
        ("weight", pa.float64()),
        ("share", pa.float64()),
        ("share_low", pa.float64()),
        ("share_high", pa.float64()),
        ("background", pa.float64()),
        ("p_value", pa.float64()),
        ("q_value", pa.float64()),
        ("significant", pa.bool_()),
        ("confidence", pa.float64()),
        ("novel", pa.bool_()),
    ]
)
_MEANING = pa.struct([("share", pa.float64()), ("words", pa.list_(pa.string())), ("top_images", pa.list_(pa.string()))])
FILTERS_SCHEMA = pa.schema(
    [
        ("layer", pa.string()),
        ("filter", pa.int32()),
        ("threshold", pa.float64()),
        ("peak", pa.float64()),
        ("explained", pa.bool_()),
        ("reason", pa.string()),
        ("confidence", pa.float64()),
        ("num_images", pa.int32()),
        ("words", pa.list_(pa.string())),
        ("meanings", pa.list_(_MEANING)),
        ("top_images", pa.list_(pa.string())),
        ("top_peaks", pa.list_(pa.float64())),
    ]
)


def _write_tables(folder: Path, words: Sequence[dict[str, Any]], filters: Sequence[dict[str, Any]]) -> None:
    parquet.write_table(pa.Table.from_pylist(list(words), EXPLANATIONS_SCHEMA), folder / "explanations.parquet")
    parquet.write_table(pa.Table.from_pylist(list(filters), FILTERS_SCHEMA), folder / "filters.parquet")


def load_pairs(folder: Path) -> Pairs:
    """The pairs that were explained."""
    with np.load(folder / "pairs.npz", allow_pickle=False) as arrays:
        return Pairs(arrays["filter"], arrays["image"], arrays["peak"])
