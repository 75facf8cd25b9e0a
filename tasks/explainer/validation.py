"""Whether an explainer can be believed at all: its words for the evaluation part's regions, against their categories.

These regions were not trained on. An explainer whose words fit the labels of their own pictures no better than those of
other pictures has nothing to say about filters either.

Shape legend: R regions, S categories, s words per region.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from scipy.stats import wilcoxon

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, IntArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.files import write_json
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, StageInputs, Unstated
from lavise.tasks.explainer.naming import load_namer
from lavise.tasks.explainer.permutation_test import compare_with_chance
from lavise.tasks.masks.annotated_shards import find_looked_for
from lavise.tasks.numerics.bootstrap import ImageBootstrap

STAGE = Stage("validate", version=3, uses_device=True, libraries=("scipy",))
VALIDATION_FILE = "validation.json"
MAX_P_VALUE = 0.01
MIN_CATEGORIES = 8
_TEST_AT = 5
_ROWS = 2048


@dataclass(frozen=True)
class ValidationInputs(StageInputs):
    """What an explainer is judged by.

    Attributes:
        regions: artefact of the evaluation part's pooled region features.
        concepts: that the regions refer to.
        recall_at: s of recall@s.
        bootstrap_samples: resamplings of the pictures.
        activations, pictures: that the regions are of, for what was looked for on them; None: all categories.
    """

    regions: Handle
    concepts: Annotated[tuple[str, ...], Unstated("the regions are of them")]
    explainer: Handle
    vocabulary: Given[Vocabulary]
    recall_at: tuple[int, ...]
    bootstrap_samples: int
    computing: Computing
    activations: Annotated[Handle | None, Unstated("the regions are of them")] = None
    pictures: Annotated[Dataset | None, Unstated("the regions are of them")] = None


def validate_explainer(inputs: ValidationInputs, folder: Path) -> Info:
    """Write folder/validation.json.

    Returns:
        facts: num_regions, p_value, p_value_categories, is_valid; and in the file, for `all`, `supervised` and
        `held_out` categories, the recall@s with its interval (bootstrap over pictures), open vocabulary.
    """
    regions, concepts, vocabulary = inputs.regions, inputs.concepts, inputs.vocabulary.value
    seed, device = inputs.computing.seed, inputs.computing.device
    namer = load_namer(inputs.explainer.folder, vocabulary, device)
    known = {m.name for m in vocabulary.matches if m.how != "missing"}
    row_of = np.full(len(concepts), -1, dtype=np.int64)
    usable = [i for i, c in enumerate(concepts) if c in known]
    row_of[usable] = vocabulary.positions_of(concepts[i] for i in usable)
    concept = np.load(regions.path(file_names.REGION_CONCEPTS), allow_pickle=False)
    image = np.load(regions.path(file_names.REGION_IMAGES), allow_pickle=False)
    chosen = np.flatnonzero(row_of[concept] >= 0)
    if not len(chosen):
        nothing: Info = {"num_regions": 0, "p_value": 1.0, "is_valid": False, "recall": {}}
        write_json(folder / VALIDATION_FILE, nothing)
        return {k: v for k, v in nothing.items() if k != "recall"}
    features = np.load(regions.path(file_names.REGION_FEATURES), mmap_mode="r", allow_pickle=False)
    num = max(*inputs.recall_at, _TEST_AT)
    words = np.concatenate(
        [
            namer.name(torch.from_numpy(features[part]).to(device), num).words.cpu().numpy()
            for part in np.array_split(chosen, -(-len(chosen) // _ROWS))
        ]
    )
    true = row_of[concept[chosen]]
    kind_R, known_RK = None, None
    if inputs.activations is not None and inputs.pictures is not None:
        known_NK = find_looked_for(ActivationStore(inputs.activations.folder), inputs.pictures)
        if known_NK is not None:
            kind_N = np.unique(known_NK, axis=0, return_inverse=True)[1].reshape(-1)
            kind_R, known_RK = kind_N[image[chosen]], known_NK[image[chosen]]
    test = compare_with_chance(words[:, :_TEST_AT], true, image[chosen], seed=seed, kind_R=kind_R)
    by_category = compare_categories(words[:, :_TEST_AT], true, image[chosen], concept[chosen], known_RK)
    supervised = np.isin(concept[chosen], [i for i, c in enumerate(concepts) if c in set(namer.facts.supervised)])
    groups = {"all": np.ones(len(chosen), bool), "supervised": supervised, "held_out": ~supervised}
    found = {
        "num_regions": len(chosen),
        "hit_rate": test.hit_rate,
        "chance_rate": test.chance_rate,
        "p_value": test.p_value,
        "p_value_categories": by_category,
        "is_valid": max(test.p_value, 0.0 if by_category is None else by_category) <= MAX_P_VALUE,
        "recall": {
            name: _summarise(words[own], true[own], image[chosen][own], inputs)
            for name, own in groups.items()
            if own.any()
        },
    }
    write_json(folder / VALIDATION_FILE, found)
    return {k: v for k, v in found.items() if k != "recall"}


def compare_categories(
    words_Rs: IntArray,
    true_R: IntArray,
    image_R: IntArray,
    concept_R: IntArray | None = None,
    known_RK: BoolArray | None = None,
) -> float | None:
    """One-sided p value of Wilcoxon's signed-rank test over categories; None with fewer than MIN_CATEGORIES.

    Of each category: the share of its regions that are named by it, less the share of the regions of pictures without
    it that are. An explainer that was taught wrong labels also names categories more often in some pictures than in
    others, whatever they show; which ones is luck, so that the categories, not the pictures, have to agree.

    Args:
        concept_R, known_RK: of each region, its category's column, and of which categories it is known whether its
            picture has them; pictures of which it is not are not without it. None: of all.
    """
    differences = []
    for word in np.unique(true_R):
        named = (words_Rs == word).any(axis=1)
        own = true_R == word
        without = ~np.isin(image_R, image_R[own])
        if concept_R is not None and known_RK is not None:
            without &= known_RK[:, concept_R[own][0]]
        if without.any():
            differences.append(named[own].mean() - named[without].mean())
    if len(differences) < MIN_CATEGORIES:
        return None
    if not np.any(differences):
        return 1.0
    return float(wilcoxon(differences, alternative="greater").pvalue)


def _summarise(words_Rs: IntArray, true_R: IntArray, image_R: IntArray, inputs: ValidationInputs) -> Info:
    bootstrap = ImageBootstrap(image_R, inputs.bootstrap_samples, inputs.computing.seed)
    hit = words_Rs == true_R[:, None]
    by_s = {str(s): bootstrap.summarise(hit[:, :s].any(axis=1).astype(np.float64)) for s in inputs.recall_at}
    return {"num_regions": len(true_R), **by_s}


def load_validation(folder: Path) -> Info:
    """Read folder/validation.json."""
    content: Info = json.loads((folder / VALIDATION_FILE).read_text("utf-8"))
    return content
