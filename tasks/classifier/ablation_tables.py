"""Rows of the tables that ablations write, and what is said of all of them.

Shape legend: R random sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from lavise.storage.array_types import DoubleArray
from lavise.tasks.classifier.ablation_plan import MAX_Q_VALUE
from lavise.tasks.engine.stage import Info
from lavise.tasks.numerics.false_discovery import adjust_false_discovery

NUM_CLASSES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class AblatedWord:
    """A word whose filters were taken away (causes.parquet); figures are None where there were no such pictures."""

    layer: str
    word: str
    category: str | None
    filters: Sequence[int]
    num_filters: int
    num_with: int | None = None
    num_without: int | None = None
    changed_with: float | None = None
    changed_without: float | None = None
    changed: float | None
    own_logit_with: float | None = None
    own_logit_without: float | None = None
    own_logit: float | None
    accuracy_before_with: float | None = None
    accuracy_after_with: float | None = None
    accuracy_before_without: float | None = None
    accuracy_after_without: float | None = None
    random_own_logit: float | None
    random_changed: float | None
    p_value: float | None
    q_value: float | None = None
    used: bool = False
    classes: str | None


@dataclass(frozen=True)
class AblatedFilter:
    """A filter that was taken away alone (causes_filters.parquet)."""

    layer: str
    filter: int
    words: Sequence[str]
    changed: float
    own_logit: float | None
    classes: str | None


@dataclass(frozen=True, kw_only=True)
class WordAnswers(AblatedWord):
    """The same of a multi-label classifier, whose pictures have several answers or none.

    Attributes:
        changed: share of pictures whose answers are not the same.
        num_answers: of all pictures, before; num_lost, num_gained: those that are none any more, and new ones.
        kept: share of the answers before that still are, also on pictures with and without the concept.
        own_probability: mean change over the answers before.
        precision, recall: afterwards, over all pictures and classes that can be judged.
        answers: JSON, [class, lost, gained, before] of the classes whose answers change most.
    """

    num_answers: int
    num_lost: int
    num_gained: int
    kept: float
    kept_with: float | None
    kept_without: float | None
    random_kept: float | None
    own_probability: float
    precision: float | None
    recall: float | None
    answers: str


@dataclass(frozen=True)
class FilterAnswers(AblatedFilter):
    """The same of a multi-label classifier."""

    num_lost: int
    num_gained: int
    kept: float
    own_probability: float


@dataclass(frozen=True, kw_only=True)
class AnswersOfClass:
    """A class without the filters of a word (causes_classes.parquet, of a multi-label classifier).

    Attributes:
        num_answers: pictures that it was an answer to; of these are kept, own_logit and own_probability (mean changes).
        logit: mean change on all pictures.
        precision_before, recall_before: None where it names no category that is annotated, or nothing can be divided.
    """

    layer: str
    word: str
    class_: int
    class_name: str
    num_answers: int
    num_lost: int
    num_gained: int
    kept: float | None
    own_logit: float | None
    own_probability: float | None
    logit: float
    precision_before: float | None
    precision_after: float | None
    recall_before: float | None
    recall_after: float | None


@dataclass(frozen=True, kw_only=True)
class AnswersOfImage:
    """A picture whose answers are not the same without the filters of a word (causes_pictures.parquet, of a multi-label
    classifier); of lost and gained classes the first twenty."""

    layer: str
    word: str
    picture: str
    num_answers: int
    num_lost: int
    num_gained: int
    lost: Sequence[str]
    gained: Sequence[str]


@dataclass(frozen=True)
class Accuracy:
    """Share of predictions that are right, of the pictures where that can be told."""

    num_judged: int
    before: float


@dataclass(frozen=True)
class AblationSummary:
    """causes.json.

    Attributes:
        fill: what the filters were replaced with.
        direct: computed from the classifier's weights, without further forward passes.
        accuracy: None where no class names a category that is annotated.
        notes: what went otherwise than the settings say, in words.
    """

    fill: str
    direct: bool
    num_images: int = 0
    num_random_sets: int = 0
    num_words: int = 0
    num_filters: int = 0
    accuracy: Accuracy | None = None
    notes: Sequence[str] = ()

    def list_facts(self) -> Info:
        """Without what is long."""
        return {name: value for name, value in vars(self).items() if name not in ("accuracy", "notes")}


@dataclass(frozen=True)
class AnswerSummary(AblationSummary):
    """causes.json of a multi-label classifier.

    Attributes:
        head_threshold: probability above which a class is an answer.
        num_answers: of all pictures; num_without_answer: pictures that have none.
        num_classes: those that name a category of the data set; precision and recall are over these.
    """

    head: str = "sigmoid"
    head_threshold: float = 0.5
    num_answers: int = 0
    num_without_answer: int = 0
    num_classes: int = 0
    precision: float | None = None
    recall: float | None = None


Row = TypeVar("Row", bound=AblatedWord)


def find_used(rows: Sequence[Row]) -> list[Row]:
    """With q values over all words, and whether each is used."""
    q_values = adjust_false_discovery(np.array([r.p_value for r in rows]), len(rows))
    return [replace(row, q_value=float(q), used=bool(q <= MAX_Q_VALUE)) for row, q in zip(rows, q_values, strict=True)]


def list_lowest(changes_K: DoubleArray) -> list[int]:
    """The few classes that are lowered most, the lowest first."""
    order = np.argsort(changes_K, kind="stable")[:NUM_CLASSES_SHOWN]
    return [int(k) for k in order if changes_K[k] < 0]


def divide(total: float, num: int) -> float | None:
    """None by zero."""
    return total / num if num else None


def compute_p_value(own: float, random_own_R: DoubleArray) -> float:
    """(1 + random sets with at least as large an effect) / (1 + R); the effect is how far the own logit is lowered.

    An ablation that does not lower it has the effect 0, as has a random set that does not, so that a set which changes
    nothing has p = 1 even where random sets raise the logit.
    """
    effect, others = max(-own, 0.0), np.maximum(-random_own_R, 0.0)
    return float(1 + (others >= effect).sum()) / (1 + len(others))
