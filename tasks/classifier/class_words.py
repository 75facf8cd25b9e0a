"""Classes in words: what a class is called, and which categories of a data set its name stands for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lavise.storage.array_types import BoolArray
from lavise.storage.models.class_names import ClassNames
from lavise.storage.words.lemmas import find_category, index_categories

_NO_NAME = frozenset({"", "n/a"})


def name_class(class_names: ClassNames | None, number: int) -> str:
    """The primary name of a class, else `class 17`."""
    if class_names is None or number >= len(class_names.names):
        return f"class {number}"
    primary = class_names.names[number][0]
    return f"class {number}" if primary.lower() in _NO_NAME else primary


def match_categories(
    class_names: ClassNames | None, num_classes: int, concepts: Sequence[str], language: str = "en"
) -> BoolArray:
    """Which categories each class names: bool [K, T].

    A class names the categories that its synonyms are forms of (`storage.words.lemmas.find_category`); where none of
    them is one, those that the head nouns (last words) of its synonyms are forms of: `tabby cat` is a `cat`, while `hot
    dog` is no `dog` where there is a category `hot dog`. The match is by spelling, so some are wrong (`passenger car`,
    the railway's, is a `car`) and some are missed (`trolleybus` is no `bus`).

    Args:
        concepts: names of the T categories.
        language: of names and words.
    """
    found = np.zeros((num_classes, len(concepts)), dtype=bool)
    index = index_categories(concepts, language)
    for number, synonyms in enumerate(class_names.names[:num_classes] if class_names else ()):
        named = [n for n in synonyms if n.lower() not in _NO_NAME]
        whole = {c for n in named if (c := find_category(n, index, language)) is not None}
        chosen = whole or {c for n in named if (c := find_category(n.split()[-1], index, language)) is not None}
        found[number, sorted(chosen)] = True
    return found
