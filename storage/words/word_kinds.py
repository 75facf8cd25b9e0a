"""What kind of thing a word names: animal, part, material, colour, scene ..., by WordNet's lexicographer files.

Network dissection (Bau et al., CVPR 2017) shows the concepts of a layer by such kinds. There the data set's annotators
sorted them; here WordNet does, with a few of its own ancestors where one of its files holds two of the kinds.
"""

from __future__ import annotations

from functools import lru_cache

from lavise.storage.words.category_names import ENGLISH
from lavise.storage.words.lemmas import lemmatise
from lavise.storage.words.wordnet import WordNet, load_wordnet

ANIMAL, PLANT, PERSON, FOOD, OBJECT = "animal", "plant", "person", "food", "object"
PART, MATERIAL, COLOUR, SCENE, OTHER = "part", "material", "colour", "scene", "other"
WORD_KINDS = (ANIMAL, PERSON, PLANT, FOOD, OBJECT, PART, MATERIAL, COLOUR, SCENE, OTHER)
"""In the order in which they are shown."""

_KIND_OF_FILE = {
    "animal": ANIMAL,
    "artifact": OBJECT,
    "body": PART,
    "food": FOOD,
    "location": SCENE,
    "object": OBJECT,
    "person": PERSON,
    "plant": PLANT,
    "substance": MATERIAL,
}
# Roots of WordNet's own, which have a file of their own, and people, who are in the file of groups.
_ROOTS = {7846: PERSON, 7942152: PERSON, 8182379: PERSON, 15388: ANIMAL, 17222: PLANT, 21265: FOOD}
_BODY_PART, _COLOUR = 5220461, 4956594
# Rooms, buildings, roads, geological formations, bodies of water, forests, land, sky: what one can be in.
_SCENES = frozenset({4105893, 2913152, 4096066, 9287968, 9225146, 9284015, 9334396, 9436708})
_COUNTED_UNUSED = frozenset({ANIMAL, FOOD, OBJECT})
_PERSON_WEIGHT = 10
_BEFORE_OTHERS = (FOOD, ANIMAL, PLANT, PART, COLOUR, MATERIAL, OBJECT, SCENE, PERSON, OTHER)


@lru_cache(maxsize=1 << 16)
def find_word_kind(word: str, language: str = ENGLISH) -> str:
    """One of WORD_KINDS.

    The sense as a noun that WordNet's tagged texts have most often decides, of those that are a thing, a part, a
    material, a colour or a place; of equally frequent ones food goes first (a banana is the fruit, not the tree), then
    animals. People count only where they are the only such sense, or by far the commonest (a pitcher is a jug). Senses
    that these texts never have do not count beside one that they have, but for objects, animals and food (a basketball
    is also a ball); nor do single things with names of their own (a river called Red). A word that WordNet has not is
    looked up by its lemma. What has no such sense is OTHER, and so is every word of another language than English.
    """
    if language != ENGLISH:
        return OTHER
    wordnet = load_wordnet()
    return _find_commonest(wordnet, word) or _find_commonest(wordnet, lemmatise(word)) or OTHER


def _find_commonest(wordnet: WordNet, word: str) -> str | None:
    """None where WordNet has not the word as a noun."""
    senses = [sense for sense in wordnet.senses_of(word) if sense.pos == "noun"]
    is_used = any(sense.uses for sense in senses)
    plain = word.lower().replace("_", " ")
    told = []
    for sense in senses:
        kind = _find_kind(wordnet, sense.offset, plain)
        if kind != OTHER and (sense.uses or not is_used or kind in _COUNTED_UNUSED):
            weight = sense.uses // _PERSON_WEIGHT if kind == PERSON else sense.uses
            told.append((-weight, _BEFORE_OTHERS.index(kind), kind))
    return min(told)[2] if told else (OTHER if senses else None)


def _find_kind(wordnet: WordNet, offset: int, word: str) -> str:
    synset = wordnet.synsets[offset]
    if synset.is_instance or (word not in synset.lemmas and word in {lemma.lower() for lemma in synset.lemmas}):
        return OTHER  # a name, which is written with a capital letter
    line = {offset, *wordnet.ancestors(offset)}
    if _BODY_PART in line:
        return PART
    if _COLOUR in line:
        return COLOUR
    if line & _SCENES:
        return SCENE
    kind = _KIND_OF_FILE.get(synset.category.removeprefix("noun."), OTHER)
    return kind if kind != OTHER else next((own for root, own in _ROOTS.items() if root in line), OTHER)
