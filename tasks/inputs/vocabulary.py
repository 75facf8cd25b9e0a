"""The vocabulary V as an artefact: normalised vectors of all candidate words and of the reference's categories."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import numpy as np

from lavise.configs.schema import WordSettings
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_file
from lavise.storage.state.files import write_json
from lavise.storage.words.category_names import ENGLISH
from lavise.storage.words.visual_words import VISUAL_RULE, find_visual_words
from lavise.storage.words.word_vectors import (
    PhraseMatch,
    Vocabulary,
    WordVectors,
    build_vocabulary,
    find_word_rule,
    read_word_list,
)
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, Spread, StageInputs

STAGE = Stage("vocabulary", version=2, libraries=("gensim", "simplemma"))


def _describe_words(settings: WordSettings) -> dict[str, str | int | None]:
    """Which words are taken; the vectors themselves are among the inputs."""
    listed = settings.vocabulary_file
    rule = f"{find_word_rule(settings.language)}; gensim {metadata.version('gensim')}"
    if settings.vocabulary == "visual":
        rule = f"{VISUAL_RULE}; gensim {metadata.version('gensim')}, timm {metadata.version('timm')}"
    return {
        "rule": None if listed else rule,
        "format": settings.format,
        "suffix": Path(settings.vectors).suffix,
        "size": None if listed else settings.vocabulary_size,
        "word_list": digest_file(listed) if listed and listed.is_file() else None,
        **({} if settings.language == ENGLISH else {"language": settings.language}),
    }


@dataclass(frozen=True)
class VocabularyInputs(StageInputs):
    """What V is made from.

    Attributes:
        categories: of the reference.
        vectors: reads the word vectors, which are known by the digest of their files.
    """

    settings: Annotated[WordSettings, Spread(_describe_words)]
    categories: tuple[str, ...]
    vectors: Given[Callable[[], WordVectors]]


def make_vocabulary(inputs: VocabularyInputs, folder: Path) -> Info:
    """Write folder/matrix.npy (float32 [V, E], rows of length 1) and folder/vocabulary.json.

    Returns:
        facts: num_words, num_all, dimensions, and how many categories were found in which way.
    """
    settings = inputs.settings
    vectors, listed = inputs.vectors.value(), None
    if settings.vocabulary_file:
        listed = read_word_list(settings.vocabulary_file)
    elif settings.vocabulary == "visual":
        listed = find_visual_words(vectors)[: settings.vocabulary_size]
    size, language = settings.vocabulary_size, settings.language
    vocabulary = build_vocabulary(vectors, size, inputs.categories, listed, language)
    np.save(folder / file_names.VOCABULARY_MATRIX, vocabulary.matrix)
    matches = [[m.name, m.how, list(m.tokens), *([m.read_as] if m.read_as else [])] for m in vocabulary.matches]
    content: dict[str, object] = {
        "words": list(vocabulary.words),
        "num_words": vocabulary.num_words,
        "matches": matches,
        "left_out": dict(vocabulary.left_out),
        "language": language,
    }
    write_json(folder / file_names.VOCABULARY, content)
    found: dict[str, int] = {}
    for match in vocabulary.matches:
        found[match.how] = found.get(match.how, 0) + 1
    return {
        "num_words": vocabulary.num_words,
        "num_all": len(vocabulary.words),
        "dimensions": int(vocabulary.matrix.shape[1]),
        "categories": found,
    }


def load_vocabulary(handle: Handle) -> Vocabulary:
    """Read a vocabulary back."""
    return read_vocabulary(handle.folder)


def read_vocabulary(folder: Path) -> Vocabulary:
    """From a folder with vocabulary.json and matrix.npy."""
    content = json.loads((folder / file_names.VOCABULARY).read_text("utf-8"))
    matches = tuple(PhraseMatch(name, how, tuple(tokens), *read) for name, how, tokens, *read in content["matches"])
    matrix = np.load(folder / file_names.VOCABULARY_MATRIX, allow_pickle=False)
    left_out, language = content.get("left_out", {}), content.get("language", ENGLISH)  # not in those of before
    return Vocabulary(tuple(content["words"]), matrix, content["num_words"], matches, left_out, language)
