"""How far the explainer's words can be believed, and the confidence that follows: both judged where there are labels.

The rule that gives the target's filters their words is run on the evaluation part, whose labels say which of them are
right: that is the reliability diagram. Confidence is made there with each word's own concept left out.

Shape legend: N pictures, C filters, W words whose presence is told, T concepts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from lavise.configs.base import Settings
from lavise.configs.registry import ATTENTION
from lavise.storage.activations import ActivationStore
from lavise.storage.array_files import ColumnFile
from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.files import write_json
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.attention import pool_features
from lavise.tasks.activations.layer_maps import LayerMaps, MappedNetwork, open_maps
from lavise.tasks.activations.top_images import select_top_images
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, StageInputs, Stated, Unstated, code_behind
from lavise.tasks.explainer.naming import Namer, load_namer
from lavise.tasks.masks.agreement import group_looked_for
from lavise.tasks.masks.annotated_shards import find_looked_for
from lavise.tasks.masks.detection import MIN_AUROC
from lavise.tasks.numerics.reliability import Reliability, measure_reliability
from lavise.tasks.words.confidence import state_confidence
from lavise.tasks.words.named_images import NamedImages, prefer_words
from lavise.tasks.words.naming_precision import (
    NamingPrecision,
    find_truth,
    measure_precision,
    state_presence,
    trust_words,
)
from lavise.tasks.words.preference import LEAST_IMAGES, Preferences, contrast_turned
from lavise.tasks.words.vote_calibration import deal_folds
from lavise.tasks.words.word_presence import ask_witnesses, keep_frequent, list_words

STAGE = Stage("precision", version=1, uses_device=True, libraries=("scipy", "simplemma"))
PRECISION_FILE = "precision.json"


class NamingRule(Settings):
    """Of `explain`, what decides on the words that a filter is named by here."""

    method: str
    top_images: int
    min_share: float


@dataclass(frozen=True)
class NamingInputs(StageInputs):
    """What the explainer's words are judged by.

    Attributes:
        train, evaluation: activations of both parts of the reference, whose labels are in the data.
        thresholds: of the evaluation part.
    """

    train: Handle
    train_data: Annotated[Given[Dataset], Stated(under="train data")]
    evaluation: Handle
    evaluation_data: Annotated[Given[Dataset], Stated(under="evaluation data")]
    thresholds: Handle
    explainer: Handle
    vocabulary: Given[Vocabulary]
    network: Annotated[MappedNetwork, Unstated("the activations are of it")]
    rule: Annotated[NamingRule, Stated(code=code_behind(method=ATTENTION))]
    computing: Computing


def check_naming(inputs: NamingInputs, folder: Path) -> Info:
    """Write what `measure_naming` writes, and return its facts."""
    computing, data = inputs.computing, inputs.evaluation_data.value
    return measure_naming(
        open_maps(inputs.evaluation, inputs.thresholds, inputs.network, data, computing.device),
        data,
        (ActivationStore(inputs.train.folder), inputs.train_data.value),
        load_namer(inputs.explainer.folder, inputs.vocabulary.value, computing.device),
        inputs.rule,
        folder,
        computing,
    )


def measure_naming(
    maps: LayerMaps,
    labelled: Dataset,
    train: tuple[ActivationStore, Dataset],
    namer: Namer,
    rule: NamingRule,
    folder: Path,
    computing: Computing,
) -> Info:
    """Write folder/precision.json: precision of the explainer's words, and the reliability of the confidence.

    Args:
        maps, labelled: of the evaluation part. The classifier of categories is judged on it alone, the network's own
            classes on both parts.

    Returns:
        facts: num_category_statements, num_class_statements, num_judged, num_right, calibration_error.
    """
    seed, device, store = computing.seed, computing.device, maps.store
    concepts = labelled.concepts
    words = list_words(namer, namer.vocabulary, concepts)
    told, truth = ask_witnesses(store, namer, words, device), find_truth(store, labelled)
    taught = (ask_witnesses(train[0], namer, words, device), find_truth(*train))
    looked_for = find_looked_for(store, labelled), find_looked_for(*train)
    precision = measure_precision(words, (told, truth), taught, concepts, looked_for=looked_for)

    witnesses, frequent = keep_frequent(told, words, LEAST_IMAGES)
    named = NamedImages(frequent, witnesses, state_presence(witnesses, frequent, precision))
    chosen = np.flatnonzero(frequent.truth >= 0)
    pairs = select_top_images(store, maps.thresholds_C, rule.top_images)
    features = pool_features(maps, pairs, rule.method, namer.facts.channels, computing)
    found = prefer_words(store, named.take(chosen), pairs, features, namer, rule.min_share, seed, device)
    trust = np.zeros(len(chosen))
    folds = deal_folds(frequent.truth[chosen], seed)
    for fold in np.unique(folds):
        left_out = frozenset(frequent.truth[chosen[folds == fold]].tolist())
        others = measure_precision(words, (told, truth), taught, concepts, left_out, looked_for)
        stated = state_presence(witnesses, frequent, others)
        trust[folds == fold] = trust_words(stated, frequent, others, namer.vocabulary.words, counts=False)[1][
            chosen[folds == fold]
        ]
    reliability = _check_statements(store, found, trust, truth, frequent.truth[chosen], looked_for[0])
    num_right = round(reliability.base_rate * reliability.count)
    statements = {"num_judged": reliability.count, "num_right": num_right}
    write_json(
        folder / PRECISION_FILE,
        {
            "precision": precision.to_json(),
            "reliability": reliability.to_json(),
            "statements": statements,
            "certainty": told.certainty,
        },
    )
    return {
        "num_category_statements": precision.category.num_statements,
        "num_class_statements": precision.class_name.num_statements,
        **statements,
        "calibration_error": reliability.expected_calibration_error,
    }


def _check_statements(
    store: ActivationStore,
    found: Preferences,
    trust_W: DoubleArray,
    truth_NT: BoolArray,
    concept_W: IntArray,
    looked_for_NT: BoolArray | None = None,
) -> Reliability:
    """Each filter's word on labelled pictures: right if the filter detects it there, by the labels of those on which
    it was looked for."""
    rows = np.flatnonzero(found.word >= 0)
    word = found.word[rows]
    confidence = state_confidence(found.auroc[rows], found.error[rows], trust_W[word]) if len(rows) else np.zeros(0)
    with store.turn_peaks() as peaks:
        true = _measure_auroc(peaks, truth_NT, looked_for_NT)
    right = true[rows, concept_W[word]] >= MIN_AUROC if len(rows) else np.zeros(0, bool)
    return measure_reliability(confidence, right, None, concept_W[word] if len(rows) else np.zeros(0, np.int64))


def _measure_auroc(peaks: ColumnFile, truth_NT: BoolArray, looked_for_NT: BoolArray | None) -> DoubleArray:
    """How well each filter tells the pictures of each concept from those on which it was looked for in vain: [C, T]."""
    auroc = np.full((peaks.shape[0], truth_NT.shape[1]), 0.5)
    for images, concepts in group_looked_for(looked_for_NT, truth_NT.shape[1]):
        own = truth_NT[:, concepts] if images is None else truth_NT[images][:, concepts]
        if len(own):
            auroc[:, concepts] = contrast_turned(peaks, own.astype(np.float64), images).auroc
    return auroc


@dataclass(frozen=True)
class MeasuredNaming:
    """What `measure_naming` wrote."""

    precision: NamingPrecision
    reliability: Mapping[str, Any]
    statements: Mapping[str, int]
    certainty: float | None


def load_naming(folder: Path) -> MeasuredNaming:
    """Read folder/precision.json."""
    content = json.loads((folder / PRECISION_FILE).read_text("utf-8"))
    precision = NamingPrecision.from_json(content["precision"])
    return MeasuredNaming(precision, content["reliability"], content["statements"], content["certainty"])
