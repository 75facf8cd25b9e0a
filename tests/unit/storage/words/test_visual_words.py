from __future__ import annotations

import numpy as np
import pytest

from lavise.configs.errors import UserError
from lavise.configs.schema import WordSettings
from lavise.storage.words.visual_words import CONCRETE_STOP_WORDS, PEOPLE, VISUAL_RULE, find_visual_words
from lavise.storage.words.word_vectors import WordVectors, load_word_vectors
from lavise.storage.words.wordnet import CONCRETE, load_wordnet

NO_THINGS = frozenset(
    """
    democracy government quickly the can well still paris level second left made play world work home school set market
    number area case line end felt saw polish turkey miller hart drake bush john jack berlin master measure pull press
    post charge bill state party term negative balance study ministry institution establishment movement general major
    """.split()
)


def vectors_of(words: list[str]) -> WordVectors:
    return WordVectors(words, np.ones((len(words), 2), np.float32))


@pytest.fixture(scope="module")
def words() -> list[str]:
    return find_visual_words(load_word_vectors(WordSettings()))


def test_number_and_order(words: list[str]) -> None:
    assert 6500 < len(words) < 7500
    assert len(set(words)) == len(words)
    index = load_word_vectors(WordSettings()).index
    single = [w for w in words if " " not in w]
    assert single == sorted(single, key=index.__getitem__)


def test_things_are_in_and_other_words_are_not(words: list[str]) -> None:
    assert {"dog", "zebra", "computer", "house", "guitar", "mushroom", "beach", *PEOPLE} <= set(words)
    assert not NO_THINGS & set(words)
    assert {"ice cream", "hotdog", "life jacket"} <= set(words)


def test_things_that_are_not_their_synsets_first_lemma_or_of_which_only_kinds_are_listed(words: list[str]) -> None:
    assert {"donut", "suitcase", "handbag", "taxi", "phone"} <= set(words)
    assert {"cake", "sink", "fork", "surfboard", "ladder", "island"} <= set(words)


def test_thing_that_is_a_verb_in_most_tagged_texts(words: list[str]) -> None:
    counts = load_wordnet().count_senses("bear")
    assert counts["verb"] > 50 * counts["noun"]
    assert "bear" in words


def test_rule_names_what_it_depends_on() -> None:
    assert all(w in VISUAL_RULE for w in (*PEOPLE, *CONCRETE_STOP_WORDS, *CONCRETE, "WordNet 3.0"))


def test_few_words_are_judged_by_their_share_of_uses() -> None:
    ordered = ["zebra", "the", "level", "bear", "ox", "person", "dog", "lifejacket", "small", "unknown", "cat"]
    # `ox` is too short, `level` and `bear` are mostly no things, `small` (of the back) is mostly an adjective.
    expected = ["zebra", "person", "dog", "life jacket", "cat"]
    assert find_visual_words(vectors_of(ordered)) == expected


@pytest.mark.parametrize("is_beast", [True, False])
def test_vector_decides_on_an_ambiguous_word(is_beast: bool) -> None:
    wordnet = load_wordnet()
    references: dict[bool, list[str]] = {True: [], False: []}
    for word in wordnet.index:
        senses = wordnet.senses_of(word)
        if len(senses) == 1 and senses[0].pos == "noun" and word.isascii() and word.isalpha() and len(word) > 3:
            category = wordnet.synsets[senses[0].offset].category
            if category in ("noun.animal", "noun.state"):
                references[category == "noun.animal"].append(word)
    beasts, states = references[True][:600], references[False][:600]
    rows = [[1, 0]] * len(beasts) + [[0, 1]] * len(states) + [[1, 0] if is_beast else [0, 1]]
    vectors = WordVectors([*beasts, *states, "bear"], np.array(rows, np.float32))
    found = find_visual_words(vectors)
    assert ("bear" in found) == is_beast
    assert not set(states) & set(found)


def test_word_without_a_direction_is_left_out() -> None:
    vectors = WordVectors(["zebra", "dog"], np.array([[0, 0], [1, 0]], np.float32))
    assert find_visual_words(vectors) == ["dog"]


def test_vectors_of_another_language() -> None:
    with pytest.raises(UserError, match=r"^words\.vocabulary: found none of the visual words in the word vectors; all"):
        find_visual_words(vectors_of(["Hund", "Katze"]))
