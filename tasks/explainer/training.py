"""Training of the explainer on pooled region features; the network is not run again.

The whole feature set lies on the device, there is no loader, and nothing is read from it within an epoch.
Shape legend: R regions, C filters, E embedding, K supervised concepts, V words.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lavise.configs.errors import UserError
from lavise.configs.registry import OBJECTIVES
from lavise.configs.schema import TrainSettings
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.files import write_json
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import HISTORY_FILE, Info, Stage
from lavise.tasks.engine.stage_inputs import Given, Request, Spread, StageInputs, Stated, Unstated, code_behind
from lavise.tasks.explainer.network import Explainer, ExplainerFacts, deterministic, save_explainer
from lavise.tasks.explainer.training_sets import TrainingSet, copy_features
from lavise.tasks.explainer.word_losses import Workspace, find_word_losses, find_word_losses_in_blocks
from lavise.tasks.numerics.random_streams import Stream, make_rng

STAGE = Stage("train", version=2, uses_device=True)
_CATEGORY_LEARNING_RATE = 1e-3
# Where `train.max_steps` says nothing.
MAX_STEPS = 512
Forward = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Objective:
    """The loss of a batch: mean over its pictures of (1/k*) times the sum over their regions.

    Attributes:
        vocabulary_VE: all words; supervised_K: rows of the categories trained on.
        is_large: steps are of many regions, whose losses are found block by block where they are V wide.

    Raises:
        ValueError: an objective that nobody registered.
    """

    def __init__(
        self,
        settings: TrainSettings,
        vocabulary_VE: torch.Tensor,
        supervised_K: torch.Tensor,
        is_large: bool = False,
    ) -> None:
        self.settings, self.vocabulary_VE, self.supervised_K = settings, vocabulary_VE, supervised_K
        self.is_large, self.workspace = is_large, Workspace()
        self.supervised_KE = vocabulary_VE[supervised_K]
        self._find_losses: RegionLosses = OBJECTIVES.get(settings.objective)

    def region_losses(self, output_RE: torch.Tensor, word_R: torch.Tensor) -> torch.Tensor:
        """Loss of each region: [R]."""
        return self._find_losses(self, output_RE, word_R)

    def __call__(self, output_RE: torch.Tensor, word_R: torch.Tensor, weight_R: torch.Tensor) -> torch.Tensor:
        losses = self.region_losses(output_RE, word_R)
        return (losses * weight_R).sum() / weight_R.sum()


# Of v̂ [R, E] and the words' rows t [R] -> the loss of each region [R].
RegionLosses = Callable[[Objective, torch.Tensor, torch.Tensor], torch.Tensor]


@OBJECTIVES.register("softmax")
def find_softmax_losses(objective: Objective, output_RE: torch.Tensor, word_R: torch.Tensor) -> torch.Tensor:
    """Cross entropy of V v̂ / temperature with t."""
    # The temperature goes to the small side of the product: V is 65,000 wide.
    find = find_word_losses_in_blocks if objective.is_large else find_word_losses
    scaled_RE = output_RE / objective.settings.temperature
    return find(scaled_RE, objective.vocabulary_VE, word_R, objective.workspace)


@OBJECTIVES.register("cosine")
def find_cosine_losses(objective: Objective, output_RE: torch.Tensor, word_R: torch.Tensor) -> torch.Tensor:
    """1 - v_t·v̂."""
    return 1 - (output_RE * objective.vocabulary_VE[word_R]).sum(dim=1)


@OBJECTIVES.register("hinge")
def find_hinge_losses(objective: Objective, output_RE: torch.Tensor, word_R: torch.Tensor) -> torch.Tensor:
    """Sum over supervised c != t of max(0, margin - v_t·v̂ + v_c·v̂) (METHOD, training; after DeViSE)."""
    own = (output_RE * objective.vocabulary_VE[word_R]).sum(dim=1)
    scores = output_RE @ objective.supervised_KE.T
    losses = functional.relu(objective.settings.margin - own[:, None] + scores)
    return (losses * (objective.supervised_K[None, :] != word_R[:, None])).sum(dim=1)


class CategoryObjective:
    """Cross entropy over the supervised categories, weighted as `Objective`."""

    def __init__(self, supervised_K: torch.Tensor, num_words: int) -> None:
        self._category_of = torch.full((num_words,), -1, device=supervised_K.device)
        self._category_of[supervised_K] = torch.arange(len(supervised_K), device=supervised_K.device)

    def __call__(self, output_RK: torch.Tensor, word_R: torch.Tensor, weight_R: torch.Tensor) -> torch.Tensor:
        losses = functional.cross_entropy(output_RK, self._category_of[word_R], reduction="none")
        return (losses * weight_R).sum() / weight_R.sum()


def draw_supervised(concepts: Sequence[str], share: float, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(supervised, held out): a share of the concepts, drawn without replacement, both in the given order."""
    num = max(round(share * len(concepts)), 1)
    chosen = set(make_rng(seed, Stream.SUPERVISED_CATEGORIES).permutation(len(concepts))[:num].tolist())
    return (
        tuple(c for i, c in enumerate(concepts) if i in chosen),
        tuple(c for i, c in enumerate(concepts) if i not in chosen),
    )


@dataclass(frozen=True)
class TrainingInputs(StageInputs):
    """What an explainer is trained from.

    Attributes:
        regions: artefact of pooled region features.
        concepts: of the data set, in the order that the regions refer to.
        shuffled_labels: deal the regions' labels out at random, to see what an explainer says that learned nothing.
    """

    regions: Handle
    concepts: Annotated[tuple[str, ...], Unstated("the regions are of them")]
    vocabulary: Given[Vocabulary]
    settings: Annotated[TrainSettings, Stated(code=code_behind(objective=OBJECTIVES))]
    computing: Computing
    shuffled_labels: Annotated[bool, Spread(lambda shuffled: {"shuffled_labels": True} if shuffled else {})] = False

    @property
    def batch_images(self) -> int:
        """Pictures in one step. All pictures with regions count, also those without a supervised one."""
        num_images: int = self.regions.info["num_images_with_regions"]
        return max(self.settings.batch_images, -(-num_images // (self.settings.max_steps or MAX_STEPS)))

    @property
    def is_large(self) -> bool:
        """Whether steps have more pictures than `train.batch_images` says."""
        return self.batch_images > self.settings.batch_images

    @property
    def rate_growth(self) -> float:
        """Factor of the learning rates: Adam's steps grow with the root of what is in them (docs/results.md)."""
        return math.sqrt(self.batch_images / self.settings.batch_images)

    def request(self) -> Request:
        """With the pictures in one step, where the set is too large for those of the settings."""
        request = super().request()
        if not self.is_large:
            return request
        return replace(request, settings={**request.settings, "step_images": self.batch_images})


def train_explainer(inputs: TrainingInputs, folder: Path) -> Info:
    """Train with early stopping on held-out pictures and write the explainer of the best epoch.

    Args:
        folder: gets explainer.safetensors, explainer.json and history.json.

    Returns:
        facts: best_epoch, num_epochs, losses, numbers of regions and pictures.

    Raises:
        UserError: too few regions, or a loss that is not finite (names the step).
    """
    regions, concepts, vocabulary = inputs.regions, inputs.concepts, inputs.vocabulary.value
    settings = inputs.settings.model_copy(
        update={
            "batch_images": inputs.batch_images,
            "learning_rate": inputs.settings.learning_rate * inputs.rate_growth,
        }
    )
    seed, device = inputs.computing.seed, inputs.computing.device
    known = {m.name for m in vocabulary.matches if m.how != "missing"}
    present = set(np.unique(np.load(regions.path(file_names.REGION_CONCEPTS), allow_pickle=False)).tolist())
    usable = tuple(c for i, c in enumerate(concepts) if c in known and i in present)
    supervised, held_out = draw_supervised(usable, settings.supervised_share, seed)
    train, early = sets = _load_sets(inputs, supervised)
    matrix = torch.from_numpy(vocabulary.matrix).to(device)
    rows = torch.tensor(vocabulary.positions_of(supervised), device=device)
    objective = Objective(settings, matrix, rows, inputs.is_large)
    with deterministic(seed):
        channels = train.features_RC.shape[1]
        explainer = Explainer(channels, matrix.shape[1], settings.dropout, len(supervised)).to(device)
        history, best = fit(explainer, explainer, objective, sets, settings, inputs.computing)
        categories, classes = explainer.categories, CategoryObjective(rows, len(matrix))
        assert categories is not None
        rate = _CATEGORY_LEARNING_RATE * inputs.rate_growth
        linear = settings.model_copy(update={"learning_rate": rate, "weight_decay": 0.0})
        fit(categories, explainer.category_logits, classes, sets, linear, inputs.computing)
    facts = ExplainerFacts(
        channels=channels,
        dimensions=matrix.shape[1],
        dropout=settings.dropout,
        region_feature=settings.region_feature,
        objective=settings.objective,
        supervised=supervised,
        held_out=held_out,
        training={
            "num_regions": len(train.word_R),
            "num_images": train.num_images,
            "num_early_stopping_images": early.num_images,
            "concepts_without_vector": [c for c in concepts if c not in known],
            "concepts_without_region": [c for i, c in enumerate(concepts) if i not in present],
            "best_epoch": best,
        },
    )
    save_explainer(explainer, facts, folder)
    steps = [
        [name, loss, row.epoch]
        for row in history
        for name, loss in (("train_loss", row.train_loss), ("early_stopping_loss", row.early_stopping_loss))
    ]
    write_json(folder / HISTORY_FILE, steps)
    return {
        "best_epoch": best,
        "num_epochs": len(history),
        "train_loss": history[best].train_loss,
        "early_stopping_loss": history[best].early_stopping_loss,
        "num_regions": len(train.word_R),
        "num_images": train.num_images,
        "num_supervised": len(supervised),
        "num_held_out": len(held_out),
    }


@dataclass(frozen=True)
class Epoch:
    """Mean losses of an epoch, on what is trained on and on the held-out pictures."""

    epoch: int
    train_loss: float
    early_stopping_loss: float


def fit(
    module: nn.Module,
    forward: Forward,
    objective: Loss,
    sets: tuple[TrainingSet, TrainingSet],
    settings: TrainSettings,
    computing: Computing,
) -> tuple[list[Epoch], int]:
    """Adam until the held-out loss has not fallen for `patience_epochs`; leaves the best weights in the module.

    Args:
        module: what is trained.
        forward: features [R, C] -> what the objective takes.
        sets: to train on, and for early stopping.

    Returns:
        all epochs, and the position of the best.
    """
    train, early = sets
    adam = torch.optim.Adam(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    shuffle = torch.Generator().manual_seed(computing.seed)
    early_batches = early.batch(settings.batch_images, None)
    history: list[Epoch] = []
    best, best_loss, best_state = 0, math.inf, copy.deepcopy(module.state_dict())
    with computing.progress("train", settings.max_epochs) as bar:
        for epoch in range(settings.max_epochs):
            losses, early_losses = _BatchLosses(), _BatchLosses()
            module.train()
            for chosen in train.batch(settings.batch_images, shuffle):
                weights = train.weight_R[chosen]
                loss = objective(forward(train.features_RC[chosen]), train.word_R[chosen], weights)
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
                losses.add(loss, weights)
            module.eval()
            with torch.inference_mode():
                for chosen in early_batches:
                    weights = early.weight_R[chosen]
                    loss = objective(forward(early.features_RC[chosen]), early.word_R[chosen], weights)
                    early_losses.add(loss, weights)
            # Only here the device is waited for: after a loss that is not finite, what is left of the epoch is wasted.
            train_loss = losses.average(lambda step: f"step {step}", epoch, settings)
            early_loss = early_losses.average(lambda _: "the held-out pictures", epoch, settings)
            history.append(Epoch(epoch, train_loss, early_loss))
            bar.advance()
            if early_loss < best_loss:
                best, best_loss, best_state = epoch, early_loss, copy.deepcopy(module.state_dict())
            elif epoch - best >= settings.patience_epochs:
                break
    module.load_state_dict(best_state)
    module.eval()
    return history, best


class _BatchLosses:
    """Losses and weights of an epoch's batches, which stay on the device until they are asked for."""

    def __init__(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor, weights: torch.Tensor) -> None:
        self._losses.append(loss.detach())
        self._weights.append(weights.sum())

    def average(self, name_step: Callable[[int], str], epoch: int, settings: TrainSettings) -> float:
        """The mean over pictures.

        Raises:
            UserError: a loss that is not finite; names the first.
        """
        losses, weights = torch.stack([torch.stack(self._losses), torch.stack(self._weights)]).tolist()
        for step, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise UserError(
                    f"train.learning_rate: the loss became {loss} in epoch {epoch}, {name_step(step)}, with "
                    f"{settings.learning_rate:g}; lower it, or set train.region_feature=l2"
                )
        total = weight = 0.0
        for loss, own in zip(losses, weights, strict=True):
            total += loss * own
            weight += own
        return total / weight


def _load_sets(inputs: TrainingInputs, supervised: Sequence[str]) -> tuple[TrainingSet, TrainingSet]:
    """Supervised regions, split by picture: (to train on, for early stopping)."""
    regions, concepts, vocabulary, settings = inputs.regions, inputs.concepts, inputs.vocabulary.value, inputs.settings
    seed, device = inputs.computing.seed, inputs.computing.device
    features = np.load(regions.path(file_names.REGION_FEATURES), mmap_mode="r", allow_pickle=False)
    image = np.load(regions.path(file_names.REGION_IMAGES), allow_pickle=False)
    concept = np.load(regions.path(file_names.REGION_CONCEPTS), allow_pickle=False)
    if inputs.shuffled_labels:
        concept = make_rng(seed, Stream.SHUFFLED_LABELS).permutation(concept)
    row_of = np.full(len(concepts), -1, dtype=np.int64)
    position = {c: i for i, c in enumerate(concepts)}
    row_of[[position[c] for c in supervised]] = vocabulary.positions_of(supervised)
    usable = row_of[concept] >= 0
    images = np.unique(image[usable])
    if len(images) < 3:
        raise UserError(
            f"reference: found {len(images)} pictures with regions of supervised categories; at least 3 are needed"
        )
    num_early = min(max(round(settings.early_stopping_share * len(images)), 1), len(images) - 2)
    early_images = images[make_rng(seed, Stream.EARLY_STOPPING_IMAGES).permutation(len(images))[:num_early]]
    is_early = np.isin(image, early_images)
    sets = []
    for chosen in (np.flatnonzero(usable & ~is_early), np.flatnonzero(usable & is_early)):
        _, first, count = np.unique(image[chosen], return_index=True, return_counts=True)
        sets.append(
            TrainingSet(
                features_RC=copy_features(features, chosen, settings.region_feature, device),
                word_R=torch.from_numpy(row_of[concept[chosen]]).to(device),
                weight_R=torch.from_numpy(np.repeat(1 / count, count).astype(np.float32)).to(device),
                first_I=torch.from_numpy(np.append(first, len(chosen))),
            )
        )
    return sets[0], sets[1]
