"""Which words mean an expected word: its forms, its synonyms, and kinds of it.

Forms are those of `storage.words.lemmas`. Synonyms and kinds go by WordNet's nouns, in the senses in which a word is
mostly used: of `whale` the animal's, not that of a very large person. So a word in a rare sense is missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from lavise.storage.words.category_names import ENGLISH
from lavise.storage.words.lemmas import find_category, index_categories, lemmatise
from lavise.storage.words.wordnet import CONCRETE, Sense, load_wordnet

Reach = Literal["forms", "synonyms", "kinds"]
_OF_THINGS = frozenset({"noun.Tops", *(f"noun.{category}" for category in CONCRETE)})
_MUCH_OFTENER, _SELDOM = 5, 3
SAME, SYNONYM, KIND = "same", "synonym", "kind"


@dataclass(frozen=True)
class ExpectedWord:
    """A word, and how far what means it may be from it.

    Attributes:
        reach: forms, synonyms (and forms), or kinds (and synonyms, and forms).
        language: of the words; in others than English there are only forms.
    """

    word: str
    reach: Reach = "kinds"
    language: str = ENGLISH

    def relate(self, word: str) -> str | None:
        """How a word means the expected one: `same`, `synonym`, `kind`; None where it does not."""
        if find_category(word, self._forms, self.language) is not None:
            return SAME
        if self.reach == "forms" or self.language != ENGLISH or not self._senses:
            return None
        senses = _find_senses(word)
        if not self._senses.isdisjoint(senses):
            return SYNONYM
        if self.reach == "kinds" and any(not self._senses.isdisjoint(load_wordnet().ancestors(s)) for s in senses):
            return KIND
        return None

    @cached_property
    def _forms(self) -> dict[str, int]:
        return index_categories([self.word], self.language)

    @cached_property
    def _senses(self) -> frozenset[int]:
        return _find_senses(self.word)


@lru_cache(maxsize=1 << 17)
def _find_senses(word: str) -> frozenset[int]:
    """Offsets of the senses in which a word is mostly used as a noun.

    Of things, unless it is used for something else at least five times as often (`man` is a person, `scorpion` an
    animal, though an astrologer's person is listed first); and of these the commonest, with those that are used a third
    as often (`chicken` is food and an animal).
    """
    wordnet = load_wordnet()
    for form in dict.fromkeys((word.lower(), lemmatise(word))):
        own = [s for s in wordnet.senses_of(form) if s.pos == "noun" and not wordnet.synsets[s.offset].is_instance]
        if own:
            things = [s for s in own if wordnet.synsets[s.offset].category in _OF_THINGS]
            others = [s for s in own if s not in things]
            is_of_others = not things or _count_uses(others) >= _MUCH_OFTENER * max(_count_uses(things), 1)
            chosen = others if is_of_others else things
            most = _count_uses(chosen)
            return frozenset(s.offset for n, s in enumerate(chosen) if n == 0 or (s.uses and _SELDOM * s.uses >= most))
    return frozenset()


def _count_uses(senses: Sequence[Sense]) -> int:
    """Of the commonest."""
    return max((s.uses for s in senses), default=0)
