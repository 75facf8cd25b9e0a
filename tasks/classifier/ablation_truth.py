"""What is annotated in the pictures of an ablation, which classes are right there, and which pictures have a word's
concept.

Shape legend: N pictures, K classes, T categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavise.storage.array_types import BoolArray, IntArray
from lavise.storage.datasets.base import ImageRecord, mark_looked_for
from lavise.storage.models.class_names import ClassNames
from lavise.storage.words.lemmas import find_category, index_categories
from lavise.tasks.classifier.class_words import match_categories

WITH, WITHOUT = SIDES = 0, 1


@dataclass(frozen=True)
class Truth:
    """What is annotated, and which classes are right there.

    Attributes:
        concepts: names of the T categories.
        annotated: bool [N, T].
        names: bool [K, T], categories that each class names (`tasks.classifier.class_words.match_categories`).
        language: of the words.
        looked_for: bool [N, T], of which categories it is known whether a picture has them; None: of all.
    """

    concepts: tuple[str, ...]
    annotated: BoolArray
    names: BoolArray
    language: str = "en"
    looked_for: BoolArray | None = None

    @property
    def answerable(self) -> BoolArray:
        """bool [N]: some annotated category of the picture is named by some class."""
        return np.asarray((self.annotated & self.names.any(axis=0)).any(axis=1))

    def is_right(self, rows: slice, predicted: IntArray) -> BoolArray:
        """Whether a predicted class names a category that is annotated in the picture."""
        return np.asarray((self.annotated[rows] & self.names[predicted]).any(axis=1))


@dataclass(frozen=True)
class WordGroups:
    """Pictures with and without a word's concept.

    Attributes:
        category: position of the word's category; None where it is none.
        groups: bool [2, N], with and without; all pictures are without where the word is no category. A third row are
            pictures on which the category was not looked for, where there may be such.
        tested: bool [N], on which the word is held against random sets: those with the concept; all where there is
            none.
    """

    category: int | None
    groups: BoolArray
    tested: BoolArray

    @property
    def has_concept(self) -> bool:
        """Whether any picture has the concept."""
        return bool(self.groups[WITH].any())


def find_truth(
    records: Sequence[ImageRecord],
    concepts: Sequence[str],
    class_names: ClassNames | None,
    num_classes: int,
    language: str = "en",
) -> Truth:
    """From the pictures' annotations and the names of the classes."""
    column = {name: t for t, name in enumerate(concepts)}
    annotated = np.zeros((len(records), len(concepts)), dtype=bool)
    for row, record in enumerate(records):
        for annotation in record.annotations:
            if annotation.concept in column:
                annotated[row, column[annotation.concept]] = True
    names = match_categories(class_names, num_classes, concepts, language)
    return Truth(tuple(concepts), annotated, names, language, mark_looked_for(records, concepts))


def group_images(word: str, truth: Truth) -> WordGroups:
    """Pictures that have the category which the word is a form of, and those that do not."""
    category = find_category(word, index_categories(truth.concepts, truth.language), truth.language)
    num = len(truth.annotated)
    has = truth.annotated[:, category] if category is not None else np.zeros(num, dtype=bool)
    groups = [has, ~has]
    if truth.looked_for is not None and category is not None:
        known = truth.looked_for[:, category]
        groups = [has, ~has & known, ~known]
    return WordGroups(category, np.stack(groups), has if has.any() else np.ones(num, dtype=bool))
