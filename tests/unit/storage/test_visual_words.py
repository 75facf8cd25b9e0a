from __future__ import annotations

import numpy as np
import pytest

from configs.errors import UserError
from configs.schema import WordSettings
from storage.visual_words import CONCRETE_STOP_WORDS, MISLEADING, PEOPLE, VISUAL_RULE, find_visual_words
from storage.word_vectors import WordVectors, load_word_vectors


def vectors_of(words: list[str]) -> WordVectors:
    return WordVectors(words, np.ones((len(words), 2), np.float32))


@pytest.fixture(scope="module")
def words() -> list[str]:
    return find_visual_words(load_word_vectors(WordSettings()))


def test_number_and_order(words: list[str]) -> None:
    assert 4500 < len(words) < 5000
    assert len(set(words)) == len(words)
    index = load_word_vectors(WordSettings()).index
    single = [w for w in words if " " not in w]
    assert single == sorted(single, key=index.__getitem__)


def test_things_are_in_and_other_words_are_not(words: list[str]) -> None:
    assert {"dog", "zebra", "computer", "fire", "house", "guitar", "mushroom", "beach", *PEOPLE} <= set(words)
    assert not {"democracy", "government", "quickly", "the", "can", "well", "still", "paris"} & set(words)
    assert not MISLEADING & set(words)
    assert {"hot line", "ice cream"} <= set(words)


def test_every_exclusion_takes_effect() -> None:
    """A word of the lists that the release has not would be dead weight."""
    listed = sorted(MISLEADING)
    assert find_visual_words(vectors_of([*listed, "dog"])) == ["dog"]
    assert find_visual_words(vectors_of(sorted(CONCRETE_STOP_WORDS))) == sorted(CONCRETE_STOP_WORDS)
    assert all(w in VISUAL_RULE for w in (*PEOPLE, *CONCRETE_STOP_WORDS, str(len(MISLEADING))))


def test_rule_by_hand() -> None:
    ordered = ["zebra", "the", "level", "ox", "dog", "hotdog", "icecream", "pocketbook", "unknown", "cat"]
    # `ox` is too short, `pocketbook` never the first name of a synset, `hotdog` and `ice cream` are.
    assert find_visual_words(vectors_of(ordered)) == ["zebra", "dog", "hotdog", "ice cream", "cat"]


def test_word_without_a_direction_is_left_out() -> None:
    vectors = WordVectors(["zebra", "dog"], np.array([[0, 0], [1, 0]], np.float32))
    assert find_visual_words(vectors) == ["dog"]


def test_vectors_of_another_language() -> None:
    with pytest.raises(UserError, match=r"^words\.vocabulary: found none of the visual words in the word vectors; all"):
        find_visual_words(vectors_of(["Hund", "Katze"]))
