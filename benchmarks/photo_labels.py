"""Judge of the words for photographs with one label each: is one of them the label, or a more general name of it?

Labels are class names of ImageNet-1k, so that the meaning of each is known: it is a synset of WordNet. How lenient the
judge is, with the share of the photographs that single words and ten random words are right for:

    python -m benchmarks.photo_labels LABELS.csv
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import comb
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.configs.schema import WordSettings
from lavise.storage.words.class_taxonomy import MAX_SHARE, find_hypernyms, read_imagenet_classes
from lavise.storage.words.lemmas import find_category, index_categories
from lavise.storage.words.visual_words import find_visual_words
from lavise.storage.words.word_vectors import load_word_vectors
from lavise.storage.words.wordnet import load_wordnet


def read_labels(path: Path) -> dict[str, str]:
    """The label of each photograph, by file name.

    Args:
        path: CSV with the columns `file` and `label`.

    Raises:
        UserError: it cannot be read, lacks a column or has no rows, or a label is no class name of ImageNet-1k.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            labels = {row["file"]: row["label"].strip() for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, csv.Error) as err:
        raise UserError(f"labels: cannot read {path} ({err!r}); allowed: CSV with the columns file and label") from None
    if not labels:
        raise UserError(f"labels: {path} has no rows; allowed: a row per photograph")
    for label in labels.values():
        find_synsets(label)
    return labels


def find_synsets(label: str) -> tuple[int, ...]:
    """Offsets of the ImageNet-1k classes with this name: as their first lemma or, if none has, any; in the same case
    or, if none has, any (`Cardigan` is a dog, `cardigan` is not). One, but for `crane` and `maillot`, names of two.

    Raises:
        UserError: no class has this name.
    """
    synsets = load_wordnet().synsets
    first = {offset: synsets[offset].lemmas[:1] for offset in read_imagenet_classes()}
    every = {offset: synsets[offset].lemmas for offset in read_imagenet_classes()}
    found = _find_name(label, first) or _find_name(label, every)
    found = found or _find_name(label.lower(), _lower(first)) or _find_name(label.lower(), _lower(every))
    if not found:
        raise UserError(f"labels: found {label!r}; allowed: class names of ImageNet-1k, as golden retriever")
    return found


@lru_cache(maxsize=1024)
def accepts(label: str, max_share: float = MAX_SHARE) -> frozenset[str]:
    """Words and phrases that are right for a label, in lower case: all lemmas of its synset, and lemmas of the synset's
    ancestors that at most `max_share` of the classes have, but for VAGUE ones.

    Head nouns of labels need no rule of their own: that of `wine bottle` is the lemma of an ancestor, that of
    `guinea pig` is not.

    Raises:
        UserError: the label is no class name of ImageNet-1k.
    """
    wordnet, own = load_wordnet(), find_synsets(label)
    general = frozenset[str]().union(*(find_hypernyms(offset, max_share) for offset in own))
    return general.union(lemma.lower() for offset in own for lemma in wordnet.synsets[offset].lemmas)


def is_right(label: str, words: Iterable[str], max_share: float = MAX_SHARE) -> bool:
    """Whether one of the words is a form (inflection, or written as one token) of one that the label accepts."""
    index = _index_accepted(label, max_share)
    return any(find_category(word, index) is not None for word in words)


def chance_of_right(label: str, vocabulary: Sequence[str], num_words: int, max_share: float = MAX_SHARE) -> float:
    """The probability that one of so many words is right, drawn from a vocabulary at random without replacement."""
    num_right = sum(is_right(label, [word], max_share) for word in vocabulary)
    return 1 - comb(len(vocabulary) - num_right, num_words) / comb(len(vocabulary), num_words)


def _find_name(name: str, lemmas: Mapping[int, Sequence[str]]) -> tuple[int, ...]:
    return tuple(offset for offset, names in lemmas.items() if name in names)


def _lower(lemmas: Mapping[int, Sequence[str]]) -> dict[int, list[str]]:
    return {offset: [name.lower() for name in names] for offset, names in lemmas.items()}


@lru_cache(maxsize=1024)
def _index_accepted(label: str, max_share: float) -> dict[str, int]:
    return index_categories(sorted(accepts(label, max_share)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, help="CSV with the columns file and label")
    labels = list(read_labels(parser.parse_args().labels).values())
    words = find_visual_words(load_word_vectors(WordSettings()))
    for max_share in (MAX_SHARE, 1.0):
        print(f"hypernyms of at most {max_share:.1%} of the classes:")
        accepted = Counter(word for label in labels for word in accepts(label, max_share))
        for word, count in accepted.most_common(10):
            print(f"  {word} alone is right for {count / len(labels):.1%}")
        chance = sum(chance_of_right(label, words, 10, max_share) for label in labels) / len(labels)
        print(f"  one of 10 random visual words is right for {chance:.1%}")


if __name__ == "__main__":
    main()
