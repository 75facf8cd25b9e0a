"""Lemmas of words and phrases: which words of a vocabulary are forms of a category's name, and which are novel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from lavise.storage.words.category_names import ENGLISH, clean_name
from lavise.storage.words.wordnet import CONCRETE, load_wordnet

_SEPARATORS = re.compile(r"[\s_\-]+")
_PLURAL_AFTER_HISS = re.compile(r"(.+(?:ss|x|ch|sh))es")
_PLURAL = re.compile(r"[^\W\d_]+[^sui\W\d_]s")
# Plurals that simplemma takes for the form of a verb (leaves: leave) or of nothing (loaves: loave).
_IRREGULAR = {
    "people": "person",
    "calves": "calf",
    "halves": "half",
    "leaves": "leaf",
    "lives": "life",
    "loaves": "loaf",
    "sheaves": "sheaf",
    "shelves": "shelf",
    "thieves": "thief",
    "wives": "wife",
    "lenses": "lens",
    "skies": "sky",
    "men": "man",
    "women": "woman",
    "teeth": "tooth",
    "fungi": "fungus",
}


@lru_cache(maxsize=1 << 17)
def lemmatise(word: str, language: str = ENGLISH) -> str:
    """The lemma of a word or phrase: of each token (split at spaces, `_` and `-`), in lower case, joined by one space.

    Lemmas are simplemma's, with four corrections: a short table of irregular plurals; -es after ss, x, ch or sh is
    dropped where the rest is a word (`crosses`: cross, not crosse); so is the -s of a word that it does not know
    (`tvs`: tv); and a single word that WordNet has as a thing of its own stays as it is: a `saw` is not what one sees,
    a `stocking` is no stock, and of plurals those that name one thing (`glasses`: spectacles, specs, eyeglasses are
    plurals too). In other languages lemmas are simplemma's as they are, and words themselves where it has not the
    language.
    """
    tokens = _tokens(word)
    if language != ENGLISH:
        return " ".join(_foreign_lemma_of(token, language) for token in tokens)
    lemmas = [_lemma_of(token) for token in tokens]
    if (
        len(tokens) == 1
        and lemmas != tokens
        and tokens[0] not in _IRREGULAR
        and _is_another_thing(tokens[0], lemmas[0])
    ):
        return tokens[0]
    return " ".join(lemmas)


def covers(names: Iterable[str], language: str = ENGLISH) -> frozenset[str]:
    """What names (of the categories trained on) cover: the whole names and their content words, as they stand and as
    lemmas, and the whole names written as one token (`hotdog`). Stop words (gensim's list, English) are no content."""
    from gensim.parsing.preprocessing import STOPWORDS

    covered: set[str] = set()
    for name in names:
        covered |= set(_forms(name, language))
        for token in _tokens(name):
            if language != ENGLISH or token not in STOPWORDS:
                covered |= {token, lemmatise(token, language)}
    return frozenset(covered)


def is_novel(word: str, covered: frozenset[str], language: str = ENGLISH) -> bool:
    """Whether a word has no form (inflection or lemma) that `covers` found in the names."""
    return covered.isdisjoint(_forms(word, language))


def index_categories(categories: Sequence[str], language: str = ENGLISH) -> dict[str, int]:
    """Forms of the whole names, for `find_category`: lemma, the name as it stands, and both as one token; and the same
    of what a name is read as (`cap_(headwear)` is cap, too).

    Returns:
        Position in `categories` of each form; of two categories with the same form the first. A lemma goes before
        another category's other forms, and these before readings.
    """
    index: dict[str, int] = {}
    for position, name in enumerate(categories):
        index.setdefault(lemmatise(name, language), position)
    for position, name in enumerate(categories):
        for form in _forms(name, language):
            index.setdefault(form, position)
    for position, name in enumerate(categories):
        for reading in clean_name(name):
            for form in _forms(reading, language):
                index.setdefault(form, position)
    index.pop("", None)
    return index


def find_category(word: str, index: Mapping[str, int], language: str = ENGLISH) -> int | None:
    """Position of the category whose whole name a word is a form of: `hot dogs` and `hotdog` are `hot dog`, `dog` is
    not. None if there is none."""
    return next((index[form] for form in _forms(word, language) if form in index), None)


def _is_another_thing(token: str, lemma: str) -> bool:
    """Whether a token is the name of a thing that its lemma does not name; of a plural only where all names of that
    thing are plurals."""
    wordnet = load_wordnet()
    own = wordnet.noun_synsets(token)
    if not set(own).isdisjoint(wordnet.noun_synsets(lemma)):
        return False
    is_plural = token in (lemma + "s", lemma + "es")
    things = [s for o in own if (s := wordnet.synsets[o]).category.removeprefix("noun.") in CONCRETE]
    if is_plural:
        return any(len(s.lemmas) > 1 and all(name.endswith("s") for name in s.lemmas) for s in things[:1])
    return bool(things)


def _tokens(word: str) -> list[str]:
    return [token for token in _SEPARATORS.split(word.lower()) if token]


def _forms(word: str, language: str) -> tuple[str, ...]:
    """Lemma first, then as it stands, then both as one token."""
    plain, lemma = " ".join(_tokens(word)), lemmatise(word, language)
    return tuple(dict.fromkeys((lemma, plain, lemma.replace(" ", ""), plain.replace(" ", ""))))


@lru_cache(maxsize=1)
def list_lemma_languages() -> frozenset[str]:
    """Codes of the languages that simplemma has a dictionary of."""
    from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES

    return frozenset(SUPPORTED_LANGUAGES)


def _foreign_lemma_of(token: str, language: str) -> str:
    from simplemma import lemmatize

    return lemmatize(token, lang=language).lower() if language in list_lemma_languages() else token


def _lemma_of(token: str) -> str:
    from simplemma import is_known, lemmatize

    if token in _IRREGULAR:
        return _IRREGULAR[token]

    after_hiss = _PLURAL_AFTER_HISS.fullmatch(token)
    if after_hiss and is_known(after_hiss[1], lang="en") and lemmatize(after_hiss[1], lang="en") == after_hiss[1]:
        return after_hiss[1]
    if _PLURAL.fullmatch(token) and not is_known(token, lang="en"):
        return token[:-1]
    return lemmatize(token, lang="en").lower()
