"""A layer's panel: what the words of its filters are worth, beside its baselines, and filter by filter.

Shape legend: C filters, K concepts, F filters of a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from lavise.configs.base import Settings
from lavise.storage.array_types import BoolArray, IntArray
from lavise.storage.state import file_names
from lavise.storage.state.digest import digest_of
from lavise.storage.state.files import write_json
from lavise.storage.state.progress import Progress, no_progress
from lavise.storage.table_rows import write_rows
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import HOW, Spread, StageInputs, Stated, Unstated
from lavise.tasks.evaluation.panel import Panel, Statements, score_word_sets, summarise_panel
from lavise.tasks.evaluation.panel_layer import LayerArtefacts, PanelLayer, load_panel_layer
from lavise.tasks.numerics.random_streams import Stream, make_rng

STAGE = Stage("panel", version=4)
PANEL_FILE, FILTER_SCORES_FILE = file_names.PANEL, "judged_filters.parquet"


@dataclass(frozen=True)
class ScoredFilter:
    """A filter that the masks can judge (judged_filters.parquet)."""

    filter: int
    num_pairs: int
    recall: float
    f1: float


def draw_random_statements(filters: IntArray, num_concepts: int, k: int, seed: int) -> Statements:
    """k different concepts at random for each filter, all equally likely."""
    rng = make_rng(seed, Stream.RANDOM_WORDS)
    words = rng.permuted(np.tile(np.arange(num_concepts), (len(filters), 1)), axis=1)[:, :k]
    return Statements(np.asarray(filters, np.int64), words.astype(np.int64))


def repeat_frequent_statements(filters: IntArray, counts_K: IntArray, k: int) -> Statements:
    """The k concepts with the highest counts (training pictures with the concept), the same ones for each filter."""
    frequent = np.lexsort((np.arange(len(counts_K)), -np.asarray(counts_K)))[:k]
    return Statements(np.asarray(filters, np.int64), np.tile(frequent.astype(np.int64), (len(filters), 1)))


class PanelSettings(Settings):
    """Of `evaluate` and `explain`, what the panel depends on.

    Attributes:
        at: the k of recall, precision and F1 at k.
        baselines: sorted.
    """

    at: tuple[int, ...]
    baselines: tuple[str, ...]
    bootstrap_samples: int
    min_iou: float
    top_images: int


def _state_layer(made: LayerArtefacts) -> dict[str, str]:
    return {name: handle.digest for name, handle in vars(made).items() if name != "thresholds"}


def _state_baselines(made: Mapping[str, LayerArtefacts]) -> dict[str, str]:
    explained = {f"{name} explained": own.explained.digest for name, own in made.items()}
    return explained | {f"{name} agreement": own.agreement.digest for name, own in made.items()}


@dataclass(frozen=True)
class PanelInputs(StageInputs):
    """What a layer is judged by.

    Attributes:
        own: of the layer; its agreement states the thresholds.
        audited: the same of baselines that were audited themselves; whatever else there is of them follows from their
            words and their agreement.
        concepts: of the evaluation part.
        concept_counts: training pictures with each concept.
        num_words: that a filter has at most.
        language: of the words.
    """

    own: Annotated[LayerArtefacts, Spread(inputs=_state_layer)]
    audited: Annotated[Mapping[str, LayerArtefacts], Spread(inputs=_state_baselines)]
    concepts: Annotated[tuple[str, ...], Unstated("the agreement is with their masks")]
    concept_counts: Annotated[Mapping[str, int], Stated(by=digest_of)]
    num_words: Annotated[int, Unstated("the explained filters have no more")]
    settings: PanelSettings
    seed: int
    language: Annotated[str, Unstated("the explained filters' vocabulary is of it")] = "en"
    progress: Annotated[Progress, HOW] = no_progress

    def load(self, made: LayerArtefacts) -> PanelLayer:
        """One of the layers."""
        asked = self.settings
        return load_panel_layer(made, self.concepts, self.num_words, asked.top_images, asked.min_iou, self.language)


def make_panel(inputs: PanelInputs, folder: Path) -> Info:
    """Write folder/panel.json and folder/judged_filters.parquet.

    Returns:
        facts: see `describe_panel`.
    """
    own, settings = inputs.load(inputs.own), inputs.settings
    counts_K = np.array([inputs.concept_counts.get(concept, 0) for concept in inputs.concepts])
    rows = collect_rows(own.statements, own.explained, counts_K, settings, inputs.seed)
    others = {name: inputs.load(made) for name, made in inputs.audited.items()}
    for name, made in inputs.audited.items():
        if made.activations.digest == inputs.own.activations.digest:
            rows[name] = others[name].statements
    found = measure_panel(own, rows, others, settings, inputs.seed, inputs.progress)
    save_panel(found, score_filters(own, settings.at), folder)
    return describe_panel(found)


def collect_rows(
    statements: Statements, explained_C: BoolArray, counts_K: IntArray, settings: PanelSettings, seed: int
) -> dict[str, Statements]:
    """The rows of the panel that need no other explainer: explained filters, all filters, and simple baselines.

    `random_words` and `most_frequent_words` speak about the explained filters (about all, if none is); `dealt_words`
    are the explained filters' own words, dealt out among them at random: chance for words of just these frequencies.
    """
    rows = {
        "explained": Statements(statements.filter[explained_C], statements.words[explained_C]),
        "all_filters": statements,
    }
    base = rows["explained"] if explained_C.any() else statements
    k = statements.words.shape[1]
    if "random_words" in settings.baselines:
        rows["random_words"] = draw_random_statements(base.filter, len(counts_K), k, seed)
    if "dealt_words" in settings.baselines:
        order = make_rng(seed, Stream.DEALT_WORDS).permutation(len(base.filter))
        rows["dealt_words"] = Statements(base.filter, base.words[order])
    if "most_frequent_words" in settings.baselines:
        rows["most_frequent_words"] = repeat_frequent_statements(base.filter, counts_K, k)
    return rows


def measure_panel(
    own: PanelLayer,
    rows: Mapping[str, Statements],
    others: Mapping[str, PanelLayer],
    settings: PanelSettings,
    seed: int,
    progress: Progress = no_progress,
) -> Panel:
    """The panel of a layer, with all its baselines.

    Args:
        rows: statements about the layer's own filters.
        others: audited baselines; one that is no row has filters of its own (another network) and is judged on them.

    Returns:
        as `summarise_panel`; each row also has `share_right`, the share of its statements whose filter detects the
        concept, and audited baselines have `share_explained`.
    """
    samples = settings.bootstrap_samples
    found = summarise_panel(own.store, own.agreement, rows, own.truth, settings.at, samples, seed, progress)
    for name, other in others.items():
        if name not in rows:
            alone = summarise_panel(
                other.store,
                other.agreement,
                {name: other.statements},
                other.truth,
                settings.at,
                samples,
                seed,
                progress,
            )
            found["rows"] |= alone["rows"]
    for name, row in found["rows"].items():
        layer = own if name in rows else others[name]
        row["share_right"] = share_right(rows.get(name, layer.statements), layer)
    for name, layer in {"explained": own, **others}.items():
        found["rows"][name]["share_explained"] = float(layer.explained.mean()) if len(layer.explained) else 0.0
    return found


def share_right(statements: Statements, layer: PanelLayer) -> float | None:
    """Share of filters that detect the first of their words that is a category; None where there is none to judge."""
    unit, concept = statements.take_first()
    known = layer.present_K[concept]
    return float(layer.right[unit[known], concept[known]].mean()) if known.any() else None


def score_filters(layer: PanelLayer, at: Sequence[int]) -> list[ScoredFilter]:
    """Recall and F1 of each filter that masks can judge.

    Means over its pairs with |G| > 0, of its first k words, k the largest of `at`
    (`tasks.evaluation.panel.score_word_sets`).
    """
    k = max(at)
    pairs, values = score_word_sets(layer.statements, layer.truth, [k], layer.agreement.masks.looked_for)
    unit = layer.truth.pairs.filter[pairs]
    filters, row, count = np.unique(unit, return_inverse=True, return_counts=True)
    recall, f1 = (np.bincount(row, values[f"{n}@{k}"], minlength=len(filters)) / count for n in ("recall", "f1"))
    return [
        ScoredFilter(int(u), int(n), float(r), float(f)) for u, n, r, f in zip(filters, count, recall, f1, strict=True)
    ]


def describe_panel(found: Panel) -> dict[str, float]:
    """The numbers of a panel, under names as `explained/pearson_image`."""
    flat: dict[str, float] = {}
    for row, content in found["rows"].items():
        flat |= {f"{row}/{k}": float(v) for k, v in content.items() if isinstance(v, int | float)}
        flat |= {f"{row}/{figure.replace('@', '_at_')}": c["value"] for figure, c in content["figures"].items()}
    return flat


def save_panel(found: Panel, scored: Sequence[ScoredFilter], folder: Path) -> None:
    """Write folder/panel.json and folder/judged_filters.parquet.

    Args:
        scored: of `score_filters`.
    """
    write_json(folder / PANEL_FILE, found)
    write_rows(ScoredFilter, scored, folder / FILTER_SCORES_FILE)


def load_panel(folder: Path) -> Panel:
    """Read what `save_panel` wrote."""
    content: Panel = json.loads((folder / PANEL_FILE).read_text("utf-8"))
    return content
