"""Recall of the words against the reference's masks (METHOD, ground truth and recall), with baselines and intervals.

All filters are evaluated. The evaluation pictures play the target domain: their labels are used for judging only.
Shape legend: P pairs (filter, picture) with ground truth, K concepts, I pictures, B bootstrap samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import numpy as np
import torch

from lavise.configs.base import Settings
from lavise.configs.errors import UserError
from lavise.configs.registry import ATTENTION
from lavise.storage.array_types import BoolArray, FloatArray, IntArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.storage.state.files import write_json
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.layer_maps import LayerMaps, MappedNetwork, open_maps
from lavise.tasks.activations.top_images import select_top_images
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, StageInputs, Stated, Unstated, code_behind
from lavise.tasks.evaluation.ground_truth import find_ground_truth
from lavise.tasks.explainer.naming import Namer, load_namer
from lavise.tasks.masks.overlaps import Overlaps, load_overlaps
from lavise.tasks.numerics.bootstrap import Estimate, ImageBootstrap
from lavise.tasks.words.explain import name_pairs

STAGE = Stage("evaluate", version=3, uses_device=True)
MOST_FREQUENT = "most_frequent_words"
RANDOM = "random_words"
EVALUATION_FILE = "evaluation.json"


def compute_recall(words_Ps: IntArray, member_PK: BoolArray, at: Sequence[int]) -> FloatArray:
    """|W ∩ G| / |G| of each pair for each s: float64 [P, len(at)].

    Args:
        words_Ps: the best words of each pair as positions of concepts, best first; -1 for a word that is no concept.
    """
    hits = np.take_along_axis(member_PK, np.clip(words_Ps, 0, None), axis=1) & (words_Ps >= 0)
    found = np.cumsum(hits, axis=1)
    last = [min(s, words_Ps.shape[1]) - 1 for s in at]
    recall: FloatArray = found[:, last] / member_PK.sum(axis=1, keepdims=True)
    return recall


class RecallSettings(Settings):
    """Of `evaluate` and `explain`, what recall depends on."""

    methods: tuple[str, ...]
    recall_at: tuple[int, ...]
    min_iou: float
    bootstrap_samples: int
    top_images: int


@dataclass(frozen=True)
class RecallInputs(StageInputs):
    """What recall is measured on: all of the evaluation part.

    Attributes:
        concepts: names that the overlaps refer to.
        concept_counts: training pictures with each concept; for the most-frequent-words baseline.
    """

    activations: Handle
    thresholds: Handle
    overlaps: Handle
    explainer: Handle
    vocabulary: Given[Vocabulary]
    pictures: Annotated[Dataset, Unstated("the activations are of them")]
    network: Annotated[MappedNetwork, Unstated("the activations are of it")]
    concepts: Annotated[tuple[str, ...], Unstated("the overlaps are of them")]
    concept_counts: Annotated[Mapping[str, int], Stated(by=digest_of)]
    settings: Annotated[RecallSettings, Stated(code=code_behind(methods=ATTENTION))]
    computing: Computing


def measure_recall(inputs: RecallInputs, folder: Path) -> Info:
    """Write folder/evaluation.json.

    Returns:
        facts: num_pairs, num_filters, num_images, recall (see `evaluate_words`).
    """
    device = inputs.computing.device
    found = evaluate_words(
        open_maps(inputs.activations, inputs.thresholds, inputs.network, inputs.pictures, device),
        load_overlaps(inputs.overlaps.folder),
        inputs.concepts,
        inputs.concept_counts,
        load_namer(inputs.explainer.folder, inputs.vocabulary.value, device),
        inputs.settings,
        inputs.computing,
    )
    save_evaluation(found, folder)
    return {
        "num_pairs": found["num_pairs"],
        "num_filters": found["num_filters"],
        "num_images": found["num_images"],
        "recall": found["recall"],
    }


class MethodDifference(Estimate):
    """Paired difference of the recall of two methods; supported if its interval leaves out 0."""

    vocabulary: str
    at: int
    first: str
    second: str
    supported: bool


class Evaluation(TypedDict):
    """evaluation.json: recall by vocabulary, method and s, empty where no pair has a ground truth; and how many words
    each vocabulary has, those of the evaluation part's categories (closed) or all (open)."""

    num_pairs: int
    num_filters: int
    num_images: int
    vocabularies: dict[str, int]
    recall: dict[str, dict[str, dict[str, Estimate]]]
    differences: list[MethodDifference]


def evaluate_words(
    maps: LayerMaps,
    overlaps: Overlaps,
    concepts: Sequence[str],
    concept_counts: Mapping[str, int],
    namer: Namer,
    settings: RecallSettings,
    computing: Computing,
) -> Evaluation:
    """Recall@s of every method, closed and open vocabulary, all filters, beside the baselines.

    Args:
        maps: of the evaluation pictures.
        overlaps: of the evaluation pictures' masks and the filters' regions.
        concepts: names that `overlaps` refers to.
        concept_counts: training pictures with each concept; for the most-frequent-words baseline.
    """
    vocabulary = namer.vocabulary
    pairs = select_top_images(maps.store, maps.thresholds_C, settings.top_images)
    truth = find_ground_truth(pairs, overlaps, len(concepts), settings.min_iou)
    found: Evaluation = {
        "num_pairs": len(truth.pairs),
        "num_filters": len(np.unique(truth.pairs.filter)),
        "num_images": len(np.unique(truth.pairs.image)),
        "vocabularies": {"closed": len(concepts), "open": len(vocabulary.words)},
        "recall": {},
        "differences": [],
    }
    known = {m.name for m in vocabulary.matches if m.how != "missing"}
    usable = [i for i, c in enumerate(concepts) if c in known]
    found["vocabularies"]["closed"] = len(usable)
    if not len(truth.pairs):
        return found
    if not usable:
        raise UserError(
            f"reference: none of the evaluation part's categories (first: {concepts[0]!r}) is one of "
            "the training part's; use the same names in both"
        )
    rows = np.array(vocabulary.positions_of(concepts[i] for i in usable), dtype=np.int64)
    concept_of_row = np.full(len(vocabulary.words), -1, dtype=np.int64)
    concept_of_row[rows] = usable
    vocabularies = {"closed": torch.from_numpy(rows).to(computing.device), "open": None}
    most = max(settings.recall_at)
    values: dict[str, dict[str, FloatArray]] = {"closed": {}, "open": {}}
    for method in settings.methods:
        named = name_pairs(maps, truth.pairs, method, namer, most, computing, vocabularies)
        closed, opened = named["closed"].words, named["open"].words
        values["closed"][method] = compute_recall(np.array(usable)[closed], truth.member, settings.recall_at)
        values["open"][method] = compute_recall(concept_of_row[opened], truth.member, settings.recall_at)
    frequent = sorted(range(len(concepts)), key=lambda i: (-concept_counts.get(concepts[i], 0), i))[:most]
    baseline = compute_recall(np.tile(frequent, (len(truth.pairs), 1)), truth.member, settings.recall_at)
    bootstrap = ImageBootstrap(truth.pairs.image, settings.bootstrap_samples, computing.seed)
    for name, by_method in values.items():
        by_method[MOST_FREQUENT] = baseline
        size = found["vocabularies"][name]
        by_method[RANDOM] = np.tile([min(s / size, 1.0) for s in settings.recall_at], (len(truth.pairs), 1))
        found["recall"][name] = {
            method: {str(s): bootstrap.summarise(v[:, n]) for n, s in enumerate(settings.recall_at)}
            for method, v in by_method.items()
        }
        found["differences"] += _compare_methods(name, by_method, settings, bootstrap)
    return found


def _compare_methods(
    vocabulary: str, values: Mapping[str, FloatArray], settings: RecallSettings, bootstrap: ImageBootstrap
) -> list[MethodDifference]:
    """Paired difference of every two methods, and of each with the baseline; `supported` if 0 lies outside."""
    names = [*settings.methods, MOST_FREQUENT]
    rows: list[MethodDifference] = []
    for n, s in enumerate(settings.recall_at):
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                summary = bootstrap.summarise(values[first][:, n] - values[second][:, n])
                supported = summary["low"] > 0 or summary["high"] < 0
                rows.append(
                    {
                        "vocabulary": vocabulary,
                        "at": s,
                        "first": first,
                        "second": second,
                        "supported": supported,
                        **summary,
                    }
                )
    return rows


def save_evaluation(found: Evaluation, folder: Path) -> None:
    """Write folder/evaluation.json."""
    write_json(folder / EVALUATION_FILE, found)


def load_evaluation(folder: Path) -> Evaluation:
    """Read what `save_evaluation` wrote."""
    content: Evaluation = json.loads((folder / EVALUATION_FILE).read_text("utf-8"))
    return content


def state_supported_order(found: Evaluation, methods: Sequence[str]) -> list[str]:
    """Sentences on which method is better, only where the 95 % interval of the paired difference leaves out 0."""
    sentences = []
    for row in found["differences"]:
        if row["supported"] and row["first"] in methods and row["second"] in methods:
            better, worse = (row["first"], row["second"]) if row["value"] > 0 else (row["second"], row["first"])
            low, high = sorted((abs(row["low"]), abs(row["high"])))
            sentences.append(
                f"{row['vocabulary']} vocabulary, recall@{row['at']}: {better.replace('_', ' ')} above "
                f"{worse.replace('_', ' ')} by {abs(row['value']):.3f} [{low:.3f}, {high:.3f}]"
            )
    return sentences
