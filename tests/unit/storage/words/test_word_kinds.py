"""Kinds of words, by WordNet's files."""

from __future__ import annotations

import pytest

from lavise.storage.words.word_kinds import WORD_KINDS, find_word_kind

EXPECTED = {
    "animal": "giraffe dogs fish mouse whale crane",
    "person": "person man baby people crowd bride",
    "plant": "grass tree flower",
    "food": "banana pizza hot_dog broccoli",
    "object": "banjo brick pitcher jersey basketball window",
    "part": "eye tail wing paw",
    "material": "wood gravel fur water",
    "colour": "red blue",
    "scene": "kitchen street mountain beach sky house",
    "other": "gradient galaxy text xyzzy",
}


@pytest.mark.parametrize("kind", WORD_KINDS)
def test_kinds(kind: str) -> None:
    words = EXPECTED[kind].split()
    assert {word: find_word_kind(word) for word in words} == dict.fromkeys(words, kind)


def test_phrases_as_vocabularies_write_them() -> None:
    assert find_word_kind("hot dog") == find_word_kind("hot_dog") == find_word_kind("Hot Dogs") == "food"


def test_wordnet_is_not_asked_about_other_languages() -> None:
    """`Gift` is German for poison."""
    assert find_word_kind("dog", "de") == "other"
