"""A layer's words as positions of concepts, and what they are judged by, read from what its stages made.

Shape legend: C filters, K concepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as parquet

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.lemmas import find_category, index_categories
from lavise.tasks.activations.thresholds import load_thresholds
from lavise.tasks.activations.top_images import select_top_images
from lavise.tasks.evaluation.ground_truth import GroundTruth, find_ground_truth
from lavise.tasks.evaluation.panel import Statements
from lavise.tasks.masks.agreement import MaskAgreement, load_agreement
from lavise.tasks.masks.detection import load_detection
from lavise.tasks.masks.overlaps import load_overlaps


@dataclass(frozen=True)
class LayerArtefacts:
    """What the stages made of a layer: its words, and all else on the evaluation part."""

    explained: Handle
    activations: Handle
    thresholds: Handle
    agreement: Handle
    overlaps: Handle
    detection: Handle


@dataclass(frozen=True)
class PanelLayer:
    """Words of a layer's filters, and the evaluation pictures that they are judged on.

    Attributes:
        statements: of all C filters, whether they are explained or not.
        explained: bool [C].
        right: bool [C, K], whether a filter detects a concept (tasks.masks.detection).
        present_K: bool [K], concepts that are in some evaluation picture.
    """

    statements: Statements
    explained: BoolArray
    store: ActivationStore
    agreement: MaskAgreement
    truth: GroundTruth
    right: BoolArray
    present_K: BoolArray

    def take(self, chosen_C: BoolArray) -> Statements:
        return Statements(self.statements.filter[chosen_C], self.statements.words[chosen_C])


def load_panel_layer(
    made: LayerArtefacts,
    concepts: tuple[str, ...],
    num_words: int,
    top_images: int,
    min_iou: float,
    language: str = "en",
) -> PanelLayer:
    """Words by lemma, in the filters' order; a word that is no category keeps its place.

    Args:
        concepts: of the evaluation part.
        num_words: that a filter has at most.
        top_images: pictures of a filter that are looked at.
        min_iou: see tasks.evaluation.ground_truth.
        language: of the words.
    """
    filters = parquet.read_table(made.explained.path(file_names.FILTERS), columns=["filter", "explained"]).to_pylist()
    rows = parquet.read_table(made.explained.path(file_names.EXPLANATIONS), columns=["filter", "word"]).to_pylist()
    index = index_categories(concepts, language)
    words = np.full((len(filters), num_words), -1, dtype=np.int64)
    count = np.zeros(len(filters), dtype=np.int64)
    for row in rows:
        found = find_category(row["word"], index, language)
        words[row["filter"], count[row["filter"]]] = -1 if found is None else found
        count[row["filter"]] += 1
    store = ActivationStore(made.activations.folder)
    pairs = select_top_images(store, load_thresholds(made.thresholds), top_images)
    detected = load_detection(made.detection.folder)
    return PanelLayer(
        statements=Statements(np.arange(len(filters)), words),
        explained=np.array([r["explained"] for r in filters], dtype=bool),
        store=store,
        agreement=load_agreement(made.agreement.folder),
        truth=find_ground_truth(pairs, load_overlaps(made.overlaps.folder), len(concepts), min_iou),
        right=detected.right,
        present_K=detected.num_images > 0,
    )
