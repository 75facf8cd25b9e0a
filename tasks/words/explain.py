"""From filters to words: all filters of a layer, in batches.

Which words a filter gets is up to a rule (`explain.ranking`): by preference over all pictures
(tasks.words.preferred_words), or by the votes of the top pictures, as published (tasks.words.voted_words). What is the
same for both is here: region features of the top pictures and their names, meanings, and the tables.

Shape legend: P pairs (filter, picture), C filters, E embedding, V words, s words per picture, K concepts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import numpy as np
import torch

from lavise.configs.registry import ATTENTION, RANKINGS
from lavise.configs.schema import ExplainSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, IntArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.storage.state.files import write_json
from lavise.storage.table_rows import write_rows
from lavise.storage.words import lemmas
from lavise.storage.words.lemmas import covers
from lavise.storage.words.word_kinds import WORD_KINDS, find_word_kind
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.attention import pool_features
from lavise.tasks.activations.layer_maps import LayerMaps, MappedNetwork, open_maps
from lavise.tasks.activations.top_images import Pairs, select_top_images
from lavise.tasks.charts.figures import draw_reliability
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, Spread, StageInputs, Stated, Unstated, code_behind
from lavise.tasks.explainer.naming import NamedRegions, Namer, load_namer
from lavise.tasks.numerics.reliability import Reliability
from lavise.tasks.words.evidence import count_votes
from lavise.tasks.words.naming_check import MeasuredNaming, load_naming
from lavise.tasks.words.polysemanticity import find_meanings
from lavise.tasks.words.ranking import NamedFilters, WordTruth, find_least_confidence, find_ranking
from lavise.tasks.words.tables import FilterRow, MeaningRow, WordRow
from lavise.tasks.words.word_images import ImagesOfWord, find_word_images
from lavise.tasks.words.word_rows import FoundWords, WordRows
from lavise.tasks.words.word_truth import load_word_truth

STAGE = Stage("explain", version=9, uses_device=True, libraries=("scipy", "simplemma"))
OPEN: Mapping[str, torch.Tensor | None] = MappingProxyType({"open": None})
_NAME_ROWS = 2048
_WHOLE_IMAGES = 5000


@dataclass(frozen=True)
class NamedPairs:
    """Words of pairs of a filter and a picture.

    Attributes:
        words: int64 [P, s], best first: rows of the vocabulary, or positions among the candidates asked for.
        scores: float32 [P, s] (see tasks.explainer.naming).
        vectors: float32 [P, E], the semantic vector of each pair's region, length 1.
    """

    words: IntArray
    scores: FloatArray
    vectors: FloatArray


def name_pairs(
    maps: LayerMaps,
    pairs: Pairs,
    method: str,
    namer: Namer,
    num: int,
    computing: Computing,
    vocabularies: Mapping[str, torch.Tensor | None] = OPEN,
) -> dict[str, NamedPairs]:
    """Region features of all pairs by one method, and their words.

    Args:
        num: s.
        vocabularies: by name, rows of the vocabulary to choose from; None is all of it.
    """
    features = pool_features(maps, pairs, method, namer.facts.channels, computing)
    return name_features(features, namer, num, computing, vocabularies, f"words, {method.replace('_', ' ')}")


def name_features(
    features_PC: FloatArray,
    namer: Namer,
    num: int,
    computing: Computing,
    vocabularies: Mapping[str, torch.Tensor | None] = OPEN,
    title: str = "words",
) -> dict[str, NamedPairs]:
    """The `num` best words of region features, out of each vocabulary."""
    parts: dict[str, list[NamedRegions]] = {name: [] for name in vocabularies}
    with computing.progress(title, len(features_PC)) as bar:
        for start in range(0, max(len(features_PC), 1), _NAME_ROWS):
            block = torch.from_numpy(features_PC[start : start + _NAME_ROWS]).to(computing.device)
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
class ExplainInputs(StageInputs):
    """What the filters of a layer are explained from.

    Attributes:
        activations, thresholds: of the target, whose pictures these are.
        detection, validation: what the evaluation part says about words.
        concepts: of the evaluation part.
        naming: how far the explainer can be believed; only the ranking by preference asks.
    """

    network: Annotated[MappedNetwork, Spread(lambda network: {"layer": network.layer})]
    activations: Handle
    thresholds: Handle
    pictures: Annotated[Dataset, Unstated("the activations are of them")]
    explainer: Handle
    vocabulary: Given[Vocabulary]
    detection: Handle
    validation: Handle
    concepts: Annotated[tuple[str, ...], Stated(by=digest_of)]
    naming: Handle | None
    settings: Annotated[ExplainSettings, Stated(code=code_behind(method=ATTENTION, ranking=RANKINGS))]
    computing: Computing


def explain_layer(inputs: ExplainInputs, folder: Path) -> Info:
    """Write what `explain_filters` writes, and return its facts."""
    device = inputs.computing.device
    return explain_filters(
        open_maps(inputs.activations, inputs.thresholds, inputs.network, inputs.pictures, device),
        load_namer(inputs.explainer.folder, inputs.vocabulary.value, device),
        load_word_truth(inputs.detection, inputs.validation, inputs.concepts),
        inputs.settings,
        inputs.network.layer,
        folder,
        inputs.computing,
        load_naming(inputs.naming.folder) if inputs.naming else None,
    )


def explain_filters(
    maps: LayerMaps,
    namer: Namer,
    truth: WordTruth,
    settings: ExplainSettings,
    layer: str,
    folder: Path,
    computing: Computing,
    naming: MeasuredNaming | None = None,
) -> Info:
    """Explain every filter; write explanations.parquet, filters.parquet, pairs.npz, calibration.json, reliability.png.

    Args:
        maps: of the target.
        naming: how far the explainer can be believed; needed for the ranking `auroc`.

    Returns:
        facts: num_filters, num_explained, num_pairs, num_words_found, share_novel and others; `advice`, what would
        help where little is explained.
    """
    store, thresholds_C, vocabulary = maps.store, maps.thresholds_C, namer.vocabulary
    qualified_C, peak_C = _count_qualified(store, thresholds_C)
    pairs = select_top_images(store, thresholds_C, settings.top_images)
    features = pool_features(maps, pairs, settings.method, namer.facts.channels, computing)
    title = f"words, {settings.method.replace('_', ' ')}"
    named = name_features(features, namer, settings.words_per_image, computing, OPEN, title)["open"]
    votes = count_votes(named.words, pairs.filter, len(thresholds_C), named.scores)
    whole = _name_whole_images(maps, namer, settings.words_per_image, computing.device)
    ranking = find_ranking(settings.ranking)
    if ranking.needs_precision and naming is None:
        raise ValueError(f"the ranking {settings.ranking} needs to know how far the explainer can be believed")
    found = ranking.find(
        NamedFilters(
            store=store,
            pairs=pairs,
            features_PC=features,
            qualified_C=qualified_C,
            namer=namer,
            vocabulary=vocabulary,
            truth=truth,
            naming=naming,
            votes=votes,
            words_Ps=named.words,
            whole_V=whole,
            settings=settings,
            seed=computing.seed,
            device=computing.device,
        )
    )
    reliability = Reliability.from_json(found.calibration["reliability"])
    shown = _Shown(store, thresholds_C, peak_C, qualified_C, pairs, named, vocabulary, settings, layer)
    word_rows = _describe_words(found, shown, covers(namer.facts.supervised, vocabulary.language))
    filter_rows = _describe_filters(found, shown, maps.saturated_C, _find_images(found, shown))
    write_rows(WordRow, word_rows, folder / file_names.EXPLANATIONS)
    write_rows(FilterRow, filter_rows, folder / file_names.FILTERS)
    np.savez(folder / file_names.PAIRS, filter=pairs.filter, image=pairs.image, peak=pairs.peak)
    limits = {"confidence": find_least_confidence(settings), "q_value": settings.false_discovery_rate}
    write_json(folder / file_names.CALIBRATION, {**found.calibration, "limits": limits})
    (folder / file_names.RELIABILITY).write_bytes(draw_reliability(reliability))
    return {**_summarise(filter_rows, word_rows, len(pairs), reliability), **found.facts}


def _count_qualified(store: ActivationStore, thresholds_C: FloatArray) -> tuple[IntArray, FloatArray]:
    """Pictures above each filter's threshold, and the filter's highest peak: int64 [C], float32 [C]."""
    qualified, highest = np.zeros(store.shape[1], np.int64), np.full(store.shape[1], -np.inf, np.float32)
    for _, peaks_nC in store.iterate("peaks"):
        qualified += (peaks_nC > thresholds_C).sum(axis=0)
        highest = np.maximum(highest, peaks_nC.max(axis=0, initial=-np.inf))
    return qualified, highest


def _name_whole_images(maps: LayerMaps, namer: Namer, num: int, device: str) -> DoubleArray:
    """Share of the target's pictures that each word is named for as a whole: float64 [V].

    A filter without any preference attends to everything: its words are those of whole pictures, which other filters,
    who look at parts, name far less often. Of many pictures a sample at even distances is taken.
    """
    num_images = maps.store.shape[0]
    chosen = np.unique(np.linspace(0, num_images - 1, min(num_images, _WHOLE_IMAGES)).astype(np.int64))
    pairs = Pairs(np.zeros(len(chosen), np.int64), chosen, np.ones(len(chosen), np.float32))
    words = name_pairs(maps, pairs, "original", namer, num, Computing(device=device))["open"].words
    return np.bincount(words.ravel(), minlength=len(namer.matrix_VE)) / len(chosen)


# ---------------------------------------------------------------- tables


@dataclass(frozen=True)
class _Shown:
    """What the tables' rows are made from, besides the words."""

    store: ActivationStore
    thresholds_C: FloatArray
    peak_C: FloatArray
    qualified_C: IntArray
    pairs: Pairs
    named: NamedPairs
    vocabulary: Vocabulary
    settings: ExplainSettings
    layer: str


def _describe_words(found: FoundWords, shown: _Shown, covered: frozenset[str]) -> list[WordRow]:
    rows, words, language = found.rows, shown.vocabulary.words, shown.vocabulary.language
    is_novel = {w: lemmas.is_novel(words[w], covered, language) for w in np.unique(rows.word).tolist()}
    described = []
    for own in rows.rows_of(len(shown.thresholds_C)):
        for rank, r in enumerate(range(own.start, own.stop), start=1):
            described.append(
                WordRow(
                    layer=shown.layer,
                    filter=int(rows.filter[r]),
                    rank=rank,
                    word=words[rows.word[r]],
                    score=float(rows.score[r]),
                    votes=int(rows.votes[r]),
                    weight=float(rows.weight[r]),
                    share=float(rows.share[r]),
                    share_low=float(rows.share_low[r]),
                    share_high=float(rows.share_high[r]),
                    background=float(rows.background[r]),
                    p_value=float(rows.p_value[r]),
                    q_value=float(rows.q_value[r]),
                    significant=bool(rows.significant[r]),
                    confidence=float(rows.confidence[r]),
                    novel=is_novel[int(rows.word[r])],
                    kind=rows.kind[r],
                    auroc=_or_none(rows.auroc[r]),
                    auroc_low=_or_none(rows.auroc_low[r]),
                    auroc_high=_or_none(rows.auroc_high[r]),
                )
            )
    return described


def _find_images(found: FoundWords, shown: _Shown) -> list[ImagesOfWord]:
    """Of each filter's first word, or of its guess."""
    rows, num_filters = found.rows, len(shown.thresholds_C)
    word_C, of_whole_C = found.guesses.copy(), np.zeros(num_filters, dtype=bool)
    for unit, own in enumerate(rows.rows_of(num_filters)):
        if not found.reasons[unit]:
            word_C[unit] = rows.word[own][rows.significant[own]][0]
        is_word = rows.word[own] == word_C[unit]
        of_whole_C[unit] = found.told is not None and bool(np.isfinite(rows.auroc[own][is_word]).any())
    return find_word_images(
        shown.store, shown.thresholds_C, shown.pairs, shown.named.words, word_C, found.told, of_whole_C
    )


def _describe_filters(
    found: FoundWords, shown: _Shown, saturated_C: BoolArray | None, images: Sequence[ImagesOfWord]
) -> list[FilterRow]:
    rows, words, pairs, settings = found.rows, shown.vocabulary.words, shown.pairs, shown.settings
    num_filters = len(shown.thresholds_C)
    first_pair = np.searchsorted(pairs.filter, np.arange(num_filters + 1))
    described = []
    for unit, own_rows in enumerate(rows.rows_of(num_filters)):
        own, reason = slice(first_pair[unit], first_pair[unit + 1]), found.reasons[unit]
        kept = [] if reason else [r for r in range(own_rows.start, own_rows.stop) if rows.significant[r]]
        names = [int(rows.word[r]) for r in kept]
        meanings = (
            find_meanings(shown.named.words[own], shown.named.vectors[own], names, settings.max_meanings)
            if names
            else []
        )
        guess = int(found.guesses[unit])
        described.append(
            FilterRow(
                layer=shown.layer,
                filter=unit,
                threshold=float(shown.thresholds_C[unit]),
                peak=float(shown.peak_C[unit]),
                explained=not reason,
                reason=reason,
                confidence=float(rows.confidence[kept[0]]) if kept else 0.0,
                num_images=int(shown.qualified_C[unit]),
                words=[words[w] for w in names],
                meanings=[
                    MeaningRow(
                        m.share, [words[w] for w in m.words], [shown.store.keys[pairs.image[own][i]] for i in m.members]
                    )
                    for m in meanings
                ],
                top_images=[shown.store.keys[i] for i in pairs.image[own]],
                top_peaks=[float(p) for p in pairs.peak[own]],
                guess=words[guess] if guess >= 0 else "",
                guess_confidence=_find_confidence(rows, own_rows, guess),
                saturated=bool(saturated_C[unit]) if saturated_C is not None else False,
                auroc=_or_none(rows.auroc[kept[0]]) if kept else None,
                concept_kind=find_word_kind(words[names[0]], shown.vocabulary.language) if names else "",
                top_has_word=images[unit].has_word,
                num_with_word=images[unit].num_with_word,
                num_with_word_above=images[unit].num_above,
                silent_images=[shown.store.keys[i] for i in images[unit].silent],
                silent_peaks=images[unit].silent_peaks,
            )
        )
    return described


def _find_confidence(rows: WordRows, own: slice, word: int) -> float:
    """Of a word of a filter; 0 where it is not among its rows."""
    return next((float(rows.confidence[r]) for r in range(own.start, own.stop) if rows.word[r] == word), 0.0)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _summarise(
    filters: Sequence[FilterRow], words: Sequence[WordRow], num_pairs: int, reliability: Reliability
) -> Info:
    explained = [r for r in filters if r.explained]
    kinds = Counter(r.concept_kind for r in explained)
    found = [w for w in words if w.significant]
    return {
        "num_filters": len(filters),
        "num_explained": len(explained),
        "num_pairs": num_pairs,
        "num_words_found": len(found),
        "num_novel_words": sum(w.novel for w in found),
        "share_novel": sum(w.novel for w in found) / len(found) if found else 0.0,
        "num_distinct_first_words": len({r.words[0] for r in explained}),
        "num_several_meanings": sum(len(r.meanings) > 1 for r in explained),
        "mean_confidence": float(np.mean([r.confidence for r in explained])) if explained else 0.0,
        "calibration_error": reliability.expected_calibration_error,
        "brier": reliability.brier,
        "base_brier": reliability.base_brier,
        "kinds": {kind: kinds[kind] for kind in WORD_KINDS},
    }


def load_pairs(folder: Path) -> Pairs:
    """The pairs that were explained."""
    with np.load(folder / file_names.PAIRS, allow_pickle=False) as arrays:
        return Pairs(arrays["filter"], arrays["image"], arrays["peak"])
