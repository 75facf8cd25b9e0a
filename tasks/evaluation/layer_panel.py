"""A layer's panel: what the words of its filters are worth, beside its baselines, and filter by filter.

Shape legend: C filters, K concepts, F filters of a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavise.configs.schema import EvaluateSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, IntArray
from lavise.storage.state import file_names
from lavise.storage.state.files import write_json
from lavise.storage.state.progress import Progress, no_progress
from lavise.storage.table_rows import make_rows, write_rows
from lavise.tasks.engine.stage import Stage
from lavise.tasks.evaluation.ground_truth import GroundTruth
from lavise.tasks.evaluation.panel import Statements, judge_word_sets, summarise_panel
from lavise.tasks.masks.agreement import MaskAgreement
from lavise.tasks.numerics.random_streams import Stream, make_rng

STAGE = Stage("panel", version=3)
PANEL_FILE, JUDGED_FILE = file_names.PANEL, "judged_filters.parquet"


@dataclass(frozen=True)
class JudgedRow:
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


@dataclass(frozen=True)
class JudgedLayer:
    """Words of a layer's filters, and the evaluation pictures that they are judged on.

    Attributes:
        statements: of all C filters, whether they are explained or not.
        explained: bool [C].
        right: bool [C, K], whether a filter detects a concept (tasks.masks.detection).
        judged_K: bool [K], concepts that are in some evaluation picture.
    """

    statements: Statements
    explained: BoolArray
    store: ActivationStore
    agreement: MaskAgreement
    truth: GroundTruth
    right: BoolArray
    judged_K: BoolArray

    def take(self, chosen_C: BoolArray) -> Statements:
        return Statements(self.statements.filter[chosen_C], self.statements.words[chosen_C])


def collect_rows(
    statements: Statements, explained_C: BoolArray, counts_K: IntArray, settings: EvaluateSettings, seed: int
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


def judge_layer(
    own: JudgedLayer,
    rows: Mapping[str, Statements],
    others: Mapping[str, JudgedLayer],
    settings: EvaluateSettings,
    seed: int,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """The panel of a layer, with all its baselines.

    Args:
        rows: statements about the layer's own filters.
        others: audited baselines; one that is no row has filters of its own (another network) and is judged on them.

    Returns:
        as `summarise_panel`; each row also has `share_right`, the share of its statements whose filter detects the
        concept, and audited baselines have `share_explained`.
    """
    samples = settings.bootstrap_samples
    found = summarise_panel(own.store, own.agreement, rows, own.truth, settings.panel_at, samples, seed, progress)
    for name, other in others.items():
        if name not in rows:
            alone = summarise_panel(
                other.store,
                other.agreement,
                {name: other.statements},
                other.truth,
                settings.panel_at,
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


def share_right(statements: Statements, layer: JudgedLayer) -> float | None:
    """Share of filters that detect the first of their words that is a category; None where there is none to judge."""
    unit, concept = statements.take_first()
    known = layer.judged_K[concept]
    return float(layer.right[unit[known], concept[known]].mean()) if known.any() else None


def judge_filters(layer: JudgedLayer, at: Sequence[int]) -> list[dict[str, Any]]:
    """Recall and F1 of each filter that masks can judge: filter, num_pairs, recall, f1.

    Means over its pairs with |G| > 0, of its first k words, k the largest of `at`
    (`tasks.evaluation.panel.judge_word_sets`).
    """
    k = max(at)
    pairs, values = judge_word_sets(layer.statements, layer.truth, [k])
    unit = layer.truth.pairs.filter[pairs]
    filters, row, count = np.unique(unit, return_inverse=True, return_counts=True)
    recall, f1 = (np.bincount(row, values[f"{n}@{k}"], minlength=len(filters)) / count for n in ("recall", "f1"))
    return [
        {"filter": int(u), "num_pairs": int(n), "recall": float(r), "f1": float(f)}
        for u, n, r, f in zip(filters, count, recall, f1, strict=True)
    ]


def describe_panel(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a panel, under names as `explained/pearson_image`."""
    flat: dict[str, float] = {}
    for row, content in found["rows"].items():
        flat |= {f"{row}/{k}": float(v) for k, v in content.items() if isinstance(v, int | float)}
        flat |= {f"{row}/{figure.replace('@', '_at_')}": c["value"] for figure, c in content["figures"].items()}
    return flat


def save_panel(found: Mapping[str, Any], judged: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write folder/panel.json and folder/judged_filters.parquet.

    Args:
        judged: of `judge_filters`.
    """
    write_json(folder / PANEL_FILE, found)
    write_rows(JudgedRow, make_rows(JudgedRow, judged), folder / JUDGED_FILE)


def load_panel(folder: Path) -> dict[str, Any]:
    """Read what `save_panel` wrote."""
    content: dict[str, Any] = json.loads((folder / PANEL_FILE).read_text("utf-8"))
    return content
