"""What a classifier's answers depend on: filters are taken away (ablation), and the class logits before and after
compared.

Each word's filters are replaced all at once by a constant (their mean over the pictures, or zero), and so is each
worded filter alone. A word counts as used if its filters lower the logit of the class that was predicted before, on
pictures with the word's concept, more than random sets of as many filters do.

Shape legend: N pictures, K classes, C filters, T categories, W words, R random sets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from threadpoolctl import threadpool_limits

from lavise.configs.schema import CauseSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, IntArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.models.class_names import ClassNames
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.storage.state.files import write_json
from lavise.storage.state.progress import Progress, no_progress
from lavise.storage.table_rows import write_rows
from lavise.tasks.classifier.ablation_plan import AblationPlan, plan_ablations
from lavise.tasks.classifier.ablation_runs import (
    Baseline,
    Block,
    EffectSums,
    ablate_by_passes,
    ablate_pooled,
    is_reproduced,
    run_baseline,
)
from lavise.tasks.classifier.ablation_tables import (
    AblatedFilter,
    AblatedWord,
    AblationSummary,
    Accuracy,
    AnswersOfClass,
    AnswersOfImage,
    AnswerSummary,
    FilterAnswers,
    WordAnswers,
    compute_p_value,
    divide,
    find_used,
    list_lowest,
)
from lavise.tasks.classifier.ablation_truth import SIDES, WITH, WITHOUT, Truth, WordGroups, find_truth, group_images
from lavise.tasks.classifier.answer_changes import AnswerAblations, AnswerTables, find_answers, measure_quality
from lavise.tasks.classifier.audited_classifier import AuditedClassifier
from lavise.tasks.classifier.class_words import name_class
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, Spread, StageInputs, Stated

STAGE = Stage("causes", version=3, uses_device=True, libraries=("simplemma",))
SUMMARY_FILE, WORDS_FILE, FILTERS_FILE = "causes.json", "causes.parquet", "causes_filters.parquet"
CLASSES_FILE, IMAGES_FILE = "causes_classes.parquet", "causes_pictures.parquet"


def _state_language(language: str) -> dict[str, str]:
    """Nothing for English, which was the only one before."""
    return {} if language == "en" else {"language": language}


@dataclass(frozen=True)
class CauseInputs(StageInputs):
    """What the ablations are made from.

    Attributes:
        data: pictures with annotations; the first `settings.max_images` of them are looked at, without those that
            cannot be read.
        activations: of these pictures at the layer, for the means of the C filters (`fill: mean`).
        words: of each of the C filters, best first.
        language: of the words.
    """

    network: Annotated[AuditedClassifier, Spread(AuditedClassifier.describe)]
    data: Given[Dataset]
    activations: Handle
    words: Annotated[Sequence[Sequence[str]], Stated(by=digest_of)]
    settings: CauseSettings
    computing: Computing
    language: Annotated[str, Spread(_state_language)] = "en"


def measure_causes(inputs: CauseInputs, folder: Path) -> Info:
    """Write causes.json, causes.parquet and causes_filters.parquet.

    Effects are means over pictures: of the change of the own logit (that of the class predicted before), and of
    whether the predicted class changes. `random_own_logit` and `random_changed` are means over the random sets too,
    on the pictures that the word is tested on: those with its concept, or all where it is no category that any
    picture has. A prediction is right if its class names a category annotated in the picture; that is judged only
    where some annotated category is named by some class.

    `classes` lists, as JSON, the classes that are lowered most. Where pictures have the word's concept: [name, change
    of the class's mean logit on these, on the others or null]. Otherwise [name, change, null], and [name, change] of
    single filters, is the mean change of the class's logit on the pictures that were predicted to be of this class:
    over all pictures, replacing a filter by its mean leaves the mean logits of a linear classifier as they are.

    Returns:
        facts; num_words is 0 where the network is no classifier.

    Raises:
        UserError: class logits that are not finite.
        ValueError: not a mean and words for each filter.
    """
    network, settings, computing, words_of_filter = inputs.network, inputs.settings, inputs.computing, inputs.words
    model, layer, head, class_names = network.model, network.layer, network.head, network.class_names
    batch_size, device, progress = network.batch_size, computing.device, computing.progress
    records, concepts = inputs.data.value.records[: settings.max_images], inputs.data.value.concepts
    mean_C = ActivationStore(inputs.activations.folder).read_means().mean(axis=0, dtype=np.float64)
    baseline = run_baseline(model, layer, records, batch_size, device, progress, network.rule)
    if isinstance(baseline, str):
        return _write_nothing(folder, settings, baseline)
    if not baseline.pooled.shape[1] == len(words_of_filter) == len(mean_C):
        raise ValueError(
            f"expected {baseline.pooled.shape[1]} filters, found {len(words_of_filter)} with words, {len(mean_C)} means"
        )
    fill_C = mean_C.astype(np.float32) if settings.fill == "mean" else np.zeros(len(mean_C), np.float32)
    notes = []
    if len(baseline.positions) < len(records):
        notes.append(f"{len(records) - len(baseline.positions)} pictures could not be read")
    with threadpool_limits(1, user_api="blas"):
        direct = head is not None and is_reproduced(head, baseline)
        if head is not None and not direct:
            notes.append("the classifier head did not give the network's own logits; forward passes were made instead")
        annotated, num_classes = [records[i] for i in baseline.positions], baseline.logits.shape[1]
        truth = find_truth(annotated, concepts, class_names, num_classes, inputs.language)
        plan = plan_ablations(words_of_filter, baseline.active, settings, computing.seed, by_passes=not direct)
        blocks: Iterable[Block]
        if head is not None and direct:
            blocks = ablate_pooled(head, baseline, fill_C)
        else:
            blocks = ablate_by_passes(model, layer, records, baseline, fill_C, batch_size, device)
        groups = [group_images(word, truth) for word in plan.words]
        summary = AblationSummary(
            fill=settings.fill,
            direct=direct,
            num_images=len(baseline.positions),
            num_random_sets=plan.num_random_sets,
            num_words=len(plan.words),
            num_filters=len(plan.singles),
            notes=[*notes, *plan.notes],
        )
        if network.rule.is_multi_label:
            keys = [records[i].key for i in baseline.positions]
            answers = find_answers(baseline, truth)
            ablations = AnswerAblations(
                layer, plan, groups, truth, baseline, answers, keys, class_names, words_of_filter
            )
            return _measure_answers(ablations, summary, blocks, folder, progress)
        sums = run_plan(plan, groups, truth, baseline, blocks, progress)
    rows = _make_word_rows(layer, plan, groups, truth, baseline, sums, class_names)
    singles = _make_filter_rows(layer, plan, baseline, sums, words_of_filter, class_names)
    answerable = truth.answerable
    everything = slice(0, len(answerable))
    right = answerable & truth.is_right(everything, baseline.predicted)
    accuracy = Accuracy(int(answerable.sum()), int(right.sum()) / int(answerable.sum())) if answerable.any() else None
    summary = replace(summary, accuracy=accuracy)
    write_json(folder / SUMMARY_FILE, asdict(summary))
    write_rows(AblatedWord, rows, folder / WORDS_FILE)
    write_rows(AblatedFilter, singles, folder / FILTERS_FILE)
    facts = {**summary.list_facts(), "num_used": sum(r.used for r in rows)}
    return {**facts, **({"accuracy": accuracy.before} if accuracy else {})}


def _measure_answers(
    ablations: AnswerAblations, summary: AblationSummary, blocks: Iterable[Block], folder: Path, progress: Progress
) -> Info:
    """The files of a multi-label classifier."""
    answers, rule = ablations.answers, ablations.baseline.rule
    quality = measure_quality(answers)
    of_answers = AnswerSummary(
        **vars(summary),
        head_threshold=rule.threshold,
        num_answers=len(answers.image),
        num_without_answer=int((answers.per_image == 0).sum()),
        **({} if quality is None else vars(quality)),
    )
    if not len(answers.image):
        reason = f"no class has a probability above {rule.threshold:g} on any picture (model.head_threshold)"
        of_answers = replace(of_answers, num_words=0, num_filters=0, notes=[reason])
        tables = AnswerTables([], [], [], [])
    else:
        tables = ablations.measure(blocks, progress)
    write_json(folder / SUMMARY_FILE, asdict(of_answers))
    write_rows(WordAnswers, tables.words, folder / WORDS_FILE)
    write_rows(FilterAnswers, tables.filters, folder / FILTERS_FILE)
    write_rows(AnswersOfClass, tables.classes, folder / CLASSES_FILE)
    write_rows(AnswersOfImage, tables.images, folder / IMAGES_FILE)
    facts = {name: value for name, value in of_answers.list_facts().items() if value is not None}
    return {**facts, "num_used": sum(r.used for r in tables.words)}


@dataclass(frozen=True)
class PlanSums:
    """Sums of each ablation of a plan, in its order; of random sets one group for each word of their size."""

    words: list[EffectSums]
    singles: list[EffectSums]
    random: dict[int, list[EffectSums]]


def run_plan(
    plan: AblationPlan,
    groups: Sequence[WordGroups],
    truth: Truth,
    baseline: Baseline,
    blocks: Iterable[Block],
    progress: Progress = no_progress,
) -> PlanSums:
    """All ablations of a plan on all pictures."""
    num = len(baseline.positions)
    everything = np.ones((1, num), dtype=bool)
    tested = {
        size: np.stack([g.tested for g, u in zip(groups, plan.sets, strict=True) if len(u) == size])
        for size in plan.random
    }
    sums = PlanSums(
        [EffectSums(g.groups, baseline, keep_logits=g.has_concept) for g in groups],
        [EffectSums(everything, baseline) for _ in plan.singles],
        {size: [EffectSums(tested[size], baseline) for _ in sets] for size, sets in plan.random.items()},
    )
    work: list[tuple[IntArray, EffectSums, Callable[[slice, IntArray], BoolArray] | None]] = [
        *((u, s, truth.is_right) for u, s in zip(plan.sets, sums.words, strict=True)),
        *((np.array([u]), s, None) for u, s in zip(plan.singles, sums.singles, strict=True)),
        *((u, s, None) for size, sets in plan.random.items() for u, s in zip(sets, sums.random[size], strict=True)),
    ]
    with progress("ablations", num * len(work)) as bar:
        for block in blocks:
            for filters, sum_of_set, is_right in work:
                sum_of_set.add(block.rows, block.ablate(filters), is_right)
                bar.advance(block.rows.stop - block.rows.start)
    return sums


def _make_word_rows(
    layer: str,
    plan: AblationPlan,
    groups: Sequence[WordGroups],
    truth: Truth,
    baseline: Baseline,
    sums: PlanSums,
    class_names: ClassNames | None,
) -> list[AblatedWord]:
    rows = []
    answerable = truth.answerable
    right_before = truth.is_right(slice(0, len(answerable)), baseline.predicted)
    seen: dict[int, int] = {}
    for word, filters, group, found in zip(plan.words, plan.sets, groups, sums.words, strict=True):
        size, counts = len(filters), group.groups.sum(axis=1)
        place = seen[size] = seen.get(size, -1) + 1
        num_tested, total = int(group.tested.sum()), len(answerable)
        random_own = np.array([s.own[place] for s in sums.random[size]]) / num_tested
        random_changed = np.array([s.changed[place] for s in sums.random[size]]) / num_tested
        own_tested = float(found.own[WITH] if group.has_concept else found.own.sum()) / num_tested
        row = AblatedWord(
            layer=layer,
            word=word,
            category=truth.concepts[group.category] if group.category is not None else None,
            filters=filters.tolist(),
            num_filters=size,
            changed=int(found.changed.sum()) / total,
            own_logit=float(found.own.sum()) / total,
            random_own_logit=float(random_own.mean()) if len(random_own) else None,
            random_changed=float(random_changed.mean()) if len(random_changed) else None,
            p_value=compute_p_value(own_tested, random_own),
            classes=json.dumps(_list_lowered(found, counts, baseline, class_names), ensure_ascii=False),
        )
        if group.category is not None:
            changed, own = ([divide(float(v[s]), int(counts[s])) for s in SIDES] for v in (found.changed, found.own))
            num_judged = [int((answerable & group.groups[s]).sum()) for s in SIDES]
            before = [divide(int((right_before & group.groups[s]).sum()), num_judged[s]) for s in SIDES]
            after = [divide(int(found.right[s]), num_judged[s]) for s in SIDES]
            row = replace(
                row,
                num_with=int(counts[WITH]),
                num_without=int(counts[WITHOUT]),
                changed_with=changed[WITH],
                changed_without=changed[WITHOUT],
                own_logit_with=own[WITH],
                own_logit_without=own[WITHOUT],
                accuracy_before_with=before[WITH],
                accuracy_after_with=after[WITH],
                accuracy_before_without=before[WITHOUT],
                accuracy_after_without=after[WITHOUT],
            )
        rows.append(row)
    return find_used(rows)


def _make_filter_rows(
    layer: str,
    plan: AblationPlan,
    baseline: Baseline,
    sums: PlanSums,
    words_of_filter: Sequence[Sequence[str]],
    class_names: ClassNames | None,
) -> list[AblatedFilter]:
    num = len(baseline.positions)
    rows = []
    for u, found in sorted(zip(plan.singles, sums.singles, strict=True), key=lambda entry: entry[0]):
        lowered = [entry[:2] for entry in _list_own_lowered(found, baseline, class_names)]
        rows.append(
            AblatedFilter(
                layer=layer,
                filter=u,
                words=list(words_of_filter[u]),
                changed=int(found.changed[0]) / num,
                own_logit=float(found.own[0]) / num,
                classes=json.dumps(lowered, ensure_ascii=False),
            )
        )
    return rows


def _list_lowered(
    found: EffectSums, counts_2: IntArray, baseline: Baseline, class_names: ClassNames | None
) -> list[list[Any]]:
    """[name, change with the concept, change without or None] of the classes whose mean logit is lowered most with it;
    those of `_list_own_lowered` where no picture has the concept."""
    if found.logits is None:
        return _list_own_lowered(found, baseline, class_names)
    with_K = found.logits[WITH] / counts_2[WITH]
    without_K = found.logits[WITHOUT] / counts_2[WITHOUT] if counts_2[WITHOUT] else None
    return [
        [name_class(class_names, k), float(with_K[k]), float(without_K[k]) if without_K is not None else None]
        for k in list_lowest(with_K)
    ]


def _list_own_lowered(found: EffectSums, baseline: Baseline, class_names: ClassNames | None) -> list[list[Any]]:
    """[name, change, None] of the classes whose logit is lowered most on the pictures that were given this class."""
    numbers, position = baseline.occurring
    changes = found.own_of_class / np.bincount(position, minlength=len(numbers))
    return [[name_class(class_names, int(numbers[j])), float(changes[j]), None] for j in list_lowest(changes)]


def _write_nothing(folder: Path, settings: CauseSettings, reason: str) -> Info:
    summary = AblationSummary(settings.fill, direct=False, notes=[reason])
    write_json(folder / SUMMARY_FILE, asdict(summary))
    write_rows(AblatedWord, [], folder / WORDS_FILE)
    write_rows(AblatedFilter, [], folder / FILTERS_FILE)
    return {**summary.list_facts(), "num_used": 0, "reason": reason}
