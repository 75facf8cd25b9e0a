"""Which words the explainer says are on a picture: categories by windows, the network's own class names by its answer.

Two witnesses, each in the way it was made for. The classifier of the reference's categories learned on regions, so it
looks at the windows of a picture, and the most certain one counts. The network's own head learned on whole pictures, so
its answer to the whole picture counts, its prior fitted to the pictures at hand (`fit_prior`): of photographs of five
kinds it then speaks in the words of these. A word is true of all classes that it names (tasks.explainer.class_head),
and has the sum of their probabilities: `spaniel` is all spaniels, `dog` all dogs.

Shape legend: N pictures, C filters, K classes, W words, S supervised categories, P positions of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, IntArray
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.windows import pool_windows
from lavise.tasks.explainer.class_head import ClassifierHead
from lavise.tasks.explainer.naming import Namer

CATEGORY, CLASS, HYPERNYM = "category", "class", "hypernym"
"""Kinds of words: categories that the explainer was trained on; names of the network's classes; what these are a kind
of."""
LEAST_PROBABILITY = 0.02
"""Less counts as nothing."""

_PRIOR_IMAGES = 20_000
_PRIOR_STRENGTH = 1.0  # pictures of each class that the prior is held to
_PRIOR_STEPS, _PRIOR_CHANGE = 50, 1e-6
_BLOCK = 512


@dataclass(frozen=True)
class PresenceWords:
    """The words whose presence is told, by rising row of the vocabulary.

    Attributes:
        row: int64 [W], position in the vocabulary.
        kind: of each, CATEGORY, CLASS or HYPERNYM.
        category: int64 [W], position among the supervised categories; -1 for other words.
        truth: int64 [W], position among the reference's concepts; -1 for words that are none.
        class_KW: of the head's classes, which are named by which word; float32, 0 or 1. None without a head.
    """

    row: IntArray
    kind: tuple[str, ...]
    category: IntArray
    truth: IntArray
    class_KW: Any

    def __len__(self) -> int:
        return len(self.row)

    def take(self, columns: IntArray) -> PresenceWords:
        """Some of the words."""
        kinds = tuple(self.kind[c] for c in columns)
        classes = None if self.class_KW is None else self.class_KW[:, columns]
        return PresenceWords(self.row[columns], kinds, self.category[columns], self.truth[columns], classes)

    @property
    def is_category(self) -> BoolArray:
        """bool [W]"""
        return self.category >= 0

    @property
    def has_classes(self) -> BoolArray:
        """bool [W]: words that the head can say."""
        if self.class_KW is None:
            return np.zeros(len(self.row), dtype=bool)
        return np.asarray(self.class_KW.sum(axis=0) > 0, dtype=bool)


@dataclass(frozen=True)
class Witnesses:
    """What both say of each picture.

    Attributes:
        window_NS: float32 [N, S], the highest probability of each supervised category over the picture's windows; no
            columns where the explainer does not know categories.
        answer_NW: sparse float32 [N, W], probability that the head's answer is a class of the word, less than
            LEAST_PROBABILITY left out; None without a head.
        certainty: mean over pictures of the head's highest class probability, before its prior was fitted; None
            without a head.
    """

    window_NS: FloatArray
    answer_NW: sparse.csr_matrix | None
    certainty: float | None

    def answers(self, words: Sequence[int] | IntArray) -> FloatArray:
        """float32 [N, words], zero without a head."""
        chosen = np.asarray(words, np.int64)
        if self.answer_NW is None:
            return np.zeros((len(self.window_NS), len(chosen)), np.float32)
        return np.asarray(self.answer_NW[:, chosen].toarray(), np.float32)


def list_words(namer: Namer, vocabulary: Vocabulary, concepts: Sequence[str]) -> PresenceWords:
    """All supervised categories, and all words that name a class of the head or say what it is a kind of.

    Args:
        concepts: the reference's categories.
    """
    index = {w: i for i, w in enumerate(vocabulary.words)}
    supervised = namer.facts.supervised if namer.facts.kind != "head" else ()
    category_of = {index[c]: s for s, c in enumerate(supervised)}
    truth_of = {index[c]: t for t, c in enumerate(concepts) if c in index}
    head = namer.head
    pairs = head.name_M3.cpu().numpy() if head is not None else np.zeros((0, 3), np.int64)
    rows = np.union1d(np.array(sorted(category_of), dtype=np.int64), pairs[:, 1])
    own = np.isin(rows, pairs[pairs[:, 2] == 1, 1])
    matrix = None
    if head is not None:
        matrix = np.zeros((len(head.bias), len(rows)), np.float32)
        matrix[pairs[:, 0], np.searchsorted(rows, pairs[:, 1])] = 1
    kinds = tuple(
        CATEGORY if row in category_of else (CLASS if is_own else HYPERNYM)
        for row, is_own in zip(rows.tolist(), own.tolist(), strict=True)
    )
    category = np.array([category_of.get(row, -1) for row in rows.tolist()], dtype=np.int64)
    truth = np.array([truth_of.get(row, -1) for row in rows.tolist()], dtype=np.int64)
    return PresenceWords(rows, kinds, category, truth, matrix)


def keep_frequent(witnesses: Witnesses, words: PresenceWords, least: float) -> tuple[Witnesses, PresenceWords]:
    """Without the words that the head expects on fewer pictures than `least`; categories all stay."""
    if witnesses.answer_NW is None:
        return witnesses, words
    expected = np.asarray(witnesses.answer_NW.sum(axis=0, dtype=np.float64)).ravel()
    kept = np.flatnonzero(words.is_category | (expected >= least))
    answer_NW = witnesses.answer_NW[:, kept]
    return Witnesses(witnesses.window_NS, answer_NW, witnesses.certainty), words.take(kept)


def fit_prior(answer_NK: npt.NDArray[np.floating[Any]]) -> DoubleArray:
    """How much more frequent each class is on these pictures than where the network was trained: float64 [K], ratios.

    Expectation maximisation of Saerens, Latinne and Decaestecker (Neural Computation 14, 2002): the answers are
    averaged, multiplied with the ratio that this gives, and averaged again. Each class is held to equal shares with the
    weight of one picture, so that few pictures say little.

    Args:
        answer_NK: class probabilities; at most 20,000 pictures, at even distances, are looked at.
    """
    num, classes = answer_NK.shape
    answers = answer_NK[_sample_rows(num, _PRIOR_IMAGES)].astype(np.float64)
    ratio = np.ones(classes)
    for _ in range(_PRIOR_STEPS):
        adapted = apply_prior(answers, ratio)
        share = (adapted.sum(axis=0) + _PRIOR_STRENGTH) / (len(answers) + _PRIOR_STRENGTH * classes)
        before, ratio = ratio, share * classes
        if np.abs(ratio - before).max() <= _PRIOR_CHANGE:
            break
    return ratio


def _sample_rows(num: int, most: int) -> IntArray:
    """At most so many of `num` rows, at even distances."""
    return np.unique(np.linspace(0, max(num - 1, 0), min(num, most)).astype(np.int64))


def apply_prior(answer_NK: npt.NDArray[np.floating[Any]], ratio_K: DoubleArray) -> DoubleArray:
    """Class probabilities under the fitted prior: float64 [N, K], rows that sum to 1."""
    weighted = answer_NK.astype(np.float64) * ratio_K
    return weighted / np.maximum(weighted.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)


def ask_witnesses(store: ActivationStore, namer: Namer, words: PresenceWords, device: str) -> Witnesses:
    """Both witnesses on all pictures of a store.

    The store may have more filters than the explainer reads (benchmarks.planted_filters): those come last, and are not
    read here.
    """
    channels = namer.facts.channels
    window_NS = np.zeros((store.shape[0], len(namer.facts.supervised) if words.is_category.any() else 0), np.float32)
    if window_NS.shape[1]:
        start = 0
        for features in pool_windows(store, device, overlapping=True):
            found = namer.categories(features[:, :, :channels].flatten(0, 1))
            best = found.reshape(len(features), -1, found.shape[1]).amax(dim=1)
            window_NS[start : start + len(best)] = best.cpu().numpy()
            start += len(best)
    if namer.head is None:
        return Witnesses(window_NS, None, None)
    num, head = store.shape[0], namer.head
    sampled = set(_sample_rows(num, _PRIOR_IMAGES).tolist())
    chosen, highest, start = [], [], 0
    for answers in _answer(store, head, channels, device):
        chosen.append(answers[[row for row in range(len(answers)) if start + row in sampled]])
        highest.append(answers.max(axis=1))
        start += len(answers)
    ratio = fit_prior(np.concatenate(chosen)) if chosen else np.ones(len(head.bias))
    blocks = []
    # Asked again rather than kept: answers to many pictures are more than the memory holds.
    for answers in _answer(store, head, channels, device):
        told = np.minimum(apply_prior(answers, ratio) @ words.class_KW, 1)
        blocks.append(sparse.csr_matrix(np.where(told >= LEAST_PROBABILITY, told, 0).astype(np.float32)))
    certainty = float(np.concatenate(highest).mean(dtype=np.float64)) if num else 0.0
    return Witnesses(window_NS, sparse.vstack(blocks, format="csr"), certainty)


def _answer(store: ActivationStore, head: ClassifierHead, channels: int, device: str) -> Iterator[FloatArray]:
    """The head's class probabilities on some pictures after the other: float32 [n, K]."""
    for means_nC in store.iterate_means(_BLOCK):
        with torch.inference_mode():
            answers = head.answer(torch.from_numpy(means_nC[:, :channels]).to(device))
        yield answers.cpu().numpy()


def name_regions(namer: Namer, features_RC: torch.Tensor, words: PresenceWords) -> FloatArray:
    """How much each word is said of regions: float32 [R, W]; the more certain witness counts."""
    with torch.inference_mode():
        told = torch.zeros((len(features_RC), len(words)), device=features_RC.device)
        if namer.head is not None:
            matrix = torch.from_numpy(words.class_KW).to(features_RC.device)
            told = (namer.head.posterior(features_RC) @ matrix).clamp_max(1)
        own = np.flatnonzero(words.is_category)
        if len(own):
            categories = namer.categories(features_RC)[:, torch.from_numpy(words.category[own]).to(told.device)]
            columns = torch.from_numpy(own).to(told.device)
            told[:, columns] = torch.maximum(told[:, columns], categories)
    return np.asarray(told.cpu().numpy(), np.float32)
