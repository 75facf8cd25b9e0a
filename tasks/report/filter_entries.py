"""What the report's page gets of the filters: a short entry of each for the gallery, the rest for when it is opened.

The entries are lists and short keys, as they are most of the page besides the pictures; the scripts in templates/
read them. Short entry: l layer (number), f filter, t threshold, c confidence, a AUROC or null, n pictures above the
threshold, r reason, w words [word, share, confidence, novel, significant], m number of meanings, g best guess of an
unexplained filter, p its confidence, s whether it is saturated, j recall or null, d F1 or null,
i first pictures [number, peak, outline]. The rest: see `_describe_rest`.

Shape legend: C filters, K' classes, 256 bins of the histogram.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from lavise.configs.schema import DiffSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import FloatArray, IntArray
from lavise.storage.state import file_names
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.activations.thresholds import bin_edges
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.classifier import ablation, attribution
from lavise.tasks.evaluation.layer_panel import FILTER_SCORES_FILE
from lavise.tasks.group_bias import analysis
from lavise.tasks.report.pictures import LARGE_PER_FILTER, DrawnPair, ImageBook, draw_pairs, quantise_maps
from lavise.tasks.report.short_numbers import shorten
from lavise.tasks.report.similar_filters import find_similar_filters
from lavise.tasks.report.word_reasons import describe_lack, describe_why, read_limits
from lavise.tasks.words.explain import load_pairs

TARGET = "target"
_HISTOGRAM_BINS = 48
_CLASSES_OF_FILTER = 8
_MEANING_WORDS = 4
_WORD_FIGURES = (
    *("share_low", "share_high", "background", "p_value", "q_value"),
    *("auroc", "auroc_low", "auroc_high"),
)
_ABLATED_CLASSES = 5


@dataclass(frozen=True)
class LayerPart:
    """What the report shows of one layer; the paths are folders of artefacts, None where there is none.

    Attributes:
        panel: may also hold FILTER_SCORES_FILE, a row per filter that the masks can judge: filter, num_pairs, recall,
            f1.
        analyses: by their names.
        histogram: of the target's thresholds: histogram.npy.
        advice: what would help where few filters are explained.
    """

    layer: str
    shape: tuple[int, int, int]
    explained: Path
    evaluated: Path
    panel: Path
    validated: Path
    activations: Path
    thresholds: FloatArray
    explainer: Path
    analyses: Mapping[str, Path] = field(default_factory=dict)
    histogram: Path | None = None
    advice: str = ""


@dataclass(frozen=True)
class DiffPart:
    """What the report shows of the comparison with an earlier audit.

    Attributes:
        old_run: id of the earlier audit's run.
        old_name: of the earlier audit, for people.
        old_checkpoint: start of the digest of its weights; empty where it is not known.
        rows: of diff.parquet, all layers.
        summary: by layer, of diff.json.
    """

    old_run: str
    old_name: str
    old_checkpoint: str
    rows: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Mapping[str, Any]]
    settings: DiffSettings


@dataclass(frozen=True)
class LayerTables:
    """A layer's tables, read once.

    Attributes:
        filters: rows of filters.parquet.
        words_of: rows of explanations.parquet by filter.
        shown: by filter, positions of the pairs whose pictures are shown, strongest first.
    """

    part: LayerPart
    filters: Sequence[Mapping[str, Any]]
    words_of: Mapping[int, Sequence[Mapping[str, Any]]]
    store: ActivationStore
    pairs: Pairs
    shown: Sequence[IntArray]

    def keys_of(self, unit: int) -> list[str]:
        """Of the pictures shown."""
        return [self.store.keys[self.pairs.image[p]] for p in self.shown[unit]]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a parquet file; none where there is no such file."""
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist() if path.is_file() else []
    return rows


def read_layer(part: LayerPart, images_per_filter: int) -> LayerTables:
    filters = read_rows(part.explained / file_names.FILTERS)
    words_of: dict[int, list[Mapping[str, Any]]] = {}
    for word in read_rows(part.explained / file_names.EXPLANATIONS):
        words_of.setdefault(word["filter"], []).append(word)
    pairs = load_pairs(part.explained)
    first = np.searchsorted(pairs.filter, np.arange(len(filters) + 1))
    shown = [np.arange(first[u], min(first[u] + images_per_filter, first[u + 1])) for u in range(len(filters))]
    return LayerTables(part, filters, words_of, ActivationStore(part.activations), pairs, shown)


def number_images(tables: Sequence[LayerTables], others: Sequence[tuple[str, str]], book: ImageBook) -> None:
    """Number all pictures that the page shows: the first of each filter, and `others`, are the larger ones."""
    for layer in tables:
        for unit in range(len(layer.filters)):
            for key in layer.keys_of(unit)[:LARGE_PER_FILTER]:
                book.add(TARGET, key)
    for role, key in others:
        book.add(role, key)
    book.end_large()
    for layer in tables:
        for unit in range(len(layer.filters)):
            for key in layer.keys_of(unit):
                book.add(TARGET, key)


@dataclass(frozen=True)
class DescribedFilters:
    """Of all filters in the same order: the short entries, and the rest."""

    entries: Sequence[Mapping[str, Any]]
    rest: Sequence[Mapping[str, Any]]


def describe_filters(
    number: int, tables: LayerTables, book: ImageBook, progress: Progress = no_progress
) -> DescribedFilters:
    """All filters of a layer, the `number`-th of the page; `book` has their pictures."""
    part, pairs = tables.part, tables.pairs
    positions = np.concatenate([*tables.shown, np.zeros(0, np.int64)]).astype(np.int64)
    drawn = draw_pairs(tables.store, part.thresholds, pairs.filter, pairs.image, positions, progress)
    scored = {r["filter"]: r for r in read_rows(part.panel / FILTER_SCORES_FILE)}
    roles = _read_roles(part)
    causes = part.analyses.get(ablation.STAGE.name)
    ablated = {r["filter"]: r for r in read_rows(causes / ablation.FILTERS_FILE)} if causes else {}
    uses = _read_uses(part)
    differences = _read_differences(part)
    histograms = _read_histograms(part)
    similar = find_similar_filters(tables.store)
    limits = read_limits(part.explained)
    entries, rest = [], []
    for unit, row in enumerate(tables.filters):
        words = tables.words_of.get(unit, [])
        pictures = [
            [book.add(TARGET, tables.store.keys[pairs.image[p]]), shorten(pairs.peak[p], 3), drawn[int(p)].outline]
            for p in tables.shown[unit]
        ]
        found = scored.get(unit, {})
        entries.append(
            {
                "l": number,
                "f": row["filter"],
                "t": shorten(row["threshold"]),
                "c": shorten(row["confidence"], 2),
                "a": shorten(row["auroc"], 3),
                "n": row["num_images"],
                "r": row["reason"],
                "w": [
                    [w["word"], shorten(w["share"], 3), shorten(w["confidence"], 3), int(w["novel"]),
                     int(w["significant"])]
                    for w in words
                ],
                "m": len(row["meanings"]),
                "g": row["guess"],
                "p": shorten(row["guess_confidence"], 3),
                "s": int(row["saturated"]),
                "j": shorten(found.get("recall"), 3),
                "d": shorten(found.get("f1"), 3),
                "i": pictures[:LARGE_PER_FILTER],
            }
        )  # fmt: skip
        cells = [drawn[int(p)] for p in tables.shown[unit]]
        peak = float(row["peak"])
        rest.append(
            _describe_rest(tables, unit, words, pictures[LARGE_PER_FILTER:], cells, limits)
            | {
                "y": describe_why(row, len(cells), lambda key: book.find(TARGET, key)),
                "g": spread_histogram(histograms[unit], peak) if histograms is not None else None,
                "c": roles.get(unit, []),
                "a": _describe_ablation(ablated.get(unit)),
                "u": uses.get(unit, []),
                "b": differences.get(unit, []),
                "near": [list(own) for own in similar[unit]],
                "j": [shorten(found[k], 3) for k in ("num_pairs", "recall", "f1")] if found else None,
            }
        )
    return DescribedFilters(entries, rest)


def _describe_rest(
    tables: LayerTables,
    unit: int,
    words: Sequence[Mapping[str, Any]],
    pictures: Sequence[Any],
    drawn: Sequence[DrawnPair],
    limits: Mapping[str, float],
) -> dict[str, Any]:
    """w words [votes, share low, share high, background, p, q, AUROC, low, high, kind, what it lacks]; m meanings
    [share, words, places of its pictures]; i the other pictures; h maps (base64), z [rows, columns, low, high] of the
    maps.

    Joined by: y pictures for and against the word (see `describe_why`); g histogram [low, high, counts]; c classes
    [name, contribution, low, high, rank, number]; a ablation [changed,
    own logit, [[class, change]]], of a multi-label classifier also the share of answers kept; u its words' ablation
    [word, used]; b differences [group, other, share, share, difference, low, high, q, verdict]; near the filters of the
    layer that answer the same pictures [filter, correlation]; j [pairs, recall, F1].
    """
    keys = {key: place for place, key in enumerate(tables.keys_of(unit))}
    maps = np.stack([d.cells for d in drawn]) if drawn else np.zeros((0, 1, 1), np.float32)
    levels, low, high = quantise_maps(maps)
    row = tables.filters[unit]
    return {
        "w": [
            [w["votes"], *(shorten(w[k], 3) for k in _WORD_FIGURES), w["kind"], describe_lack(w, row["reason"], limits)]
            for w in words
        ],
        "m": [
            [shorten(m["share"], 3), m["words"][:_MEANING_WORDS], [keys[k] for k in m["top_images"] if k in keys]]
            for m in row["meanings"]
        ],
        "i": pictures,
        "h": levels,
        "z": [*maps.shape[1:], shorten(low), shorten(high)],
    }


# ---------------------------------------------------------------- histogram


def spread_histogram(counts_B: IntArray, peak: float, num_bins: int = _HISTOGRAM_BINS) -> list[Any] | None:
    """Counts by the upper byte (see tasks.activations.thresholds) as equal bins of [low, high]; None for a constant
    filter.

    A bin of a float16's upper byte is an eighth to a quarter of its value wide at the top; its activations count as
    spread evenly over it. The last bin ends at the filter's peak.

    Args:
        counts_B: int64 [256].
        peak: the filter's highest activation.

    Returns:
        [low, high, counts], whole numbers that add up to all activations but for rounding.
    """
    filled = np.flatnonzero(counts_B)
    if not len(filled):
        return None
    edges = bin_edges().astype(np.float64)
    # Negative bins run from their edge down in size: the next bin's edge is where they end, as for the others.
    starts = edges[filled]
    ends = np.where(filled < 255, edges[np.minimum(filled + 1, 255)], edges[filled])
    ends[-1] = peak if starts[-1] <= peak <= ends[-1] else ends[-1]
    low, high = float(starts[0]), float(ends[-1])
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return None
    # Zeros, most of the bin that starts at 0, stay at 0.
    ends = np.where((starts == 0) & (len(filled) > 1), starts, ends)
    inner = np.linspace(low, high, num_bins + 1)
    widths = np.maximum(ends - starts, 1e-12 * (high - low))
    below = np.clip((inner[None, :] - starts[:, None]) / widths[:, None], 0, 1)
    below[:, 0], below[:, -1] = 0, 1
    spread = (np.diff(below, axis=1) * counts_B[filled][:, None]).sum(axis=0)
    return [shorten(low), shorten(high), [int(n) for n in np.rint(spread)]]


def _read_histograms(part: LayerPart) -> IntArray | None:
    if part.histogram is None or not (part.histogram / file_names.HISTOGRAM).is_file():
        return None
    counts: IntArray = np.load(part.histogram / file_names.HISTOGRAM, allow_pickle=False)
    return counts


# ---------------------------------------------------------------- classes, causes, bias of a filter


def _read_roles(part: LayerPart) -> dict[int, list[list[Any]]]:
    """By filter: the classes that it contributes most to, [name, contribution, low, high, rank in the class,
    number of the class]."""
    folder = part.analyses.get(attribution.STAGE.name)
    if folder is None:
        return {}
    known = {(r["class"], r["filter"]): r for r in read_rows(folder / attribution.TABLE_FILE)}
    facts = json.loads((folder / attribution.SUMMARY_FILE).read_text("utf-8"))
    names = {c["class"]: c["name"] for c in facts["classes"]}
    roles: dict[int, list[list[Any]]] = {}
    with np.load(folder / attribution.ARRAYS_FILE, allow_pickle=False) as arrays:
        classes, contribution = arrays["class"], arrays["contribution"].astype(np.float64)
    if not contribution.size:
        return {}
    order = np.argsort(-contribution, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(1, order.shape[1] + 1)[None, :], axis=1)
    for unit in range(contribution.shape[1]):
        for row in np.argsort(-contribution[:, unit], kind="stable")[:_CLASSES_OF_FILTER]:
            value = float(contribution[row, unit])
            if not value > 0:
                break
            number = int(classes[row])
            listed = known.get((number, unit), {})
            low, high = listed.get("low"), listed.get("high")
            entry = [names.get(number, str(number)), shorten(value, 3), shorten(low, 3), shorten(high, 3)]
            roles.setdefault(unit, []).append([*entry, int(rank[row, unit]), number])
    return roles


def read_changes(text: str | None) -> list[list[Any]]:
    """Classes of causes.parquet and causes_filters.parquet: [name, change, ...], at most five."""
    return [[str(name), *(shorten(c, 3) for c in changes)] for name, *changes in json.loads(text or "[]")][
        :_ABLATED_CLASSES
    ]


def _describe_ablation(row: Mapping[str, Any] | None) -> list[Any] | None:
    if row is None:
        return None
    found = [shorten(row["changed"], 3), shorten(row["own_logit"], 3), read_changes(row["classes"])]
    return [*found, shorten(row["kept"], 3)] if "kept" in row else found


def _read_uses(part: LayerPart) -> dict[int, list[list[Any]]]:
    """By filter: words that were ablated with it in their set, and whether they are used."""
    uses: dict[int, list[list[Any]]] = {}
    folder = part.analyses.get(ablation.STAGE.name)
    for row in read_rows(folder / ablation.WORDS_FILE) if folder else []:
        for unit in row["filters"]:
            uses.setdefault(unit, []).append([row["word"], int(row["used"])])
    return uses


def _read_differences(part: LayerPart) -> dict[int, list[list[Any]]]:
    """By filter: the contrasts of groups in which it differs."""
    found: dict[int, list[list[Any]]] = {}
    folder = part.analyses.get(analysis.STAGE.name)
    for row in read_rows(folder / analysis.FILTERS_FILE) if folder else []:
        if row["found"]:
            figures = ("share_group", "share_other", "difference", "low", "high", "q_value")
            entry = [row["group"], row["other"], *(shorten(row[k], 3) for k in figures), row["verdict"]]
            found.setdefault(row["filter"], []).append(entry)
    return found
