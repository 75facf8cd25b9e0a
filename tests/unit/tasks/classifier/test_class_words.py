"""Classes in words, by hand."""

from __future__ import annotations

import numpy as np

from lavise.tasks.classifier.class_words import match_categories, name_class
from tests.unit.tasks.classifiers import names

CONCEPTS = ("dog", "hot dog", "cat", "car", "cell phone", "person")


def test_name_is_the_primary_or_the_number() -> None:
    classes = names("teapot", "N/A", "tabby, tabby cat")
    assert [name_class(classes, k) for k in (0, 1, 2, 17)] == ["teapot", "class 1", "tabby", "class 17"]
    assert name_class(None, 17) == "class 17"


def test_categories_by_hand() -> None:
    classes = names(
        "tabby, tabby cat",
        "hotdog, hot dog, red hot",
        "Bernese mountain dog",
        "cellular telephone, cellphone",
        "dogs",
        "N/A",
        "dogsled, dog sled",
        "sports car, Cat",
        "beaker",
    )
    found = match_categories(classes, 9, CONCEPTS)
    assert [[CONCEPTS[t] for t in np.flatnonzero(row)] for row in found] == [
        ["cat"],  # head noun of the second synonym
        ["hot dog"],  # whole names go before head nouns: no dog
        ["dog"],
        ["cell phone"],
        ["dog"],
        [],
        [],  # the head noun is the sled
        ["cat"],  # a synonym that is a category stands for the class
        [],
    ]


def test_no_names_or_no_categories() -> None:
    assert not match_categories(None, 3, CONCEPTS).any()
    assert match_categories(None, 3, CONCEPTS).shape == (3, 6)
    assert match_categories(names("dog", "cat"), 2, ()).shape == (2, 0)


def test_names_are_lemmas_of_their_language() -> None:
    german = match_categories(names("Hunde", "Katzen"), 2, ("hund", "katze"), "de")
    assert german.tolist() == [[True, False], [False, True]]
    assert not match_categories(names("Hunde"), 1, ("hund",)).any()
