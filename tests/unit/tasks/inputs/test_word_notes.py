"""What is said about categories without a vector, and about rows that nobody can use."""

from __future__ import annotations

import numpy as np

from lavise.storage.words.word_vectors import PhraseMatch, Vocabulary, build_vocabulary
from lavise.tasks.inputs.word_notes import describe_skipped_words, list_word_notes
from tests.unit.storage.words.some_vectors import vectors_of


def vocabulary_of(*matches: PhraseMatch, **more: object) -> Vocabulary:
    return Vocabulary(("dog",), np.ones((1, 2), np.float32), 1, matches, **more)  # type: ignore[arg-type]


def test_nothing_is_said_where_nothing_was_left_out() -> None:
    whole = build_vocabulary(vectors_of(["dog", "hot", "cat"]), 3, ["dog", "hot dog", "Dog"])
    assert list_word_notes(whole, by_order=True) == {}
    assert describe_skipped_words(whole) == {"categories": {}, "read_as": {}, "word_vectors": {}}


def test_each_is_named() -> None:
    vectors = vectors_of(["dining", "table", "cap", "dog"])
    names = ["diningtable", "cap_(headwear)", "cap_(bottle)", "qwx", "dog", "\x1b[31mred"]
    found = build_vocabulary(vectors, 4, names)
    assert list_word_notes(found, by_order=True) == {
        "Categories left out": "2 of 6 have no word vector, so that no region of theirs is learned from and no filter "
        "can be named by them: qwx; \\x1b[31mred",
        "Categories read otherwise": "diningtable read as dining table; cap_(headwear) read as cap; "
        "cap_(bottle) read as cap",
        "Categories with one vector": "cap_(headwear) and cap_(bottle) (cap); each stays a category of its own, which "
        "words cannot tell apart",
    }
    assert describe_skipped_words(found)["categories"] == dict.fromkeys(("qwx", "\x1b[31mred"), "no word vector")


def test_rows_parts_and_language() -> None:
    match = PhraseMatch("dogs", "subwords", ("dogs",))
    notes = list_word_notes(
        vocabulary_of(match, left_out={"word that stands twice": 1200}, language="de"), by_order=True
    )
    assert notes["Categories by their parts"] == "vectors composed by fastText: dogs"
    assert notes["Rows of word vectors"] == "1,200 x word that stands twice"
    assert notes["Language of the words"].endswith("; lemmas by simplemma")
    other = list_word_notes(vocabulary_of(match, language="xx"), by_order=True)
    assert other["Language of the words"].endswith("; no lemmas, since simplemma has not the language")


def test_long_lists_are_cut_in_text_alone() -> None:
    matches = [PhraseMatch(f"qwx{n}", "missing") for n in range(100)]
    text = list_word_notes(vocabulary_of(*matches), by_order=True)["Categories left out"]
    assert text.endswith("qwx29; and 70 more, in skipped.json")
    assert len(describe_skipped_words(vocabulary_of(*matches))["categories"]) == 100


def test_words_in_the_order_of_the_alphabet() -> None:
    """As in ConceptNet's vectors: the first so many are no frequent ones."""
    words = sorted(f"a{x}{y}" for x in "abcdefghijkl" for y in "abcdefghijkl")
    found = build_vocabulary(vectors_of(words), 120, [])
    notes = list_word_notes(found, by_order=True)
    assert list(notes) == ["Order of the words"]
    assert "the 120 words are the first of it; give words.vocabulary_file" in notes["Order of the words"]
    assert list_word_notes(found, by_order=False) == {}
    assert list_word_notes(build_vocabulary(vectors_of(words[::-1]), 120, []), by_order=True) == {}
