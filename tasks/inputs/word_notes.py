"""What became of the categories' names and of the word vectors' rows: for the log, the report and skipped.json."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from lavise.storage.state.text import printable
from lavise.storage.words.category_names import ENGLISH
from lavise.storage.words.lemmas import list_lemma_languages
from lavise.storage.words.word_rules import describe_rule
from lavise.storage.words.word_vectors import Vocabulary

_NO_VECTOR = "no word vector"
_MAX_LISTED = 30
_MIN_SORTED = 100


class SkippedWords(TypedDict):
    """Categories that have no vector, with the reason; those that were read as something else; and rows of the word
    vectors' source that nobody can use, by reason."""

    categories: dict[str, str]
    read_as: dict[str, str]
    word_vectors: dict[str, int]


def describe_skipped_words(vocabulary: Vocabulary) -> SkippedWords:
    """All of them."""
    matches = vocabulary.matches
    return {
        "categories": {m.name: _NO_VECTOR for m in matches if m.how == "missing"},
        "read_as": {m.name: m.read_as for m in matches if m.read_as},
        "word_vectors": dict(vocabulary.left_out),
    }


def list_word_notes(vocabulary: Vocabulary, *, by_order: bool) -> dict[str, str]:
    """In words, label -> text; nothing where everything was as the vectors have it.

    Args:
        by_order: the words are the first of the vectors' own order, not a list of the user's.
    """
    skipped, matches = describe_skipped_words(vocabulary), vocabulary.matches
    notes = {}
    if missing := skipped["categories"]:
        notes["Categories left out"] = (
            f"{len(missing)} of {len(matches)} have no word vector, so that no region of theirs is learned from and no "
            f"filter can be named by them: {_list(missing)}"
        )
    if read := skipped["read_as"]:
        notes["Categories read otherwise"] = _list(f"{name} read as {reading}" for name, reading in read.items())
    if twice := _find_shared(vocabulary):
        notes["Categories with one vector"] = (
            f"{_list(twice)}; each stays a category of its own, which words cannot tell apart"
        )
    if composed := [m.name for m in matches if m.how == "subwords"]:
        notes["Categories by their parts"] = f"vectors composed by fastText: {_list(composed)}"
    if rows := skipped["word_vectors"]:
        notes["Rows of word vectors"] = "; ".join(f"{number:,} x {reason}" for reason, number in rows.items())
    words = list(vocabulary.words[: vocabulary.num_words])
    if by_order and len(words) >= _MIN_SORTED and words == sorted(words):
        notes["Order of the words"] = (
            f"the word vectors stand in the order of the alphabet, not of frequency: the {len(words):,} words are the "
            "first of it; give words.vocabulary_file, or set words.vocabulary to visual"
        )
    if vocabulary.language != ENGLISH:
        known = vocabulary.language in list_lemma_languages()
        lemmas = "lemmas by simplemma" if known else "no lemmas, since simplemma has not the language"
        notes["Language of the words"] = f"{describe_rule(vocabulary.language)}; {lemmas}"
    return notes


def _find_shared(vocabulary: Vocabulary) -> list[str]:
    """Categories that another reading has led to the vector of another category."""
    by_tokens: dict[tuple[str, ...], list[str]] = {}
    for match in vocabulary.matches:
        if match.how != "missing":
            by_tokens.setdefault(match.tokens, []).append(match.name)
    read = {match.tokens for match in vocabulary.matches if match.read_as}
    return [f"{' and '.join(names)} ({' '.join(t)})" for t, names in by_tokens.items() if len(names) > 1 and t in read]


def _list(names: Iterable[str]) -> str:
    shown = [printable(name) for name in names]
    more = f"; and {len(shown) - _MAX_LISTED} more, in skipped.json" if len(shown) > _MAX_LISTED else ""
    return "; ".join(shown[:_MAX_LISTED]) + more
