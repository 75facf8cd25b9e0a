"""Which classes lean on which filters: activation times gradient of the class logit at the layer.

For each picture, the class k is the one that the model assigns, and filter u contributes Σ_hw F_u · ∂ logit_k / ∂ F_u.
Where each class is asked about by itself (model.head: sigmoid), that is done for each class that is an answer. A
class's figures are means over its pictures. Where the layer feeds the classifier through mean pooling alone, the
contribution is w_ku · mean(F_u) exactly, which is compared. Elsewhere it is a first-order estimate: what follows the
layer is not linear, and contributions need not sum to the logit.

Shape legend: N pictures, K classes, C filters, B resamplings, P answers: pairs of a picture and a class that it is
given. With a softmax each picture has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from lavise.configs.errors import UserError
from lavise.configs.schema import ClassSettings
from lavise.storage.array_types import FloatArray, IntArray
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.models.classifier_head import SOFTMAX, AnswerRule, LinearHead, OutputRange
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.digest import digest_of
from lavise.storage.state.files import write_json
from lavise.storage.state.progress import Progress, no_progress
from lavise.storage.table_rows import write_rows
from lavise.tasks.activations.image_batches import read_batches
from lavise.tasks.classifier.audited_classifier import AuditedClassifier
from lavise.tasks.classifier.class_words import name_class
from lavise.tasks.classifier.gradients import attribute_classes
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, Spread, StageInputs, Stated
from lavise.tasks.numerics.bootstrap import bootstrap_means
from lavise.tasks.numerics.random_streams import Stream, make_rng

STAGE = Stage("classes", version=4, uses_device=True)
SUMMARY_FILE, TABLE_FILE, ARRAYS_FILE = "classes.json", "classes.parquet", "contributions.npz"


@dataclass(frozen=True)
class ContributionRow:
    """A filter that a class leans on (classes.parquet); low and high are None where there are too few pictures, and
    weight where the layer does not feed the classifier."""

    layer: str
    class_: int
    class_name: str
    num_images: int
    rank: int
    filter: int
    words: Sequence[str]
    contribution: float
    low: float | None
    high: float | None
    share: float | None
    weight: float | None


@dataclass(frozen=True)
class ContributionInputs(StageInputs):
    """What the contributions are made from.

    Attributes:
        pictures: by the digest of the pictures alone; the first `settings.max_images` of them are looked at, and those
            that cannot be read are left out.
        words: of each of the C filters, best first.
    """

    network: Annotated[AuditedClassifier, Spread(AuditedClassifier.describe)]
    pictures: Given[Dataset]
    words: Annotated[Sequence[Sequence[str]], Stated(by=digest_of)]
    settings: ClassSettings
    computing: Computing


_MIN_IMAGES = 3
_MAX_ANSWERS = 20
_EXAMPLES = 8  # pictures of a class that are kept, the surest answers first
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Contributions:
    """Of all pictures that could be read.

    Attributes:
        image: int64 [P], position of each answer's picture among the N.
        answer: int64 [P], the class.
        logit: float32 [P], of that class.
        contribution: float32 [P, C].
        pooled: float32 [N, C], mean of F_u over its cells.
        position: int64 [N], of each picture among those that were offered.
        num_given: answers of all pictures, also those that were not looked at (`classes.max_answers`).
    """

    image: IntArray
    answer: IntArray
    logit: FloatArray
    contribution: FloatArray
    pooled: FloatArray
    position: IntArray
    num_given: int


def measure_contributions(inputs: ContributionInputs, folder: Path) -> Info:
    """Write classes.json, classes.parquet and contributions.npz.

    Returns:
        facts; num_classes, of those that some picture is assigned to, is 0 where the network is no classifier.

    Raises:
        UserError: class logits or contributions that are not finite.
    """
    network, settings, computing, words_of_filter = inputs.network, inputs.settings, inputs.computing, inputs.words
    offered = inputs.pictures.value.records[: settings.max_images]
    layer, head = network.layer, network.head
    found = attribute_images(
        network.model,
        layer,
        offered,
        network.batch_size,
        computing.device,
        computing.progress,
        network.rule,
        settings.max_answers or _MAX_ANSWERS,
    )
    reason = found if isinstance(found, str) else network.no_head
    if isinstance(found, str):
        none, nothing = np.zeros((0, len(words_of_filter)), np.float32), np.zeros(0, np.int64)
        found = Contributions(nothing, nothing, np.zeros(0, np.float32), none, none, nothing, 0)
    numbers, counts = np.unique(found.answer, return_counts=True)
    order = np.lexsort((numbers, -counts))
    by_class, ends = np.argsort(found.answer, kind="stable"), np.cumsum(counts)
    classes, means, rows = [], np.zeros((len(order), found.contribution.shape[1])), []
    for place, position in enumerate(order):
        number, chosen = int(numbers[position]), by_class[ends[position] - counts[position] : ends[position]]
        name = name_class(network.class_names, number)
        own = found.contribution[chosen]
        means[place] = own.mean(axis=0, dtype=np.float64)
        logit = float(found.logit[chosen].mean(dtype=np.float64))
        surest = chosen[np.argsort(-found.logit[chosen], kind="stable")[:_EXAMPLES]]
        examples = [offered[found.position[image]].key for image in found.image[surest]]
        entry = {"class": number, "name": name, "num_images": len(own), "mean_logit": logit, "examples": examples}
        classes.append(entry)
        weights_C = head.weight[number].numpy() if head else None
        rng = make_rng(computing.seed, Stream.ATTRIBUTION_BOOTSTRAP, number)
        for ranked in rank_filters(own, settings.num_filters, rng):
            rows.append(
                ContributionRow(
                    layer=layer,
                    class_=number,
                    class_name=name,
                    num_images=len(own),
                    words=list(words_of_filter[ranked.filter]),
                    weight=float(weights_C[ranked.filter]) if weights_C is not None else None,
                    **vars(ranked),
                )
            )
    differs = _compare_with_weights(found, head)
    summary = {
        "num_images": len(found.pooled),
        "num_pictures_offered": len(offered),
        "direct": head is not None,
        "reason": reason,
        "max_abs_difference": differs,
        "max_abs_contribution": float(np.abs(found.contribution).max(initial=0)),
        "classes": classes,
    }
    answers: dict[str, Any] = {}
    if network.rule.is_multi_label:
        answers = {
            "num_answers": found.num_given,
            "num_answers_left_out": found.num_given - len(found.answer),
            "num_without_answer": len(found.pooled) - len(np.unique(found.image)),
        }
        summary |= {**network.rule.describe(), **answers}
    write_json(folder / SUMMARY_FILE, summary)
    write_rows(ContributionRow, rows, folder / TABLE_FILE)
    arrays: dict[str, Any] = {"class": numbers[order], "contribution": means.astype(np.float32)}
    np.savez(folder / ARRAYS_FILE, **arrays)
    facts = {k: summary[k] for k in ("num_images", "num_pictures_offered", "direct", "reason", "max_abs_contribution")}
    return {
        **facts,
        **answers,
        "num_classes": len(classes),
        **({} if differs is None else {"max_abs_difference": differs}),
    }


def attribute_images(
    model: TargetModel,
    layer: str,
    records: Sequence[ImageRecord],
    batch_size: int,
    device: str,
    progress: Progress = no_progress,
    rule: AnswerRule = SOFTMAX,
    max_answers: int = _MAX_ANSWERS,
) -> Contributions | str:
    """The contributions of every filter to every answer, or a reason why there are none.

    Raises:
        UserError: class logits or contributions that are not finite.
    """
    network = model.place(device)
    parts: list[Contributions] = []
    num_images, outputs = 0, OutputRange()
    with progress("classes", len(records)) as bar:
        for batch in read_batches(records, model, batch_size, device):
            if batch.images is not None:
                found = attribute_classes(network, model.find_layer(layer), batch.images, rule, max_answers)
                if isinstance(found, str):
                    return found
                logit = found.logits[found.image].gather(1, found.answer[:, None])[:, 0]
                image, answer, own, contribution, pooled = (
                    t.cpu().numpy() for t in (found.image, found.answer, logit, found.contributions, found.pooled)
                )
                outputs = outputs.include(found.output)
                is_finite = np.isfinite(own).all() and np.isfinite(contribution).all()
                if not is_finite or (rule.is_multi_label and not found.logits.isfinite().all()):
                    raise UserError(
                        f"model.weights: class logits, or what layer {layer} contributes to them, are not finite on "
                        f"one of the pictures from {records[batch.positions[0]].key} on; allowed: finite numbers; "
                        "check the weights and model.preprocessing"
                    )
                num_given = int((found.logits > rule.least_logit).sum()) if rule.is_multi_label else len(answer)
                places = np.array(batch.positions, np.int64)
                parts.append(Contributions(image + num_images, answer, own, contribution, pooled, places, num_given))
                num_images += len(pooled)
            bar.advance(batch.num_offered)
    if not parts:
        return "there is no picture that can be read"
    if (fault := rule.find_scale_fault(outputs)) is not None:
        return fault
    return Contributions(
        image=np.concatenate([p.image for p in parts]),
        answer=np.concatenate([p.answer for p in parts]),
        logit=np.concatenate([p.logit for p in parts]),
        contribution=np.concatenate([p.contribution for p in parts]),
        pooled=np.concatenate([p.pooled for p in parts]),
        position=np.concatenate([p.position for p in parts]),
        num_given=sum(p.num_given for p in parts),
    )


@dataclass(frozen=True)
class RankedFilter:
    """A filter that a class leans on.

    Attributes:
        contribution: its mean over the class's pictures.
        low, high: 95 % percentile bootstrap over pictures; None with fewer than three pictures.
        share: of the sum of all positive mean contributions.
    """

    rank: int
    filter: int
    contribution: float
    low: float | None
    high: float | None
    share: float


def rank_filters(own_NC: FloatArray, num: int, rng: np.random.Generator) -> list[RankedFilter]:
    """The filters that a class leans on: those with the highest mean contribution above 0, at most `num`.

    Equal ones go by filter.

    Args:
        own_NC: contributions on the class's pictures.
    """
    mean_C = own_NC.mean(axis=0, dtype=np.float64)
    total = float(mean_C[mean_C > 0].sum())
    best = [int(u) for u in np.argsort(-mean_C, kind="stable")[:num] if mean_C[u] > 0]
    intervals = bootstrap_means(own_NC[:, best], rng) if len(own_NC) >= _MIN_IMAGES else [(None, None)] * len(best)
    return [
        RankedFilter(rank, u, float(mean_C[u]), low, high, share=float(mean_C[u]) / total)
        for rank, (u, (low, high)) in enumerate(zip(best, intervals, strict=True), start=1)
    ]


def _compare_with_weights(found: Contributions, head: LinearHead | None) -> float | None:
    """Largest absolute difference of any answer's contribution from w_ku · mean(F_u)."""
    if head is None or not len(found.answer):
        return None
    largest = 0.0
    for start in range(0, len(found.answer), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        exact = head.weight.numpy()[found.answer[rows]] * found.pooled[found.image[rows]]
        largest = max(largest, float(np.abs(found.contribution[rows] - exact).max(initial=0)))
    return largest
