"""Evidence for a word: how often a filter's top pictures name it, against how often those of other filters do.

A filter u has n_u top pictures; on each, s words are named. Votes k_uw are its top pictures that name word w. If u
were like the other filters, k_uw would be Binomial(n_u, q_w), q_w the share of the other filters' pairs (filter, top
picture) that name w. Each word of each filter is tested against that, exactly, and the tests are adjusted for their
number. A small p value says that the word belongs to this filter more than to others; whether it is right is another
question (`tasks.words.vote_calibration`), and so is whether the words come from anything that was learned
(`compare_with_chance`).

Shape legend: P pairs (filter, picture), s words per pair, C filters, W words that are named, S rows (filter, word), R
regions, k words per region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.tasks.numerics.bootstrap import bootstrap_share
from lavise.tasks.numerics.false_discovery import adjust_false_discovery
from lavise.tasks.numerics.ranked_lists import find_repeated

# A word that no other filter names: half a pair of the others names it.
UNSEEN_PAIRS = 0.5


@dataclass(frozen=True)
class Votes:
    """Who names what, only where there is a vote; sorted by filter, then by word.

    Attributes:
        filter: int64 [S], u.
        word: int64 [S], position in the vocabulary.
        votes: int64 [S], top pictures of u that name the word.
        score: float64 [S], mean cosine of the word on these; 0 if no scores were given.
        images: int64 [C], n_u, top pictures of each filter.
        named: int64 [highest word + 1], pairs of the layer that name each word.
    """

    filter: IntArray
    word: IntArray
    votes: IntArray
    score: DoubleArray
    images: IntArray
    named: IntArray

    @property
    def num_pairs(self) -> int:
        return int(self.images.sum())

    @property
    def num_words(self) -> int:
        """Distinct words that are named anywhere in the layer."""
        return int((self.named > 0).sum())

    @property
    def background(self) -> DoubleArray:
        """q_w, share of all pairs of the layer that name each word: float64 [highest word + 1]."""
        return self.named / max(self.num_pairs, 1)


@dataclass(frozen=True)
class Evidence:
    """Words of filters, best first: sorted by filter, rising p value, falling votes, falling score, word.

    Attributes:
        filter: int64 [S], u.
        word: int64 [S], position in the vocabulary.
        votes, images: int64 [S], k_uw and n_u.
        score: float64 [S], mean cosine.
        share, share_low, share_high: float64 [S], k_uw / n_u and its 95 % bootstrap interval over pictures.
        background: float64 [S], share of the other filters' pairs that name the word.
        p_value: float64 [S], of at least so many votes at that rate.
        q_value: float64 [S], p value adjusted for all hypotheses of the layer (false discovery rate).
        num_hypotheses: filters tested times distinct words named.
    """

    filter: IntArray
    word: IntArray
    votes: IntArray
    images: IntArray
    score: DoubleArray
    share: DoubleArray
    share_low: DoubleArray
    share_high: DoubleArray
    background: DoubleArray
    p_value: DoubleArray
    q_value: DoubleArray
    num_hypotheses: int

    def __len__(self) -> int:
        return len(self.filter)

    def take(self, chosen: IntArray | BoolArray) -> Evidence:
        """Some of the rows; what they were adjusted for stays."""
        columns = {name: value[chosen] for name, value in vars(self).items() if name != "num_hypotheses"}
        return Evidence(**columns, num_hypotheses=self.num_hypotheses)


def count_votes(
    words_Ps: IntArray,
    filter_P: IntArray,
    num_filters: int,
    scores_Ps: npt.NDArray[np.floating] | None = None,
) -> Votes:
    """Votes of every filter for every word that one of its pairs names.

    Args:
        words_Ps: words of each pair as positions in the vocabulary; -1 names nothing. A word that a pair names twice
            has one vote of it.
        filter_P: u of each pair.
        scores_Ps: their cosines.

    Raises:
        ValueError: shapes do not fit, or a filter is not in 0..num_filters - 1.
    """
    words_Ps, filter_P = np.asarray(words_Ps, np.int64), np.asarray(filter_P, np.int64)
    if words_Ps.ndim != 2 or filter_P.shape != words_Ps.shape[:1]:
        raise ValueError(f"expected words [P, s] and filter [P], found {words_Ps.shape} and {filter_P.shape}")
    if len(filter_P) and not (filter_P.min() >= 0 and filter_P.max() < num_filters):
        raise ValueError(f"expected filters in 0..{num_filters - 1}, found {filter_P.min()} to {filter_P.max()}")
    counted = ~find_repeated(words_Ps) & (words_Ps >= 0)
    words = words_Ps[counted]
    width = int(words.max()) + 1 if len(words) else 0
    keys = np.broadcast_to(filter_P[:, None], words_Ps.shape)[counted] * width + words
    distinct, inverse, votes = np.unique(keys, return_inverse=True, return_counts=True)
    score = np.zeros(len(distinct))
    if scores_Ps is not None:
        score = np.bincount(inverse, scores_Ps[counted].astype(np.float64), minlength=len(distinct)) / votes
    return Votes(
        distinct // max(width, 1),
        distinct % max(width, 1),
        votes.astype(np.int64),
        score,
        np.bincount(filter_P, minlength=num_filters).astype(np.int64),
        np.bincount(words, minlength=width).astype(np.int64),
    )


def estimate_background(votes: Votes) -> DoubleArray:
    """Share of the other filters' pairs that name the word, of each row: float64 [S], above 0.

    The filter's own pairs are left out, so that it cannot raise its own bar: of a word that only this filter names,
    q_w would be its own votes. A word that is named nowhere else has the rate UNSEEN_PAIRS / (number of other pairs).
    Where there are no other pairs there is nothing to compare with: 1, which no number of votes exceeds.
    """
    others = votes.num_pairs - votes.images[votes.filter]
    elsewhere = votes.named[votes.word] - votes.votes
    rate = np.where(elsewhere > 0, elsewhere, UNSEEN_PAIRS) / np.maximum(others, 1)
    return np.where(others > 0, rate, 1.0)


def find_evidence(votes: Votes, tested_C: BoolArray | None = None, floor_W: DoubleArray | None = None) -> Evidence:
    """Every word of every tested filter with its exact one-sided binomial test, P(X >= k | n, q).

    Args:
        tested_C: filters to be tested; all that have pictures unless given. Those left out have no rows and count for
            nothing but the others' background.
        floor_W: float64 [at least highest word + 1], rate that a word's background is not below: how often pictures
            are named by it without any filter.
    """
    tested = votes.images > 0
    if tested_C is not None:
        tested = tested & tested_C
    rows = np.flatnonzero(tested[votes.filter])
    unit, word, count, score = votes.filter[rows], votes.word[rows], votes.votes[rows], votes.score[rows]
    images = votes.images[unit]
    background = estimate_background(votes)[rows]
    if floor_W is not None:
        background = np.maximum(background, floor_W[word])
    p_value = np.clip(np.asarray(stats.binom.sf(count - 1, images, background), np.float64), 0, 1)
    num_hypotheses = int(tested.sum()) * votes.num_words
    q_value = adjust_false_discovery(p_value, num_hypotheses)
    low, high = bootstrap_share(count, images)
    order = np.lexsort((word, -score, -count, p_value, unit))
    found = Evidence(
        unit, word, count, images, score, count / images, low, high, background, p_value, q_value, num_hypotheses
    )
    return found.take(order)
