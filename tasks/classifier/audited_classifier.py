"""The network as a classifier that one of its layers feeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import SOFTMAX, AnswerRule, LinearHead
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.digest import digest_of


@dataclass(frozen=True)
class AuditedClassifier:
    """A network and a layer.

    Attributes:
        head: where the layer feeds the classifier directly; else `no_head` says why not.
        class_names: None where nobody knows them.
        batch_size: pictures in a forward pass.
        rule: which classes are its answers.
    """

    model: TargetModel
    layer: str
    head: LinearHead | None
    no_head: str
    class_names: ClassNames | None
    batch_size: int
    rule: AnswerRule = SOFTMAX

    def describe(self) -> dict[str, Any]:
        """What its answers depend on, besides the pictures and how they are computed; the head follows from it."""
        return {
            "arch": self.model.arch,
            "code": self.model.code,
            "checkpoint": self.model.digest,
            "layer": self.layer,
            "preprocessing": self.model.describe_preprocessing(),
            "classes": digest_of(self.class_names.names) if self.class_names else None,
            "batch_size": self.batch_size,
            **self.rule.describe(),
        }
