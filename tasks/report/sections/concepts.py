"""The section on concepts: how many filters of each layer have which first word, by kinds of words.

As network dissection counts detectors (Bau et al., CVPR 2017), several layers side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from lavise.storage.words.word_kinds import OTHER, WORD_KINDS
from lavise.tasks.report.filter_entries import LayerTables

_WORDS_SHOWN, _WORDS_LISTED = 10, 100


@dataclass(frozen=True)
class Bar:
    """A number of filters of a layer.

    Attributes:
        share: of all filters of the layer.
        length: of the longest bar beside it.
    """

    number: int
    share: float
    length: float


@dataclass(frozen=True)
class ConceptBars:
    """A word; its filters in each layer, and the address of the view that shows them."""

    word: str
    href: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class KindBars:
    """A kind of words.

    Attributes:
        bars: of each layer.
        num_words: different first words, of which `first` and then `others` are the most frequent.
    """

    name: str
    bars: Sequence[Bar]
    num_words: int
    first: Sequence[ConceptBars]
    others: Sequence[ConceptBars]


@dataclass(frozen=True)
class DescribedConcepts:
    """What the template shows; `unexplained` are the filters without a word."""

    layers: Sequence[str]
    kinds: Sequence[KindBars]
    unexplained: Sequence[Bar]


def describe_concepts(tables: Sequence[LayerTables]) -> DescribedConcepts:
    """The first words of all explained filters, the most frequent ones of each kind first."""
    sizes = [max(len(layer.filters), 1) for layer in tables]
    counts = [Counter(_list_words(layer)) for layer in tables]
    total: Counter[tuple[str, str]] = Counter()
    for own in counts:
        total.update(own)
    order = sorted(total, key=lambda named: (-total[named], named))
    of_kind = [[sum(n for (k, _), n in own.items() if k == kind) for own in counts] for kind in WORD_KINDS]
    unexplained = [len(layer.filters) - sum(own.values()) for layer, own in zip(tables, counts, strict=True)]
    longest = max([n / s for row in [*of_kind, unexplained] for n, s in zip(row, sizes, strict=True)], default=0.0)
    longest_word = max([own[named] / s for own, s in zip(counts, sizes, strict=True) for named in own], default=0.0)
    kinds = []
    for kind, numbers in zip(WORD_KINDS, of_kind, strict=True):
        words = [
            ConceptBars(word, make_view(word), _make_bars([own[kind, word] for own in counts], sizes, longest_word))
            for k, word in order
            if k == kind
        ]
        if words:
            first, others = words[:_WORDS_SHOWN], words[_WORDS_SHOWN:_WORDS_LISTED]
            kinds.append(KindBars(kind, _make_bars(numbers, sizes, longest), len(words), first, others))
    return DescribedConcepts([layer.part.layer for layer in tables], kinds, _make_bars(unexplained, sizes, longest))


def make_view(word: str) -> str:
    """The address of the view that shows the explained filters with a word: as the page's script writes it."""
    query = word if '"' in word else f'"{word}"'
    return "#view?" + urlencode({"query": query, "show": "explained"}, errors="replace")


def _list_words(layer: LayerTables) -> list[tuple[str, str]]:
    """Kind and first word of the explained filters."""
    return [(row["concept_kind"] or OTHER, row["words"][0]) for row in layer.filters if row["words"]]


def _make_bars(numbers: Sequence[int], sizes: Sequence[int], longest: float) -> list[Bar]:
    shares = [number / size for number, size in zip(numbers, sizes, strict=True)]
    return [Bar(n, share, share / longest if longest else 0.0) for n, share in zip(numbers, shares, strict=True)]
