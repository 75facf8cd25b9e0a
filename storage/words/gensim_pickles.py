"""Word vectors in gensim's own pickles, read without running anything that they ask for.

Nothing that a pickle names is looked up: gensim's classes, and numpy's, become empty records, made for one file and
thrown away with it, and every other name is refused. Arrays are built afterwards, of plain numbers alone, from bytes
that their records were given; numpy's own unpickling would believe whatever a file says of a type.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lavise.storage.words.binary_vectors import compose_words
from lavise.storage.words.vector_forms import open_vectors
from lavise.storage.words.vector_rows import ReadVectors, keep_first

_MATRICES = frozenset({"vectors", "vectors_vocab", "vectors_ngrams"})
_NUMBERS = re.compile(r"[fiu](2|4|8)")
# What a model has beside its vectors is among them: the trainer, its random state, counts.
_RECORDS = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("gensim.models.keyedvectors", "KeyedVectors"),
        ("gensim.models.word2vec", "Word2Vec"),
        ("gensim.models.fasttext", "FastText"),
        ("gensim.models.fasttext", "FastTextKeyedVectors"),
        ("gensim.utils", "call_on_class_only"),
        ("builtins", "hash"),
        ("builtins", "int"),
        ("collections", "defaultdict"),
        ("numpy.random._pickle", "__randomstate_ctor"),
        ("numpy.random._pickle", "__bit_generator_ctor"),
        ("numpy.random._mt19937", "MT19937"),
    }
)


class _Record:
    """Stands for an object that is not built, and keeps its attributes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Record:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Whatever it is made of is not looked at."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        """An item of a mapping that is not built."""


class _Type(_Record):
    """Stands for a type of numbers: its code, and its state, in which the order of bytes is."""

    def __init__(self, code: Any = "", *others: Any) -> None:
        self.code, self.state = code, ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def find(self) -> np.dtype[Any]:
        """Raises: ValueError: no plain numbers."""
        order = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "<"
        if not isinstance(self.code, str) or not _NUMBERS.fullmatch(self.code) or order not in ("<", ">", "="):
            raise ValueError("one of its arrays holds no plain numbers")
        return np.dtype(f"{order}{self.code}")


class _Array(_Record):
    """Stands for an array: its state, in which shape, type and bytes are."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def build(self) -> npt.NDArray[Any]:
        """Raises: ValueError: no array of plain numbers."""
        shape, kind, is_fortran, content = (
            self.state[-4:] if isinstance(self.state, tuple) else (None, None, None, None)
        )
        if not isinstance(kind, _Type) or not isinstance(shape, tuple):
            raise ValueError("one of its arrays is none")
        found = kind.find()
        if not isinstance(content, bytes) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("one of its arrays holds no plain numbers")
        return np.frombuffer(content, dtype=found).reshape(shape, order="F" if is_fortran else "C")


_MADE: dict[tuple[str, str], type[_Record]] = {
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._records: dict[tuple[str, str], type[_Record]] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        known = (module, name)
        if known in _MADE:
            return _MADE[known]
        if known not in _RECORDS:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is not part of KeyedVectors; who trusts the file can convert it "
                "with gensim: `load(FILE).save_word2vec_format('vectors.bin', binary=True)`, of models `load(FILE).wv`"
            )
        return self._records.setdefault(known, type("Record", (_Record,), {}))


def read_pickle(path: Path) -> ReadVectors:
    """KeyedVectors, Word2Vec and FastText as gensim 4 saves them, with the `.npy` files that stand beside.

    Raises:
        ValueError, pickle.UnpicklingError and others: damaged, or something else.
    """
    with open_vectors(path) as file:
        content = _Unpickler(file).load()
    fields = dict(vars(content)) if isinstance(content, _Record) else {}
    prefix = path.name
    if isinstance(fields.get("wv"), _Record):
        fields, prefix = dict(vars(fields["wv"])), f"{prefix}.wv"
    for attribute in fields.get("__numpys", ()):
        if not isinstance(attribute, str) or not re.fullmatch(r"\w+", attribute):
            raise ValueError(f"attribute {attribute!r} is no name")
        if attribute in _MATRICES:
            file_path = path.with_name(f"{prefix}.{attribute}.npy")
            fields[attribute] = np.load(file_path, mmap_mode="r", allow_pickle=False)
    fields = {
        name: value.build() if name in _MATRICES and isinstance(value, _Array) else value
        for name, value in fields.items()
    }
    if not isinstance(words := fields.get("index_to_key"), list):
        raise ValueError("it holds no index_to_key and vectors")
    if "vectors_ngrams" in fields:
        return _compose(words, fields)
    if "vectors" not in fields:
        raise ValueError("it holds no index_to_key and vectors")
    return keep_first(words, fields["vectors"])


def _compose(words: list[Any], fields: dict[str, Any]) -> ReadVectors:
    """gensim leaves the vectors of fastText's words out of the file, since they follow from their parts."""
    own: Any = fields.get("vectors_vocab")
    parts: Any = fields["vectors_ngrams"]
    shortest, longest, buckets = (fields.get(name) for name in ("min_n", "max_n", "bucket"))
    if fields.get("compatible_hash") is not True:
        raise ValueError("its n-grams are hashed as before gensim 3.8; load it with gensim 3.8.3 and save it anew")
    for matrix in (own, parts):
        if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype != np.float32:
            raise ValueError("its vectors_vocab and vectors_ngrams are no tables of float32")
    if not isinstance(shortest, int) or not isinstance(longest, int) or parts.shape != (buckets, own.shape[1]):
        raise ValueError("its n-grams do not fit its words")
    return compose_words(words, own, parts, shortest, longest)
