"""Names of categories as data sets write them; only those that have no vector as they stand are read otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from lavise.configs.schema import WordSettings
from lavise.storage.words.category_names import clean_name, list_readings, take_apart
from lavise.storage.words.lemmas import find_category, index_categories
from lavise.storage.words.word_vectors import (
    PhraseMatch,
    WordVectors,
    build_vocabulary,
    load_word_vectors,
    match_category,
    match_nonzero,
)
from tests.unit.storage.words.some_vectors import vectors_of


@pytest.fixture(scope="module")
def vectors() -> WordVectors:
    return load_word_vectors(WordSettings())


@pytest.mark.parametrize(
    ("name", "reading", "how"),
    [
        ("diningtable", "dining table", "mean"),
        ("pottedplant", "potted plant", "mean"),
        ("tvmonitor", "tv monitor", "mean"),
        ("cap_(headwear)", "cap", "exact"),
        ("bow_(decorative_ribbons)", "bow", "exact"),
        ("building, edifice", "building", "exact"),
        ("qwxyz, edifice", "edifice", "exact"),
        ("streetlight, street lamp", "streetlight", "exact"),
        ("001.Black_footed_Albatross", "black footed albatross", "mean"),
        ("12. Laptop_(x)", "laptop", "exact"),
        ("TrafficLight", "traffic light", "mean"),
        ("QwxyzLight, TrafficLight", "traffic light", "mean"),
        ("n01440764", "tench", "exact"),
        ("n02085620-Chihuahua", "chihuahua", "exact"),
        ("n02085620-Qwxyz", "chihuahua", "exact"),
        ("qwx (thing), dog", "dog", "exact"),
        ("wall-qwx, wall-other-merged (x)", "wall", "exact"),
        ("person (at desk", "person", "exact"),
    ],
)
def test_names_that_have_no_vector(vectors: WordVectors, name: str, reading: str, how: str) -> None:
    assert match_nonzero(vectors, name).how == "missing"
    found = match_category(vectors, name)
    assert (found.name, found.read_as, found.how) == (name, reading, how)
    assert found.tokens == match_nonzero(vectors, reading).tokens


@pytest.mark.parametrize(
    "name", ["aeroplane", "airplane", "hot dog", "Person", "traffic light", "3d", "fire_hydrant", "42"]
)
def test_names_with_a_vector_stay_as_they_are(vectors: WordVectors, name: str) -> None:
    found = match_category(vectors, name)
    assert found == match_nonzero(vectors, name)
    assert found.how != "missing"
    assert not found.read_as


@pytest.mark.parametrize("name", ["", "()", ",,", "qwxyzzy", "n99999999", "<b>qwx</b>", "_" * 200, "\x1b[31mqwx"])
def test_names_that_nothing_is_found_for(vectors: WordVectors, name: str) -> None:
    assert match_category(vectors, name) == PhraseMatch(name, "missing")


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("floor-other-merged", ["floor"]),
        ("furniture-stuff", ["furniture"]),
        ("other", ["other"]),
        ("book-other, wall_stuff", ["book", "wall"]),
        ("a, b, a", ["a", "b"]),
        ("HTTPServer", ["http server"]),
        ("Grüner_Baum", ["grüner baum"]),
        ("007", ["007"]),
        ("1_2_cat", ["2 cat"]),
        ("cap_(a)_(b)", ["cap"]),
    ],
)
def test_cleaning(name: str, cleaned: list[str]) -> None:
    assert clean_name(name) == cleaned


def test_joined_words_are_taken_apart_in_one_way_or_not_at_all() -> None:
    known = {"dining", "table", "din", "ingtable", "the", "rapist", "bat", "hroom", "bath", "room"}
    assert take_apart("diningtable", known) == "dining table"
    assert take_apart("diningtable", known - {"dining"}) is None
    assert take_apart("therapist", known) is None  # no phrase of WordNet's
    assert take_apart("bullterrier", {"bull", "terrier"}) == "bull terrier"
    assert take_apart("dining table", known) is None


def test_wordnet_helps_with_english_alone() -> None:
    known = {"dining", "table", "tench"}
    assert list(list_readings("diningtable", known, "de")) == ["diningtable"]
    assert list(list_readings("n01440764", known, "de")) == []
    assert list(list_readings("Der_Hund (Tier)", known, "de")) == ["der hund"]


@pytest.mark.timeout(120)
def test_long_texts_come_to_an_end() -> None:
    for name in ("(" * 100_000, "_" * 100_000, "1." * 50_000, "aB" * 50_000, "-other" * 20_000, "a" * 299, "(" * 299):
        assert len(list(list_readings(name, {"a"}))) < 10


def test_results_of_categories_with_a_vector_are_the_same_bits(vectors: WordVectors) -> None:
    names = ["hot dog", "traffic light", "Person"]
    alone, more = build_vocabulary(vectors, 50, names), build_vocabulary(vectors, 50, [*names, "diningtable", "qwxyz"])
    assert more.words == (*alone.words, "diningtable")
    np.testing.assert_array_equal(more.matrix[:-1], alone.matrix)
    np.testing.assert_array_equal(more.matrix[-1], build_vocabulary(vectors, 1, ["dining table"]).matrix[-1])


@pytest.mark.parametrize(("name", "word"), [("grass-merged", "grass"), ("wall-other-merged", "wall")])
def test_marks_behind_a_name_are_taken_off_though_they_are_words(vectors: WordVectors, name: str, word: str) -> None:
    assert match_nonzero(vectors, name).how == "mean"
    found = match_category(vectors, name)
    assert (found.tokens, found.read_as) == ((word,), word)


def test_mark_behind_a_name_that_is_none_without_it(vectors: WordVectors) -> None:
    assert match_category(vectors, "qwxyz-stuff") == PhraseMatch("qwxyz-stuff", "missing")


def test_words_are_held_against_what_names_are_read_as() -> None:
    index = index_categories(["cap_(headwear)", "cap_(bottle)", "grass-merged", "building, edifice", "dog"])
    found = {word: find_category(word, index) for word in ("caps", "grass", "edifice", "dog", "headwear", "merged")}
    assert found == {"caps": 0, "grass": 2, "edifice": 3, "dog": 4, "headwear": None, "merged": None}
    assert find_category("cap", index_categories(["cap_(headwear)", "cap"])) == 1


def test_two_names_for_the_same_word_keep_a_row_each() -> None:
    vocabulary = build_vocabulary(vectors_of(["cap", "dog"]), 1, ["cap_(headwear)", "cap_(bottle)", "cap"])
    assert vocabulary.words == ("cap", "cap_(headwear)", "cap_(bottle)")
    for row in (1, 2):
        np.testing.assert_array_equal(vocabulary.matrix[row], vocabulary.matrix[0])
