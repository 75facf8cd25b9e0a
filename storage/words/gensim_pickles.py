"""Word vectors in gensim's own pickles, read without running anything that they ask for.

Arrays are built by numpy; gensim's classes become empty records, made for one file and thrown away with it. Every other
name in a pickle is refused before it is looked up.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import IO, Any

import numpy as np

from lavise.storage.words.binary_vectors import compose_words
from lavise.storage.words.vector_forms import open_vectors
from lavise.storage.words.vector_rows import ReadVectors, keep_first

_ARRAYS = frozenset(
    {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
    }
)
# What a model has beside its vectors is among them: the trainer, its random state, counts.
_RECORDS = frozenset(
    {
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


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._records: dict[tuple[str, str], type[_Record]] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        known = (module, name)
        if known in _ARRAYS:
            return super().find_class(module, name)
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
        if attribute in ("vectors", "vectors_vocab", "vectors_ngrams"):
            file_path = path.with_name(f"{prefix}.{attribute}.npy")
            fields[attribute] = np.load(file_path, mmap_mode="r", allow_pickle=False)
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
