"""Dataset bias: in which concepts groups of pictures differ, filter by filter and pooled by word.

A picture qualifies for filter u if its highest activation is above T_u. Two groups are compared with each other, of
more each one with all the others. Filters are tested exactly, words by permutation (`tasks.numerics.group_tests`), and
each family, over all comparisons, is adjusted for its size (false discovery rate). A third column can be held fixed: a
difference that is only that column's vanishes within its strata.

Shape legend: N pictures, C filters, W words, T tests (filters or words), S strata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from lavise.configs.schema import BiasSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, HalfArray, IntArray
from lavise.storage.datasets.groups import Grouping
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.storage.state.files import write_json
from lavise.storage.state.progress import Progress, no_progress
from lavise.storage.table_rows import write_rows
from lavise.tasks.activations.thresholds import load_thresholds
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import HOW, Spread, StageInputs, Stated
from lavise.tasks.group_bias.contrasts import (
    Contrast,
    ContrastFigures,
    DecidedContrast,
    compare_filters,
    compare_words,
    count_scores,
    decide_contrasts,
    index_words,
    make_contrasts,
)
from lavise.tasks.numerics import group_tests
from lavise.tasks.numerics.random_streams import Stream

STAGE = Stage("bias", version=2, libraries=("scipy",))
BIAS_FILE, FILTERS_FILE, WORDS_FILE = "bias.json", "bias_filters.parquet", "bias_words.parquet"
# At most so many times the permutations that were asked for, where fewer could not find a single word.
_MORE_PERMUTATIONS = 10


def _describe_settings(settings: BiasSettings) -> dict[str, Any]:
    """Without what the groups are made by: they are stated themselves."""
    return settings.model_dump(mode="json", exclude={"groups", "stratify_by"})


class StatedGrouping(TypedDict):
    """A grouping by its content: the digest stands for the group of each picture."""

    title: str
    names: list[str]
    of_image: str


def _describe_grouping(grouping: Grouping | None) -> StatedGrouping | None:
    if grouping is None:
        return None
    return {"title": grouping.title, "names": list(grouping.names), "of_image": digest_of(grouping.of_image.tolist())}


@dataclass(frozen=True)
class BiasInputs(StageInputs):
    """What the comparison of groups is made from.

    Attributes:
        thresholds: T_u on the same pictures.
        groups, strata: of the pictures of the activations, in their order.
        words: of each filter; none where it is unexplained.
    """

    layer: str
    activations: Handle
    thresholds: Handle
    groups: Annotated[Grouping, Stated(by=_describe_grouping)]
    strata: Annotated[Grouping | None, Stated(by=_describe_grouping)]
    words: Annotated[Sequence[Sequence[str]], Stated(by=digest_of)]
    settings: Annotated[BiasSettings, Spread(_describe_settings)]
    seed: int
    progress: Annotated[Progress, HOW] = no_progress


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


def analyse_bias(inputs: BiasInputs, folder: Path) -> Info:
    """Compare the groups and write bias.json, bias_filters.parquet and bias_words.parquet.

    Returns:
        facts: how many contrasts, tests, filters and words found, filters whose difference vanishes.

    Raises:
        UserError: fewer than two groups of `settings.min_images` pictures.
    """
    groups, strata, settings, words_of_filter = inputs.groups, inputs.strata, inputs.settings, inputs.words
    store, thresholds_C = ActivationStore(inputs.activations.folder), load_thresholds(inputs.thresholds)
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
    decided_filters = decide_contrasts(by_filter, settings.false_discovery_rate, strata is not None)
    by_word, permutations = _compare_words(qualified_NC, contrasts, member_CW, inputs)
    decided_words = decide_contrasts(by_word, settings.false_discovery_rate, strata is not None)
    least_filters = _find_least_of_filters(by_filter, decided_filters, contrasts, settings)
    least_words = _find_least_of_words(qualified_NC, by_word, decided_words, contrasts, member_CW, settings)

    pictures = _ImageFinder(peaks_NC, qualified_NC, store.keys, settings.images_shown)
    filter_rows: list[FilterDifference] = []
    word_rows: list[WordDifference] = []
    described: list[DescribedContrast] = []
    for number, contrast in enumerate(contrasts):
        own, decided = by_filter[number], decided_filters[number]
        counts = [(np.rint(share * num).astype(np.int64)) for share, num in _sides(own, contrast)]
        for unit, shared in enumerate(_make_rows(inputs.layer, contrast, own, decided, least_filters[number])):
            filter_rows.append(
                FilterDifference(
                    **vars(shared),
                    filter=unit,
                    words=list(words_of_filter[unit]),
                    num_group=contrast.num_group,
                    num_other=contrast.num_other,
                    qualified_group=int(counts[0][unit]),
                    qualified_other=int(counts[1][unit]),
                    pictures_group=pictures.find(unit, contrast.rows[contrast.in_group]),
                    pictures_other=pictures.find(unit, contrast.rows[~contrast.in_group]),
                )
            )
        rows = _make_rows(inputs.layer, contrast, by_word[number], decided_words[number], least_words[number])
        for place, shared in enumerate(rows):
            filters = np.flatnonzero(member_CW[:, place]).tolist()
            word_rows.append(
                WordDifference(**vars(shared), word=words[place], filters=filters, num_filters=len(filters))
            )
        described.append(
            _describe_contrast(contrast, own, decided, decided_words[number], least_filters[number], settings)
        )
    write_rows(FilterDifference, filter_rows, folder / FILTERS_FILE)
    write_rows(WordDifference, word_rows, folder / WORDS_FILE)
    summary = {
        "images": settings.images,
        **_describe_groups(groups, strata, contrasts, settings.min_images),
        "contrasts": [asdict(c) for c in described],
        "false_discovery_rate": settings.false_discovery_rate,
        "power": settings.power,
        "permutations": permutations,
    }
    write_json(folder / BIAS_FILE, summary)
    return {
        "num_contrasts": len(contrasts),
        "num_filters_tested": sum(c.num_filters_tested for c in described),
        "num_found": sum(c.num_filters_found for c in described),
        "num_words_found": sum(c.num_words_found for c in described),
        "num_vanishing": sum(c.num_vanishing for c in described),
    }


def _compare_words(
    qualified_NC: BoolArray,
    contrasts: Sequence[Contrast],
    member_CW: BoolArray,
    inputs: BiasInputs,
) -> tuple[list[ContrastFigures], int]:
    """Words of every contrast; and how many permutations were made.

    With P permutations p is at least 1 / (1 + P): more are made where a word that stands alone could not be found.
    """
    settings, scores_NW = inputs.settings, count_scores(qualified_NC, member_CW)
    wanted = int(np.ceil(len(contrasts) * member_CW.shape[1] / settings.false_discovery_rate))
    permutations = max(settings.permutations, min(wanted, _MORE_PERMUTATIONS * settings.permutations))
    num_filters_W = member_CW.sum(axis=0)
    compared = [
        compare_words(
            scores_NW,
            num_filters_W,
            c,
            inputs.strata is not None,
            permutations,
            (inputs.seed, Stream.GROUP_PERMUTATIONS, number),
            inputs.progress,
        )
        for number, c in enumerate(contrasts)
    ]
    return compared, permutations


def _level(comparisons: Sequence[ContrastFigures], decided: Sequence[DecidedContrast], settings: BiasSettings) -> float:
    """What a p value had to be at most in this family."""
    num_found, num_tested = sum(int(j.found.sum()) for j in decided), sum(int(c.tested.sum()) for c in comparisons)
    return group_tests.reached_level(settings.false_discovery_rate, num_found, num_tested)


def _find_least_of_filters(
    comparisons: Sequence[ContrastFigures],
    decided: Sequence[DecidedContrast],
    contrasts: Sequence[Contrast],
    settings: BiasSettings,
) -> list[DoubleArray]:
    level = _level(comparisons, decided, settings)
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
    decided: Sequence[DecidedContrast],
    contrasts: Sequence[Contrast],
    member_CW: BoolArray,
    settings: BiasSettings,
) -> list[DoubleArray]:
    level = _level(comparisons, decided, settings)
    scores_NW, num_filters_W = count_scores(qualified_NC, member_CW), member_CW.sum(axis=0)
    return [
        group_tests.least_mean_difference(scores_NW[c.rows], c.in_group, level, settings.power) / num_filters_W
        for c in contrasts
    ]


# ---------------------------------------------------------------- tables


class _ImageFinder:
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
    layer: str, contrast: Contrast, comparison: ContrastFigures, decided: DecidedContrast, least: DoubleArray
) -> list[Difference]:
    """The columns that filters and words share."""

    def read(values_T: DoubleArray, t: int) -> float | None:
        return float(values_T[t]) if np.isfinite(values_T[t]) else None

    return [
        Difference(
            layer=layer,
            group=contrast.group,
            other=contrast.other,
            share_group=read(comparison.share_group, t),
            share_other=read(comparison.share_other, t),
            difference=read(comparison.difference.value, t),
            low=read(comparison.difference.low, t),
            high=read(comparison.difference.high, t),
            effect_size=read(comparison.effect, t),
            p_value=read(comparison.p_value, t),
            q_value=read(decided.q_value, t),
            found=bool(decided.found[t]),
            least_difference=read(least, t),
            stratified_difference=read(comparison.within.value, t),
            stratified_low=read(comparison.within.low, t),
            stratified_high=read(comparison.within.high, t),
            stratified_p_value=read(comparison.p_within, t),
            stratified_q_value=read(decided.q_within, t),
            verdict=decided.verdict[t],
        )
        for t in range(len(least))
    ]


@dataclass(frozen=True)
class DescribedContrast:
    """A comparison of two groups in bias.json.

    Attributes:
        num_vanishing: filters whose difference is that of the strata.
        num_only_within_strata: filters that differ within the strata only.
        least_difference: that could have been shown, of the filter in the middle; None where none was tested.
    """

    group: str
    other: str
    num_group: int
    num_other: int
    num_filters_tested: int
    num_filters_found: int
    num_words_found: int
    num_vanishing: int
    num_only_within_strata: int
    least_difference: float | None


def _describe_contrast(
    contrast: Contrast,
    comparison: ContrastFigures,
    decided: DecidedContrast,
    decided_words: DecidedContrast,
    least: DoubleArray,
    settings: BiasSettings,
) -> DescribedContrast:
    least = least[np.isfinite(least)]
    with np.errstate(invalid="ignore"):
        only_within = ~decided.found & (decided.q_within <= settings.false_discovery_rate)
    return DescribedContrast(
        group=contrast.group,
        other=contrast.other,
        num_group=contrast.num_group,
        num_other=contrast.num_other,
        num_filters_tested=int(comparison.tested.sum()),
        num_filters_found=int(decided.found.sum()),
        num_words_found=int(decided_words.found.sum()),
        num_vanishing=decided.verdict.count("vanishes"),
        num_only_within_strata=int(only_within.sum()),
        least_difference=float(np.median(least)) if len(least) else None,
    )


class CountedGroup(TypedDict):
    """A group of pictures in bias.json."""

    name: str
    num_images: int


class LeftOut(TypedDict):
    """Pictures that are in no group, and groups that are too small to be compared, by name."""

    num_images_without_group: int
    small_groups: Mapping[str, int]


class CountedStrata(TypedDict):
    """What is held fixed, and its groups."""

    title: str
    groups: Sequence[CountedGroup]


class DescribedGroups(TypedDict):
    """What bias.json says of the groups."""

    grouping: str
    groups: Sequence[CountedGroup]
    left_out: LeftOut
    strata: CountedStrata | None


def _describe_groups(
    groups: Grouping, strata: Grouping | None, contrasts: Sequence[Contrast], min_images: int
) -> DescribedGroups:
    counted = list(zip(groups.names, groups.num_images, strict=True))
    described: CountedStrata | None = None
    if strata is not None:
        stratum = contrasts[0].stratum
        counts = np.bincount(stratum[stratum >= 0], minlength=len(strata.names)).tolist()
        listed = [CountedGroup(name=n, num_images=c) for n, c in zip(strata.names, counts, strict=True)]
        described = {"title": strata.title, "groups": listed}
    return {
        "grouping": groups.title,
        "groups": [CountedGroup(name=n, num_images=c) for n, c in counted if c >= min_images],
        "left_out": {
            "num_images_without_group": int((groups.of_image < 0).sum()),
            "small_groups": {n: c for n, c in counted if c < min_images},
        },
        "strata": described,
    }
