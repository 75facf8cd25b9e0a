"""The class logits of pictures with and without some filters: by linear algebra on pooled maps, or by forward passes.

Where a layer feeds the classifier through mean pooling alone, replacing the maps of a set S of filters by constants
changes the logits by -(mean(F_S) - fill_S) · W_S exactly; no forward pass is needed. Elsewhere the module's output is
edited and the rest of the network runs on it.

Shape legend: N pictures, B pictures of a block, K classes, J of them that are predicted, C filters, G groups of
pictures, S filters of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lavise.configs.errors import UserError
from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, IntArray
from lavise.storage.datasets.base import ImageRecord
from lavise.storage.models.classifier_head import NO_LOGITS, SOFTMAX, AnswerRule, LinearHead, OutputRange
from lavise.storage.models.layers import ActivationEdit, ActivationTap
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.activations.image_batches import read_batches

_BLOCK_ENTRIES = 1 << 22
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Baseline:
    """The network as it is.

    Attributes:
        positions: int64 [N], pictures that could be read, in the records.
        logits: float32 [N, K].
        pooled: float32 [N, C], mean of each map.
        active: int64, filters that are other than zero anywhere.
        rule: which classes are its answers.
    """

    positions: IntArray
    logits: FloatArray
    pooled: FloatArray
    active: IntArray
    rule: AnswerRule = SOFTMAX

    @cached_property
    def predicted(self) -> IntArray:
        """int64 [N]: the class with the highest logit, the first of equal ones."""
        return self.logits.argmax(axis=1).astype(np.int64)

    @cached_property
    def occurring(self) -> tuple[IntArray, IntArray]:
        """The J classes that are predicted, rising, and the position in them of each picture's: int64 [J], [N]."""
        numbers, position = np.unique(self.predicted, return_inverse=True)
        return numbers, position.reshape(-1)


@dataclass(frozen=True)
class Answer:
    """What the network says to a block of pictures when some filters are taken away.

    Attributes:
        change: float32 [B, K], of the logits; to be read before the next ablation of the block.
        before: float32 [B, K], logits.
        after: float32 [B, K]; None where they are the sum of both.
        own: float64 [B], sum of the changes of the classes that are answers before; None where nobody has it yet.
    """

    change: FloatArray
    before: FloatArray
    after: FloatArray | None = None
    own: DoubleArray | None = None

    @property
    def logits(self) -> FloatArray:
        """Afterwards, float32 [B, K]."""
        return self.find_logits(slice(None))

    def find_logits(self, rows: slice) -> FloatArray:
        """Afterwards, of some rows: float32 [b, K]."""
        return self.before[rows] + self.change[rows] if self.after is None else self.after[rows]


@dataclass(frozen=True)
class Block:
    """Some of the baseline's pictures, and how to ablate a set of filters on them."""

    rows: slice
    ablate: Callable[[IntArray], Answer]


def run_baseline(
    model: TargetModel,
    layer: str,
    records: Sequence[ImageRecord],
    batch_size: int,
    device: str,
    progress: Progress = no_progress,
    rule: AnswerRule = SOFTMAX,
) -> Baseline | str:
    """One pass over the pictures, or a reason why there are no class logits.

    Raises:
        UserError: class logits that are not finite.
    """
    network = model.place(device)
    positions: list[int] = []
    outputs = OutputRange()
    logits, pooled, peaks = [], [], []
    with (
        ActivationTap(network, (model.find_layer(layer),)) as tap,
        progress("classes of pictures", len(records)) as bar,
    ):
        for batch in read_batches(records, model, batch_size, device):
            if batch.images is not None:
                with torch.inference_mode():
                    given = network(batch.images)
                    out = rule.read_logits(given)
                    if out is None:
                        return NO_LOGITS
                    outputs = outputs.include(given)
                    maps = tap.maps[layer].float()
                    logits.append(_to_array(out))
                    pooled.append(_to_array(maps.mean(dim=(2, 3))))
                    peaks.append(_to_array(maps.abs().amax(dim=(0, 2, 3))))
                if not np.isfinite(logits[-1]).all():
                    raise UserError(
                        f"model.weights: class logits are not finite on one of the pictures from "
                        f"{records[batch.positions[0]].key} on; allowed: finite numbers; check the weights and "
                        "model.preprocessing"
                    )
                positions += batch.positions
            bar.advance(batch.num_offered)
    if not positions:
        return "there is no picture that can be read"
    found = Baseline(
        np.array(positions, dtype=np.int64),
        np.concatenate(logits),
        np.concatenate(pooled),
        np.flatnonzero(np.max(peaks, axis=0) > 0),
        rule,
    )
    return rule.find_scale_fault(outputs) or found


def is_reproduced(head: LinearHead, baseline: Baseline) -> bool:
    """Whether the head gives the network's own logits from the pooled maps."""
    found = baseline.pooled @ head.weight.numpy().T + head.bias.numpy()
    scale = max(float(np.abs(baseline.logits).max(initial=0)), 1e-12)
    return bool(np.abs(found - baseline.logits).max(initial=0) <= _TOLERANCE * scale)


def ablate_pooled(head: LinearHead, baseline: Baseline, fill_C: FloatArray) -> Iterator[Block]:
    """Blocks of all pictures, for a layer that feeds the classifier directly.

    Where a picture may have many answers, the changes of their logits are added up by filter, whose weights to all
    answers of the picture are added up once: Σ_k Σ_u a_u w_ku = Σ_u a_u Σ_k w_ku.
    """
    weight_CK = np.ascontiguousarray(head.weight.numpy().T)
    added_CN = np.ascontiguousarray((fill_C - baseline.pooled).T)

    def make_ablate(rows: slice) -> Callable[[IntArray], Answer]:
        before = baseline.logits[rows]
        # One array for all ablations: a new one of this size costs more than what is written into it.
        change = np.empty((len(before), weight_CK.shape[1]), np.float32)
        gain_CB = None
        if baseline.rule.is_multi_label:
            is_given = (before > baseline.rule.least_logit).astype(np.float64)
            gain_CB = added_CN[:, rows] * (weight_CK.astype(np.float64) @ is_given.T)

        def ablate(filters: IntArray) -> Answer:
            np.matmul(added_CN[filters, rows].T, weight_CK[filters], out=change)
            return Answer(change, before, own=None if gain_CB is None else gain_CB[filters].sum(axis=0))

        return ablate

    step = max(_BLOCK_ENTRIES // max(baseline.logits.shape[1], 1), 1)
    for start in range(0, len(baseline.logits), step):
        rows = slice(start, min(start + step, len(baseline.logits)))
        yield Block(rows, make_ablate(rows))


def ablate_by_passes(
    model: TargetModel,
    layer: str,
    records: Sequence[ImageRecord],
    baseline: Baseline,
    fill_C: FloatArray,
    batch_size: int,
    device: str,
) -> Iterator[Block]:
    """Blocks of all pictures, for any layer; each ablation of a block is a forward pass with the output edited."""
    network, fill = model.place(device), torch.from_numpy(fill_C).to(device)
    start = 0
    with ActivationEdit(network, model.find_layer(layer)) as edit:
        for batch in read_batches(records, model, batch_size, device):
            if batch.images is None:
                continue
            rows = slice(start, start + len(batch.positions))
            before, images = baseline.logits[rows], batch.images

            def ablate(filters: IntArray, images: torch.Tensor = images, before: FloatArray = before) -> Answer:
                chosen = torch.from_numpy(filters).to(device)
                edit.replace(chosen, fill[chosen])
                with torch.inference_mode():
                    logits = baseline.rule.read_logits(network(images))
                assert logits is not None, "the baseline had logits"
                after = _to_array(logits)
                return Answer(after - before, before, after)

            yield Block(rows, ablate)
            start = rows.stop


class EffectSums:
    """Sums over pictures of what one ablation does, apart for groups of pictures.

    Attributes:
        own: float64 [G], change of the logit of the class that was predicted before.
        changed: int64 [G], pictures whose predicted class changes.
        right: int64 [G], pictures whose predicted class is right afterwards.
        own_of_class: float64 [J], change of the own logit by the class that was predicted before, over all pictures.
        logits: float64 [G, K], change of the logit of each class; None unless asked for.
    """

    def __init__(self, groups_GN: BoolArray, baseline: Baseline, keep_logits: bool = False) -> None:
        num = len(groups_GN)
        self._groups, self._baseline = groups_GN, baseline
        self.own = np.zeros(num)
        self.changed = np.zeros(num, np.int64)
        self.right = np.zeros(num, np.int64)
        self.own_of_class = np.zeros(len(baseline.occurring[0]))
        self.logits = np.zeros((num, baseline.logits.shape[1])) if keep_logits else None

    def add(self, rows: slice, answer: Answer, is_right: Callable[[slice, IntArray], BoolArray] | None = None) -> None:
        """Count a block in.

        Args:
            is_right: of the rows and their predicted classes, whether these are right.
        """
        groups_GB, before = self._groups[:, rows], self._baseline.predicted[rows]
        after = answer.logits.argmax(axis=1)
        own = answer.change[np.arange(len(before)), before].astype(np.float64)
        # Summed by numpy itself, in a fixed order.
        self.own += np.where(groups_GB, own, 0.0).sum(axis=1)
        self.own_of_class += np.bincount(self._baseline.occurring[1][rows], own, len(self.own_of_class))
        self.changed += (groups_GB & (after != before)).sum(axis=1)
        if is_right is not None:
            self.right += (groups_GB & is_right(rows, after)).sum(axis=1)
        if self.logits is not None:
            for group, chosen in enumerate(groups_GB):
                self.logits[group] += answer.change[chosen].sum(axis=0, dtype=np.float64)


def _to_array(tensor: Any) -> FloatArray:
    found: FloatArray = tensor.float().cpu().numpy()
    return found
