"""Ablations of a classifier whose classes are asked about by themselves (multi-label): answers lost and gained.

An answer is a pair of a picture and a class whose probability is above the threshold. A picture may have several, or
none. The own logits of a picture are those of its answers before the ablation; means of their changes are over answers.

Shape legend: N pictures, B pictures of a block, K classes, J of them that are an answer to some picture, L of them that
name an annotated category, T categories, P answers before, G groups of pictures, R random sets.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, IntArray
from lavise.storage.models.class_names import ClassNames
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.classifier.ablation_plan import AblationPlan
from lavise.tasks.classifier.ablation_runs import Answer, Baseline, Block
from lavise.tasks.classifier.ablation_tables import (
    NUM_CLASSES_SHOWN,
    AnswersOfClass,
    AnswersOfImage,
    FilterAnswers,
    WordAnswers,
    compute_p_value,
    divide,
    find_used,
    list_lowest,
)
from lavise.tasks.classifier.ablation_truth import SIDES, WITH, WITHOUT, Truth, WordGroups
from lavise.tasks.classifier.class_words import name_class

BitsArray = npt.NDArray[np.uint64]
_NUM_NAMES = 20
# Logits that are looked at together: few enough to stay in a processor's cache.
_CACHED_ENTRIES = 1 << 17
_RANDOM, _SINGLES, _WORDS = 0, 1, 2


@dataclass(frozen=True)
class GivenAnswers:
    """The answers before anything is taken away, and which of them are right.

    Attributes:
        is_given: bool [N, K].
        image, answer: int64 [P], rising by picture, then by class.
        occurring: int64 [J], rising; place: int64 [P], of each answer's class in it.
        judged: int64 [L], rising: classes that name a category that the data set has.
        is_true: bool [N, L], a category that the class names is annotated in the picture.
    """

    is_given: BoolArray
    image: IntArray
    answer: IntArray
    occurring: IntArray
    place: IntArray
    judged: IntArray
    is_true: BoolArray

    @cached_property
    def per_image(self) -> IntArray:
        """int64 [N]: answers of each picture."""
        return np.asarray(self.is_given.sum(axis=1), np.int64)

    @cached_property
    def per_class(self) -> IntArray:
        """int64 [K]: pictures that each class is an answer to."""
        return np.asarray(self.is_given.sum(axis=0), np.int64)


def find_answers(baseline: Baseline, truth: Truth) -> GivenAnswers:
    """From the logits and the annotations."""
    is_given = baseline.logits > baseline.rule.least_logit
    image, answer = np.nonzero(is_given)
    occurring, place = np.unique(answer, return_inverse=True)
    judged = np.flatnonzero(truth.names.any(axis=1))
    named = truth.annotated.astype(np.float32) @ truth.names[judged].T.astype(np.float32)
    return GivenAnswers(is_given, image, answer, occurring, place.reshape(-1), judged, named > 0)


@dataclass(frozen=True)
class Quality:
    """How far answers are right, over all pictures and all classes that can be judged (micro-averaged).

    Attributes:
        num_classes: L.
        precision: share of the answers that are right; None without any answer.
        recall: share of what is annotated that is an answer; None where nothing is annotated.
    """

    num_classes: int
    precision: float | None
    recall: float | None


def measure_quality(answers: GivenAnswers) -> Quality | None:
    """Of the answers before; None where no class can be judged."""
    given_NL = answers.is_given[:, answers.judged]
    return _measure_quality(answers, (given_NL & answers.is_true).sum(axis=0), given_NL.sum(axis=0))


def _measure_quality(answers: GivenAnswers, right_L: IntArray, given_L: IntArray) -> Quality | None:
    if not len(answers.judged):
        return None
    right, num_true = int(right_L.sum()), int(answers.is_true.sum())
    return Quality(len(answers.judged), divide(right, int(given_L.sum())), divide(right, num_true))


@dataclass(frozen=True)
class ChangedImage:
    """A picture whose answers are not the same: its position, how many it lost and gained, and the first of these
    classes."""

    position: int
    num_lost: int
    num_gained: int
    lost: Sequence[int]
    gained: Sequence[int]


@dataclass(frozen=True)
class _GivenInBlock:
    """The answers to a block of pictures before anything is taken away, which every ablation is held against.

    Attributes:
        is_given: bool [B, K].
        image: int64 [P], position in the block; flat: in `is_given`, by rows; place: among occurring classes.
    """

    rows: slice
    is_given: BoolArray
    image: IntArray
    flat: IntArray
    place: IntArray
    logits: FloatArray

    @cached_property
    def bits(self) -> BitsArray:
        """uint64 [B, ceil(K / 64)]."""
        return _pack(self.is_given)

    @cached_property
    def per_image(self) -> IntArray:
        """int64 [B]."""
        return _count(self.bits)

    @cached_property
    def probability(self) -> DoubleArray:
        """float64 [P]."""
        return _to_probability(self.logits.ravel()[self.flat])


def find_given(answers: GivenAnswers, baseline: Baseline, rows: slice) -> _GivenInBlock:
    """Those of some pictures."""
    first, last = np.searchsorted(answers.image, (rows.start, rows.stop))
    image, answer = answers.image[first:last] - rows.start, answers.answer[first:last]
    is_given = answers.is_given[rows]
    flat = image * is_given.shape[1] + answer
    return _GivenInBlock(rows, is_given, image, flat, answers.place[first:last], baseline.logits[rows])


def _pack(is_answer_BK: BoolArray) -> BitsArray:
    """A bit for each: uint64 [B, ceil(K / 64)]."""
    packed = np.packbits(is_answer_BK, axis=1)
    bits = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    bits[:, : packed.shape[1]] = packed
    return bits.view(np.uint64)


def _count(bits_BW: BitsArray) -> IntArray:
    """How many of each row are set: int64 [B]."""
    return np.asarray(np.bitwise_count(bits_BW).sum(axis=1, dtype=np.int64))


class AnswerSums:
    """Sums over pictures of what one ablation does, apart for groups of pictures.

    Attributes:
        own: float64 [G], change of the logits of the answers before.
        kept, gained: int64 [G], answers that still are, and that are new.
        changed: int64 [G], pictures whose answers are not the same.
        own_of_class: float64 [J], change of the logit on the pictures that had the class as an answer.
        own_probability: float64 [J], the same of the probability.
        lost_of_class, gained_of_class: int64 [K].
        given, right: int64 [L], pictures that the class is an answer to afterwards, and those of them where it is true.
        logits: float64 [G, K], change of the logit of each class.
        images: of each picture whose answers change.
    """

    def __init__(self, groups_GN: BoolArray, baseline: Baseline, answers: GivenAnswers, detail: int = _RANDOM) -> None:
        """Start at zero.

        Args:
            detail: _RANDOM: of groups alone; _SINGLES: of occurring classes, too; _WORDS: of everything.
        """
        num, num_classes = len(groups_GN), baseline.logits.shape[1]
        self._groups, self._baseline, self._answers, self._detail = groups_GN, baseline, answers, detail
        self.own = np.zeros(num)
        self.kept, self.gained, self.changed = (np.zeros(num, np.int64) for _ in range(3))
        own_classes = len(answers.occurring) if detail else 0
        self.own_of_class, self.own_probability = np.zeros(own_classes), np.zeros(own_classes)
        of_words = num_classes if detail == _WORDS else 0
        self.lost_of_class, self.gained_of_class = np.zeros(of_words, np.int64), np.zeros(of_words, np.int64)
        self.right, self.given = (np.zeros(len(answers.judged), np.int64) for _ in range(2))
        self.logits = np.zeros((num, of_words))
        self.images: list[ChangedImage] = []

    def add(self, given: _GivenInBlock, answer: Answer) -> None:
        """Count a block in."""
        groups_GB = self._groups[:, given.rows]
        after_bits = self._find_bits(answer)
        lost_B, gained_B = _count(given.bits & ~after_bits), _count(after_bits & ~given.bits)
        with_pairs = self._detail or answer.own is None  # else the many pairs need not be looked at one by one
        own_P = answer.change.ravel()[given.flat if with_pairs else given.flat[:0]].astype(np.float64)
        own_B = answer.own
        if own_B is None:
            # Summed by numpy itself, in a fixed order.
            own_B = np.bincount(given.image, own_P, len(groups_GB[0])).astype(np.float64)
        self.own += np.where(groups_GB, own_B, 0.0).sum(axis=1)
        self.kept += np.where(groups_GB, given.per_image - lost_B, 0).sum(axis=1)
        self.gained += np.where(groups_GB, gained_B, 0).sum(axis=1)
        self.changed += (groups_GB & (lost_B + gained_B > 0)).sum(axis=1)
        if self._detail:
            num = len(self._answers.occurring)
            after_P = answer.logits.ravel()[given.flat]
            self.own_of_class += np.bincount(given.place, own_P, num)
            self.own_probability += np.bincount(given.place, _to_probability(after_P) - given.probability, num)
        if self._detail == _WORDS:
            self._add_classes(given, answer, groups_GB)

    def _find_bits(self, answer: Answer) -> BitsArray:
        """The answers afterwards (see `_pack`)."""
        num, step = len(answer.change), max(_CACHED_ENTRIES // max(answer.change.shape[1], 1), 1)
        least = self._baseline.rule.least_logit
        parts = [_pack(answer.find_logits(slice(start, start + step)) > least) for start in range(0, num, step)]
        return np.concatenate(parts)

    def _add_classes(self, given: _GivenInBlock, answer: Answer, groups_GB: BoolArray) -> None:
        answers, after_BK = self._answers, answer.logits > self._baseline.rule.least_logit
        lost_BK, gained_BK = given.is_given & ~after_BK, after_BK & ~given.is_given
        self.lost_of_class += lost_BK.sum(axis=0)
        self.gained_of_class += gained_BK.sum(axis=0)
        given_BL = after_BK[:, answers.judged]
        self.right += (given_BL & answers.is_true[given.rows]).sum(axis=0)
        self.given += given_BL.sum(axis=0)
        for group, chosen in enumerate(groups_GB):
            self.logits[group] += answer.change[chosen].sum(axis=0, dtype=np.float64)
        for row in np.flatnonzero((lost_BK | gained_BK).any(axis=1)):
            lost, gained = np.flatnonzero(lost_BK[row]), np.flatnonzero(gained_BK[row])
            shown = lost[:_NUM_NAMES].tolist(), gained[:_NUM_NAMES].tolist()
            self.images.append(ChangedImage(given.rows.start + int(row), len(lost), len(gained), *shown))


def _to_probability(logits: FloatArray) -> DoubleArray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@dataclass(frozen=True)
class AnswerTables:
    """What the ablations say."""

    words: list[WordAnswers]
    filters: list[FilterAnswers]
    classes: list[AnswersOfClass]
    images: list[AnswersOfImage]


@dataclass(frozen=True)
class AnswerAblations:
    """All ablations of a plan, and what they are made on.

    Attributes:
        keys: of the N pictures.
        groups: of each word of the plan.
    """

    layer: str
    plan: AblationPlan
    groups: Sequence[WordGroups]
    truth: Truth
    baseline: Baseline
    answers: GivenAnswers
    keys: Sequence[str]
    class_names: ClassNames | None
    words_of_filter: Sequence[Sequence[str]]

    def measure(self, blocks: Iterable[Block], progress: Progress = no_progress) -> AnswerTables:
        """Run them all, and say what each does.

        Those of the random sets are looked at on the pictures that a word of their size is tested on.
        """
        plan, num = self.plan, len(self.baseline.positions)
        tested = {
            size: np.stack([g.tested for g, u in zip(self.groups, plan.sets, strict=True) if len(u) == size])
            for size in plan.random
        }
        everything = np.ones((1, num), dtype=bool)
        words = [self._start(g.groups, _WORDS) for g in self.groups]
        singles = [self._start(everything, _SINGLES) for _ in plan.singles]
        random = {size: [self._start(tested[size], _RANDOM) for _ in sets] for size, sets in plan.random.items()}
        work: list[tuple[IntArray, AnswerSums]] = [
            *zip(plan.sets, words, strict=True),
            *((np.array([u]), s) for u, s in zip(plan.singles, singles, strict=True)),
            *((u, s) for size, sets in plan.random.items() for u, s in zip(sets, random[size], strict=True)),
        ]
        with progress("ablations", num * len(work)) as bar:
            for block in blocks:
                given = find_given(self.answers, self.baseline, block.rows)
                for filters, sum_of_set in work:
                    sum_of_set.add(given, block.ablate(filters))
                    bar.advance(block.rows.stop - block.rows.start)
        return AnswerTables(
            self._make_word_rows(words, random),
            self._make_filter_rows(singles),
            [row for word, found in zip(plan.words, words, strict=True) for row in self._list_classes(word, found)],
            [row for word, found in zip(plan.words, words, strict=True) for row in self._list_images(word, found)],
        )

    def _start(self, groups_GN: BoolArray, detail: int) -> AnswerSums:
        return AnswerSums(groups_GN, self.baseline, self.answers, detail)

    def _make_word_rows(self, words: Sequence[AnswerSums], random: dict[int, list[AnswerSums]]) -> list[WordAnswers]:
        rows = []
        seen: dict[int, int] = {}
        total, per_image = len(self.baseline.positions), self.answers.per_image
        # Also of pictures on which the word's category was not looked for.
        total_answers = len(self.answers.image)
        for word, filters, group, found in zip(self.plan.words, self.plan.sets, self.groups, words, strict=True):
            size, counts = len(filters), group.groups.sum(axis=1)
            place = seen[size] = seen.get(size, -1) + 1
            num_answers = [int(per_image[group.groups[s]].sum()) for s in SIDES]
            num_tested, tested_answers = int(group.tested.sum()), int(per_image[group.tested].sum())
            others = random[size]
            random_own = np.array([s.own[place] for s in others]) / max(tested_answers, 1)
            own_tested = float(found.own[WITH] if group.has_concept else found.own.sum()) / max(tested_answers, 1)
            quality = _measure_quality(self.answers, found.right, found.given)
            own = [divide(float(found.own[s]), num_answers[s]) for s in SIDES]
            kept = [divide(int(found.kept[s]), num_answers[s]) for s in SIDES]
            changed = [divide(int(found.changed[s]), int(counts[s])) for s in SIDES]
            has_category = group.category is not None
            rows.append(
                WordAnswers(
                    layer=self.layer,
                    word=word,
                    category=self.truth.concepts[group.category] if group.category is not None else None,
                    filters=filters.tolist(),
                    num_filters=size,
                    num_with=int(counts[WITH]) if has_category else None,
                    num_without=int(counts[WITHOUT]) if has_category else None,
                    changed_with=changed[WITH] if has_category else None,
                    changed_without=changed[WITHOUT] if has_category else None,
                    changed=int(found.changed.sum()) / total,
                    own_logit_with=own[WITH] if has_category else None,
                    own_logit_without=own[WITHOUT] if has_category else None,
                    own_logit=float(found.own.sum()) / total_answers,
                    random_own_logit=float(random_own.mean()) if len(others) and tested_answers else None,
                    random_changed=_average([s.changed[place] for s in others], num_tested),
                    p_value=compute_p_value(own_tested, random_own),
                    classes=json.dumps(self._list_lowered(found, group, counts), ensure_ascii=False),
                    num_answers=total_answers,
                    num_lost=total_answers - int(found.kept.sum()),
                    num_gained=int(found.gained.sum()),
                    kept=int(found.kept.sum()) / total_answers,
                    kept_with=kept[WITH] if has_category else None,
                    kept_without=kept[WITHOUT] if has_category else None,
                    random_kept=_average([s.kept[place] for s in others], tested_answers),
                    own_probability=float(found.own_probability.sum()) / total_answers,
                    precision=quality.precision if quality else None,
                    recall=quality.recall if quality else None,
                    answers=json.dumps(self._list_changed(found), ensure_ascii=False),
                )
            )
        return find_used(rows)

    def _make_filter_rows(self, singles: Sequence[AnswerSums]) -> list[FilterAnswers]:
        num, num_answers, rows = len(self.baseline.positions), len(self.answers.image), []
        for u, found in sorted(zip(self.plan.singles, singles, strict=True), key=lambda entry: entry[0]):
            lowered = [entry[:2] for entry in self._list_own_lowered(found)]
            rows.append(
                FilterAnswers(
                    layer=self.layer,
                    filter=u,
                    words=list(self.words_of_filter[u]),
                    changed=int(found.changed[0]) / num,
                    own_logit=float(found.own[0]) / num_answers,
                    classes=json.dumps(lowered, ensure_ascii=False),
                    num_lost=num_answers - int(found.kept[0]),
                    num_gained=int(found.gained[0]),
                    kept=int(found.kept[0]) / num_answers,
                    own_probability=float(found.own_probability.sum()) / num_answers,
                )
            )
        return rows

    def _list_lowered(self, found: AnswerSums, group: WordGroups, counts_2: IntArray) -> list[list[Any]]:
        """[name, change with the concept, change without or None] of the classes whose mean logit is lowered most with
        it; those of `_list_own_lowered` where no picture has the concept."""
        if not group.has_concept:
            return self._list_own_lowered(found)
        with_K = found.logits[WITH] / counts_2[WITH]
        without_K = found.logits[WITHOUT] / counts_2[WITHOUT] if counts_2[WITHOUT] else None
        return [
            [self._name(k), float(with_K[k]), float(without_K[k]) if without_K is not None else None]
            for k in list_lowest(with_K)
        ]

    def _list_own_lowered(self, found: AnswerSums) -> list[list[Any]]:
        """[name, change, None] of the classes whose logit is lowered most on the pictures that had them as answers."""
        occurring = self.answers.occurring
        changes_J = found.own_of_class / self.answers.per_class[occurring]
        return [[self._name(int(occurring[j])), float(changes_J[j]), None] for j in list_lowest(changes_J)]

    def _list_changed(self, found: AnswerSums) -> list[list[Any]]:
        """[name, lost, gained, before] of the classes whose answers change most: those with the most lost ones, then
        with the most new ones, then by number."""
        before_K = self.answers.per_class
        lost_K, gained_K = found.lost_of_class, found.gained_of_class
        order = np.lexsort((-gained_K, -lost_K))[:NUM_CLASSES_SHOWN]
        return [
            [self._name(int(k)), int(lost_K[k]), int(gained_K[k]), int(before_K[k])]
            for k in order
            if lost_K[k] or gained_K[k]
        ]

    def _list_classes(self, word: str, found: AnswerSums) -> Iterator[AnswersOfClass]:
        """Of each class that is an answer to some picture, before or after."""
        before_K = self.answers.per_class
        given_L = self.answers.is_given[:, self.answers.judged]
        right_L, true_L = (given_L & self.answers.is_true).sum(axis=0), self.answers.is_true.sum(axis=0)
        place_of = {k: j for j, k in enumerate(self.answers.occurring.tolist())}
        judged_of = {k: position for position, k in enumerate(self.answers.judged.tolist())}
        for k in np.flatnonzero(before_K + found.gained_of_class).tolist():
            before, lost, j, judged = int(before_K[k]), int(found.lost_of_class[k]), place_of.get(k), judged_of.get(k)
            after = before - lost + int(found.gained_of_class[k])
            is_judged = judged is not None
            yield AnswersOfClass(
                layer=self.layer,
                word=word,
                class_=k,
                class_name=self._name(k),
                num_answers=before,
                num_lost=lost,
                num_gained=int(found.gained_of_class[k]),
                kept=divide(before - lost, before),
                own_logit=float(found.own_of_class[j]) / before if j is not None else None,
                own_probability=float(found.own_probability[j]) / before if j is not None else None,
                logit=float(found.logits[:, k].sum()) / len(self.baseline.positions),
                precision_before=divide(int(right_L[judged]), before) if is_judged else None,
                precision_after=divide(int(found.right[judged]), after) if is_judged else None,
                recall_before=divide(int(right_L[judged]), int(true_L[judged])) if is_judged else None,
                recall_after=divide(int(found.right[judged]), int(true_L[judged])) if is_judged else None,
            )

    def _list_images(self, word: str, found: AnswerSums) -> Iterator[AnswersOfImage]:
        """Of each picture whose answers change."""
        per_image = self.answers.per_image
        for image in found.images:
            yield AnswersOfImage(
                layer=self.layer,
                word=word,
                picture=self.keys[image.position],
                num_answers=int(per_image[image.position]),
                num_lost=image.num_lost,
                num_gained=image.num_gained,
                lost=[self._name(k) for k in image.lost],
                gained=[self._name(k) for k in image.gained],
            )

    def _name(self, number: int) -> str:
        return name_class(self.class_names, number)


def _average(counts: Sequence[int], total: int) -> float | None:
    """Mean over random sets of a share."""
    return float(np.mean(np.array(counts) / total)) if len(counts) and total else None
