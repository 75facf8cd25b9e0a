"""When the explainer says that a word is on a picture, is it? Measured on labelled pictures that it did not learn on.

Two kinds of words are judged, each by what can be said against it:
- category: the classifier's categories on the evaluation part.
- class: what the network's own head says, on all pictures of the reference, as the head learned on none of them. A
  category that the classes name (`dog`, all dogs) is a word never trained on, and left out in turn, at that.

Right by chance is no merit: a word that is on most pictures is right on most pictures, whoever says it. So the share of
right statements is modelled as m + (1 - m) · b, b the share of pictures with the word, and the precision is m, the
probability that the word is there because it was said; logistic in the log odds that were stated. An explainer that was
taught at random has m = 0, however common its words.

Errors about one word are alike: of a word that is wrong for the moon every moon is wrong. How alike, is the
concentration of a beta distribution around the precision (the smaller, the more alike), fitted to the categories'
counts (beta-binomial). From both follows the probability that a word is right more often than not, `trust_words`.

Nothing is stated beyond what was judged: odds are cut off at those that 99 % of the judged statements are below, and a
kind of which fewer than 30 statements could be judged has precision 0.

Shape legend: N pictures, T concepts of the reference, W words, S supervised categories, J statements, F witnesses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import optimize, special

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, IntArray
from lavise.storage.datasets.base import Dataset
from lavise.tasks.words.word_presence import CATEGORY, LEAST_PROBABILITY, PresenceWords, Witnesses

MIN_STATEMENTS = 30
LEAST_WINDOW = 0.05
"""A category is stated from this probability on, of either witness."""

_EDGE = 1e-4  # of probabilities, for their log odds
_CUT_OFF = 0.99
_PENALTY = 1.0
_CHANCE_EDGE = 1e-6
_CARRIED = 0.3
"""Precision from which on a picture counts as one that carries the word."""
_CONCENTRATIONS = np.geomspace(1, 50, 60)
_MOST_OFTEN = 0.5


@dataclass(frozen=True)
class KindPrecision:
    """Precision of the statements about one kind of words.

    Attributes:
        centre, scale, cut_off: of the log odds of each witness [F].
        coefficients: of the standardised log odds [F], none below 0.
        intercept: of the logistic.
        concentration: of the beta distribution of a word's precision around it.
        num_statements, num_right: that it was fitted to.
        note: why nothing is believed; empty otherwise.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    cut_off: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    concentration: float
    num_statements: int
    num_right: int
    note: str = ""

    @property
    def best(self) -> float:
        """Precision of the surest statements that could be judged."""
        return float(self.predict(np.array([self.cut_off]))[0])

    def predict(self, odds: DoubleArray) -> DoubleArray:
        """Precision of statements with log odds [..., F]: float64 [...]."""
        if self.note:
            return np.zeros(odds.shape[:-1])
        total = np.full(odds.shape[:-1], self.intercept)
        for place, coefficient in enumerate(self.coefficients):
            held = np.minimum(odds[..., place], self.cut_off[place])
            total = total + coefficient * ((held - self.centre[place]) / self.scale[place])
        return np.asarray(special.expit(total), np.float64)


@dataclass(frozen=True)
class WordCount:
    """Pictures that carry a category by the explainer's word, and how many of them have it beyond chance."""

    carried: int
    right: float


@dataclass(frozen=True)
class NamingPrecision:
    """Precision of both kinds, and what was counted of single categories on the evaluation part."""

    category: KindPrecision
    class_name: KindPrecision
    counted: Mapping[str, WordCount]

    def expect_right(self, category: str) -> float:
        """Expected share of right ones among what is called a category: its own count, held to that of all categories
        with the weight of the concentration."""
        carried = sum(count.carried for count in self.counted.values())
        overall = sum(count.right for count in self.counted.values()) / carried if carried else 0.0
        own, weight = self.counted[category], self.category.concentration
        return (overall * weight + own.right) / (weight + own.carried)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> NamingPrecision:
        """What `to_json` made, also after JSON has turned tuples into lists."""
        kinds = []
        for name in ("category", "class_name"):
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content[name].items()}
            kinds.append(KindPrecision(**values))
        return cls(kinds[0], kinds[1], {word: WordCount(**count) for word, count in content["counted"].items()})


@dataclass(frozen=True)
class Presence:
    """Which words are on the pictures, and how far that can be believed.

    Attributes:
        probability_NW: float64 [N, W], multiples of 1/1024, so that sums of them are exact: that the picture has the
            word, as the explainer says: of categories the precision, of class names the head's own probability.
        precision_NW: float64 [N, W], of these statements.
    """

    probability_NW: DoubleArray
    precision_NW: DoubleArray


STEPS = 1024


def find_truth(store: ActivationStore, dataset: Dataset) -> BoolArray:
    """bool [N, T]: which concepts are annotated on the pictures of a store."""
    number = {c: t for t, c in enumerate(dataset.concepts)}
    truth = np.zeros((len(store.keys), len(dataset.concepts)), dtype=bool)
    for position, key in enumerate(store.keys):
        truth[position, [number[a.concept] for a in dataset.by_key[key].annotations]] = True
    return truth


def to_odds(probability: FloatArray | DoubleArray) -> DoubleArray:
    """Log odds of probabilities, held to a ten-thousandth from 0 and 1."""
    held = np.clip(probability.astype(np.float64), _EDGE, 1 - _EDGE)
    return np.asarray(np.log(held / (1 - held)), np.float64)


def measure_precision(
    words: PresenceWords,
    evaluation: tuple[Witnesses, BoolArray],
    train: tuple[Witnesses, BoolArray],
    names: Sequence[str],
    left_out: frozenset[int] = frozenset(),
    looked_for: tuple[BoolArray | None, BoolArray | None] = (None, None),
) -> NamingPrecision:
    """Precision of both kinds of words.

    Args:
        evaluation, train: what the witnesses say of each part's pictures, and the truth [N, T].
        names: of the T concepts.
        left_out: concepts whose statements are not looked at.
        looked_for: of evaluation and train, which concepts were looked for on the pictures [N, T]; statements about
            others are not looked at. None: all.
    """
    known_of = [
        np.ones_like(part[1]) if known is None else known
        for part, known in zip((evaluation, train), looked_for, strict=True)
    ]
    chosen = np.flatnonzero(words.is_category & (words.truth >= 0) & ~np.isin(words.truth, sorted(left_out)))
    said, truth = _describe_categories(evaluation[0], words, chosen), evaluation[1][:, words.truth[chosen]]
    known = known_of[0][:, words.truth[chosen]]
    category = _fit_kind([said], [truth], [_is_stated(said)], [known])
    answered = np.flatnonzero(words.has_classes & (words.truth >= 0) & ~np.isin(words.truth, sorted(left_out)))
    parts = [
        (witnesses, true[:, words.truth[answered]], own[:, words.truth[answered]])
        for (witnesses, true), own in ((train, known_of[1]), (evaluation, known_of[0]))
        if witnesses.answer_NW is not None and len(answered)
    ]
    odds = [to_odds(witnesses.answers(answered))[..., None] for witnesses, _, _ in parts]
    truths, knowns = [true for _, true, _ in parts], [own for _, _, own in parts]
    class_name = _fit_kind(odds, truths, [o[..., 0] >= _log_odds(LEAST_PROBABILITY) for o in odds], knowns)
    counted = {
        names[words.truth[column]]: _count(
            category.predict(said[known[:, place], place]), truth[known[:, place], place]
        )
        for place, column in enumerate(chosen)
    }
    return NamingPrecision(category, class_name, counted)


def state_presence(witnesses: Witnesses, words: PresenceWords, precision: NamingPrecision) -> Presence:
    """What is on the pictures of a store, in the words of `words`."""
    num = len(witnesses.window_NS)
    probability, believed = np.zeros((num, len(words))), np.zeros((num, len(words)))
    answered = np.flatnonzero(words.has_classes & ~words.is_category)
    told = witnesses.answers(answered).astype(np.float64)
    probability[:, answered] = told
    believed[:, answered] = np.where(told > 0, precision.class_name.predict(to_odds(told)[..., None]), 0)
    own = np.flatnonzero(words.is_category)
    said = _describe_categories(witnesses, words, own)
    found = np.where(_is_stated(said), precision.category.predict(said), 0)
    probability[:, own], believed[:, own] = found, found
    return Presence(np.rint(probability * STEPS) / STEPS, believed)


def trust_words(
    presence: Presence, words: PresenceWords, precision: NamingPrecision, vocabulary: Sequence[str], counts: bool = True
) -> tuple[DoubleArray, DoubleArray]:
    """Mean precision of each word on these pictures, weighted by its probability, and the probability that it is right
    more often than not: float64 [W] each, 0 where it is on none.

    Args:
        vocabulary: all words.
        counts: a category's own counts on the evaluation part count, too.
    """
    total = presence.probability_NW.sum(axis=0)
    # By numpy's own sum: a product through BLAS differs between processors in the last bit.
    weighted = (presence.probability_NW * presence.precision_NW).sum(axis=0)
    mean = np.divide(weighted, total, out=np.zeros(len(total)), where=total > 0)
    trust = np.zeros(len(mean))
    for column in np.flatnonzero(mean > 0):
        is_category = words.kind[column] == CATEGORY
        kind = precision.category if is_category else precision.class_name
        right, wrong = mean[column] * kind.concentration, (1 - mean[column]) * kind.concentration
        count = precision.counted.get(vocabulary[words.row[column]]) if is_category and counts else None
        if count is not None:
            right, wrong = right + count.right, wrong + count.carried - count.right
        trust[column] = 1 - special.betainc(max(right, _EDGE), max(wrong, _EDGE), _MOST_OFTEN)
    return mean, trust


def _describe_categories(witnesses: Witnesses, words: PresenceWords, columns: IntArray) -> DoubleArray:
    """Log odds of both witnesses [N, columns, 2]; 0 where the head has no class of the category."""
    windows = to_odds(witnesses.window_NS[:, words.category[columns]])
    answers = np.where(words.has_classes[columns], to_odds(witnesses.answers(columns)), 0)
    return np.stack([windows, answers], axis=-1)


def _is_stated(odds: DoubleArray) -> BoolArray:
    least = _log_odds(LEAST_WINDOW)
    return np.asarray((odds[..., 0] >= least) | ((odds[..., 1] >= least) & (odds[..., 1] != 0)), dtype=bool)


def _log_odds(probability: float) -> float:
    """As `to_odds`, of the float32 that probabilities are kept in."""
    return float(to_odds(np.array([probability], np.float32))[0])


def _fit_kind(
    odds: Sequence[DoubleArray],
    truths: Sequence[BoolArray],
    said: Sequence[BoolArray],
    known: Sequence[BoolArray],
) -> KindPrecision:
    """Fitted to statements of several parts; what is right by chance is counted within each part.

    Args:
        odds: of each part [N, W, F]; truths, said: [N, W]; known: [N, W], pictures that the word was looked for on.
    """
    stated = [s & k for s, k in zip(said, known, strict=True)]
    num_witnesses = odds[0].shape[-1] if odds else 1
    x = np.concatenate([o[s] for o, s in zip(odds, stated, strict=True)] or [np.zeros((0, num_witnesses))])
    y = np.concatenate([t[s] for t, s in zip(truths, stated, strict=True)] or [np.zeros(0, bool)])
    bases = [_share(t, k) for t, k in zip(truths, known, strict=True)]
    chance = [np.broadcast_to(base, t.shape) for base, t in zip(bases, truths, strict=True)]
    b = np.concatenate([c[s] for c, s in zip(chance, stated, strict=True)] or [np.zeros(0)])
    if len(y) < MIN_STATEMENTS:
        blank = (0.0,) * num_witnesses
        note = f"{len(y)} statements can be judged, at least {MIN_STATEMENTS} are needed"
        return KindPrecision(blank, (1.0,) * num_witnesses, blank, blank, 0.0, 1.0, len(y), int(y.sum()), note)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    coefficients, intercept = _fit_mixture((x - centre) / scale, y, np.clip(b, 0, 1 - _CHANCE_EDGE))
    found = KindPrecision(
        tuple(centre.tolist()),
        tuple(scale.tolist()),
        tuple(np.quantile(x, _CUT_OFF, axis=0).tolist()),
        tuple(coefficients.tolist()),
        intercept,
        1.0,
        len(y),
        int(y.sum()),
    )
    groups = []
    for part, true, asked, base in zip(odds, truths, known, bases, strict=True):
        predicted = found.predict(part)
        for word in range(true.shape[1]):
            carried = (predicted[:, word] >= _CARRIED) & asked[:, word]
            if carried.any():
                m = predicted[carried, word]
                groups.append((int(carried.sum()), int(true[carried, word].sum()), (m + (1 - m) * base[word]).mean()))
    return replace(found, concentration=_fit_concentration(groups))


def _share(truth_NW: BoolArray, known_NW: BoolArray) -> DoubleArray:
    """Share of the pictures with each word, of those on which it was looked for: float64 [W], 0 where there is none."""
    return np.asarray((truth_NW & known_NW).sum(axis=0) / np.maximum(known_NW.sum(axis=0), 1), np.float64)


def _fit_mixture(standard_JF: DoubleArray, right_J: BoolArray, chance_J: DoubleArray) -> tuple[DoubleArray, float]:
    """Coefficients, at least 0, and intercept of m in P(right) = m + (1 - m) · chance."""

    def measure(parameters: DoubleArray) -> tuple[float, DoubleArray]:
        merit = special.expit(parameters[0] + (standard_JF * parameters[1:]).sum(axis=1))
        share = np.clip(merit + (1 - merit) * chance_J, 1e-9, 1 - 1e-9)
        loss = -np.where(right_J, np.log(share), np.log1p(-share)).sum()
        loss += _PENALTY / 2 * (parameters[1:] ** 2).sum() + _PENALTY / 20 * parameters[0] ** 2
        slope = (1 - chance_J) * merit * (1 - merit) * np.where(right_J, -1 / share, 1 / (1 - share))
        gradient = (slope[:, None] * standard_JF).sum(axis=0) + _PENALTY * parameters[1:]
        return float(loss), np.concatenate([[slope.sum() + _PENALTY / 10 * parameters[0]], gradient])

    num = standard_JF.shape[1]
    bounds = [(-20, 20), *[(0, None)] * num]
    found = optimize.minimize(measure, np.zeros(num + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    return found.x[1:], float(found.x[0])


def _fit_concentration(groups: Sequence[tuple[int, int, float]]) -> float:
    """Concentration of the beta-binomial with the highest likelihood, of 60 from 1 to 50; 1, the most cautious one,
    where there are no words.

    Args:
        groups: of each word, pictures that carry it, those that have it, and the expected share.
    """
    if not groups:
        return 1.0
    num, right, share = np.array(groups, np.float64).T
    share = np.clip(share, 0.01, 0.99)
    likelihood = [
        (
            special.betaln(share * k + right, (1 - share) * k + num - right)
            - special.betaln(share * k, (1 - share) * k)
        ).sum()
        for k in _CONCENTRATIONS
    ]
    return float(_CONCENTRATIONS[int(np.argmax(likelihood))])


def _count(precision_N: DoubleArray, truth_N: BoolArray) -> WordCount:
    carried = precision_N >= _CARRIED
    num, right, chance = int(carried.sum()), int(truth_N[carried].sum()), float(truth_N.mean()) if len(truth_N) else 0.0
    beyond = max(right - num * chance, 0.0) / (1 - chance) if chance < 1 else 0.0
    return WordCount(num, beyond)
