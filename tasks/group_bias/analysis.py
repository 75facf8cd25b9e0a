"""Dataset bias: in which concepts groups of pictures differ, filter by filter and pooled by word.

A picture qualifies for filter u if its highest activation is above T_u. Two groups are compared with each other, of
more each one with all the others. Filters are tested exactly, words by permutation (`tasks.numerics.group_tests`), and
each family, over all comparisons, is adjusted for its size (false discovery rate). A third column can be held fixed: a
difference that is only that column's vanishes within its strata.

Shape legend: N pictures, C filters, W words, T tests (filters or words), S strata.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavise.configs.schema import BiasSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, HalfArray, IntArray
from lavise.storage.datasets.groups import Grouping
from lavise.storage.state.files import write_json
from lavise.storage.state.progress import Progress, no_progress
from lavise.storage.table_rows import make_rows, write_rows
from lavise.tasks.engine.stage import Stage
from lavise.tasks.group_bias.contrasts import (
    Contrast,
    ContrastFigures,
    Judged,
    compare_filters,
    compare_words,
    count_scores,
    index_words,
    judge,
    make_contrasts,
)
from lavise.tasks.numerics import group_tests
from lavise.tasks.numerics.random_streams import Stream

STAGE = Stage("bias", version=2, libraries=("scipy",))
BIAS_FILE, FILTERS_FILE, WORDS_FILE = "bias.json", "bias_filters.parquet", "bias_words.parquet"
# At most so many times the permutations that were asked for, where fewer could not find a single word.
_MORE_PERMUTATIONS = 10


@dataclass(frozen=True)
class Difference:
    """What a filter or a word differs by between two groups; stratified figures: None where nothing is held fixed."""

    layer: str
    group: str
    other: str
    share_group: float | None
    share_other: float | None
    difference: float | None
    low: float | None
    high: float | None
    effect_size: float | None
    p_value: float | None
    q_value: float | None
    found: bool
    least_difference: float | None
    stratified_difference: float | None
    stratified_low: float | None
    stratified_high: float | None
    stratified_p_value: float | None
    stratified_q_value: float | None
    verdict: str


@dataclass(frozen=True)
class FilterDifference(Difference):
    """Of a filter (bias_filters.parquet)."""

    filter: int
    words: Sequence[str]
    num_group: int
    num_other: int
    qualified_group: int
    qualified_other: int
    pictures_group: Sequence[str]
    pictures_other: Sequence[str]


@dataclass(frozen=True)
class WordDifference(Difference):
    """Of a word (bias_words.parquet)."""

    word: str
    filters: Sequence[int]
    num_filters: int


def analyse_bias(
    layer: str,
    store: ActivationStore,
    thresholds_C: FloatArray,
    groups: Grouping,
    strata: Grouping | None,
    words_of_filter: Sequence[Sequence[str]],
    settings: BiasSettings,
    seed: int,
    folder: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Compare the groups and write bias.json, bias_filters.parquet and bias_words.parquet.

    Args:
        thresholds_C: T_u.
        groups, strata: of the store's pictures, in their order.
        words_of_filter: words of each filter; none where it is unexplained.

    Returns:
        facts: how many contrasts, tests, filters and words found, filters whose difference vanishes.

    Raises:
        UserError: fewer than two groups of `settings.min_images` pictures.
    """
    peaks_NC = store.read_peaks()
    for grouping in (groups, strata):
        if grouping is not None and len(grouping.of_image) != len(peaks_NC):
            raise ValueError(f"expected a group for each of {len(peaks_NC)} pictures, found {len(grouping.of_image)}")
    if len(words_of_filter) != peaks_NC.shape[1]:
        raise ValueError(f"expected words of {peaks_NC.shape[1]} filters, found {len(words_of_filter)}")
    qualified_NC = peaks_NC > thresholds_C
    contrasts = make_contrasts(groups, strata, settings.min_images)
    words, member_CW = index_words(words_of_filter)
    by_filter = [compare_filters(qualified_NC, c, strata is not None) for c in contrasts]
    judged_filters = judge(by_filter, settings.false_discovery_rate, strata is not None)
    by_word, permutations = _compare_words(qualified_NC, contrasts, member_CW, settings, seed, strata, progress)
    judged_words = judge(by_word, settings.false_discovery_rate, strata is not None)
    least_filters = _find_least_of_filters(by_filter, judged_filters, contrasts, settings)
    least_words = _find_least_of_words(qualified_NC, by_word, judged_words, contrasts, member_CW, settings)

    pictures = _PictureFinder(peaks_NC, qualified_NC, store.keys, settings.pictures)
    filter_rows, word_rows, described = [], [], []
    for number, contrast in enumerate(contrasts):
        own, judged = by_filter[number], judged_filters[number]
        counts = [(np.rint(share * num).astype(np.int64)) for share, num in _sides(own, contrast)]
        for unit, row in enumerate(_make_rows(layer, contrast, own, judged, least_filters[number])):
            row |= {"filter": unit, "words": list(words_of_filter[unit])}
            row |= {"num_group": contrast.num_group, "num_other": contrast.num_other}
            row |= {"qualified_group": int(counts[0][unit]), "qualified_other": int(counts[1][unit])}
            row["pictures_group"] = pictures.find(unit, contrast.rows[contrast.in_group])
            row["pictures_other"] = pictures.find(unit, contrast.rows[~contrast.in_group])
            filter_rows.append(row)
        rows = _make_rows(layer, contrast, by_word[number], judged_words[number], least_words[number])
        for place, row in enumerate(rows):
            filters = np.flatnonzero(member_CW[:, place]).tolist()
            word_rows.append(row | {"word": words[place], "filters": filters, "num_filters": len(filters)})
        described.append(
            _describe_contrast(contrast, own, judged, judged_words[number], least_filters[number], settings)
        )
    write_rows(FilterDifference, make_rows(FilterDifference, filter_rows), folder / FILTERS_FILE)
    write_rows(WordDifference, make_rows(WordDifference, word_rows), folder / WORDS_FILE)
    summary = {
        "images": settings.images,
        **_describe_groups(groups, strata, contrasts, settings.min_images),
        "contrasts": described,
        "false_discovery_rate": settings.false_discovery_rate,
        "power": settings.power,
        "permutations": permutations,
    }
    write_json(folder / BIAS_FILE, summary)
    return {
        "num_contrasts": len(contrasts),
        "num_filters_tested": sum(c["num_filters_tested"] for c in described),
        "num_found": sum(c["num_filters_found"] for c in described),
        "num_words_found": sum(c["num_words_found"] for c in described),
        "num_vanishing": sum(c["num_vanishing"] for c in described),
    }


def _compare_words(
    qualified_NC: BoolArray,
    contrasts: Sequence[Contrast],
    member_CW: BoolArray,
    settings: BiasSettings,
    seed: int,
    strata: Grouping | None,
    progress: Progress,
) -> tuple[list[ContrastFigures], int]:
    """Words of every contrast; and how many permutations were made.

    With P permutations p is at least 1 / (1 + P): more are made where a word that stands alone could not be found.
    """
    scores_NW = count_scores(qualified_NC, member_CW)
    wanted = int(np.ceil(len(contrasts) * member_CW.shape[1] / settings.false_discovery_rate))
    permutations = max(settings.permutations, min(wanted, _MORE_PERMUTATIONS * settings.permutations))
    num_filters_W = member_CW.sum(axis=0)
    compared = [
        compare_words(
            scores_NW,
            num_filters_W,
            c,
            strata is not None,
            permutations,
            (seed, Stream.GROUP_PERMUTATIONS, number),
            progress,
        )
        for number, c in enumerate(contrasts)
    ]
    return compared, permutations


def _level(comparisons: Sequence[ContrastFigures], judged: Sequence[Judged], settings: BiasSettings) -> float:
    """What a p value had to be at most in this family."""
    num_found, num_tested = sum(int(j.found.sum()) for j in judged), sum(int(c.tested.sum()) for c in comparisons)
    return group_tests.reached_level(settings.false_discovery_rate, num_found, num_tested)


def _find_least_of_filters(
    comparisons: Sequence[ContrastFigures],
    judged: Sequence[Judged],
    contrasts: Sequence[Contrast],
    settings: BiasSettings,
) -> list[DoubleArray]:
    level = _level(comparisons, judged, settings)
    least = []
    for comparison, contrast in zip(comparisons, contrasts, strict=True):
        num_a, num_b = contrast.num_group, contrast.num_other
        pooled = (comparison.share_group * num_a + comparison.share_other * num_b) / (num_a + num_b)
        found = group_tests.least_difference(pooled, num_a, num_b, level, settings.power)
        least.append(np.where(comparison.tested, found, np.nan))
    return least


def _find_least_of_words(
    qualified_NC: BoolArray,
    comparisons: Sequence[ContrastFigures],
    judged: Sequence[Judged],
    contrasts: Sequence[Contrast],
    member_CW: BoolArray,
    settings: BiasSettings,
) -> list[DoubleArray]:
    level = _level(comparisons, judged, settings)
    scores_NW, num_filters_W = count_scores(qualified_NC, member_CW), member_CW.sum(axis=0)
    return [
        group_tests.least_mean_difference(scores_NW[c.rows], c.in_group, level, settings.power) / num_filters_W
        for c in contrasts
    ]


# ---------------------------------------------------------------- tables


class _PictureFinder:
    """Qualified pictures of a filter with the highest peaks; equal ones in the store's order."""

    def __init__(self, peaks_NC: HalfArray, qualified_NC: BoolArray, keys: Sequence[str], num: int) -> None:
        self._order_NC = np.argsort(-peaks_NC.astype(np.float32), axis=0, kind="stable")
        self._qualified_NC, self._keys, self._num = qualified_NC, keys, num

    def find(self, unit: int, among: IntArray) -> list[str]:
        wanted = np.zeros(len(self._keys), dtype=bool)
        wanted[among] = self._qualified_NC[among, unit]
        order = self._order_NC[:, unit]
        return [self._keys[i] for i in order[wanted[order]][: self._num]]


def _sides(comparison: ContrastFigures, contrast: Contrast) -> list[tuple[DoubleArray, int]]:
    return [(comparison.share_group, contrast.num_group), (comparison.share_other, contrast.num_other)]


def _make_rows(
    layer: str, contrast: Contrast, comparison: ContrastFigures, judged: Judged, least: DoubleArray
) -> Iterator[dict[str, Any]]:
    """The columns that filters and words share."""
    columns = {
        "share_group": comparison.share_group,
        "share_other": comparison.share_other,
        "difference": comparison.difference.value,
        "low": comparison.difference.low,
        "high": comparison.difference.high,
        "effect_size": comparison.effect,
        "p_value": comparison.p_value,
        "q_value": judged.q_value,
        "least_difference": least,
        "stratified_difference": comparison.within.value,
        "stratified_low": comparison.within.low,
        "stratified_high": comparison.within.high,
        "stratified_p_value": comparison.p_within,
        "stratified_q_value": judged.q_within,
    }
    for t in range(len(least)):
        numbers = {name: float(v[t]) if np.isfinite(v[t]) else None for name, v in columns.items()}
        found = {"found": bool(judged.found[t]), "verdict": judged.verdict[t]}
        yield {"layer": layer, "group": contrast.group, "other": contrast.other, **numbers, **found}


def _describe_contrast(
    contrast: Contrast,
    comparison: ContrastFigures,
    judged: Judged,
    judged_words: Judged,
    least: DoubleArray,
    settings: BiasSettings,
) -> dict[str, Any]:
    least = least[np.isfinite(least)]
    with np.errstate(invalid="ignore"):
        only_within = ~judged.found & (judged.q_within <= settings.false_discovery_rate)
    return {
        "group": contrast.group,
        "other": contrast.other,
        "num_group": contrast.num_group,
        "num_other": contrast.num_other,
        "num_filters_tested": int(comparison.tested.sum()),
        "num_filters_found": int(judged.found.sum()),
        "num_words_found": int(judged_words.found.sum()),
        "num_vanishing": judged.verdict.count("vanishes"),
        "num_only_within_strata": int(only_within.sum()),
        "least_difference": float(np.median(least)) if len(least) else None,
    }


def _describe_groups(
    groups: Grouping, strata: Grouping | None, contrasts: Sequence[Contrast], min_images: int
) -> dict[str, Any]:
    counted = list(zip(groups.names, groups.num_images, strict=True))
    described = None
    if strata is not None:
        stratum = contrasts[0].stratum
        counts = np.bincount(stratum[stratum >= 0], minlength=len(strata.names)).tolist()
        listed = [{"name": n, "num_images": c} for n, c in zip(strata.names, counts, strict=True)]
        described = {"title": strata.title, "groups": listed}
    return {
        "grouping": groups.title,
        "groups": [{"name": n, "num_images": c} for n, c in counted if c >= min_images],
        "left_out": {
            "num_images_without_group": int((groups.of_image < 0).sum()),
            "small_groups": {n: c for n, c in counted if c < min_images},
        },
        "strata": described,
    }
