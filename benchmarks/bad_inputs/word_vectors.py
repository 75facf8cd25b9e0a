"""Bad files of word vectors, class lists and word lists."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bad_inputs.answers import COUNTED, READ, REFUSED, WITNESS, Case, Found
from benchmarks.bad_inputs.checkpoints import Stranger
from lavise.configs.schema import ModelSettings, WordSettings
from lavise.storage.models.class_names import load_class_names
from lavise.storage.words.word_vectors import build_vocabulary, load_word_vectors, read_word_list

GROUP, LISTS = "word vectors", "class and word lists"
WORDS = ("dog", "cat", "tree", "hot_dog")
MATRIX = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=np.float32)
Write = Callable[[Path], Path]
_REFUSED, _COUNTED, _READ, _ANY = (REFUSED,), (COUNTED,), (READ,), (REFUSED, COUNTED, READ)


def list_cases() -> Iterator[Case]:
    """All of them."""
    for what, write, expected in _FILES:
        yield Case(GROUP, what, partial(_read, write), expected)
    for what, content, expected in _CLASSES:
        yield Case(LISTS, f"model.class_names: {what}", partial(_read_classes, content), expected)
    for what, content, expected in _WORDS:
        yield Case(LISTS, f"words.vocabulary_file: {what}", partial(_read_words, content), expected)


def _read(write: Write, folder: Path) -> Found:
    settings = WordSettings.model_validate({"vectors": str(write(folder))})
    vectors = load_word_vectors(settings)
    vocabulary = build_vocabulary(vectors, 10, ["dog"])
    return Found(len(vocabulary.words), Counter(dict(vectors.left_out)))


def _read_classes(content: bytes, folder: Path) -> Found:
    (folder / "classes.txt").write_bytes(content)
    settings = ModelSettings.model_validate({"arch": "a.b:c", "class_names": str(folder / "classes.txt")})
    found = load_class_names(settings, 2)
    return Found(len(found.names) if found else 0)


def _read_words(content: bytes, folder: Path) -> Found:
    (folder / "words.txt").write_bytes(content)
    return Found(len(read_word_list(folder / "words.txt")))


# ---------------------------------------------------------------- files


def _file(content: bytes, name: str = "v.txt") -> Write:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _rows(*rows: str, header: str = "") -> Write:
    return _file(
        "".join(f"{row}\n" for row in ([header] if header else []) + list(rows)).encode("utf-8", "surrogatepass")
    )


def _glove(change: Callable[[list[str]], list[str]] = list, header: str = "") -> Write:
    rows = [f"{word} {' '.join(map(str, row))}" for word, row in zip(WORDS, MATRIX.tolist(), strict=True)]
    return _rows(*change(rows), header=header)


def _binary(header: str = "4 3", cut: int = 0, matrix: Any = MATRIX) -> bytes:
    rows = b"".join(w.encode() + b" " + r.tobytes() + b"\n" for w, r in zip(WORDS, matrix, strict=True))
    return (header.encode() + b"\n" + rows)[: -cut or None]


def _folder(matrix: Any = MATRIX, words: bytes = b"dog\ncat\ntree\nhot_dog\n", raw: bytes | None = None) -> Write:
    def write(folder: Path) -> Path:
        (folder / "v").mkdir()
        if raw is None:
            np.save(folder / "v" / "vectors.npy", matrix)
        else:
            (folder / "v" / "vectors.npy").write_bytes(raw)
        (folder / "v" / "words.txt").write_bytes(words)
        return folder / "v"

    return write


def _objects(folder: Path) -> Path:
    """A matrix of Python objects, which only unpickling could read."""
    matrix = np.empty((4, 3), dtype=object)
    matrix[:] = 1.0
    (folder / "v").mkdir()
    np.save(folder / "v" / "vectors.npy", matrix, allow_pickle=True)
    (folder / "v" / "words.txt").write_text("dog\ncat\ntree\nhot_dog\n")
    return folder / "v"


def _stranger(folder: Path) -> Path:
    return _file(pickle.dumps(Stranger(folder / WITNESS)), "v.kv")(folder)


def _gensim(change: Callable[[dict[str, Any]], Any]) -> Write:
    def write(folder: Path) -> Path:
        from gensim.models import KeyedVectors

        vectors = KeyedVectors(3)
        vectors.add_vectors(list(WORDS), MATRIX)
        change(vars(vectors))
        vectors.save(str(folder / "v.kv"))
        return folder / "v.kv"

    return write


def _outside(folder: Path) -> Path:
    """Of files beside it, one whose name has separators."""
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(3)
    vectors.add_vectors(list(WORDS), MATRIX)
    vars(vectors)["__numpys"] = ["../../etc/x"]
    return _file(pickle.dumps(vectors, protocol=4), "v.kv")(folder)


def _cut_gensim(folder: Path) -> Path:
    path = _gensim(lambda own: None)(folder)
    path.write_bytes(path.read_bytes()[:-50])
    return path


def _safetensors(tensors: dict[str, Any], words: str | None = "dog\ncat\ntree\nhot_dog\n") -> Write:
    def write(folder: Path) -> Path:
        from safetensors.numpy import save_file

        save_file(tensors, folder / "v.safetensors")
        if words is not None:
            (folder / "words.txt").write_text(words)
        return folder / "v.safetensors"

    return write


def _with(value: float) -> Any:
    changed = MATRIX.copy()
    changed[1, 1] = value
    return changed


_NAN, _INF = float("nan"), float("inf")
_FASTTEXT = struct.pack("<ii", 793712314, 12)
_FILES: tuple[tuple[str, Write, tuple[str, ...]], ...] = (
    ("a path that leads nowhere", lambda folder: folder / "nowhere.txt", _REFUSED),
    ("an empty folder", lambda folder: folder, _REFUSED),
    ("no byte", _file(b""), _REFUSED),
    ("blank lines", _file(b"\n\n\n"), _REFUSED),
    ("zeros alone", _file(bytes(1000)), _REFUSED),
    ("a page of HTML", _file(b"<html><body>404</body></html>"), _REFUSED),
    ("a zip archive", _file(b"PK\x03\x04" + bytes(100)), _REFUSED),
    ("gzip, cut", _file(gzip.compress(b"dog 1 0 0\n" * 1000)[:-20]), _REFUSED),
    ("gzip of nothing", _file(gzip.compress(b"")), _REFUSED),
    ("UTF-16", _file("dog 1 0 0\n".encode("utf-16")), _REFUSED),
    ("GloVe: a row with one number less", _glove(lambda rows: [*rows[:2], rows[2][:-4], rows[3]]), _REFUSED),
    ("GloVe: a row with one number more", _glove(lambda rows: [*rows, "bird 1 2 3 4"]), _REFUSED),
    ("GloVe: the last row cut in a number", _glove(lambda rows: [*rows[:3], rows[3][:-2]]), _ANY),
    ("GloVe: NaN", _glove(lambda rows: [*rows, "bird nan 0 1"]), _REFUSED),
    ("GloVe: infinity", _glove(lambda rows: [*rows, "bird inf 0 1"]), _REFUSED),
    ("GloVe: 1e400", _glove(lambda rows: [*rows, "bird 1e400 0 1"]), _REFUSED),
    ("GloVe: zeros alone", _glove(lambda rows: [*rows, "bird 0 0 0"]), _COUNTED),
    ("GloVe: a word twice", _glove(lambda rows: [*rows, rows[0]]), _COUNTED),
    ("GloVe: a text in the place of a number", _glove(lambda rows: [*rows, "bird x 0 1"]), _ANY),
    ("GloVe: tabs", _rows("dog\t1\t0\t0", "cat\t0\t1\t0"), _REFUSED),
    ("GloVe: words alone", _rows("dog", "cat"), _REFUSED),
    ("GloVe: a word that is no UTF-8", _file(b"dog 1 0 0\n\xff\xfe 0 1 0\ncat 0 0 1\n"), _READ),
    ("GloVe: a word of control characters", _rows("dog 1 0 0", "cat 0 1 0", "\x1b[31m 0 0 1"), _ANY),
    ("GloVe: a word of HTML", _rows("dog 1 0 0", "cat 0 1 0", "<script> 0 0 1"), _READ),
    ("GloVe: a line without end", _file(b"dog " + b"1 " * 9_000_000), _REFUSED),
    ("GloVe: no category has a vector", _rows("chien 1 0 0", "chat 0 1 0"), _REFUSED),
    ("word2vec: fewer rows than the header says", _glove(header="9 3"), _REFUSED),
    ("word2vec: more rows than the header says", _glove(header="2 3"), _COUNTED),
    ("word2vec: other dimensions than the header says", _glove(header="4 5"), _REFUSED),
    ("word2vec: a header of 10^12 rows", _glove(header="1000000000000 3"), _REFUSED),
    ("word2vec: a header of 10^12 dimensions", _glove(header="4 1000000000000"), _REFUSED),
    ("word2vec: a header of 0 words", _glove(header="0 3"), _REFUSED),
    ("word2vec: a header of 5,000 digits", _glove(header=f"{'9' * 5000} 3"), _REFUSED),
    ("word2vec, binary: cut in a row", _file(_binary(cut=7), "v.bin"), _REFUSED),
    ("word2vec, binary: NaN", _file(_binary(matrix=_with(_NAN)), "v.bin"), _REFUSED),
    ("word2vec, binary: a header of 10^12 rows", _file(_binary("1000000000000 3"), "v.bin"), _REFUSED),
    ("word2vec, binary: bytes behind the last row", _file(_binary("3 3"), "v.bin"), _COUNTED),
    ("fastText: its mark alone", _file(_FASTTEXT, "v.bin"), _REFUSED),
    ("fastText: noise", _file(_FASTTEXT + np.random.default_rng(0).bytes(4000), "v.bin"), _REFUSED),
    ("fastText: zeros", _file(_FASTTEXT + bytes(4000), "v.bin"), _REFUSED),
    ("gensim: None in the place of the matrix", _gensim(lambda own: own.update(vectors=None)), _REFUSED),
    ("gensim: doubles", _gensim(lambda own: own.update(vectors=MATRIX.astype(np.float64))), _READ),
    ("gensim: whole numbers", _gensim(lambda own: own.update(vectors=MATRIX.astype(np.int64))), _REFUSED),
    ("gensim: one row less", _gensim(lambda own: own.update(vectors=MATRIX[:3])), _REFUSED),
    ("gensim: one axis", _gensim(lambda own: own.update(vectors=MATRIX[0])), _REFUSED),
    ("gensim: NaN", _gensim(lambda own: own.update(vectors=_with(_NAN))), _REFUSED),
    (
        "gensim: a row of zeros",
        _gensim(lambda own: own.update(vectors=np.vstack([MATRIX[:3], 0 * MATRIX[:1]]))),
        _COUNTED,
    ),
    ("gensim: words that are None", _gensim(lambda own: own.update(index_to_key=[None, "a", "b", "c"])), _REFUSED),
    ("gensim: no words", _gensim(lambda own: own.update(index_to_key=[])), _REFUSED),
    ("gensim: Python objects in the matrix", _gensim(lambda own: own.update(vectors=MATRIX.astype(object))), _REFUSED),
    ("gensim: a list of files that leads out", _outside, _REFUSED),
    ("gensim: cut", _cut_gensim, _REFUSED),
    ("a pickle of a class that is on no list", _stranger, _REFUSED),
    ("a pickle of a list", _file(pickle.dumps([1, 2, 3], protocol=4), "v.kv"), _REFUSED),
    ("safetensors: two tensors", _safetensors({"a": MATRIX, "b": MATRIX}), _REFUSED),
    ("safetensors: no list of words", _safetensors({"vectors": MATRIX}, None), _REFUSED),
    ("safetensors: fewer words than rows", _safetensors({"vectors": MATRIX}, "dog\n"), _REFUSED),
    ("safetensors: whole numbers", _safetensors({"vectors": MATRIX.astype(np.int32)}), _REFUSED),
    ("folder: fewer words than rows", _folder(words=b"dog\n"), _REFUSED),
    ("folder: words in UTF-16", _folder(words="dog\n".encode("utf-16")), _REFUSED),
    ("folder: words empty", _folder(words=b""), _REFUSED),
    ("folder: one axis", _folder(MATRIX[0]), _REFUSED),
    ("folder: infinity", _folder(_with(_INF)), _REFUSED),
    ("folder: zeros alone", _folder(0 * MATRIX), _REFUSED),
    ("folder: vectors.npy without a byte", _folder(raw=b""), _REFUSED),
    ("folder: vectors.npy of noise", _folder(raw=b"\x93NUMPY\x01\x00\xff\xff" + bytes(100)), _REFUSED),
    ("folder: vectors.npy of Python objects", _objects, _REFUSED),
)
_CLASSES: tuple[tuple[str, bytes, tuple[str, ...]], ...] = (
    ("empty", b"", _REFUSED),
    ("one too few", b"dog\n", _REFUSED),
    ("one too many", b"dog\ncup\ntree\n", _REFUSED),
    ("a blank line among them", b"dog\n\n", _REFUSED),
    ("a name of commas", b"dog\n,,,\n", _REFUSED),
    ("UTF-16", "dog\ncup\n".encode("utf-16"), _REFUSED),
    ("zeros alone", bytes(20), _REFUSED),
    ("a mark at the beginning", b"\xef\xbb\xbfdog\ncup\n", _READ),
    ("HTML", b"<b>dog</b>\n<script>alert(1)</script>\n", _READ),
)
_WORDS: tuple[tuple[str, bytes, tuple[str, ...]], ...] = (
    ("empty", b"", _REFUSED),
    ("comments alone", b"# a\n# b\n", _REFUSED),
    ("UTF-16", "dog\n".encode("utf-16"), _REFUSED),
    ("words twice", b"dog\ndog\n", _READ),
)
