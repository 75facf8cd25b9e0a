"""A layer as analyses see it: of a small real classifier, on pictures in two folders, its filters with words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Stage
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.masks.detection import Detection, save_detection
from lavise.tasks.words.tables import EXPLANATIONS_SCHEMA, FILTERS_SCHEMA
from tests.unit.flows.helpers import make_filters
from tests.unit.tasks.classifiers import NUM_FILTERS, make_classifier, names
from tests.unit.tasks.helpers import extract_maps, make_vocabulary, publish, publish_thresholds, write_image

BIAS = {"groups": "folder", "min_images": 2, "permutations": 1000}
CAUSES = {"random_sets": 19, "max_words": 5}
EXPECT = {"must": ["cat", "bird"], "must_not": ["sky"], "min_images": 2}


@dataclass(frozen=True)
class SmallLayer:
    """The activation of the classifier's second convolution, which feeds its head through mean pooling."""

    config: Config
    model: TargetModel
    head: tuple[LinearHead | None, str]
    handles: dict[str, Handle]
    labelled: Dataset
    words: list[list[str]]
    layer: str = "act"
    computing: Computing = field(default_factory=Computing)
    class_names: ClassNames | None = None

    def find(self, role: Role) -> Dataset:
        return self.labelled if role is not Role.TARGET else self.labelled.without_labels()

    def data(self, role: Role) -> Given[Dataset]:
        return Given(self.find(role), f"data of {role}")

    def pictures(self, role: Role) -> Given[Dataset]:
        return Given(self.find(role), f"pictures of {role}")

    def activations(self, role: Role) -> Handle:
        return self.handles["extract"]

    def thresholds(self, role: Role) -> Handle:
        return self.handles["thresholds"]

    @property
    def vocabulary(self) -> Given[Vocabulary]:
        return Given(make_vocabulary(3, self.labelled.concepts), "words")

    def made(self, stage: Stage) -> Handle | None:
        return self.handles.get(stage.name)


def make_config(**sections: Any) -> Config:
    """With every analysis that there is, unless a section says otherwise."""
    data: dict[str, Any] = {
        "name": "small",
        "model": {"arch": "small"},
        "reference": {"kind": "image_folder", "root": "/nowhere"},
        "target": {"kind": "image_folder", "root": "/nowhere"},
        "bias": BIAS,
        "causes": CAUSES,
        "expect": EXPECT,
    }
    for section, value in sections.items():
        data[section] = {**data.get(section, {}), **value} if isinstance(value, dict) else value
    return Config.model_validate(data)


def make_layer(root: Path, **sections: Any) -> SmallLayer:
    """Twelve pictures in each folder; every third has a cat. Four of the eight filters have a word."""
    model, _, head = make_classifier()
    keys = [f"{folder}/{number:02d}.png" for folder in ("day", "night") for number in range(12)]
    records = [
        ImageRecord(key, write_image(root / "pictures" / key, 20, 24, i), (Annotation("cat" if i % 3 == 0 else "dog"),))
        for i, key in enumerate(keys)
    ]
    pictures = Dataset("pictures", tuple(records), ("cat", "dog"))
    config = make_config(**sections)

    def extract(folder: Path) -> dict[str, int]:
        extract_maps(model, pictures, {"act": folder}, config.extract)
        return {"num_images": len(records)}

    activations = publish(root, "extract", extract)
    peaks = ActivationStore(activations.folder).read_peaks().astype(np.float32)
    thresholds = publish_thresholds(root, np.median(peaks, axis=0))
    words = [["cat"], ["dog", "puppy"], ["cat"], ["sky"]] + [[]] * (NUM_FILTERS - 4)
    found = {
        "extract": activations,
        "thresholds": thresholds,
        "explain": publish(root, "explain", lambda folder: write_words(folder, words)),
        "validate": publish(root, "validate", lambda _: {"is_valid": True}),
        "detect": publish(root, "detect", lambda folder: save_detection(_detect_nothing(), folder)),
    }
    classes = names("tench", "cat, kitten", "dog", "ray", "cock")
    return SmallLayer(config, model, (head, ""), found, pictures, words, class_names=classes)


def write_words(folder: Path, words: Sequence[Sequence[str]]) -> None:
    """filters.parquet and explanations.parquet; each word's confidence is 0.9, 0.8, ... by its rank."""
    filters = [
        row | {"words": list(own), "confidence": 0.9 if own else 0.0, "guess": "", "guess_confidence": 0.0}
        for row, own in zip(make_filters("act", [own[0] if own else None for own in words]), words, strict=True)
    ]
    rows = [
        {"layer": "act", "filter": u, "rank": rank, "word": word, "confidence": 1 - rank / 10, "background": 0.5}
        for u, own in enumerate(words)
        for rank, word in enumerate(own, start=1)
    ]
    parquet.write_table(pa.Table.from_pylist(filters, FILTERS_SCHEMA), folder / "filters.parquet")
    parquet.write_table(pa.Table.from_pylist(rows, EXPLANATIONS_SCHEMA), folder / "explanations.parquet")


def _detect_nothing() -> Detection:
    """Of cats and dogs."""
    shape = (NUM_FILTERS, 2)
    half = np.full(shape, 0.5, np.float32)
    return Detection(half, half, np.zeros(shape, bool), np.array([8, 16]))
