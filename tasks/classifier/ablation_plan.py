"""What is ablated: the filters that share a word, each of them alone, and random sets to hold the words against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lavise.configs.schema import CauseSettings
from lavise.storage.array_types import IntArray
from lavise.tasks.numerics.random_streams import Stream, make_rng

MAX_Q_VALUE = 0.05


@dataclass(frozen=True)
class AblationPlan:
    """Sets of filters that are taken away, each at once.

    Attributes:
        words: those that are looked at, the ones that name the most filters first.
        sets: of each word, the filters that it names.
        singles: filters that are taken away alone.
        random: size of a set -> random sets of as many filters.
        notes: what was left out, and what the numbers cannot show.
    """

    words: tuple[str, ...]
    sets: tuple[IntArray, ...]
    singles: tuple[int, ...]
    random: Mapping[int, tuple[IntArray, ...]]
    num_random_sets: int
    notes: tuple[str, ...]

    @property
    def num_ablations(self) -> int:
        return len(self.words) + len(self.singles) + sum(len(sets) for sets in self.random.values())


def group_words(words_of_filter: Sequence[Sequence[str]]) -> list[tuple[str, tuple[int, ...]]]:
    """(word, filters that have it), the words with the most filters first, then by word."""
    filters: dict[str, list[int]] = {}
    for number, words in enumerate(words_of_filter):
        for word in dict.fromkeys(words):
            filters.setdefault(word, []).append(number)
    return sorted(((w, tuple(u)) for w, u in filters.items()), key=lambda entry: (-len(entry[1]), entry[0]))


def plan_ablations(
    words_of_filter: Sequence[Sequence[str]],
    active: IntArray,
    settings: CauseSettings,
    seed: int,
    by_passes: bool,
) -> AblationPlan:
    """The words with the most filters, at most `settings.max_words`, and every filter that has a word.

    Where each ablation takes a pass over the pictures, there are at most `settings.max_passes` of these, the one
    without any ablation included. Words come first, each with the random sets of its size (which words of the same
    size share); a word that does not fit is passed over. Single filters take what is left, those of the words that are
    looked at first. Random sets are as many as asked for, unless even one word would not fit.

    Args:
        active: filters that random sets are drawn from. Where a word has more filters than that, its random sets are
            all of them.
    """
    found = group_words(words_of_filter)
    words, notes = found[: settings.max_words], []
    if len(found) > len(words):
        notes.append(
            f"looked at the {len(words)} words that name the most filters; {len(found) - len(words)} others were left "
            "out (causes.max_words)"
        )
    # A set with the filters in rising order is the same wherever it comes from.
    singles = list(dict.fromkeys(u for _, filters in words for u in filters))
    singles += sorted({u for _, filters in found for u in filters} - set(singles))
    num_random = settings.random_sets
    if by_passes:
        left = settings.max_passes - 1
        num_random = max(min(num_random, left - 1), 0)
        if num_random < settings.random_sets and words:
            notes.append(f"only {num_random} random sets of {settings.random_sets} (causes.max_passes)")
        taken, sizes = [], set()
        for word, filters in words:
            cost = 1 if len(filters) in sizes else 1 + num_random
            if cost <= left:
                left -= cost
                sizes.add(len(filters))
                taken.append((word, filters))
        if len(taken) < len(words):
            notes.append(f"{len(words) - len(taken)} of {len(words)} words were left out (causes.max_passes)")
        words = taken
        if left < len(singles):
            notes.append(f"{len(singles) - left} of {len(singles)} single filters were left out (causes.max_passes)")
        singles = singles[:left]
    least_q = len(words) / (num_random + 1)
    if least_q > MAX_Q_VALUE:
        num_needed = int(np.ceil(round(least_q / MAX_Q_VALUE, 9)))
        notes.append(
            f"with {num_random} random sets no p value is below {1 / (num_random + 1):.3g}; among {len(words)} words "
            + (
                f"none counts as used unless at least {num_needed} of them have that one (causes.random_sets)"
                if num_needed <= len(words)
                else "none can count as used (causes.random_sets)"
            )
        )
    random = {
        size: _draw_sets(active, size, num_random, make_rng(seed, Stream.ABLATION_SETS, size))
        for size in sorted({len(filters) for _, filters in words})
    }
    return AblationPlan(
        tuple(w for w, _ in words),
        tuple(np.array(filters, dtype=np.int64) for _, filters in words),
        tuple(singles),
        random,
        num_random,
        tuple(notes),
    )


def _draw_sets(active: IntArray, size: int, num: int, rng: np.random.Generator) -> tuple[IntArray, ...]:
    drawn = (rng.choice(active, min(size, len(active)), replace=False) for _ in range(num))
    return tuple(np.sort(one).astype(np.int64) for one in drawn)
