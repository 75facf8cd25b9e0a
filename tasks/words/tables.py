"""The tables of words and of filters: a field here is a column of explanations.parquet or filters.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lavise.storage.table_rows import Int32, make_schema


@dataclass(frozen=True)
class WordRow:
    """A word of a filter (explanations.parquet).

    Attributes:
        filter: u; rank: from 1 on, in the order of the rule.
        score: see the rule; votes: top pictures that have the word; weight: their share of the peaks.
        share, share_low, share_high: of the top pictures that have it, with its 95 % interval.
        background: how often a picture has it anyway.
        p_value, q_value: of its test; significant: it is one of the filter's words.
        confidence: that it is right.
        novel: no form of a category that the explainer was trained on.
        kind: category, class, hypernym; empty where the rule does not tell.
        auroc, auroc_low, auroc_high: of the filter's peaks; None where it is not measured.
    """

    layer: str
    filter: Int32
    rank: Int32
    word: str
    score: float
    votes: Int32
    weight: float
    share: float
    share_low: float
    share_high: float
    background: float
    p_value: float
    q_value: float
    significant: bool
    confidence: float
    novel: bool
    kind: str
    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None


@dataclass(frozen=True)
class MeaningRow:
    """One of the things that a filter means: its share of the regions, their words and pictures."""

    share: float
    words: Sequence[str]
    top_images: Sequence[str]


@dataclass(frozen=True)
class FilterRow:
    """A filter (filters.parquet).

    Attributes:
        threshold: T_u; peak: highest activation.
        reason: why it is unexplained; empty where it is explained.
        confidence: of its first word.
        num_images: pictures above the threshold.
        words: those that are believed, best first.
        top_images, top_peaks: keys of the top pictures, and its peaks there.
        guess, guess_confidence: of an unexplained filter, its best word all the same.
        saturated: more of its activations than the quantile leaves are at the clip.
        auroc: of the first word; None where it is not measured.
        concept_kind: what the first word names: animal, person, plant, food, object, part, material, colour, scene or
            other; empty where the filter is unexplained.
        top_has_word: of each top picture, whether it has the filter's first word, or its guess, as the explainer says;
            empty where there is neither.
        num_with_word: pictures of the target that have it, of which the filter is above its threshold on
            num_with_word_above; None where the rule looks at top pictures only.
        silent_images, silent_peaks: keys of those that it is not above its threshold on, at most 12, and its peaks
            there, the lowest first.
    """

    layer: str
    filter: Int32
    threshold: float
    peak: float
    explained: bool
    reason: str
    confidence: float
    num_images: Int32
    words: Sequence[str]
    meanings: Sequence[MeaningRow]
    top_images: Sequence[str]
    top_peaks: Sequence[float]
    guess: str
    guess_confidence: float
    saturated: bool
    auroc: float | None
    concept_kind: str
    top_has_word: Sequence[bool]
    num_with_word: Int32 | None
    num_with_word_above: Int32 | None
    silent_images: Sequence[str]
    silent_peaks: Sequence[float]


EXPLANATIONS_SCHEMA, FILTERS_SCHEMA = make_schema(WordRow), make_schema(FilterRow)
