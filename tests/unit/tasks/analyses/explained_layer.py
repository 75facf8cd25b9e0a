"""A layer as analyses see it: of a small real classifier, on pictures in two folders, its filters with words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import Handle
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import Given
from tests.unit.tasks.classifiers import NUM_FILTERS, make_classifier, names
from tests.unit.tasks.helpers import extract_maps, publish, publish_thresholds, write_image

BIAS = {"groups": "folder", "min_images": 2, "permutations": 1000}
CAUSES = {"random_sets": 19, "max_words": 5}


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


def make_config(**sections: Any) -> Config:
    """With every analysis that there is, unless a section says otherwise."""
    data: dict[str, Any] = {
        "name": "small",
        "model": {"arch": "small"},
        "reference": {"kind": "image_folder", "root": "/nowhere"},
        "target": {"kind": "image_folder", "root": "/nowhere"},
        "bias": BIAS,
        "causes": CAUSES,
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

    def extract(folder: Path) -> None:
        extract_maps(model, pictures, {"act": folder}, config.extract)

    activations = publish(root, "extract", extract)
    peaks = ActivationStore(activations.folder).read_peaks().astype(np.float32)
    thresholds = publish_thresholds(root, np.median(peaks, axis=0))
    words = [["cat"], ["dog", "puppy"], ["cat"], ["sky"]] + [[]] * (NUM_FILTERS - 4)
    found = {"extract": activations, "thresholds": thresholds}
    classes = names("tench", "cat, kitten", "dog", "ray", "cock")
    return SmallLayer(config, model, (head, ""), found, pictures, words, class_names=classes)
