"""Word vectors of somebody else: any bytes are read, or a line says why not; what is written is read back."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lavise.configs.errors import UserError
from lavise.configs.schema import ModelSettings, WordSettings
from lavise.storage.models.class_names import load_class_names
from lavise.storage.words.word_vectors import WordVectors, load_word_vectors, read_word_list

PIECES = (
    b"dog",
    b"cat",
    b" ",
    b"1",
    b"0",
    b"-1.5",
    b"nan",
    b"1e400",
    b"\n",
    b"\t",
    b"2 3\n",
    b"\xff",
    b"\x80\x04",
    b"\0",
    b",",
    b"#",
)
ANY_BYTES = st.binary(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=16).map(b"".join)
QUIET = settings(max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = st.dictionaries(
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6),
    st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3),
    min_size=2,
    max_size=5,
)


def check_line(error: UserError, start: str) -> None:
    """It says whose fault it is."""
    assert str(error).startswith(start)


def load(path: Path, form: str = "auto") -> WordVectors:
    return load_word_vectors(WordSettings.model_validate({"vectors": str(path), "format": form}))


@pytest.mark.parametrize(
    "form", ["auto", "glove_text", "word2vec_text", "word2vec_binary", "fasttext_bin", "safetensors"]
)
@settings(QUIET, max_examples=20)
@given(content=ANY_BYTES)
def test_any_bytes_are_vectors_or_refused(tmp_path: Path, form: str, content: bytes) -> None:
    path = tmp_path / "v"
    path.write_bytes(content)
    try:
        found = load(path, form)
    except UserError as err:
        check_line(err, "words.vectors: cannot read ")
        return
    assert len(found.words) == len(found.matrix)
    assert np.isfinite(found.matrix).all()


@pytest.mark.parametrize("form", ["glove_text", "word2vec_text", "word2vec_binary"])
@settings(QUIET, max_examples=25)
@given(rows=ROWS, packed=st.booleans())
def test_what_is_written_is_read_back(tmp_path: Path, form: str, rows: dict[str, list[float]], packed: bool) -> None:
    matrix = np.array(list(rows.values()), dtype=np.float32)
    header = b"" if form == "glove_text" else b"%d 3\n" % len(rows)
    if form == "word2vec_binary":
        body = b"".join(w.encode() + b" " + r.tobytes() for w, r in zip(rows, matrix, strict=True))
    else:
        body = "".join(f"{w} {' '.join(map(repr, r))}\n" for w, r in zip(rows, matrix.tolist(), strict=True)).encode()
    path = tmp_path / "v"
    path.write_bytes(gzip.compress(header + body) if packed else header + body)
    found = load(path, form)
    assert list(found.words) == list(rows)
    np.testing.assert_array_equal(found.matrix, matrix)


@QUIET
@given(ANY_BYTES)
def test_any_bytes_are_names_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    settings = ModelSettings.model_validate({"arch": "a.b:c", "class_names": str(path)})
    try:
        found = load_class_names(settings, 2)
        assert found is not None
        assert len(found.names) == 2
        assert all(found.names)
    except UserError as err:
        check_line(err, "model.class_names: ")
    try:
        assert read_word_list(path)
    except UserError as err:
        check_line(err, "words.vocabulary_file: ")
