"""What the words of a layer are judged by, read from what its stages made."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as parquet

from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.audit.layer_context import LayerResult
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.lemmas import find_category, index_categories
from lavise.tasks.activations.thresholds import load_thresholds
from lavise.tasks.activations.top_images import select_top_images
from lavise.tasks.evaluation import layer_panel
from lavise.tasks.evaluation.ground_truth import find_ground_truth
from lavise.tasks.evaluation.panel import Statements
from lavise.tasks.masks import agreement
from lavise.tasks.masks.detection import DETECTION, load_detection
from lavise.tasks.masks.overlaps import OVERLAPS, load_overlaps
from lavise.tasks.words import explain
from lavise.tasks.words.ranking import Judgement


def load_judgement(detection: Handle, validated: Handle, evaluation: Dataset) -> Judgement:
    """What the evaluation part says about words."""
    found = load_detection(detection.folder)
    invalid = ""
    if not validated.info["is_valid"]:
        invalid = (
            f"the explainer names held-out regions no better than chance (p = {find_worst_p_value(validated):.3f})"
        )
    return Judgement(evaluation.concepts, found.right, found.num_images > 0, invalid)


def find_worst_p_value(validated: Handle) -> float:
    """The larger of the two tests' that an explainer has to pass."""
    return float(max(validated.info["p_value"], validated.info.get("p_value_categories") or 0.0))


def load_judged_layer(result: LayerResult, concepts: tuple[str, ...], config: Config) -> layer_panel.JudgedLayer:
    """A layer's words as positions of concepts, and what they are judged by."""
    explained = result.of(explain.STAGE)
    filters = parquet.read_table(explained.path(file_names.FILTERS), columns=["filter", "explained"]).to_pylist()
    rows = parquet.read_table(explained.path(file_names.EXPLANATIONS), columns=["filter", "word"]).to_pylist()
    index = index_categories(concepts)
    words = np.full((len(filters), config.explain.num_words), -1, dtype=np.int64)
    count = np.zeros(len(filters), dtype=np.int64)
    for row in rows:
        found = find_category(row["word"], index)
        words[row["filter"], count[row["filter"]]] = -1 if found is None else found
        count[row["filter"]] += 1
    store = ActivationStore(result.activations[Role.EVALUATION].folder)
    pairs = select_top_images(store, load_thresholds(result.thresholds[Role.EVALUATION]), config.explain.top_images)
    overlaps = load_overlaps(result.of(OVERLAPS).folder)
    detected = load_detection(result.of(DETECTION).folder)
    return layer_panel.JudgedLayer(
        statements=Statements(np.arange(len(filters)), words),
        explained=np.array([r["explained"] for r in filters], dtype=bool),
        store=store,
        agreement=agreement.load_agreement(result.of(agreement.AGREEMENT).folder),
        truth=find_ground_truth(pairs, overlaps, len(concepts), config.evaluate.min_iou),
        right=detected.right,
        judged_K=detected.num_images > 0,
    )
