"""Groups of pictures side by side: what is compared with what, how each filter and word differs, and the verdict.

Shape legend: N pictures, C filters, W words, T tests (filters or words), S strata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lavise.configs.errors import UserError
from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.storage.datasets.groups import Grouping
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.numerics import group_tests
from lavise.tasks.numerics.false_discovery import adjust_false_discovery
from lavise.tasks.numerics.group_tests import Difference

OTHERS = "all others"
_MARGINAL, _STRATIFIED = 0, 1


@dataclass(frozen=True)
class Contrast:
    """A group and what it is compared with.

    Attributes:
        rows: positions of the compared pictures, rising.
        in_group: bool, of each of them.
        stratum: int64, of each of them; -1: in none.
    """

    group: str
    other: str
    rows: IntArray
    in_group: BoolArray
    stratum: IntArray

    @property
    def num_group(self) -> int:
        return int(self.in_group.sum())

    @property
    def num_other(self) -> int:
        return len(self.rows) - self.num_group


@dataclass(frozen=True)
class ContrastFigures:
    """One contrast over all filters, or all words: each [T].

    Attributes:
        tested: some pictures qualify and some do not (words: the scores are not all equal); the others have p = 1 and
            are not adjusted for.
        within, p_within: the same within strata; NaN where these cannot tell.
    """

    share_group: DoubleArray
    share_other: DoubleArray
    difference: Difference
    effect: DoubleArray
    p_value: DoubleArray
    tested: BoolArray
    within: Difference
    p_within: DoubleArray


@dataclass(frozen=True)
class DecidedContrast:
    """A family of tests, adjusted together; of one contrast, each [T]."""

    q_value: DoubleArray
    q_within: DoubleArray
    found: BoolArray
    verdict: list[str]


def make_contrasts(groups: Grouping, strata: Grouping | None, min_images: int) -> list[Contrast]:
    """Two groups: the first against the second. More: each against all the others.

    Raises:
        UserError: fewer than two groups have `min_images` pictures.
    """
    kept = [g for g, count in enumerate(groups.num_images) if count >= min_images]
    if len(kept) < 2:
        listed = ", ".join(f"{n} ({c})" for n, c in zip(groups.names, groups.num_images, strict=True))
        raise UserError(
            f"bias.groups: found {len(kept)} groups by {groups.title} with {min_images} pictures or more: {listed}; "
            "allowed: two or more; choose other groups, or lower bias.min_images"
        )
    rows = np.flatnonzero(np.isin(groups.of_image, kept))
    stratum = np.zeros(len(rows), np.int64) if strata is None else strata.of_image[rows]
    chosen = kept[:1] if len(kept) == 2 else kept
    other = groups.names[kept[1]] if len(kept) == 2 else OTHERS
    return [Contrast(groups.names[g], other, rows, groups.of_image[rows] == g, stratum) for g in chosen]


def index_words(words_of_filter: Sequence[Sequence[str]]) -> tuple[list[str], BoolArray]:
    """All words, sorted, and which filters have each: bool [C, W]."""
    words = sorted({word for own in words_of_filter for word in own})
    place = {word: i for i, word in enumerate(words)}
    member_CW = np.zeros((len(words_of_filter), len(words)), dtype=bool)
    for unit, own in enumerate(words_of_filter):
        member_CW[unit, [place[word] for word in own]] = True
    return words, member_CW


def compare_filters(qualified_NC: BoolArray, contrast: Contrast, stratified: bool) -> ContrastFigures:
    """Shares of qualified pictures of one contrast: Fisher's exact test, and the exact test within strata."""
    qualified, in_group = qualified_NC[contrast.rows], contrast.in_group
    group_C, other_C = qualified[in_group].sum(axis=0), qualified[~in_group].sum(axis=0)
    num_group, num_other = contrast.num_group, contrast.num_other
    p_value = group_tests.exact_p_values(
        group_C[:, None], other_C[:, None], np.array([num_group]), np.array([num_other])
    )
    share_group, share_other = group_C / num_group, other_C / num_other
    nan = np.full(len(p_value), np.nan)
    within, p_within = Difference(nan, nan, nan), nan
    strata = group_tests.informative_strata(in_group, contrast.stratum)
    if stratified and strata:
        counts = [
            np.stack([qualified[rows[in_group[rows] == side]].sum(axis=0) for rows in strata], axis=1)
            for side in (True, False)
        ]
        sizes = [np.array([(in_group[rows] == side).sum() for rows in strata]) for side in (True, False)]
        within = group_tests.stratified_difference(*counts, *sizes)
        p_within = group_tests.exact_p_values(*counts, *sizes)
    return ContrastFigures(
        share_group,
        share_other,
        group_tests.newcombe_difference(group_C, num_group, other_C, num_other),
        group_tests.cohen_h(share_group, share_other),
        p_value,
        (group_C + other_C > 0) & (group_C + other_C < num_group + num_other),
        within,
        p_within,
    )


def compare_words(
    scores_NW: IntArray,
    num_filters_W: IntArray,
    contrast: Contrast,
    stratified: bool,
    permutations: int,
    seed: tuple[int, ...],
    progress: Progress = no_progress,
) -> ContrastFigures:
    """Mean scores of one contrast, a picture's score being the share of a word's filters that it qualifies for.

    Args:
        scores_NW: number of the word's filters that each picture qualifies for.
        num_filters_W: filters of each word.
    """
    scores, in_group = scores_NW[contrast.rows], contrast.in_group
    difference, effect = group_tests.mean_difference(scores, in_group)
    tested = (scores != scores[:1]).any(axis=0)
    nan = np.full(len(tested), np.nan)
    within, p_within = Difference(nan, nan, nan), nan
    with progress(f"words of {contrast.group}", permutations * (1 + stratified)) as bar:
        everywhere = np.zeros(len(scores), dtype=np.int64)
        p_value = group_tests.permutation_p_values(
            scores, in_group, everywhere, permutations, (*seed, _MARGINAL), bar.advance
        )
        if stratified:
            within = group_tests.stratified_mean_difference(scores, in_group, contrast.stratum)
            p_within = group_tests.permutation_p_values(
                scores, in_group, contrast.stratum, permutations, (*seed, _STRATIFIED), bar.advance
            )
    unit = 1 / num_filters_W
    return ContrastFigures(
        scores[in_group].mean(axis=0) * unit,
        scores[~in_group].mean(axis=0) * unit,
        difference.times(unit),
        effect,
        p_value,
        tested,
        within.times(unit),
        p_within,
    )


def decide_contrasts(
    comparisons: Sequence[ContrastFigures], false_discovery_rate: float, stratified: bool
) -> list[DecidedContrast]:
    """Adjust the tests of all contrasts together, and say of each what came of it (`give_verdict`)."""
    tested = np.concatenate([c.tested for c in comparisons])
    p_value, p_within = (np.concatenate([getattr(c, n) for c in comparisons]) for n in ("p_value", "p_within"))
    q_value, q_within = np.ones(len(tested)), np.full(len(tested), np.nan)
    q_value[tested] = adjust_false_discovery(p_value[tested], int(tested.sum()))
    inside = tested & np.isfinite(p_within)
    q_within[inside] = adjust_false_discovery(p_within[inside], int(inside.sum()))
    found = tested & (q_value <= false_discovery_rate)
    decided = []
    bounds = np.cumsum([0, *(len(c.tested) for c in comparisons)])
    for comparison, (start, stop) in zip(comparisons, pairwise(bounds), strict=True):
        own = found[start:stop]
        verdict = give_verdict(comparison, own, false_discovery_rate, stratified)
        decided.append(DecidedContrast(q_value[start:stop], q_within[start:stop], own, verdict))
    return decided


def give_verdict(
    comparison: ContrastFigures, found_T: BoolArray, false_discovery_rate: float, stratified: bool
) -> list[str]:
    """What is to be said of each difference.

    `same`: not found. `differs`: found; with strata, also within them, at p <= the false discovery rate and in the same
    direction. `reverses`: found, and the interval within strata lies wholly on the other side of 0. `vanishes`: found,
    but within strata p is above the false discovery rate and the difference less than half of what it was.
    `undecided`: found, and the strata neither confirm nor refute it, or have no pictures of both groups.
    """
    if not stratified:
        return ["differs" if f else "same" for f in found_T]
    value, within = comparison.difference.value, comparison.within
    with np.errstate(invalid="ignore"):
        reverses = np.where(value > 0, within.high < 0, within.low > 0)
        above = comparison.p_within > false_discovery_rate
        vanishes = above & (np.abs(within.value) < np.abs(value) / 2)
        differs = (comparison.p_within <= false_discovery_rate) & (np.sign(within.value) == np.sign(value))
    verdict = np.select(
        [~found_T, reverses, vanishes, differs], ["same", "reverses", "vanishes", "differs"], "undecided"
    )
    return [str(v) for v in verdict]


def count_scores(qualified_NC: BoolArray, member_CW: BoolArray) -> IntArray:
    """Filters of each word that each picture qualifies for: int64 [N, W]."""
    return np.asarray(np.rint(qualified_NC.astype(np.float32) @ member_CW.astype(np.float32)), np.int64)
