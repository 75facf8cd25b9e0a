"""Names of categories as data sets write them, read as words: for names that word vectors do not have as they stand.

A name is cleaned: `001.Black_footed_Albatross` is black footed albatross, `cap_(headwear)` cap, `building, edifice`
building and else edifice, `floor-other-merged` floor, `TrafficLight` traffic light. In English an ImageNet id stands
for the names of its synset, and a word that two words were joined to is taken apart again (`diningtable`).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

from lavise.storage.words.wordnet import load_wordnet, offset_of

ENGLISH = "en"
_APPENDED = re.compile(r"-(?:merged|other|stuff)\Z")
_WORDNET_ID = re.compile(r"(n\d{8})(?:[-_.\s]+(?P<rest>.*\S))?", re.DOTALL)
_NUMBER = re.compile(r"\s*\d+\s*[-_.:)\s]+(?=.*[^\W\d_])", re.DOTALL)
_PARENTHESES = re.compile(r"[\s_]*\([^()]*\)")
_OPEN_PARENTHESIS = re.compile(r"[\s_]*\(.*", re.DOTALL)
_REST = re.compile(r"(?:[-_\s](?:merged|other|stuff))+\Z")
_CAMEL = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[\s_\-]+")
_MIN_PART = 2
_MAX_JOINED = 40
_MAX_CHARS = 300
"""A longer text is no name."""
_JOINED = {"pottedplant": "potted plant"}
"""As PASCAL VOC writes it; WordNet has not the phrase."""


def list_readings(name: str, known: Container[str], language: str = ENGLISH) -> Iterator[str]:
    """What a name can be read as, best first: lower case, words separated by single spaces.

    Args:
        known: words that have a vector.
        language: of the vectors; WordNet helps with English alone.
    """
    if len(name) > _MAX_CHARS:
        return
    identified = _WORDNET_ID.fullmatch(name.strip())
    rest = identified["rest"] if identified else name
    parts = clean_name(rest or "")
    yield from parts
    if language != ENGLISH:
        return
    if identified:
        synset = load_wordnet().synsets.get(offset_of(identified[1]))
        yield from (lemma.lower() for lemma in (synset.lemmas if synset else ()))
    for part in parts:
        if (apart := take_apart(part, known)) is not None:
            yield apart


def is_marked(name: str) -> bool:
    """Whether a data set has put a mark of its own behind the name (`grass-merged`, `wall-other` of COCO), which is no
    part of it, although it may be a word."""
    return _APPENDED.search(name) is not None


def clean_name(name: str) -> list[str]:
    """The synonyms that a name lists, without numbers before it, senses in parentheses and what data sets append."""
    bare = _OPEN_PARENTHESIS.sub("", _PARENTHESES.sub("", _NUMBER.sub("", name, count=1)))
    found = (_SEPARATORS.sub(" ", _CAMEL.sub(" ", _REST.sub("", part.strip()))) for part in bare.split(","))
    return list(dict.fromkeys(part for text in found if (part := text.strip().lower())))


def take_apart(word: str, known: Container[str]) -> str | None:
    """The two words that a word was joined from: both have a vector, and WordNet has them as a phrase; None where there
    is no such pair, or more than one."""
    if word in _JOINED:
        return _JOINED[word]
    if not word.isalpha() or len(word) > _MAX_JOINED:
        return None
    splits = [(word[:place], word[place:]) for place in range(_MIN_PART, len(word) - _MIN_PART + 1)]
    pairs = [(a, b) for a, b in splits if a in known and b in known and load_wordnet().senses_of(f"{a} {b}")]
    return " ".join(pairs[0]) if len(pairs) == 1 else None
