"""The vocabulary: which words are taken, phrases, lists of words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gensim.parsing.preprocessing import STOPWORDS

from lavise.configs.errors import UserError
from lavise.configs.schema import WordSettings
from lavise.storage.words.word_vectors import (
    PhraseMatch,
    WordVectors,
    build_vocabulary,
    find_vectors_file,
    load_word_vectors,
    match_phrase,
    read_word_list,
)
from tests.unit.storage.words.some_vectors import MATRIX, WORDS, unit, vectors_of

# Vocabulary


def test_rule_comes_before_the_cut() -> None:
    vectors = load_words()
    # Dropped: the, of (stop words), "," 2nd hot_dog Paris fire-hydrant (other letters), ox (two letters).
    passing = ["dog", "cat", "hot", "zebra", "tree", "new"]
    for size in range(1, 7):
        vocabulary = build_vocabulary(vectors, size, [])
        assert vocabulary.words == tuple(passing[:size])
        assert vocabulary.num_words == size
    assert build_vocabulary(vectors, 100, []).words == tuple(passing)


def load_words() -> WordVectors:
    return vectors_of(WORDS, MATRIX)


def test_size_is_exact_on_the_real_vectors() -> None:
    vocabulary = build_vocabulary(load_word_vectors(WordSettings()), 3_000, ["brown dog", "dog", "zzzyx"])
    assert vocabulary.num_words == 3_000
    assert all(re.fullmatch(r"[a-z]{3,}", w) and w not in STOPWORDS for w in vocabulary.words[:3_000])
    assert vocabulary.words[3_000:] == ("brown dog",)
    assert [m.how for m in vocabulary.matches] == ["mean", "exact", "missing"]
    np.testing.assert_allclose(np.linalg.norm(vocabulary.matrix, axis=1), 1.0, atol=1e-6)


def test_rows_are_the_normalised_vectors_by_hand() -> None:
    vectors = vectors_of(["dog", "cat"], np.array([[3, 4], [0, -2]]))
    vocabulary = build_vocabulary(vectors, 10, [])
    np.testing.assert_allclose(vocabulary.matrix, np.array([[0.6, 0.8], [0.0, -1.0]]), atol=1e-7)
    assert vocabulary.matrix.dtype == np.float32


def test_every_row_has_length_one_also_where_a_vector_is_zero() -> None:
    """Files hold zero vectors for unknown words; they have no direction, so they can name nothing."""
    vectors = vectors_of(["dog", "zero", "cat"], np.array([[3, 4], [0, 0], [0, -2]]))
    vocabulary = build_vocabulary(vectors, 10, [])
    np.testing.assert_allclose(np.linalg.norm(vocabulary.matrix, axis=1), 1.0, atol=1e-6)
    assert vocabulary.words == ("dog", "cat")


def test_phrase_keeps_the_mean_of_its_normalised_words_by_hand() -> None:
    vectors = vectors_of(["hot", "dog"], np.array([[10, 0], [0, 3]]))
    vocabulary = build_vocabulary(vectors, 10, ["hot dog"])
    assert vocabulary.words == ("hot", "dog", "hot dog")
    assert vocabulary.num_words == 2
    assert vocabulary.matches == (PhraseMatch("hot dog", "mean", ("hot", "dog")),)
    np.testing.assert_allclose(vocabulary.matrix[2], [np.sqrt(0.5), np.sqrt(0.5)], atol=1e-6)


@pytest.mark.parametrize("token", ["hot_dog", "hot-dog", "hotdog"])
def test_phrase_keeps_the_vector_of_its_own_token(token: str) -> None:
    vectors = vectors_of(["hot", "dog", token])
    vocabulary = build_vocabulary(vectors, 2, ["hot dog"])
    assert vocabulary.matches[0] == PhraseMatch("hot dog", "joined", (token,))
    assert vocabulary.words == ("hot", "dog", "hot dog")
    np.testing.assert_allclose(vocabulary.matrix[2], unit(vectors.matrix[2]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "how", "tokens"),
    [
        ("dog", "exact", ("dog",)),
        ("Paris", "exact", ("Paris",)),
        ("Dog", "exact", ("dog",)),
        ("  hot   dog ", "joined", ("hot_dog",)),
        ("hot_dog", "exact", ("hot_dog",)),
        ("fire hydrant", "joined", ("fire-hydrant",)),
        ("fire-hydrant", "exact", ("fire-hydrant",)),
        ("cat tree", "mean", ("cat", "tree")),
        ("cat/tree", "mean", ("cat", "tree")),
        ("Cat_Tree", "mean", ("cat", "tree")),
        ("cat sofa", "missing", ()),
        ("sofa", "missing", ()),
        ("", "missing", ()),
    ],
)
def test_match_kinds(name: str, how: str, tokens: tuple[str, ...]) -> None:
    assert match_phrase(load_words(), name) == PhraseMatch(name, how, tokens)


def test_phrase_as_a_token_of_its_own_comes_first() -> None:
    vectors = vectors_of(["hot", "dog", "hotdog", "hot_dog", "hot dog"])
    assert match_phrase(vectors, "hot dog") == PhraseMatch("hot dog", "exact", ("hot dog",))


def test_categories_join_the_words_once_and_without_a_vector_not_at_all() -> None:
    vocabulary = build_vocabulary(load_words(), 2, ["cat", "zebra", "zebra", "hot dog", "sofa", "of"])
    assert vocabulary.words == ("dog", "cat", "zebra", "hot dog", "of")
    assert vocabulary.num_words == 2
    assert [(m.name, m.how) for m in vocabulary.matches] == [
        ("cat", "exact"),
        ("zebra", "exact"),
        ("zebra", "exact"),
        ("hot dog", "joined"),
        ("sofa", "missing"),
        ("of", "exact"),
    ]
    assert vocabulary.positions_of(["hot dog", "dog"]) == [3, 0]
    with pytest.raises(KeyError, match="sofa"):
        vocabulary.positions_of(["sofa"])


def test_no_category_with_a_vector() -> None:
    with pytest.raises(
        UserError, match=r"none of the 2 categories has a vector \(first: 'Hund'\); use word vectors of"
    ):
        build_vocabulary(load_words(), 5, ["Hund", "Katze"])


def test_vocabulary_vs_brute_force() -> None:
    rng = np.random.default_rng(3)
    letters = "abz-9A"
    words = list(dict.fromkeys("".join(rng.choice(list(letters), rng.integers(1, 6))) for _ in range(400)))
    vectors = vectors_of(words)
    expected = [w for w in words if len(w) >= 3 and all("a" <= c <= "z" for c in w) and w not in STOPWORDS][:20]
    assert len(expected) == 20
    vocabulary = build_vocabulary(vectors, 20, [])
    assert list(vocabulary.words) == expected
    np.testing.assert_allclose(vocabulary.matrix, [unit(vectors.matrix[words.index(w)]) for w in expected], atol=1e-6)


# Word lists


def test_word_list(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# animals\ndog\n  cat  # comment\n\nhot dog\ndog\nsofa\n", "utf-8")
    assert read_word_list(path) == ["dog", "cat", "hot dog", "sofa"]


def test_listed_words_replace_the_frequent_words() -> None:
    vocabulary = build_vocabulary(load_words(), 1, ["dog", "ox"], ["ox", "hot dog", "sofa", "the"])
    assert vocabulary.words == ("ox", "hot dog", "the", "dog")
    assert vocabulary.num_words == 3
    np.testing.assert_allclose(vocabulary.matrix[1], unit(MATRIX[WORDS.index("hot_dog")]), atol=1e-6)


def test_word_list_from_a_windows_editor(tmp_path: Path) -> None:
    """It begins with a byte order mark, which is no letter of the first word, and has two-byte line ends."""
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xef\xbb\xbfdog\r\ncat\r\n")
    assert read_word_list(path) == ["dog", "cat"]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_empty_word_list(tmp_path: Path, text: str) -> None:
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(
        UserError, match=r"^words\.vocabulary_file: .*words\.txt has no words; allowed: a word or phrase"
    ):
        read_word_list(tmp_path / "words.txt")


def test_listed_words_of_another_language() -> None:
    with pytest.raises(UserError, match=r"none of the 2 words listed \(first: 'Hund'\) has a vector; check the langu"):
        build_vocabulary(load_words(), 5, ["dog"], ["Hund", "Katze"])


def test_word_list_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Prüfung".encode("latin-1"))
    for name in ("none.txt", "latin.txt"):
        with pytest.raises(UserError, match=rf"^words\.vocabulary_file: cannot read .*{name} \(.*\); allowed: UTF-8"):
            read_word_list(tmp_path / name)


def test_word_list_that_is_missing_is_named_before_anything_is_read(tmp_path: Path) -> None:
    asked = WordSettings(vocabulary_file=tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"^words\.vocabulary_file: found '.*none\.txt', which is no file"):
        find_vectors_file(asked)
