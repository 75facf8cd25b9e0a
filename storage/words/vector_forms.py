"""In which form word vectors are stored, by what stands at the beginning of a file."""

from __future__ import annotations

import bz2
import gzip
import re
import struct
from pathlib import Path
from typing import IO, cast

FASTTEXT_MAGIC = struct.pack("<i", 793712314)
WORDS_FILE, MATRIX_FILE = "words.txt", "vectors.npy"
FORMATS = (
    "keyed_vectors",
    "word2vec_binary",
    "word2vec_text",
    "glove_text",
    "fasttext_bin",
    "safetensors",
    "folder",
)
_SAMPLE_BYTES = 1 << 16
_MAX_JSON_BYTES = 1 << 27
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_HEADER = re.compile(rb"\s*(\d+)[ \t]+(\d+)[ \t]*\r?\n")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_BOM = b"\xef\xbb\xbf"
# First bytes of files that hold no word vectors as they are, and what to do.
_OTHERS = (
    (b"PK\x03\x04", "it is a zip archive; unpack it"),
    (b"\xfd7zXZ", "it is packed with xz; unpack it, or pack it with gzip or bzip2"),
    (b"(\xb5/\xfd", "it is packed with zstd; unpack it, or pack it with gzip or bzip2"),
    (b"\x89HDF", "it is an HDF5 file; convert it to text, or to a folder with vectors.npy and words.txt"),
    (b"\x93NUMPY", "it is a matrix without words; give a folder with vectors.npy and words.txt"),
    (b"PAR1", "it is a parquet file; convert it to a folder with vectors.npy and words.txt"),
    (b"\xff\xfe", "it is text in UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "it is text in UTF-16; save it as UTF-8"),
)


def open_vectors(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked where it begins as gzip or bzip2 does, whatever its name is."""
    with path.open("rb") as file:
        start = file.read(3)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if start == b"BZh":
        return bz2.open(path, "rb")
    return path.open("rb")


def is_packed(path: Path) -> bool:
    """Whether `open_vectors` unpacks it."""
    with path.open("rb") as file:
        start = file.read(3)
    return start.startswith(b"\x1f\x8b") or start == b"BZh"


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors does: the length of a JSON text, and the text."""
    with path.open("rb") as file:
        return _is_safetensors(file.read(9))


def skip_mark(file: IO[bytes]) -> None:
    """Pass over the byte order mark that some editors put first."""
    if file.read(len(_BOM)) != _BOM:
        file.seek(0)


def find_form(path: Path) -> str:
    """One of FORMATS, by the content alone.

    Raises:
        ValueError: it is empty, or in none of these forms; says what it is where that is known.
    """
    if path.is_dir():
        return "folder"
    with open_vectors(path) as file:
        sample = file.read(_SAMPLE_BYTES)
    if not sample.strip():
        raise ValueError("it is empty")
    if _PICKLE.match(sample):
        return "keyed_vectors"
    if sample.startswith(FASTTEXT_MAGIC):
        return "fasttext_bin"
    if _is_safetensors(sample):
        return "safetensors"
    for start, advice in _OTHERS:
        if sample.startswith(start):
            raise ValueError(advice)
    sample = sample.removeprefix(_BOM)
    header = _HEADER.match(sample)
    if header is None:
        if _CONTROL.search(sample):
            raise ValueError("it is neither text nor a form of word vectors that is known")
        return "glove_text"
    return "word2vec_text" if _is_text_row(sample[header.end() :], int(header[2])) else "word2vec_binary"


def _is_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < _MAX_JSON_BYTES


def _is_text_row(rest: bytes, dimensions: int) -> bool:
    """Whether what follows a header is a row of text: numbers where they should be, else no control characters."""
    numbers = rest.partition(b"\n")[0].split()[-dimensions:] if 0 < dimensions <= _SAMPLE_BYTES else []
    if numbers and len(numbers) == dimensions and all(map(_is_number, numbers)):
        return True
    return not _CONTROL.search(rest)


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
