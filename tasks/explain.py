"""From filters to words: all filters of a layer, in batches.

Shape legend: P pairs (filter, picture), C filters, E embedding, V words, s words per picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch

from configs.schema import ExplainSettings
from storage.activations import ActivationStore
from storage.geometry import FloatArray
from storage.progress import Progress, no_progress
from storage.word_vectors import Vocabulary
from tasks.explainer import Explainer, ExplainerFacts, scale_features
from tasks.region_features import IntArray, MaskedForward, Pairs, pool_pairs, select_top_images
from tasks.stage import Stage

STAGE = Stage("explain", version=1, uses_device=True)
_EMBED_ROWS = 2048
_SEARCH_ELEMENTS = 1 << 26
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class FilterWord:
    """One word of one filter."""

    word: int
    votes: int
    weight: float
    score: float


@dataclass(frozen=True)
class Agreement:
    """How far the top pictures of a filter agree on its first word.

    Attributes:
        confidence: lower end of the 95 % Wilson interval of the share of votes, corrected for the share of all pairs
            of the layer that vote for the word anyway: (low - rate) / (1 - rate), at least 0. An agreement, not yet a
            calibrated probability.
        reason: why the filter is unexplained; empty where it is explained.
    """

    confidence: float
    reason: str


def embed_pairs(
    store: ActivationStore,
    pairs: Pairs,
    method: str,
    thresholds_C: FloatArray,
    explainer: Explainer,
    facts: ExplainerFacts,
    device: str,
    forward: MaskedForward | None = None,
    progress: Progress = no_progress,
) -> torch.Tensor:
    """v̂ of every pair: float32 [P, E], rows of length 1, on the device."""
    out = torch.empty(len(pairs), facts.dimensions, device=device)
    rows: list[IntArray] = []
    parts: list[torch.Tensor] = []

    def flush() -> None:
        if rows:
            features = scale_features(torch.cat(parts), facts.region_feature)
            out[torch.from_numpy(np.concatenate(rows)).to(device)] = explainer(features)
            rows.clear()
            parts.clear()

    with torch.inference_mode():
        for positions, features in pool_pairs(store, pairs, method, thresholds_C, device, forward, progress):
            rows.append(positions)
            parts.append(features)
            if sum(map(len, rows)) >= _EMBED_ROWS:
                flush()
        flush()
    return out


def find_nearest_words(
    vectors_PE: torch.Tensor, words_VE: torch.Tensor, num: int, progress: Progress = no_progress
) -> tuple[IntArray, FloatArray]:
    """The `num` words with the highest cosine of each row: positions int64 [P, s], cosines float32 [P, s]."""
    num = min(num, len(words_VE))
    words = np.zeros((len(vectors_PE), num), dtype=np.int64)
    scores = np.zeros((len(vectors_PE), num), dtype=np.float32)
    step = max(_SEARCH_ELEMENTS // len(words_VE), 1)
    with torch.inference_mode(), progress("nearest words", len(vectors_PE)) as bar:
        for start in range(0, len(vectors_PE), step):
            block = vectors_PE[start : start + step]
            best = torch.topk(block @ words_VE.T, num, dim=1)
            words[start : start + step] = best.indices.cpu().numpy()
            scores[start : start + step] = best.values.cpu().numpy()
            bar.advance(len(block))
    return words, scores


def rank_words(words_Ps: IntArray, scores_Ps: FloatArray, peaks_P: FloatArray, ranking: str) -> list[FilterWord]:
    """Words of one filter from the words of its pictures, best first.

    `frequency`: by the number of pictures that name the word (METHOD, explaining filter u). `peak_weighted`: by the
    share of the peaks that these pictures have. Ties go by mean cosine, then by position in the vocabulary.
    """
    distinct, inverse = np.unique(words_Ps.ravel(), return_inverse=True)
    above_P = np.clip(peaks_P.astype(np.float64), 0, None)  # a signed layer can have top pictures below 0
    shares = above_P / above_P.sum() if above_P.any() else np.full(len(peaks_P), 1 / max(len(peaks_P), 1))
    votes = np.bincount(inverse, minlength=len(distinct))
    weights = np.bincount(inverse, np.repeat(shares, words_Ps.shape[1]), minlength=len(distinct))
    cosines = np.bincount(inverse, scores_Ps.ravel().astype(np.float64), minlength=len(distinct)) / votes
    leading = votes if ranking == "frequency" else weights
    order = np.lexsort((distinct, -cosines, -leading))
    return [FilterWord(int(distinct[i]), int(votes[i]), float(weights[i]), float(cosines[i])) for i in order]


def judge_agreement(votes: int, num_images: int, background: float, min_images: int, num_qualified: int) -> Agreement:
    """Whether the first word of a filter is more than what any filter would get (see Agreement).

    Args:
        num_images: top pictures that were looked at; `votes` of them name the word.
        num_qualified: pictures above the filter's threshold, looked at or not.
    """
    if num_images == 0:
        return Agreement(0.0, "never above its threshold")
    if num_qualified < min_images:
        return Agreement(0.0, f"only {num_qualified} pictures above the threshold (explain.min_images is {min_images})")
    low = wilson_lower_bound(votes, num_images)
    confidence = max(0.0, (low - background) / (1 - background)) if background < 1 else 0.0
    if confidence == 0.0:
        return Agreement(0.0, "its pictures do not agree on a word more than those of other filters")
    return Agreement(confidence, "")


def wilson_lower_bound(successes: int, trials: int) -> float:
    """Lower end of the 95 % Wilson score interval of a share."""
    share, z2 = successes / trials, _Z95**2
    centre = share + z2 / (2 * trials)
    spread = _Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, (centre - spread) / (1 + z2 / trials))


def explain_filters(
    store: ActivationStore,
    thresholds_C: FloatArray,
    explainer: Explainer,
    facts: ExplainerFacts,
    vocabulary: Vocabulary,
    settings: ExplainSettings,
    layer: str,
    device: str,
    folder: Path,
    forward: MaskedForward | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Explain every filter; write explanations.parquet, filters.parquet and pairs.npz.

    Returns:
        facts: num_filters, num_explained, num_pairs, num_novel_words, mean_confidence.
    """
    peaks_NC = store.read_peaks()
    highest_C = peaks_NC.max(axis=0)
    qualified_C = (peaks_NC > thresholds_C).sum(axis=0)
    pairs = select_top_images(store, thresholds_C, settings.top_images)
    vectors = embed_pairs(store, pairs, settings.method, thresholds_C, explainer, facts, device, forward, progress)
    words_VE = torch.from_numpy(vocabulary.matrix).to(device)
    words, scores = find_nearest_words(vectors, words_VE, settings.words_per_image, progress)
    background = np.bincount(words.ravel(), minlength=len(vocabulary.words)) / max(len(pairs), 1)
    known = _supervised_words(facts.supervised)
    first = np.searchsorted(pairs.filter, np.arange(len(thresholds_C) + 1))
    word_rows: list[dict[str, Any]] = []
    filter_rows: list[dict[str, Any]] = []
    for unit in range(len(thresholds_C)):
        own = slice(first[unit], first[unit + 1])
        num_images = int(first[unit + 1] - first[unit])
        num_qualified = int(qualified_C[unit])
        ranked = rank_words(words[own], scores[own], pairs.peak[own], settings.ranking)[: settings.num_words]
        best = ranked[0] if ranked else FilterWord(-1, 0, 0.0, 0.0)
        rate = float(background[best.word]) if ranked else 0.0
        agreement = judge_agreement(best.votes, num_images, rate, settings.min_images, num_qualified)
        named = [vocabulary.words[w.word] for w in ranked]
        filter_rows.append(
            {
                "layer": layer,
                "filter": unit,
                "threshold": float(thresholds_C[unit]),
                "peak": float(highest_C[unit]),
                "explained": not agreement.reason,
                "reason": agreement.reason,
                "confidence": agreement.confidence,
                "num_images": num_qualified,
                "words": named,
                "top_images": [store.keys[i] for i in pairs.image[own]],
                "top_peaks": [float(p) for p in pairs.peak[own]],
            }
        )
        word_rows += [
            {
                "layer": layer,
                "filter": unit,
                "rank": rank,
                "word": name,
                "score": word.score,
                "votes": word.votes,
                "weight": word.weight,
                "background": float(background[word.word]),
                "novel": name not in known,
            }
            for rank, (word, name) in enumerate(zip(ranked, named, strict=True), start=1)
        ]
    _write_tables(folder, word_rows, filter_rows)
    np.savez(folder / "pairs.npz", filter=pairs.filter, image=pairs.image, peak=pairs.peak)
    explained = [r for r in filter_rows if r["explained"]]
    return {
        "num_filters": len(filter_rows),
        "num_explained": len(explained),
        "num_pairs": len(pairs),
        "num_novel_words": sum(bool(r["novel"]) for r in word_rows),
        "num_distinct_first_words": len({r["words"][0] for r in explained}),
        "mean_confidence": float(np.mean([r["confidence"] for r in filter_rows])),
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
        ("background", pa.float64()),
        ("novel", pa.bool_()),
    ]
)
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
        ("top_images", pa.list_(pa.string())),
        ("top_peaks", pa.list_(pa.float64())),
    ]
)


def _write_tables(folder: Path, words: Sequence[dict[str, Any]], filters: Sequence[dict[str, Any]]) -> None:
    parquet.write_table(pa.Table.from_pylist(list(words), EXPLANATIONS_SCHEMA), folder / "explanations.parquet")
    parquet.write_table(pa.Table.from_pylist(list(filters), FILTERS_SCHEMA), folder / "filters.parquet")


def _supervised_words(supervised: Sequence[str]) -> set[str]:
    """Names of the categories that were trained on, and the words that they are made of."""
    return {w for name in supervised for w in (name, name.lower(), *name.lower().replace("_", " ").split())}


def load_pairs(folder: Path) -> Pairs:
    """The pairs that were explained."""
    with np.load(folder / "pairs.npz", allow_pickle=False) as arrays:
        return Pairs(arrays["filter"], arrays["image"], arrays["peak"])
