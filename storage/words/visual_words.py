"""The visual vocabulary: names of things that can be photographed, by ImageNet, WordNet and the word vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np

from lavise.configs.errors import UserError
from lavise.storage.array_types import DoubleArray
from lavise.storage.words.lemmas import lemmatise
from lavise.storage.words.word_vectors import WordVectors, match_nonzero
from lavise.storage.words.wordnet import CONCRETE, WordNet, load_wordnet, offset_of

SYNSETS = "imagenet22k_synsets.txt"
"""All that ImageNet has photographs of. The shorter lists ask for 500 of each; a few do to show that it is visible."""
PEOPLE = ("person", "man", "woman", "boy", "girl", "child")
"""Of people only these: most other names say what somebody does or is thought of."""
CONCRETE_STOP_WORDS = frozenset({"computer", "fire", "mill"})
"""Names of things that are on gensim's list of stop words."""
VISUAL_RULE = (
    f"lemmas of WordNet 3.0 synsets that timm's {SYNSETS} has, with their ancestors and their kinds, in "
    f"{'/'.join(CONCRETE)}, and {'/'.join(PEOPLE)}; lower case; single words a-z of three or more letters, and phrases "
    f"of two words that are one token; no stop word (gensim's list) but {'/'.join(sorted(CONCRETE_STOP_WORDS))}; not "
    "more often adjective or adverb than noun; share of uses and twice the visualness of the vector at least 1.5; in "
    "the file's order of frequency; 1"
)
"""In short, for digests. A change that the text does not show raises the number at its end."""
_WORD = re.compile(r"[a-z]{3,}")
_PHRASE = re.compile(r"[a-z]{2,} [a-z]{2,}")
_NUM_REFERENCES = 60_000
_MIN_THINGS = 500
_RIDGE = 30.0


def find_visual_words(vectors: WordVectors) -> list[str]:
    """Concrete words, most frequent first.

    Candidates are the lemmas of the *things*: WordNet's synsets in one of the CONCRETE categories that ImageNet has
    photographs of, their ancestors, and their immediate kinds; and PEOPLE, which are always taken. A candidate is a
    single word (a-z, three letters or more) with a vector, or a phrase of two words that the vectors have as one token
    (`hotdog`). It is no stop word, but for CONCRETE_STOP_WORDS.

    Most frequent words have many meanings. Two witnesses, both from 0 to 1, say whether a thing is what a word means:
    the share of its uses in WordNet's tagged texts that are a thing (small texts: `bear` is a verb in 83 of 84 uses),
    and the *visualness* of its vector, i.e. of its use where the vectors come from. A candidate is taken if their mean,
    where visualness counts twice, is at least one half. Visualness is linear in the normalised vector, by least squares
    on the most frequent words: 1 for those with most of their uses in the CONCRETE categories, 0 for the others and for
    those that WordNet does not have (mostly names); both together weigh the same. With too few words for that the
    share decides alone. Words that are more often adjective or adverb than noun are left out (`electric`, `small`).

    Raises:
        UserError: the vectors have none of the words.
    """
    from gensim.parsing.preprocessing import STOPWORDS

    wordnet = load_wordnet()
    things = _find_things(wordnet)
    lemmas = {lemma.lower() for offset in things for lemma in wordnet.synsets[offset].lemmas}.union(PEOPLE)
    found: dict[str, str] = {}
    for name in sorted(lemmas - (STOPWORDS - CONCRETE_STOP_WORDS), key=lambda n: (" " in n, n)):
        if _WORD.fullmatch(name) or _PHRASE.fullmatch(name):
            match = match_nonzero(vectors, name)
            if match.how in ("exact", "joined"):
                found.setdefault(match.tokens[0], name)
    tokens = sorted(found, key=vectors.index.__getitem__)
    visualness = _estimate_visualness(vectors, wordnet, tokens)
    chosen = [
        name
        for name, visual in zip((found[token] for token in tokens), visualness, strict=True)
        if name in PEOPLE
        or (not _is_modifier(wordnet, name) and 2 * visual + _share_of_uses(wordnet, name, things, unseen=1) >= 1.5)
    ]
    if not chosen:
        raise UserError(
            "words.vocabulary: found none of the visual words in the word vectors; allowed: English vectors with "
            "lower-case words; use others, set words.vocabulary to frequent, or give words.vocabulary_file"
        )
    return chosen


def _find_things(wordnet: WordNet) -> frozenset[int]:
    """Offsets of synsets. Single things with a name of their own (the Alps) are in only if photographed."""
    path = metadata.distribution("timm").locate_file(f"timm/data/_info/{SYNSETS}")  # without its import of torch
    photographed = {offset_of(synset) for synset in Path(str(path)).read_text("utf-8").split()}
    above = photographed.union(*(wordnet.ancestors(offset) for offset in photographed))
    concrete = _find_concrete(wordnet)
    known = above & concrete
    kinds = {o for o in concrete if not wordnet.synsets[o].is_instance and known.intersection(_parents(wordnet, o))}
    return frozenset(known | kinds)


def _find_concrete(wordnet: WordNet) -> frozenset[int]:
    categories = {f"noun.{name}" for name in CONCRETE}
    return frozenset(offset for offset, synset in wordnet.synsets.items() if synset.category in categories)


def _parents(wordnet: WordNet, offset: int) -> tuple[int, ...]:
    return wordnet.synsets[offset].hypernyms


def _share_of_uses(wordnet: WordNet, word: str, synsets: frozenset[int], unseen: float = 0.0) -> float:
    """Share of a word's uses that have one of these nouns' synsets for their sense.

    The sense of rank r, among those of its part of speech, has 1/r uses more than the tagged texts.

    Args:
        unseen: uses in senses that WordNet does not have, as names.
    """
    wanted, total = 0.0, unseen
    ranks: dict[str, int] = {}
    for sense in wordnet.senses_of(word):
        ranks[sense.pos] = ranks.get(sense.pos, 0) + 1
        uses = sense.uses + 1 / ranks[sense.pos]
        total += uses
        wanted += uses if sense.pos == "noun" and sense.offset in synsets else 0.0
    return wanted / total if total else 0.0


def _is_modifier(wordnet: WordNet, word: str) -> bool:
    counts = wordnet.count_senses(word)
    return counts.get("adjective", 0) + counts.get("adverb", 0) > counts.get("noun", 0)


def _estimate_visualness(vectors: WordVectors, wordnet: WordNet, tokens: Sequence[str]) -> DoubleArray:
    """[tokens], about 0 to 1; all 0.5 where the vectors have too few names of things to learn from."""
    concrete = _find_concrete(wordnet)
    references = list(_find_references(vectors, wordnet))
    is_thing = np.array([_share_of_uses(wordnet, word, concrete) > 0.5 for word in references], dtype=bool)
    num_things = int(is_thing.sum())
    if min(num_things, len(references) - num_things) < _MIN_THINGS:
        return np.full(len(tokens), 0.5)
    weights = np.where(is_thing, 0.5 / num_things, 0.5 / (len(references) - num_things)) * len(references)
    inputs = _normalise(vectors, references)
    moments = (inputs * weights[:, None]).T @ inputs + _RIDGE * np.eye(inputs.shape[1])
    coefficients = np.linalg.solve(moments, inputs.T @ (weights * np.where(is_thing, 0.5, -0.5)))
    estimate: DoubleArray = 0.5 + _normalise(vectors, tokens) @ coefficients
    return estimate


def _find_references(vectors: WordVectors, wordnet: WordNet) -> Iterator[str]:
    """Frequent words to learn from: those of WordNet, and those that are no form of one."""
    from gensim.parsing.preprocessing import STOPWORDS

    for word in vectors.words[:_NUM_REFERENCES]:
        if word in STOPWORDS or not _WORD.fullmatch(word):
            continue
        if wordnet.senses_of(word) or not wordnet.senses_of(lemmatise(word)):
            yield word


def _normalise(vectors: WordVectors, tokens: Sequence[str]) -> DoubleArray:
    """[tokens, E + 1]: rows with a mean square of 1, or zero, and a last column of ones."""
    rows = np.asarray(vectors.matrix[[vectors.index[token] for token in tokens]], dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0) * np.sqrt(rows.shape[1])
    return np.hstack([rows, np.ones((len(rows), 1))])
