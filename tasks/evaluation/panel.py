"""The panel: how well a filter's words hold on pictures with masks that played no part in choosing them.

Recall alone passes a labeller that names everything; correlation, IoU, precision and AUPRC do not (NeuronEval, ICML
2025). So every statement "filter u means concept t" is judged by several figures, over all evaluation pictures, and
every list of statements stands beside baselines that are judged in the same way, on the same resamples.

Figures of a statement, over N pictures of P cells:
    iou: pixels that R_u and the concept's mask share, over pixels of either, summed over the data set at the input's
        size (network dissection: Bau et al., CVPR 2017).
    pearson_position: correlation of a_u with the mask's coverage over all N·P cells.
    pearson_image: correlation of the picture's peak of a_u with the concept's presence (0 or 1).
    auprc_position: average precision of a_u for the cells of the concept (see `ConceptMasks.mark_cells`).
    auprc_image: average precision of the peak for the pictures with the concept.
    lift: auprc_image over the share of pictures with the concept. By chance it is 1 only for common concepts: the
        average precision of a random order is far above the share where positives are few (5 for one in 80).
    skill_position, skill_image: (AUPRC - chance) / (1 - chance), where chance is what the same scores would have on
        average if the marks were dealt at random (`expect_precision`); 0 by chance however rare the concept, 1 at best.
All are NaN where the concept is in no picture. A constant activation or mask correlates with nothing: 0.

Where the pictures are of several data sets, a concept is judged on those on which it was looked for
(`ConceptMasks.looked_for`): its figures are those of a data set of these N pictures alone.

AUPRC and lift depend on how rare a concept is, so they compare only rows that name the same concepts (words dealt to
other filters, a random network); IoU, correlations and skills compare any.

Shape legend: N pictures, C filters, K concepts, P cells, S statements, B weightings of the pictures, F filters of a
row, Q pairs (filter, picture) with ground truth, M pairs (picture, concept in it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
from threadpoolctl import threadpool_limits

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.evaluation.statement_scores import Values, score_by_pictures
from lavise.tasks.masks.agreement import MaskAgreement
from lavise.tasks.numerics.bootstrap import Estimate, ImageWeights

if TYPE_CHECKING:
    from lavise.tasks.evaluation.ground_truth import GroundTruth

FIGURES = (
    *("iou", "pearson_position", "pearson_image", "auprc_position", "auprc_image", "lift"),
    *("skill_position", "skill_image"),
)
_BY_POSITION_ORDER = ("auprc_position", "skill_position")

# Resamples of the figures above at most: they are most of the cost.
POSITION_SAMPLES = 200


@dataclass(frozen=True)
class Statements:
    """What one row of the panel claims: some words of each of its filters.

    Attributes:
        filter: int64 [F], u; each at most once.
        words: int64 [F, s], the filter's words as positions of concepts, best first; -1 for a word that is no category.
    """

    filter: IntArray
    words: IntArray

    def take_first(self) -> tuple[IntArray, IntArray]:
        """Filter and concept, each int64 [S], of each filter's first word that is a category; others are left out."""
        if not self.words.size:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        known = self.words >= 0
        first = self.words[np.arange(len(self.words)), known.argmax(axis=1)]
        kept = known.any(axis=1)
        return self.filter[kept], first[kept]


def score_statements(
    store: ActivationStore, agreement: MaskAgreement, filter_S: IntArray, concept_S: IntArray
) -> dict[str, DoubleArray]:
    """The figures (see the module) of statements "filter u means concept t": float64 [S] each, in the given order.

    Args:
        agreement: of the store's activations with the evaluation pictures' masks.
        filter_S: u; a filter may come more than once.
        concept_S: t, in 0..K-1.

    Raises:
        ValueError: agreement or statements are of other activations.
    """
    filter_S, concept_S = np.asarray(filter_S, np.int64), np.asarray(concept_S, np.int64)
    _require_range(agreement, filter_S, concept_S)
    order = np.lexsort((concept_S, filter_S))
    found = {name: np.full(len(order), np.nan) for name in FIGURES}
    with threadpool_limits(1), ImageWeights(agreement.num_images, 0, 0) as once:
        for places, values in score_by_pictures(store, agreement, once, 1, filter_S[order], concept_S[order]):
            for name, value in values.items():
                found[name][order[places]] = value[:, 0]
    return found


def _require_range(agreement: MaskAgreement, filter_S: IntArray, concept_S: IntArray) -> None:
    for name, values, size in (
        ("filter", filter_S, agreement.num_filters),
        ("concept", concept_S, agreement.num_concepts),
    ):
        if len(values) and not (values.min() >= 0 and values.max() < size):
            raise ValueError(f"expected {name} in 0..{size - 1}, found {values.min()} to {values.max()}")


def score_word_sets(
    statements: Statements, truth: GroundTruth, at: Sequence[int], looked_for_NK: BoolArray | None = None
) -> tuple[IntArray, Values]:
    """The filter's first k words W_k against G_{u,i} of each pair (METHOD, ground truth), for each k.

    recall@k = |W_k ∩ G| / |G|, precision@k = |W_k ∩ G| / |W_k|, f1@k = their harmonic mean. W_k is a set: it holds
    the categories among the first k words, each once. Where none is a category all three are 0.

    Args:
        looked_for_NK: whether a category was looked for on a picture; one that was not is no word there. None: all.

    Returns:
        pairs whose filter has a row in `statements`, positions in truth.pairs int64 [Q]; and float64 [Q] by figure.
    """
    order = np.argsort(statements.filter, kind="stable")
    place = np.searchsorted(statements.filter[order], truth.pairs.filter)
    chosen = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(len(truth.pairs), np.int64)
    named = place < len(order)
    named[named] = statements.filter[chosen[named]] == truth.pairs.filter[named]
    pairs = np.flatnonzero(named)
    # A column of no words, so that there is one where no filter has any.
    silent = np.full((len(statements.words), 1), -1)
    words = np.concatenate([_drop_repeated(statements.words), silent], axis=1)[chosen[pairs]]
    if looked_for_NK is not None:
        known = looked_for_NK[truth.pairs.image[pairs][:, None], np.clip(words, 0, None)]
        words = np.where(known, words, -1)
    member = truth.member[pairs]
    hits = np.take_along_axis(member, np.clip(words, 0, None), axis=1) & (words >= 0)
    num_hits, num_named = np.cumsum(hits, axis=1), np.cumsum(words >= 0, axis=1)
    num_true = member.sum(axis=1)
    found: Values = {}
    for k in at:
        last = min(k, words.shape[1]) - 1
        hit, size = num_hits[:, last].astype(np.float64), num_named[:, last]
        found[f"recall@{k}"] = hit / num_true
        found[f"precision@{k}"] = hit / np.maximum(size, 1)
        found[f"f1@{k}"] = 2 * hit / (num_true + size)
    return pairs, found


def _drop_repeated(words_Fs: IntArray) -> IntArray:
    """The words with each one that came before replaced by -1."""
    out = words_Fs.copy()
    for rank in range(1, words_Fs.shape[1]):
        again = (words_Fs[:, :rank] == words_Fs[:, rank : rank + 1]).any(axis=1)
        out[again, rank] = -1
    return out


class PanelRow(TypedDict):
    """A row of the panel: counts, and the mean of each figure with its 95 % interval.

    A figure is absent where there is nothing to take the mean of. tasks.evaluation.layer_panel adds `share_right`, the
    share of its statements whose filter detects the concept, and for audited rows `share_explained`.
    """

    num_filters: int
    num_statements: int
    num_judged: int
    num_pairs: int
    figures: dict[str, Estimate]
    share_right: NotRequired[float | None]
    share_explained: NotRequired[float]


class PanelDifference(Estimate):
    """The first row's mean less another's; supported if the interval leaves out 0."""

    figure: str
    first: str
    second: str
    supported: bool


class Panel(TypedDict):
    """panel.json.

    Attributes:
        samples_by_figure: resamples of each figure.
    """

    num_images: int
    samples: int
    samples_by_figure: dict[str, int]
    rows: dict[str, PanelRow]
    differences: list[PanelDifference]


def summarise_panel(
    store: ActivationStore,
    agreement: MaskAgreement,
    rows: Mapping[str, Statements],
    truth: GroundTruth,
    at: Sequence[int],
    samples: int,
    seed: int,
    progress: Progress = no_progress,
) -> Panel:
    """The panel: the mean of every figure for every row, with its 95 % interval by bootstrap over pictures.

    Ends of intervals are percentiles of the resamples, less the resamples' bias (their mean less the value): a picture
    that is drawn twice ties with itself, so AUPRC is higher in resamples than in any data set, often above the value
    itself. For the other figures that is next to nothing.

    The figures of statements are means over each filter's first word that is a category; statements about a concept
    that is in no evaluation picture are not judged. In a resample that lacks a concept, its statements are left out of
    that resample's mean. The figures of sets (`score_word_sets`) are means over pairs of a row's filters and their top
    pictures with |G| > 0. All rows see the same resamples of all N pictures, so that differences are paired.

    Args:
        rows: lists of statements by name, the one to judge first, then its baselines.
        truth: G_{u,i} of the evaluation pictures (`tasks.evaluation.ground_truth.find_ground_truth`).
        at: the k of the figures of sets.
        samples: resamples; auprc_position and skill_position use the first POSITION_SAMPLES of them at most.
    """
    num_position = min(samples, POSITION_SAMPLES)
    num_images, num_pairs = agreement.num_images, dict[str, int]()
    # The first weighting is the data set as it is, so that value and interval come from the same sums.
    with ImageWeights(num_images, samples, seed, folder=store.folder) as weights:
        facts, means = _average_statements(store, agreement, rows, weights, num_position + 1, progress)
        for name, statements in rows.items():
            pairs, values = score_word_sets(statements, truth, at, agreement.masks.looked_for)
            num_pairs[name] = len(pairs)
            image = truth.pairs.image[pairs]
            sizes = _weigh(np.bincount(image, minlength=num_images).astype(np.float64), weights)
            for figure, value in values.items():
                sums = _weigh(np.bincount(image, value, minlength=num_images).astype(np.float64), weights)
                means[name][figure] = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)
    found: Panel = {
        "num_images": agreement.num_images,
        "samples": samples,
        "samples_by_figure": {figure: num_position if figure in _BY_POSITION_ORDER else samples for figure in FIGURES},
        "rows": {},
        "differences": [],
    }
    for name in rows:
        figures = {figure: summary for figure, mean in means[name].items() if (summary := _summarise(mean))}
        filters, stated, scored = facts[name]
        found["rows"][name] = {
            "num_filters": filters,
            "num_statements": stated,
            "num_judged": scored,
            "num_pairs": num_pairs[name],
            "figures": figures,
        }
    first, *others = rows
    for second in others:
        for figure, mean in means[first].items():
            if summary := _summarise(mean - means[second][figure]):
                supported = summary["low"] > 0 or summary["high"] < 0
                found["differences"].append(
                    {"figure": figure, "first": first, "second": second, "supported": supported, **summary}
                )
    return found


def _weigh(counts_N: DoubleArray, weights: ImageWeights) -> DoubleArray:
    """Sum over the pictures under each weighting: float64 [B]."""
    return np.concatenate([counts_N @ weights.read(block) for block in weights.list_blocks()])


def _average_statements(
    store: ActivationStore,
    agreement: MaskAgreement,
    rows: Mapping[str, Statements],
    weights: ImageWeights,
    num_position: int,
    progress: Progress,
) -> tuple[dict[str, tuple[int, int, int]], dict[str, Values]]:
    """Counts of each row (filters, statements, judged ones), and the mean of each figure over its statements, under
    each weighting.

    A statement that is in several rows is judged once.
    """
    firsts = {name: statements.take_first() for name, statements in rows.items()}
    keys_of = {name: unit * agreement.num_concepts + concept for name, (unit, concept) in firsts.items()}
    for unit, concept in firsts.values():
        _require_range(agreement, unit, concept)
    keys = np.unique(np.concatenate(list(keys_of.values())))
    times_RS = np.stack([np.bincount(np.searchsorted(keys, k), minlength=len(keys)) for k in keys_of.values()]).astype(
        np.float64
    )
    samples = {figure: num_position if figure in _BY_POSITION_ORDER else weights.num for figure in FIGURES}
    sums = {figure: np.zeros((len(rows), n)) for figure, n in samples.items()}
    scored = {figure: np.zeros((len(rows), n)) for figure, n in samples.items()}
    unit, concept = np.divmod(keys, max(agreement.num_concepts, 1))
    with threadpool_limits(1):  # the order of sums, and so the last bits, would depend on the threads
        for places, values in score_by_pictures(store, agreement, weights, num_position, unit, concept, progress):
            for figure, value in values.items():
                sums[figure] += times_RS[:, places] @ np.nan_to_num(value, nan=0.0)
                scored[figure] += times_RS[:, places] @ ~np.isnan(value)
    facts, means = {}, {}
    for n, (name, statements) in enumerate(rows.items()):
        facts[name] = (len(statements.filter), len(keys_of[name]), int(scored["iou"][n, 0]))
        means[name] = {
            figure: np.where(scored[figure][n] > 0, sums[figure][n] / np.maximum(scored[figure][n], 1), np.nan)
            for figure in FIGURES
        }
    return facts, means


def _summarise(means_B: DoubleArray) -> Estimate | None:
    """Value (first) and the ends of its 95 % interval, from the others; None if there is no value."""
    value, resampled = means_B[0], means_B[1:][~np.isnan(means_B[1:])]
    if np.isnan(value) or not len(resampled):
        return None
    low, high = value + np.quantile(resampled, [0.025, 0.975]) - resampled.mean()
    return {"value": float(value), "low": float(low), "high": float(high)}
