"""Each form that word vectors are stored in, held against gensim's own reader, bit for bit; and damaged ones."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gensim.models import FastText, KeyedVectors, Word2Vec
from gensim.models.fasttext import FastTextKeyedVectors, load_facebook_vectors, save_facebook_model
from safetensors.numpy import save_file

from lavise.configs.errors import UserError
from lavise.configs.schema import WordSettings
from lavise.storage.words import gensim_pickles
from lavise.storage.words.vector_forms import find_form
from lavise.storage.words.word_vectors import (
    PhraseMatch,
    WordVectors,
    build_vocabulary,
    digest_vectors,
    find_vectors_file,
    load_word_vectors,
)
from tests.unit.storage.words.some_vectors import MATRIX, WORDS

SENTENCES = [["dog", "cat", "tree"], ["straße", "hot_dog", "dog", "кошка"], ["Paris", "tree", "dog"]] * 20
PACKERS: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gz": gzip.compress, "bz2": bz2.compress}


def load(path: Path, kind: str = "auto", language: str = "en") -> WordVectors:
    return load_word_vectors(WordSettings.model_validate({"vectors": str(path), "format": kind, "language": language}))


def keyed_vectors(matrix: Any = MATRIX) -> Any:
    vectors = KeyedVectors(matrix.shape[1])
    vectors.add_vectors(WORDS, matrix)
    return vectors


def same(found: WordVectors, expected: Any) -> None:
    assert list(found.words) == expected.index_to_key
    assert found.matrix.dtype == expected.vectors.dtype
    np.testing.assert_array_equal(found.matrix, expected.vectors)


def train_fasttext(**options: Any) -> Any:
    asked = {"vector_size": 6, "min_count": 1, "workers": 1, "seed": 3, "bucket": 40, "min_n": 2, "max_n": 4, **options}
    return FastText(SENTENCES, **asked)


def glove_text(words: list[str], matrix: Any, end: str = "\n") -> bytes:
    return "".join(
        " ".join([w, *(f"{x:.5f}" for x in row)]) + end for w, row in zip(words, matrix, strict=True)
    ).encode()


# Against gensim


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("is_binary", [True, False])
def test_word2vec_files_whatever_they_are_called(tmp_path: Path, packed: str, seed: int, is_binary: bool) -> None:
    matrix = np.random.default_rng(seed).normal(size=MATRIX.shape).astype(np.float32)
    plain = tmp_path / "plain"
    keyed_vectors(matrix).save_word2vec_format(str(plain), binary=is_binary)
    path = tmp_path / "vectors.dat"
    path.write_bytes(PACKERS[packed](plain.read_bytes()))
    assert find_form(path) == ("word2vec_binary" if is_binary else "word2vec_text")
    same(load(path), KeyedVectors.load_word2vec_format(str(plain), binary=is_binary))


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_glove_text(tmp_path: Path, packed: str, end: str) -> None:
    plain, path = tmp_path / "plain.txt", tmp_path / "glove.bin"
    plain.write_bytes(glove_text(WORDS, MATRIX, end))
    path.write_bytes(PACKERS[packed](plain.read_bytes()))
    assert find_form(path) == "glove_text"
    same(load(path), KeyedVectors.load_word2vec_format(str(plain), binary=False, no_header=True))


def test_numbers_are_rounded_as_gensim_rounds_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "v.vec"
    rows = rng.normal(size=(200, 20)) * 10.0 ** rng.integers(-40, 20, (200, 20))
    texts = [[f"{x:.{digits}g}" for digits, x in enumerate(row, start=1)] for row in rows]
    path.write_text("200 20\n" + "".join(f"w{n} {' '.join(row)} \n" for n, row in enumerate(texts)))
    same(load(path), KeyedVectors.load_word2vec_format(str(path), binary=False))


def test_words_in_broken_utf8(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(b"3 2\ncaf\xe9 1 2\nna\xc3\xafve 3 4\n\xf0\x9f\x98 5 6\n")
    same(load(path), KeyedVectors.load_word2vec_format(str(path), binary=False, unicode_errors="replace"))


@pytest.mark.parametrize("ending", ["kv", "dat", "bin"])
@pytest.mark.parametrize("limit", [0, 10 << 20])
def test_pickles_whatever_they_are_called(tmp_path: Path, ending: str, limit: int) -> None:
    model = Word2Vec(SENTENCES, vector_size=6, min_count=1, workers=1, seed=1)
    for name, saved in (("w", model), ("k", model.wv)):
        path = tmp_path / f"{name}.{ending}"
        saved.save(str(path), sep_limit=limit)
        same(load(path), model.wv)
        assert len(find_vectors_file(WordSettings(vectors=str(path)))) == (1 if limit else {"w": 4, "k": 3}[name])


@pytest.mark.parametrize("limit", [0, 10 << 20])
@pytest.mark.parametrize("part", ["model", "vectors"])
def test_pickles_of_fasttext_are_composed_as_gensim_does(tmp_path: Path, limit: int, part: str) -> None:
    model = train_fasttext()
    saved = model if part == "model" else model.wv
    saved.save(str(tmp_path / "f.model"), sep_limit=limit)
    found = load(tmp_path / "f.model")
    expected = FastTextKeyedVectors.load(str(tmp_path / "f.model")) if part == "vectors" else model.wv
    same(found, expected)
    assert found.compose is not None
    np.testing.assert_array_equal(found.compose("dogs"), expected.get_vector("dogs"))


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("options", [{}, {"bucket": 0, "max_n": 0}, {"sg": 1, "hs": 1, "negative": 0}])
def test_fasttext_models(tmp_path: Path, packed: str, options: dict[str, int]) -> None:
    plain, path = tmp_path / "plain.bin", tmp_path / "model.dat"
    save_facebook_model(train_fasttext(**options), str(plain))
    path.write_bytes(PACKERS[packed](plain.read_bytes()))
    assert find_form(path) == "fasttext_bin"
    found, expected = load(path), load_facebook_vectors(str(plain))
    same(found, expected)
    if options.get("bucket") == 0:
        assert found.compose is None
        return
    assert found.compose is not None
    for word in ("dogs", "straßen", "кошки", "x", ""):
        np.testing.assert_array_equal(found.compose(word), expected.get_vector(word))


def test_categories_that_fasttext_has_not_are_composed_of_their_parts(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    save_facebook_model(train_fasttext(), str(path))
    vectors, expected = load(path), load_facebook_vectors(str(path))
    vocabulary = build_vocabulary(vectors, 10, ["dog", "dogs", "dogs of cats"])
    assert vocabulary.matches[1:] == (
        PhraseMatch("dogs", "subwords", ("dogs",)),
        PhraseMatch("dogs of cats", "subwords", ("dogs", "of", "cats")),
    )
    row = vocabulary.matrix[vocabulary.positions_of(["dogs"])[0]]
    np.testing.assert_allclose(row, expected.get_vector("dogs", norm=True), rtol=1e-5)
    # Words of the vocabulary itself, and names of classes, are those of the file alone.
    assert "dogs" not in build_vocabulary(vectors, 10, [], ["dogs", "dog"]).words


def test_numberbatch(tmp_path: Path) -> None:
    rows = ["/c/de/hund 1 2", "/c/en/hot_dog 3 4", "/c/en/dog 5 6", "/c/ende/dog 7 8", "/c/de/katze 0 1"]
    path = tmp_path / "numberbatch.txt.gz"
    path.write_bytes(gzip.compress(("5 2\n" + "".join(f"{row}\n" for row in rows)).encode()))
    english, german = load(path), load(path, language="de")
    assert (list(english.words), list(german.words)) == (["hot_dog", "dog"], ["hund", "katze"])
    np.testing.assert_array_equal(english.matrix, [[3, 4], [5, 6]])
    assert english.left_out == {"word of another language": 3}
    assert build_vocabulary(english, 10, ["hot dog"]).matches == (PhraseMatch("hot dog", "joined", ("hot_dog",)),)
    with pytest.raises(UserError, match=r"it has no words; left out: 5 x word of another language"):
        load(path, language="fr")


# Forms that gensim does not read


def test_tokens_with_spaces(tmp_path: Path) -> None:
    """GloVe 840B has such; gensim takes the word's own parts for numbers."""
    words = ["the", ". . .", "at name@domain.com", "dog"]
    path = tmp_path / "glove.txt"
    path.write_bytes(glove_text(words, MATRIX[:4]))
    with pytest.raises(ValueError, match="could not convert string to float"):
        KeyedVectors.load_word2vec_format(str(path), no_header=True)
    found = load(path)
    assert list(found.words) == words
    np.testing.assert_allclose(found.matrix, MATRIX[:4], atol=1e-5)
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])  # now the first row is such a token
    assert list(load(path).words) == words[1:]


def test_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(b"\xef\xbb\xbf" + glove_text(WORDS, MATRIX))
    assert list(load(path).words) == WORDS
    path.write_bytes(b"\xef\xbb\xbf14 5\n" + glove_text(WORDS, MATRIX))
    assert list(load(path).words) == WORDS


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_folder_with_a_matrix_and_words(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "vectors.npy", MATRIX.astype(dtype))
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*WORDS[:-1], "# fire truck"]).encode())
    found = load(tmp_path)
    assert list(found.words) == [*WORDS[:-1], "# fire truck"]
    np.testing.assert_array_equal(found.matrix, MATRIX.astype(dtype))
    assert isinstance(found.matrix, np.memmap)
    base = digest_vectors(WordSettings(vectors=str(tmp_path)))
    (tmp_path / "words.txt").write_text("\n".join([*WORDS[:-1], "fire truck"]))
    assert digest_vectors(WordSettings(vectors=str(tmp_path))) != base
    vocabulary = build_vocabulary(load(tmp_path), 10, ["fire truck"])
    np.testing.assert_allclose(np.linalg.norm(vocabulary.matrix, axis=1), 1, atol=1e-6)
    assert vocabulary.matches == (PhraseMatch("fire truck", "exact", ("fire truck",)),)


@pytest.mark.parametrize("listed", ["v.txt", "words.txt"])
@pytest.mark.parametrize("name", ["v.safetensors", "v.dat"])
def test_safetensors(tmp_path: Path, listed: str, name: str) -> None:
    save_file({"vectors": MATRIX.astype(np.float16), "other": MATRIX[:1]}, tmp_path / name)
    (tmp_path / listed).write_text("\n".join(WORDS) + "\n")
    found = load(tmp_path / name)
    assert list(found.words) == WORDS
    np.testing.assert_array_equal(found.matrix, MATRIX.astype(np.float16).astype(np.float32))
    asked = WordSettings(vectors=str(tmp_path / name))
    assert find_vectors_file(asked)["words"] == tmp_path / listed
    base = digest_vectors(asked)
    (tmp_path / listed).write_text("\n".join(WORDS[::-1]) + "\n")
    assert digest_vectors(asked) != base


# What is left out


def test_word_that_stands_twice(tmp_path: Path) -> None:
    """gensim 4.4 leaves a word None and a row of zeros behind; the first row counts."""
    rows = [*WORDS, "dog", "dog"]
    matrix = np.concatenate([MATRIX, MATRIX[:2] + 1])
    header = f"{len(rows)} 5\n".encode()
    (tmp_path / "glove.txt").write_bytes(glove_text(rows, matrix))
    (tmp_path / "w2v.txt").write_bytes(header + glove_text(rows, matrix))
    binary = b"".join(w.encode() + b" " + row.tobytes() for w, row in zip(rows, matrix, strict=True))
    (tmp_path / "w2v.bin").write_bytes(header + binary)
    (tmp_path / "words.txt").write_text("\n".join(rows))
    np.save(tmp_path / "vectors.npy", matrix)
    for path in (tmp_path / "glove.txt", tmp_path / "w2v.txt", tmp_path / "w2v.bin", tmp_path):
        found = load(path)
        assert list(found.words) == WORDS
        np.testing.assert_allclose(found.matrix, MATRIX, atol=1e-5)
        assert found.left_out == {"word that stands twice; the first is kept": 2}
        assert "dog" in build_vocabulary(found, 10, []).words


def test_vectors_of_zeros_and_rows_beyond_the_header_are_counted(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("3 2\ndog 1 2\nzero 0 -0\ncat 3 4\nmore 1 2\nrows 1 2\n")
    found = load(tmp_path / "v.txt")
    assert list(found.words) == ["dog", "zero", "cat"]
    assert found.left_out == {
        "vector of zeros, which has no direction": 1,
        "row beyond the number that the header tells": 2,
    }
    assert build_vocabulary(found, 10, []).words == ("dog", "cat")
    keyed_vectors().save_word2vec_format(str(tmp_path / "v.bin"), binary=True)
    (tmp_path / "v.bin").write_bytes((tmp_path / "v.bin").read_bytes() + b"more 12345")
    assert load(tmp_path / "v.bin").left_out == {"byte after the last row that the header tells of": 10}


# Damaged files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 3\ndog 1 2 3\ncat 7\n", "line 3 has 1 numbers instead of 3"),  # gensim: cat is 7 7 7
        ("2 3\ndog 1 2 3\ncat 1 2\n", "line 3 has 2 numbers instead of 3"),
        ("2 3\ndog 1 2 3\ncat 1 2 3 4\n", "line 3 has 4 numbers instead of 3"),
        ("2 3\ndog 1 2 3\ncat 1 x 3\n", "line 3 has 1 numbers instead of 3"),
        ("2 3\ndog 1 2 3\ncat\n", "line 3 has 0 numbers instead of 3"),
        ("3 3\ndog 1 2 3\ncat 1 2 3\n", "it ends after 2 of 3 rows"),
        ("dog 1 2 3\n\ncat 7\n", "line 3 has 1 numbers instead of 3"),
        ("dog 1 2 3\nat 1 1 2 3\ncat 4 5 6\n", "line 2 has 4 numbers instead of 3"),
        ("dog 1 2 3\ncat 1 nan 3\n", "the vector of 'cat' is not finite"),
        ("dog 1 2 3\ncat 1 -inf 3\n", "the vector of 'cat' is not finite"),
        ("dog 1 2 3\ncat 1 1e39 3\n", "the vector of 'cat' is not finite"),
        ("dog 1 2 3\n\x1b[31mcat 1 nan 3\n", r"the vector of '\\x1b\[31mcat' is not finite"),
        ("0 3\n", "its header tells of 0 words of 3 dimensions"),
        ("3 99999999999999\ndog 1 2\n", "its header tells of 3 words of 99999999999999 dimensions"),
        ("dog\t1\t2\n", "its lines are not a word and numbers, separated by single spaces"),
    ],
)
def test_damaged_text(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "v.txt").write_text(text)
    kind = "glove_text" if "\x1b" in text else "auto"
    with pytest.raises(UserError, match=rf"^words\.vectors: cannot read .*v\.txt as \w+ \(.*{message}"):
        load(tmp_path / "v.txt", kind)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04...", "it is a zip archive; unpack it"),
        (b"\xfd7zXZ\0...", "it is packed with xz"),
        (b"\x89HDF\r\n", "it is an HDF5 file"),
        (b"\x93NUMPY\x01\0", "it is a matrix without words; give a folder with vectors.npy and words.txt"),
        ("dog 1 2".encode("utf-16"), "it is text in UTF-16; save it as UTF-8"),
        (b"\x01\x02\x03", "it is neither text nor a form of word vectors that is known"),
        (b"", "it is empty"),
    ],
)
def test_other_files_are_named(tmp_path: Path, start: bytes, message: str) -> None:
    (tmp_path / "v.bin").write_bytes(start)
    with pytest.raises(UserError, match=rf"^words\.vectors: cannot read .*v\.bin as word vectors \({message}"):
        load(tmp_path / "v.bin")


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.97])
def test_fasttext_model_that_was_cut_off(tmp_path: Path, packed: str, share: float) -> None:
    path = tmp_path / "model.bin"
    model = train_fasttext()
    save_facebook_model(model, str(path))
    whole = path.read_bytes()
    length = len(whole) - 16 - 4 * model.syn1neg.size  # what follows is not read
    path.write_bytes(PACKERS[packed](whole[: int(share * length)]))
    with pytest.raises(UserError, match=r"cannot read .* as fasttext_bin \(it ends too early\)"):
        load(path)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (8, struct.pack("<i", 7), "its matrix is .* instead of"),
        (8, struct.pack("<i", -1), "it tells of"),
        (8 + 4 * 8, struct.pack("<i", 2**31 - 1), "its matrix is .* instead of"),
        (72, struct.pack("<i", 3), r"it is a classifier \(supervised fastText\)"),
        (84, struct.pack("<q", 5), "it is quantised"),
        (4 * 3 + 56, struct.pack("<i", 2**30), "it tells of"),
    ],
)
def test_fasttext_model_with_other_numbers(tmp_path: Path, position: int, value: bytes, message: str) -> None:
    path = tmp_path / "model.bin"
    save_facebook_model(train_fasttext(), str(path))
    data = bytearray(path.read_bytes())
    data[position : position + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"cannot read .* as fasttext_bin \({message}"):
        load(path)


def test_packed_file_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "v.txt.gz"
    path.write_bytes(gzip.compress(glove_text(WORDS * 400, np.tile(MATRIX, (400, 1))))[:-30])
    with pytest.raises(UserError, match=r"^words\.vectors: cannot read .*v\.txt\.gz as "):
        load(path)


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^words\.vectors: the folder '.*' has no vectors\.npy; allowed: a folder with"
    ):
        load(tmp_path)
    np.save(tmp_path / "vectors.npy", MATRIX)
    (tmp_path / "words.txt").write_text("\n".join(WORDS[:-1]))
    with pytest.raises(UserError, match=r"as folder \(it has 13 words for a matrix of shape \(14, 5\)"):
        load(tmp_path)
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    for matrix in (MATRIX.astype(int), MATRIX[0], np.array([["a"]])):
        np.save(tmp_path / "vectors.npy", matrix)
        with pytest.raises(UserError, match=r"as folder \(its matrix is of shape .*, not a table of floating-point"):
            load(tmp_path)
    np.save(tmp_path / "vectors.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(UserError, match=r"as folder \(.*Python objects in dtype"):
        load(tmp_path)


def test_safetensors_without_words_or_with_several_tensors(tmp_path: Path) -> None:
    save_file({"a": MATRIX}, tmp_path / "v.safetensors")
    with pytest.raises(UserError, match=r"as safetensors \(neither v\.txt nor words\.txt is beside it"):
        load(tmp_path / "v.safetensors")
    save_file({"a": MATRIX, "b": MATRIX}, tmp_path / "v.safetensors")
    with pytest.raises(UserError, match=r"as safetensors \(it has 2 tensors, none of which is called vectors"):
        load(tmp_path / "v.safetensors")


def test_words_of_a_pickle_that_are_no_texts(tmp_path: Path) -> None:
    vectors = keyed_vectors()
    vectors.index_to_key = [*WORDS[:-1], None]
    vectors.save(str(tmp_path / "v.kv"))
    with pytest.raises(UserError, match=r"as keyed_vectors \(one of its words is no text \(NoneType\)"):
        load(tmp_path / "v.kv")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("arrange", [np.ascontiguousarray, np.asfortranarray])
def test_arrays_of_a_pickle_are_what_numpy_makes_of_them(tmp_path: Path, order: str, kind: str, arrange: Any) -> None:
    """Of every precision, in either order of bytes and of axes, though no numpy type is made by the pickle."""
    vectors = keyed_vectors()
    vectors.vectors = arrange(MATRIX.astype(f"{order}{kind}"))
    vectors.save(str(tmp_path / "v.kv"))
    found = load(tmp_path / "v.kv")
    assert found.matrix.dtype == np.dtype(f"{order}{kind}")
    np.testing.assert_array_equal(found.matrix, vectors.vectors)


@pytest.mark.parametrize("matrix", [MATRIX.astype(object), MATRIX.astype("S4"), MATRIX.view([("a", "f4")])])
def test_arrays_of_anything_but_numbers_are_refused(tmp_path: Path, matrix: Any) -> None:
    vectors = keyed_vectors()
    vectors.vectors = matrix
    vectors.save(str(tmp_path / "v.kv"))
    with pytest.raises(UserError, match="one of its arrays holds no plain numbers"):
        load(tmp_path / "v.kv")


def test_a_pickle_makes_nothing_of_numpy() -> None:
    """numpy believes what a pickle says of a type: not even that one is made."""
    unpickler = gensim_pickles._Unpickler(io.BytesIO())
    for module, name in (("numpy", "dtype"), ("numpy", "ndarray"), ("numpy._core.multiarray", "_reconstruct")):
        assert unpickler.find_class(module, name).__module__ == gensim_pickles.__name__
