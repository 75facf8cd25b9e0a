"""What a ranking is: a rule that gives the filters of a layer their words. Rules register themselves where they are
written (`lavise.configs.registry.RANKINGS`).

Shape legend: P pairs (filter, picture), C filters, E embedding, V words, s words per picture, K concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavise.configs.registry import RANKINGS
from lavise.configs.schema import ExplainSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, IntArray
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.explainer.naming import Namer
from lavise.tasks.words.evidence import Votes
from lavise.tasks.words.word_rows import FoundWords

if TYPE_CHECKING:
    from lavise.tasks.words.naming_check import MeasuredNaming


@dataclass(frozen=True)
class WordTruth:
    """What the evaluation part says about words; comes from pictures that no filter was named on.

    Attributes:
        concepts: the reference's categories.
        right: bool [C, K], whether a filter detects a concept (see tasks.masks.detection).
        present_K: bool [K], concepts that are in some evaluation picture.
        invalid: why the explainer cannot be believed; empty where it can.
    """

    concepts: Sequence[str]
    right: BoolArray
    present_K: BoolArray
    invalid: str = ""


@dataclass(frozen=True)
class NamedFilters:
    """The filters of a layer with their top pictures named: what a rule may read.

    Attributes:
        store: the target's maps.
        pairs: filters and their top pictures; features_PC: their region features.
        qualified_C: pictures above each filter's threshold.
        naming: how far the explainer can be believed; None where the ranking does not ask.
        votes: of the pairs; words_Ps: their words.
        whole_V: float64 [V], share of pictures that each word is named for as a whole.
    """

    store: ActivationStore
    pairs: Pairs
    features_PC: FloatArray
    qualified_C: IntArray
    namer: Namer
    vocabulary: Vocabulary
    truth: WordTruth
    naming: MeasuredNaming | None
    votes: Votes
    words_Ps: IntArray
    whole_V: DoubleArray
    settings: ExplainSettings
    seed: int
    device: str


@dataclass(frozen=True)
class Ranking:
    """A rule.

    Attributes:
        find: the words of every filter.
        needs_precision: it asks how far the explainer's words can be believed (the stage `precision`).
        least_confidence: what stands for None in `explain.min_confidence`.
        by_preference: its rows have AUROCs, and the page explains words so; else by votes.
    """

    find: Callable[[NamedFilters], FoundWords]
    needs_precision: bool = False
    least_confidence: float = 0.1
    by_preference: bool = False


def find_ranking(name: str) -> Ranking:
    """The rule of that name (`explain.ranking`).

    Raises:
        ValueError: there is none; names those that there are.
    """
    found: Ranking = RANKINGS.get(name)
    return found


def find_least_confidence(settings: ExplainSettings) -> float:
    """`explain.min_confidence`, or what the ranking says where that is None."""
    if settings.min_confidence is not None:
        return settings.min_confidence
    return find_ranking(settings.ranking).least_confidence
