"""Word vectors as a matrix with a list of words beside: what other programs, as text encoders, write most easily."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lavise.storage.words.vector_forms import MATRIX_FILE, WORDS_FILE
from lavise.storage.words.vector_rows import ReadVectors, keep_first

_TENSOR = "vectors"


def find_word_list(path: Path) -> Path:
    """The list that belongs to a safetensors file: NAME.txt, else words.txt beside it."""
    own = path.with_suffix(".txt")
    return own if own.is_file() else path.with_name(WORDS_FILE)


def read_folder(folder: Path) -> ReadVectors:
    """vectors.npy, memory-mapped, and words.txt."""
    matrix = np.load(folder / MATRIX_FILE, mmap_mode="r", allow_pickle=False)
    return keep_first(_read_lines(folder / WORDS_FILE), matrix)


def read_safetensors(path: Path) -> ReadVectors:
    """The tensor called vectors, else the only one.

    Raises:
        ValueError: several tensors and none of that name, or no list of words.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if _TENSOR not in names and len(names) != 1:
            raise ValueError(f"it has {len(names)} tensors, none of which is called {_TENSOR}")
        tensor = file.get_tensor(_TENSOR if _TENSOR in names else names[0])
    listed = find_word_list(path)
    if not listed.is_file():
        raise ValueError(f"neither {path.stem}.txt nor {WORDS_FILE} is beside it, with a word per line")
    # numpy has no bfloat16.
    return keep_first(_read_lines(listed), (tensor.float() if tensor.element_size() == 2 else tensor).numpy())


def _read_lines(path: Path) -> list[str]:
    """A word or phrase per line, all of it; nothing is a comment."""
    lines = path.read_text("utf-8-sig").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
