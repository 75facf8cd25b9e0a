"""Transfer of the explainer to a target domain without labels.

Windows of the target's maps (the whole map, halves and thirds) stand in for the masks that the target does not have.

- `renormalise`: every filter gets the mean and the standard deviation that it has on the reference's regions, and the
  running statistics of the second normalisation are those of the target (adaptive batch normalisation).
- `align_covariance`: the same for the whole covariance (Sun, Feng, Saenko, *Return of Frustratingly Easy Domain
  Adaptation*, AAAI 2016): x' = (x - μ_t) C_t^(-1/2) C_s^(1/2) + μ_s. Few thousand windows do not determine a covariance
  of so many filters: both are shrunk towards a multiple of the identity (Ledoit, Wolf, *A well-conditioned estimator
  for large-dimensional covariance matrices*, J. Multivariate Analysis 2004).
- `distil_head`: the learned network goes on training, on windows with the words of the classifier head as soft labels,
  and in the same steps on the reference's regions with their own, so that it forgets none.

The first two are an affine map of the scaled region feature, stored with the explainer. The head does not see through
it: it was trained on what it is given.

Shape legend: R rows (windows or regions), C filters, E embedding, V words, J words of the head's lexicon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from lavise.configs.errors import UserError
from lavise.configs.registry import TRANSFERS
from lavise.configs.schema import TrainSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.progress import Bar
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.activations.windows import pool_windows
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Request, StageInputs, Stated, Unstated
from lavise.tasks.explainer.class_head import ClassifierHead
from lavise.tasks.explainer.network import (
    Adapter,
    Explainer,
    ExplainerFacts,
    deterministic,
    load_attached_head,
    load_explainer,
    save_explainer,
    scale_features,
)
from lavise.tasks.explainer.training import Objective
from lavise.tasks.explainer.training_sets import TrainingSet
from lavise.tasks.numerics.random_streams import Stream, make_rng

STAGE = Stage("transfer", version=3, uses_device=True)
# Share of the mean variance that every direction has at least: one that is constant on the target is not blown up.
_VARIANCE_FLOOR = 1e-3
_BLOCK_ROWS = 8192
_DISTIL_WINDOWS = 10_000
_DISTIL_BATCH = 256
_DISTIL_EPOCHS = 10
_DISTIL_LEARNING_RATE = 1e-3
Rows = Callable[[], Iterator[torch.Tensor]]


@dataclass(frozen=True)
class RowMoments:
    """Mean and covariance of rows, in float64.

    Attributes:
        count: number of rows.
        mean: [C].
        spread: unbiased variances [C], or the covariance [C, C].
        shrinkage: share of the covariance that was given up for a multiple of the identity; 0 for variances.
    """

    count: int
    mean: torch.Tensor
    spread: torch.Tensor
    shrinkage: float = 0.0

    @property
    def variance(self) -> torch.Tensor:
        return self.spread if self.spread.ndim == 1 else self.spread.diagonal()


def measure_variances(rows: Rows) -> RowMoments:
    """Mean and unbiased variance of every filter."""
    count, mean = _mean(rows)
    squares = sum((((part.double() - mean) ** 2).sum(dim=0) for part in rows()), torch.zeros_like(mean))
    return RowMoments(count, mean, squares / max(count - 1, 1))


def measure_covariance(rows: Rows) -> RowMoments:
    """Mean and covariance, shrunk after Ledoit and Wolf: (1 - ρ) S + ρ m I, with m the mean of S's diagonal.

    ρ = min(b², d²) / d², d² = |S - m I|² and b² = (mean of |x|⁴ - |S|²) / R, over centred rows x; at least the floor
    that variances have, for filters that are constant.
    """
    count, mean = _mean(rows)
    products = torch.zeros((len(mean), len(mean)), dtype=torch.float64, device=mean.device)
    fourth = torch.zeros((), dtype=torch.float64, device=mean.device)
    for part in rows():
        centred = part.double() - mean
        products += centred.T @ centred
        fourth += (centred**2).sum(dim=1).square().sum()
    sample = products / count
    identity = torch.eye(len(mean), dtype=torch.float64, device=mean.device) * sample.diagonal().mean()
    distance = (sample - identity).square().sum()
    noise = (fourth / count - sample.square().sum()) / count
    shrinkage = max(float((noise / distance).clamp(0, 1)) if distance > 0 else 1.0, _VARIANCE_FLOOR)
    return RowMoments(count, mean, (1 - shrinkage) * sample + shrinkage * identity, shrinkage)


def match_variances(target: RowMoments, source: RowMoments) -> Adapter:
    """The adapter [C] that gives rows with the target's means and variances those of the source."""
    floors = [m.variance.mean() * _VARIANCE_FLOOR for m in (target, source)]
    weight = ((source.variance + floors[1]) / (target.variance + floors[0])).sqrt()
    return Adapter(weight.float(), (source.mean - target.mean * weight).float())


def match_covariances(target: RowMoments, source: RowMoments) -> Adapter:
    """The adapter [C, C] that gives rows with the target's mean and covariance those of the source."""
    weight = _matrix_power(target.spread, -0.5) @ _matrix_power(source.spread, 0.5)
    return Adapter(weight.float(), (source.mean - target.mean @ weight).float())


@dataclass(frozen=True)
class TransferInputs(StageInputs):
    """What an explainer is fitted to a target with.

    Attributes:
        method: of `transfer.method`, not `none`.
        activations: of the target.
        regions: artefact of the reference's pooled region features, which the explainer was trained on.
        vocabulary: its categories are those that the regions refer to.
        training: as the explainer was trained; distil_head goes on with its temperature and batches.
        shuffled_labels: as in training (see tasks.explainer.training.TrainingInputs): the regions' own labels are not
            to be seen.
    """

    method: Annotated[str, Stated(code=TRANSFERS.describe_code)]
    explainer: Handle
    activations: Handle
    regions: Handle
    vocabulary: Annotated[Vocabulary, Unstated("it is the explainer's")]
    training: Annotated[TrainSettings, Unstated("the explainer states them; `request` adds what the method reads")]
    computing: Computing
    shuffled_labels: Annotated[bool, Unstated("the explainer states it")] = False

    def request(self) -> Request:
        """With what the method's result depends on of the explainer's training, besides the explainer itself."""
        request = super().request()
        if not TRANSFERS.get(self.method).needs_head:
            return request
        training = {"temperature": self.training.temperature, "batch_images": self.training.batch_images}
        return replace(request, settings={**request.settings, **training})


@dataclass
class Fitting:
    """An explainer on its way to a target: what a method may read, and what it changes.

    Attributes:
        inputs: what the stage was given; of its training no more than what `TransferInputs.request` states.
        explainer, facts: are changed in place; facts by being replaced.
        target: rows of the target's windows [R, C], as often as they are asked for.
        source: rows of the reference's regions.
        own, other: moments of both, once `measure` was called.
    """

    inputs: TransferInputs

    explainer: Explainer
    facts: ExplainerFacts
    head: ClassifierHead | None
    target: Rows
    source: Rows
    bar: Bar
    own: RowMoments | None = None
    other: RowMoments | None = None

    @property
    def seed(self) -> int:
        """Of whatever is drawn."""
        return self.inputs.computing.seed

    def measure(self, how: Callable[[Rows], RowMoments]) -> tuple[RowMoments, RowMoments]:
        """Moments of the target and of the reference."""
        with torch.inference_mode():
            self.own, self.other = how(self.target), how(self.source)
        return self.own, self.other


@dataclass(frozen=True)
class TransferMethod:
    """A way to fit an explainer to a target.

    Attributes:
        fit: changes the explainer of a Fitting, which it has to measure; returns further facts.
        passes: how often it reads the target's maps, for the progress bar; steps: what it does besides, for the same.
        needs_head: it learns from the network's classifier.
    """

    fit: Callable[[Fitting], Info]
    passes: int
    steps: int = 0
    needs_head: bool = False


def transfer_explainer(inputs: TransferInputs, folder: Path) -> Info:
    """Write a copy of the explainer that fits the target.

    Returns:
        facts: num_windows; shift (mean over filters of |difference of means| / standard deviation on the reference);
        with align_covariance shrinkage_target and shrinkage_reference; with distil_head num_distilled (windows that
        the head has words for), num_epochs, and target_loss and reference_loss, after, and before as *_before.

    Raises:
        UserError: distil_head without a head, or windows that are all alike.
        ValueError: a method that nobody registered.
    """
    method, store, device = inputs.method, ActivationStore(inputs.activations.folder), inputs.computing.device
    chosen: TransferMethod = TRANSFERS.get(method)
    explainer, facts = load_explainer(inputs.explainer.folder, device)
    head = load_attached_head(inputs.explainer.folder, device)
    if chosen.needs_head and head is None:
        reason = facts.no_head or "the explainer has no classifier head"
        others = [n for n in TRANSFERS.list_names() if n == "none" or not TRANSFERS.get(n).needs_head]
        raise UserError(f"transfer.method: found {method!r}, but {reason}; allowed here: {', '.join(others)}")
    steps = chosen.passes * store.num_shards + chosen.steps
    with deterministic(inputs.computing.seed), inputs.computing.progress("transfer", steps) as bar:
        how = facts.region_feature
        fitting = Fitting(
            inputs=inputs,
            explainer=explainer,
            facts=facts,
            head=head,
            target=lambda: _read_windows(store, how, device, bar),
            source=lambda: _read_regions(inputs.regions, how, device),
            bar=bar,
        )
        found = chosen.fit(fitting)
    own, other = fitting.own, fitting.other
    assert own is not None, "a method has to measure"
    assert other is not None, "a method has to measure"
    save_explainer(explainer, fitting.facts, folder, head)
    shift = ((own.mean - other.mean).abs() / (other.variance + explainer.norm1.eps).sqrt()).mean()
    return {"num_windows": own.count, "shift": float(shift), **found}


def _renormalise(fitting: Fitting) -> Info:
    own, other = fitting.measure(measure_variances)
    _require_spread("renormalise", own)
    fitting.explainer.adapter = match_variances(own, other)
    _renormalise_hidden(fitting.explainer, fitting.target)
    return {}


def _align_covariance(fitting: Fitting) -> Info:
    own, other = fitting.measure(measure_covariance)
    _require_spread("align_covariance", own)
    fitting.explainer.adapter = match_covariances(own, other)
    return {"shrinkage_target": own.shrinkage, "shrinkage_reference": other.shrinkage}


def _distil_head(fitting: Fitting) -> Info:
    own, _ = fitting.measure(measure_variances)
    windows = _draw_windows(fitting.target, own.count, fitting.seed)
    found = _distil(fitting, windows, _load_reference(fitting))
    fitting.facts = replace(fitting.facts, uses_learned=True)
    return found


TRANSFERS.register("renormalise")(TransferMethod(_renormalise, passes=4))
TRANSFERS.register("align_covariance")(TransferMethod(_align_covariance, passes=2))
TRANSFERS.register("distil_head")(TransferMethod(_distil_head, passes=3, steps=_DISTIL_EPOCHS, needs_head=True))


def _read_windows(store: ActivationStore, how: str, device: str, bar: Bar) -> Iterator[torch.Tensor]:
    for pooled in pool_windows(store, device):
        yield scale_features(pooled.flatten(0, 1), how)
        bar.advance()


def _read_regions(regions: Handle, how: str, device: str) -> Iterator[torch.Tensor]:
    features = np.load(regions.path(file_names.REGION_FEATURES), mmap_mode="r", allow_pickle=False)
    for start in range(0, len(features), _BLOCK_ROWS):
        block = np.array(features[start : start + _BLOCK_ROWS])
        yield scale_features(torch.from_numpy(block).to(device), how)


def _mean(rows: Rows) -> tuple[int, torch.Tensor]:
    count, total = 0, torch.zeros(())
    for part in rows():
        count += len(part)
        total = total.to(part.device) + part.double().sum(dim=0)
    return count, total / count


def _matrix_power(matrix: torch.Tensor, exponent: float) -> torch.Tensor:
    """Of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def _require_spread(method: str, target: RowMoments) -> None:
    if not target.variance.mean() > torch.finfo(torch.float32).eps ** 2:
        raise UserError(
            f"transfer.method: found {method!r}, but the {target.count} windows of the pictures are all alike; "
            "allowed here: none; or give more pictures"
        )


def _renormalise_hidden(explainer: Explainer, target: Rows) -> None:
    """What the second normalisation sees on the target becomes its running statistics."""
    with torch.inference_mode():
        hidden = measure_variances(lambda: (explainer.hidden(part) for part in target()))
        mean, variance = explainer.norm2.running_mean, explainer.norm2.running_var
        assert isinstance(mean, torch.Tensor)
        assert isinstance(variance, torch.Tensor)
        mean.copy_(hidden.mean)
        variance.copy_(hidden.variance)


# ---------------------------------------------------------------- distillation of the head


def _draw_windows(target: Rows, count: int, seed: int) -> torch.Tensor:
    """Up to so many of the target's windows, in their order."""
    chosen = np.arange(count)
    if count > _DISTIL_WINDOWS:
        chosen = np.sort(make_rng(seed, Stream.DISTILLED_WINDOWS).choice(count, _DISTIL_WINDOWS, replace=False))
    parts, start = [], 0
    for part in target():
        own = chosen[(chosen >= start) & (chosen < start + len(part))] - start
        parts.append(part[torch.from_numpy(own).to(part.device)])
        start += len(part)
    return torch.cat(parts)


def _load_reference(fitting: Fitting) -> TrainingSet:
    """All regions of supervised categories, as the explainer was trained on them.

    The regions refer to the data set's categories, which are those of the vocabulary, in its order.
    """
    regions, vocabulary, device = fitting.inputs.regions, fitting.inputs.vocabulary, fitting.inputs.computing.device
    image = np.load(regions.path(file_names.REGION_IMAGES), allow_pickle=False)
    concept = np.load(regions.path(file_names.REGION_CONCEPTS), allow_pickle=False)
    if fitting.inputs.shuffled_labels:
        concept = make_rng(fitting.seed, Stream.SHUFFLED_LABELS).permutation(concept)
    row_of = np.full(len(vocabulary.matches), -1, dtype=np.int64)
    position = {m.name: i for i, m in enumerate(vocabulary.matches)}
    row_of[[position[c] for c in fitting.facts.supervised]] = vocabulary.positions_of(fitting.facts.supervised)
    chosen = np.flatnonzero(row_of[concept] >= 0)
    _, first, count = np.unique(image[chosen], return_index=True, return_counts=True)
    features = torch.cat(list(_read_regions(regions, fitting.facts.region_feature, device)))
    return TrainingSet(
        features_RC=features[torch.from_numpy(chosen).to(device)],
        word_R=torch.from_numpy(row_of[concept[chosen]]).to(device),
        weight_R=torch.from_numpy(np.repeat(1 / count, count).astype(np.float32)).to(device),
        first_I=torch.from_numpy(np.append(first, len(chosen))),
    )


class HeadObjective:
    """Cross entropy of softmax(V v̂ / temperature) with the word distribution of the head, mean over the rows."""

    def __init__(self, head: ClassifierHead, vocabulary_VE: torch.Tensor, temperature: float) -> None:
        self._head, self._vocabulary, self._temperature = head, vocabulary_VE, temperature
        self._lexicon_JE = vocabulary_VE[head.word_J]

    def words_of(self, features_RC: torch.Tensor) -> torch.Tensor:
        """[R, J], sums of 1, or of 0 where the head has no word at all."""
        found = self._head.word_probabilities(self._head.posterior(features_RC))
        return found / found.sum(dim=1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)

    def __call__(self, output_RE: torch.Tensor, words_RJ: torch.Tensor) -> torch.Tensor:
        scaled = output_RE / self._temperature
        own = (scaled * (words_RJ @ self._lexicon_JE)).sum(dim=1)
        return (torch.logsumexp(scaled @ self._vocabulary.T, dim=1) - own).mean()


def _distil(fitting: Fitting, windows_RC: torch.Tensor, reference: TrainingSet) -> Info:
    """Train the published layers on; the classifier of categories stays as it is.

    An epoch goes once over the windows; each of its steps also takes the regions of so many reference pictures as a
    step of training does, in turn. Both go through the network together, and count alike.
    """
    assert fitting.head is not None
    explainer, vocabulary = fitting.explainer, fitting.inputs.vocabulary
    settings = fitting.inputs.training.model_copy(update={"objective": "softmax"})
    device = windows_RC.device
    matrix = torch.from_numpy(vocabulary.matrix).to(device)
    rows = torch.tensor(vocabulary.positions_of(fitting.facts.supervised), device=device)
    teach, remind = HeadObjective(fitting.head, matrix, settings.temperature), Objective(settings, matrix, rows)
    with torch.inference_mode():
        has_words = [(teach.words_of(part).sum(dim=1) > 0) & part.any(dim=1) for part in windows_RC.split(_BLOCK_ROWS)]
    windows = windows_RC[torch.cat(has_words)]
    num_epochs = _DISTIL_EPOCHS if len(windows) else 0

    def losses() -> tuple[float, float]:
        explainer.eval()
        with torch.inference_mode():
            taught = [teach(explainer(w), teach.words_of(w)) * len(w) for w in windows.split(_DISTIL_BATCH)]
            kept = [
                remind.region_losses(explainer(f), w) @ weight
                for f, w, weight in zip(
                    *(t.split(_DISTIL_BATCH) for t in (reference.features_RC, reference.word_R, reference.weight_R)),
                    strict=True,
                )
            ]
        return float(sum(taught)) / max(len(windows), 1), float(sum(kept) / reference.weight_R.sum())

    before = losses()
    # Adam passes over what no loss reaches: the classifier of categories.
    adam = torch.optim.Adam(explainer.parameters(), lr=_DISTIL_LEARNING_RATE)
    shuffle = torch.Generator().manual_seed(fitting.seed)
    images: list[int] = []
    explainer.train()
    for _ in range(num_epochs):
        for batch in torch.randperm(len(windows), generator=shuffle).split(_DISTIL_BATCH):
            if len(images) < settings.batch_images:
                images += torch.randperm(reference.num_images, generator=shuffle).tolist()
            chosen = reference.regions_of(images[: settings.batch_images])
            del images[: settings.batch_images]
            seen = windows[batch.to(device)]
            output = explainer(torch.cat([seen, reference.features_RC[chosen]]))
            loss = teach(output[: len(seen)], teach.words_of(seen)) + remind(
                output[len(seen) :], reference.word_R[chosen], reference.weight_R[chosen]
            )
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
        fitting.bar.advance()
    after = losses()
    return {
        "num_distilled": len(windows),
        "num_epochs": num_epochs,
        "target_loss_before": before[0],
        "target_loss": after[0],
        "reference_loss_before": before[1],
        "reference_loss": after[1],
    }
