from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec
from gensim.models.doc2vec import Doc2Vec, TaggedDocument

from lavise.configs.errors import UserError
from lavise.configs.schema import WordSettings
from lavise.storage.words.word_vectors import build_vocabulary, digest_vectors, find_vectors_file, load_word_vectors
from tests.unit.storage.words.some_vectors import MATRIX, WORDS, unit, vectors_of


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.witness),)


def keyed_vectors() -> Any:
    vectors = KeyedVectors(MATRIX.shape[1])
    vectors.add_vectors(WORDS, MATRIX)
    return vectors


def save(folder: Path, kind: str) -> Path:
    """The vectors on disk, written by gensim wherever it writes the format."""
    folder.mkdir(exist_ok=True)
    if kind == "kv":
        keyed_vectors().save(str(folder / "v.kv"))
        return folder / "v.kv"
    if kind == "kv separate":
        keyed_vectors().save(str(folder / "v.kv"), sep_limit=0)
        assert (folder / "v.kv.vectors.npy").is_file()
        return folder / "v.kv"
    if kind == "word2vec binary":
        keyed_vectors().save_word2vec_format(str(folder / "v.bin"), binary=True)
        return folder / "v.bin"
    if kind == "word2vec text":
        keyed_vectors().save_word2vec_format(str(folder / "v.txt"), binary=False)
        return folder / "v.txt"
    lines = [" ".join([w, *(repr(float(x)) for x in row)]) for w, row in zip(WORDS, MATRIX, strict=True)]
    (folder / "g.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder / "g.txt"


def settings(path: Path | str, kind: str = "auto") -> WordSettings:
    return WordSettings.model_validate({"vectors": str(path), "format": kind})


# Formats

KINDS = ["kv", "kv separate", "word2vec binary", "word2vec text", "glove text"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_words_and_vectors(tmp_path: Path, kind: str) -> None:
    loaded = load_word_vectors(settings(save(tmp_path, kind)))
    assert list(loaded.words) == WORDS
    np.testing.assert_allclose(loaded.matrix, MATRIX, rtol=1e-6)
    assert loaded.matrix.dtype == np.float32
    assert loaded.index["zebra"] == WORDS.index("zebra")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("kv", "keyed_vectors"),
        ("word2vec binary", "word2vec_binary"),
        ("word2vec text", "word2vec_text"),
        ("glove text", "glove_text"),
    ],
)
def test_format_can_be_named_where_the_ending_does_not_tell(tmp_path: Path, kind: str, name: str) -> None:
    path = save(tmp_path, kind).rename(tmp_path / "vectors.dat")
    assert list(load_word_vectors(settings(path, name)).words) == WORDS


def test_separate_matrix_is_memory_mapped(tmp_path: Path) -> None:
    assert isinstance(load_word_vectors(settings(save(tmp_path, "kv separate"))).matrix, np.memmap)


def test_trained_vectors_with_counts_and_log(tmp_path: Path) -> None:
    model = Word2Vec(
        [["dog", "cat", "dog"], ["tree", "dog", "cat"]] * 20, vector_size=6, min_count=1, workers=1, seed=1
    )
    for name, options in (("a.kv", {}), ("b.kv", {"sep_limit": 0})):
        model.wv.save(str(tmp_path / name), **options)
        loaded = load_word_vectors(settings(tmp_path / name))
        assert list(loaded.words) == model.wv.index_to_key
        np.testing.assert_array_equal(loaded.matrix, model.wv.vectors)


def test_package_vectors() -> None:
    loaded = load_word_vectors(WordSettings())
    assert loaded.matrix.shape == (400_000, 50)
    assert isinstance(loaded.matrix, np.memmap)
    assert list(loaded.words[:3]) == ["the", ",", "."]
    king, man, woman = (unit(loaded.matrix[loaded.index[w]]) for w in ("king", "man", "woman"))
    queen = unit(loaded.matrix[loaded.index["queen"]])
    assert queen @ unit(king - man + woman) > 0.7


def test_twice_the_same_word_counts_where_it_stands_first() -> None:
    assert vectors_of(["a", "b", "a"]).index == {"a": 0, "b": 1}


# Files


def test_vectors_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^words\.vectors: found '.*none\.kv', which is no file; allowed: package:kumo-gl"
    ):
        load_word_vectors(settings(tmp_path / "none.kv"))


def test_home_folder_of_nobody_is_a_fault_of_the_user() -> None:
    with pytest.raises(UserError, match="no-such-user-here"):
        load_word_vectors(settings("~no-such-user-here/v.kv"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-thing", "package 'no-such-thing' is not installed; install it, or give a file"),
        ("pyyaml", r"package 'pyyaml' is not one \.npy and one \.parquet; give a file instead"),
        ("", "package ''"),
    ],
)
def test_packages_without_vectors(name: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^words\.vectors: {message}"):
        load_word_vectors(settings(f"package:{name}"))


def test_companion_file_that_is_missing(tmp_path: Path) -> None:
    path = save(tmp_path, "kv separate")
    (tmp_path / "v.kv.vectors.npy").unlink()
    with pytest.raises(
        UserError, match=r"^words\.vectors: cannot read .*v\.kv as keyed_vectors \(.*v\.kv\.vectors\.npy"
    ):
        load_word_vectors(settings(path))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("glove text", "keyed_vectors"),
        ("glove text", "word2vec_text"),
        ("word2vec text", "keyed_vectors"),
        ("kv", "word2vec_binary"),
        ("kv", "glove_text"),
    ],
)
def test_wrong_format_says_which_there_are(tmp_path: Path, kind: str, wrong: str) -> None:
    path = save(tmp_path, kind)
    with pytest.raises(
        UserError,
        match=rf"^words\.vectors: cannot read {re.escape(str(path))} as {wrong} \(.*\); set words\.format to "
        r"keyed_vectors, word2vec_binary, word2vec_text, glove_text, fasttext_bin, safetensors or folder$",
    ):
        load_word_vectors(settings(path, wrong))


@pytest.mark.parametrize("kind", ["kv", "word2vec binary", "word2vec text"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.97])
def test_truncated_file(tmp_path: Path, kind: str, share: float) -> None:
    path = save(tmp_path, kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"^words\.vectors: cannot read .* as "):
        load_word_vectors(settings(path))


def test_glove_file_that_ends_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = save(tmp_path, "glove text")
    lines = path.read_text().splitlines()
    for values_left in (1, 2, 4):
        path.write_text("\n".join([*lines[:-1], " ".join(lines[-1].split()[: 1 + values_left])]))
        with pytest.raises(UserError, match=r"^words\.vectors: "):
            load_word_vectors(settings(path))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"word\n", b"\xff\xfe\x00\x01\n\n"])
@pytest.mark.parametrize("name", ["v.txt", "v.bin", "v.kv"])
def test_file_without_vectors(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"^words\.vectors: "):
        load_word_vectors(settings(tmp_path / name))


def test_header_that_promises_more_than_memory_holds(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("3 99999999999999\ndog 1 2\n")
    with pytest.raises(UserError, match=r"^words\.vectors: cannot read"):
        load_word_vectors(settings(tmp_path / "v.txt"))


def test_value_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    """It would go through every sum of the training and of the ranking."""
    (tmp_path / "v.txt").write_text("dog 1 2\ncat 1 nan\n")
    with pytest.raises(UserError, match=r"^words\.vectors: .*(cat|finite|nan)"):
        build_vocabulary(load_word_vectors(settings(tmp_path / "v.txt")), 10, [])


# Pickles


def plant(folder: Path, place: str, witness: Path) -> Path:
    path, evil = folder / "v.kv", Evil(witness)
    if place == "alone":
        path.write_bytes(pickle.dumps(evil))
    elif place == "in an attribute":
        vectors = keyed_vectors()
        vectors.extra = evil
        vectors.save(str(path))
    elif place == "in the words":
        vectors = keyed_vectors()
        vectors.index_to_key = [*WORDS, evil]
        path.write_bytes(pickle.dumps(vectors, protocol=4))
    elif place == "in an object array":
        vectors = keyed_vectors()
        vectors.vectors = np.array([evil], dtype=object)
        path.write_bytes(pickle.dumps(vectors, protocol=4))
    else:
        keyed_vectors().save(str(path), sep_limit=0)
        np.save(folder / "v.kv.vectors.npy", np.array([evil], dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize(
    "place", ["alone", "in an attribute", "in the words", "in an object array", "in the separate matrix"]
)
def test_planted_code_is_refused_and_does_not_run(tmp_path: Path, place: str) -> None:
    witness = tmp_path / "ran"
    path = plant(tmp_path, place, witness)
    with pytest.raises(
        UserError, match=r"cannot read .*v\.kv as keyed_vectors \((it asks for posix\.mkdir|.*Python objects in dtype)"
    ):
        load_word_vectors(settings(path))
    assert not witness.exists()
    # The file is a real one: whoever unpickles it does run the code.
    if place == "in the separate matrix":
        np.load(tmp_path / "v.kv.vectors.npy", allow_pickle=True)
    else:
        pickle.loads(path.read_bytes())
    assert witness.exists()


@pytest.mark.parametrize("name", ["KeyedVectors.load", "pickle.loads", "utils.unpickle", "np.load"])
def test_other_names_of_the_allowed_module_are_refused(tmp_path: Path, name: str) -> None:
    """The allowed module imports others; a dotted name must not lead through it to them."""
    witness = tmp_path / "ran"
    inner = tmp_path / "inner.pickle"
    inner.write_bytes(pickle.dumps(Evil(witness)))
    stream = io.BytesIO()
    stream.write(b"\x80\x04")
    for text in ("gensim.models.keyedvectors", name):
        stream.write(b"\x8c" + bytes([len(text)]) + text.encode())
    argument = str(inner).encode()
    stream.write(b"\x93\x8c" + bytes([len(argument)]) + argument + b"\x85R.")
    (tmp_path / "v.kv").write_bytes(stream.getvalue())
    with pytest.raises(
        UserError, match=rf"it asks for gensim\.models\.keyedvectors\.{re.escape(name)}, which is not pa"
    ):
        load_word_vectors(settings(tmp_path / "v.kv"))
    assert not witness.exists()


def test_other_gensim_models_are_refused(tmp_path: Path) -> None:
    documents = [TaggedDocument(["dog", "cat"], [n]) for n in range(5)]
    Doc2Vec(documents, vector_size=4, min_count=1, workers=1).save(str(tmp_path / "v.kv"))
    with pytest.raises(
        UserError,
        match=r"it asks for gensim\.models\.doc2vec\.Doc2Vec, which is not part.*load\(FILE\)\.save_word2vec_format",
    ):
        load_word_vectors(settings(tmp_path / "v.kv"))


@pytest.mark.parametrize(
    "content",
    [
        {"index_to_key": WORDS},
        [1, 2],
        None,
    ],
)
def test_pickle_of_something_else(tmp_path: Path, content: object) -> None:
    (tmp_path / "v.kv").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="it holds no index_to_key and vectors"):
        load_word_vectors(settings(tmp_path / "v.kv"))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04cnumpy\nndarray\n(\x8c\x01xtR.",  # ndarray("x"): TypeError
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.",  # a frame of 2^64 bytes: OverflowError
        b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes that would not fit into memory: OverflowError
    ],
    ids=["senseless argument", "endless frame", "endless bytes"],
)
def test_damaged_pickle_is_a_fault_of_the_user(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "v.kv").write_bytes(data)
    with pytest.raises(UserError, match=r"^words\.vectors: cannot read .* as keyed_vectors"):
        load_word_vectors(settings(tmp_path / "v.kv"))


def test_attribute_that_would_lead_to_another_file(tmp_path: Path) -> None:
    vectors = keyed_vectors()
    vars(vectors)["__numpys"] = ["x/../../secret"]
    (tmp_path / "v.kv").write_bytes(pickle.dumps(vectors, protocol=4))
    with pytest.raises(UserError, match=r"attribute 'x/\.\./\.\./secret' is no name"):
        load_word_vectors(settings(tmp_path / "v.kv"))


# Digests


@pytest.mark.parametrize("kind", KINDS)
def test_digest_follows_the_content(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, kind)
    base = digest_vectors(settings(path))
    assert digest_vectors(settings(path)) == base
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert digest_vectors(settings(path)) != base


@pytest.mark.parametrize("name", ["v.kv", "glove [50d].kv", "v*.kv"])
def test_digest_follows_the_separate_matrix(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    keyed_vectors().save(str(path), sep_limit=0)
    matrix = tmp_path / f"{name}.vectors.npy"
    assert matrix in find_vectors_file(settings(path)).values()
    base = digest_vectors(settings(path))
    np.save(matrix, MATRIX + 1)
    np.testing.assert_array_equal(load_word_vectors(settings(path)).matrix, MATRIX + 1)
    assert digest_vectors(settings(path)) != base
