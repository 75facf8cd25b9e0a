"""Training of the explainer: losses against loops, splits, draws, determinism, stopping, and that it learns."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from lavise.configs.errors import UserError
from lavise.configs.registry import OBJECTIVES
from lavise.configs.schema import TrainSettings
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.word_vectors import PhraseMatch, Vocabulary
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.explainer import training
from lavise.tasks.explainer.network import Explainer, deterministic, load_explainer, scale_features
from lavise.tasks.explainer.training import (
    CategoryObjective,
    Epoch,
    Objective,
    TrainingInputs,
    _load_sets,
    draw_supervised,
    fit,
    train_explainer,
)
from lavise.tasks.explainer.training_sets import TrainingSet
from tests.unit.tasks.explainer.test_training_sets import batch_by_loops
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, publish_regions

CONCEPTS = ("cat", "dog", "sky", "hot dog")


def regions_of(root: Path, num_images: int = 40, channels: int = 8, noise: float = 0.3, seed: int = 0) -> Handle:
    """Pictures of one to four regions; a concept's features lie around a centre of its own."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(CONCEPTS), channels))
    counts = rng.integers(1, 5, size=num_images)
    image = np.repeat(np.arange(num_images), counts)
    concept = rng.integers(0, len(CONCEPTS), size=len(image))
    return publish_regions(root, centres[concept] + noise * rng.normal(size=(len(image), channels)), image, concept)


def inputs_of(
    regions: Handle,
    settings: TrainSettings,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
    shuffled_labels: bool = False,
) -> TrainingInputs:
    words = make_vocabulary(30, CONCEPTS) if vocabulary is None else vocabulary
    return TrainingInputs(
        regions, CONCEPTS, Given(words, "v" * 64), settings, Computing(seed), shuffled_labels=shuffled_labels
    )


def train(
    folder: Path,
    regions: Handle,
    settings: TrainSettings,
    seed: int = 0,
    vocabulary: Vocabulary | None = None,
    shuffled_labels: bool = False,
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return dict(train_explainer(inputs_of(regions, settings, seed, vocabulary, shuffled_labels), folder))


# ---------------------------------------------------------------- losses


def losses_by_loops(
    settings: TrainSettings, out: AnyArray, words: AnyArray, supervised: list[int], targets: list[int]
) -> list[float]:
    losses = []
    for v, t in zip(out, targets, strict=True):
        own = float(words[t] @ v)
        if settings.objective == "hinge":
            losses.append(sum(max(0.0, settings.margin - own + float(words[c] @ v)) for c in supervised if c != t))
        elif settings.objective == "cosine":
            losses.append(1 - own)
        else:
            scores = [float(w @ v) / settings.temperature for w in words]
            losses.append(math.log(sum(math.exp(s) for s in scores)) - scores[t])
    return losses


@pytest.mark.parametrize("objective", ["hinge", "cosine", "softmax"])
def test_losses_vs_loops(objective: Any) -> None:
    settings = TrainSettings(objective=objective, margin=0.7, temperature=0.2)
    rng = np.random.default_rng(0)
    words = rng.normal(size=(12, 6))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    out = rng.normal(size=(9, 6))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    supervised, targets = [2, 5, 7, 11], [2, 5, 7, 11, 2, 2, 5, 7, 11]
    loss = Objective(settings, torch.from_numpy(words), torch.tensor(supervised))
    found = loss.region_losses(torch.from_numpy(out), torch.tensor(targets))
    expected = losses_by_loops(settings, out, words, supervised, targets)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    # METHOD, training: (1/k*) Σ_j within a picture, then the mean over pictures; here of 1, 3 and 5 regions.
    weights = torch.tensor([1.0] + [1 / 3] * 3 + [1 / 5] * 5, dtype=torch.float64)
    by_image = [expected[0], sum(expected[1:4]) / 3, sum(expected[4:]) / 5]
    value = loss(torch.from_numpy(out), torch.tensor(targets), weights)
    assert float(value) == pytest.approx(sum(by_image) / 3, rel=1e-9)


def test_hinge_of_the_only_concept_is_zero() -> None:
    loss = Objective(TrainSettings(objective="hinge"), torch.eye(3), torch.tensor([1]))
    assert loss.region_losses(torch.eye(3), torch.tensor([1, 1, 1])).tolist() == [0, 0, 0]


def test_loss_of_the_categories_vs_loops() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(6, 3)), [7, 2, 5, 5, 7, 2]
    weights = [1.0, 1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]
    supervised = [5, 2, 7]  # the columns
    loss = CategoryObjective(torch.tensor(supervised), 12)
    value = loss(torch.from_numpy(logits), torch.tensor(targets), torch.tensor(weights, dtype=torch.float64))
    losses = [
        math.log(sum(math.exp(s) for s in row)) - row[supervised.index(t)]
        for row, t in zip(logits, targets, strict=True)
    ]
    assert float(value) == pytest.approx(sum(w * x for w, x in zip(weights, losses, strict=True)) / 3, rel=1e-9)


# ---------------------------------------------------------------- what is drawn


@pytest.mark.parametrize(("num", "share", "expected"), [(80, 0.7, 56), (10, 0.5, 5), (1208, 0.7, 846), (3, 0.01, 1)])
def test_supervised_are_drawn_without_replacement(num: int, share: float, expected: int) -> None:
    concepts = [f"c{i}" for i in range(num)]
    supervised, held_out = draw_supervised(concepts, share, seed=4)
    assert len(supervised) == len(set(supervised)) == expected
    assert sorted([*supervised, *held_out]) == sorted(concepts)
    assert list(supervised) == sorted(supervised, key=concepts.index)
    assert list(held_out) == sorted(held_out, key=concepts.index)


def test_draw_depends_on_the_seed_only() -> None:
    concepts = [f"c{i}" for i in range(40)]
    assert draw_supervised(concepts, 0.5, 1) == draw_supervised(concepts, 0.5, 1)
    assert draw_supervised(concepts, 0.5, 1) != draw_supervised(concepts, 0.5, 2)
    assert draw_supervised(concepts, 1.0, 1) == (tuple(concepts), ())


def test_held_out_categories_are_stored_and_not_trained_on(tmp_path: Path) -> None:
    regions = regions_of(tmp_path)
    facts = train(tmp_path / "t", regions, TrainSettings(supervised_share=0.5, max_epochs=1))
    _, stored = load_explainer(tmp_path / "t", "cpu")
    assert (stored.supervised, stored.held_out) == draw_supervised(CONCEPTS, 0.5, 0)
    assert (facts["num_supervised"], facts["num_held_out"]) == (2, 2)
    concept, image = (np.load(regions.path(f"{n}.npy")) for n in ("concept", "image"))
    usable = np.isin(concept, [CONCEPTS.index(c) for c in stored.supervised])
    trained, early = stored.training["num_images"], stored.training["num_early_stopping_images"]
    assert trained + early == len(np.unique(image[usable]))
    assert facts["num_regions"] < usable.sum() < len(concept)


def test_concepts_without_a_vector_are_left_out_and_named(tmp_path: Path) -> None:
    full = make_vocabulary(30, CONCEPTS)
    matches = (*full.matches[:2], PhraseMatch("sky", "missing"), full.matches[3])
    keep = [i for i, w in enumerate(full.words) if w != "sky"]
    vocabulary = Vocabulary(tuple(full.words[i] for i in keep), full.matrix[keep], 30, matches)
    train(tmp_path / "t", regions_of(tmp_path), TrainSettings(max_epochs=1), vocabulary=vocabulary)
    _, stored = load_explainer(tmp_path / "t", "cpu")
    assert stored.training["concepts_without_vector"] == ["sky"]
    assert stored.supervised == ("cat", "dog", "hot dog")


@pytest.mark.parametrize("scaling", ["l2", "raw"])
def test_sets_are_split_by_picture(tmp_path: Path, scaling: Any) -> None:
    regions = regions_of(tmp_path)
    # A number of the picture as the first feature, to find it again.
    image, concept = (np.load(regions.path(f"{n}.npy")) for n in ("image", "concept"))
    marked = np.column_stack([image + 1.0, np.ones((len(image), 3))])
    regions = publish_regions(tmp_path / "marked", marked, image, concept)
    settings = TrainSettings(early_stopping_share=0.25, region_feature=scaling)
    vocabulary = make_vocabulary(30, CONCEPTS)
    supervised = ("cat", "sky")
    parts = _load_sets(inputs_of(regions, settings, vocabulary=vocabulary), supervised)
    pictures = []
    for part in parts:
        numbers = (part.features_RC[:, 0] / part.features_RC[:, 1]).round().int().numpy() - 1
        pictures.append(set(numbers.tolist()))
        for i in range(part.num_images):
            rows = part.regions_of([i]).numpy()
            own = int(numbers[rows[0]])
            wanted = np.flatnonzero((image == own) & np.isin(concept, [0, 2]))
            assert numbers[rows].tolist() == [own] * len(wanted)
            assert [vocabulary.words[w] for w in part.word_R[rows]] == [CONCEPTS[c] for c in concept[wanted]]
            # k* counts the supervised regions of the picture.
            torch.testing.assert_close(part.weight_R[rows], torch.full((len(wanted),), 1 / len(wanted)))
    assert not pictures[0] & pictures[1]
    usable = set(image[np.isin(concept, [0, 2])].tolist())
    assert pictures[0] | pictures[1] == usable
    assert len(pictures[1]) == round(0.25 * len(usable))
    raw = torch.from_numpy(marked).float()
    assert len(torch.cat([p.features_RC for p in parts])) == np.isin(concept, [0, 2]).sum()
    if scaling == "l2":
        np.testing.assert_allclose(parts[0].features_RC.norm(dim=1), 1, rtol=1e-6)
    else:
        assert set(parts[0].features_RC[:, 0].tolist()) <= set(scale_features(raw, "raw")[:, 0].tolist())


def test_pictures_of_one_region_train_one_at_a_time(tmp_path: Path) -> None:
    """BatchNorm cannot take a single row; batch_images=1 must still work."""
    rng = np.random.default_rng(0)
    regions = publish_regions(tmp_path, rng.normal(size=(8, 4)), np.arange(8), rng.integers(0, 4, size=8))
    facts = train(tmp_path / "t", regions, TrainSettings(batch_images=1, max_epochs=2))
    assert math.isfinite(facts["train_loss"])


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("objective", ["hinge", "cosine", "softmax"])
def test_training_repeats_to_the_bit(tmp_path: Path, objective: Any) -> None:
    regions, settings = regions_of(tmp_path), TrainSettings(objective=objective, max_epochs=4)
    facts = [train(tmp_path / name, regions, settings, seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))]
    weights = [(tmp_path / name / "explainer.safetensors").read_bytes() for name in "abc"]
    histories = [(tmp_path / name / "history.json").read_text() for name in "abc"]
    assert (facts[0], weights[0], histories[0]) == (facts[1], weights[1], histories[1])
    assert weights[0] != weights[2]
    assert histories[0] != histories[2]


def fit_step_by_step(
    module: torch.nn.Module,
    forward: Any,
    objective: Any,
    sets: tuple[TrainingSet, TrainingSet],
    settings: TrainSettings,
    computing: Computing,
) -> tuple[list[Epoch], int]:
    """Training as it was written first: pictures joined one by one, and each step's loss read before the next."""
    train, early = sets
    adam = torch.optim.Adam(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    shuffle = torch.Generator().manual_seed(computing.seed)
    history: list[Epoch] = []
    best, best_loss, best_state = 0, math.inf, copy.deepcopy(module.state_dict())

    def go_through(data: TrainingSet, generator: torch.Generator | None, learn: bool) -> float:
        total = weight = 0.0
        for batch in batch_by_loops(data, settings.batch_images, generator):
            chosen = torch.tensor(batch)
            weights = data.weight_R[chosen]
            loss = objective(forward(data.features_RC[chosen]), data.word_R[chosen], weights)
            if learn:
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
            total += loss.item() * float(weights.sum())
            weight += float(weights.sum())
        return total / weight

    for epoch in range(settings.max_epochs):
        module.train()
        train_loss = go_through(train, shuffle, learn=True)
        module.eval()
        with torch.inference_mode():
            early_loss = go_through(early, None, learn=False)
        history.append(Epoch(epoch, train_loss, early_loss))
        if early_loss < best_loss:
            best, best_loss, best_state = epoch, early_loss, copy.deepcopy(module.state_dict())
        elif epoch - best >= settings.patience_epochs:
            break
    module.load_state_dict(best_state)
    module.eval()
    return history, best


def find_softmax_losses_by_torch(objective: Objective, output_RE: torch.Tensor, word_R: torch.Tensor) -> torch.Tensor:
    logits_RV = (output_RE / objective.settings.temperature) @ objective.vocabulary_VE.T
    return functional.cross_entropy(logits_RV, word_R, reduction="none")


@pytest.mark.parametrize("objective", ["hinge", "cosine", "softmax"])
@pytest.mark.parametrize("batch_images", [1, 5, 16])
def test_training_is_to_the_bit_that_of_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str, batch_images: int
) -> None:
    """Losses, the best epoch and all weights, with dropout and with the classifier of categories."""
    regions = regions_of(tmp_path, noise=2.0)
    settings = TrainSettings(objective=objective, max_epochs=12, patience_epochs=3, batch_images=batch_images)
    facts = train(tmp_path / "new", regions, settings, seed=3)
    monkeypatch.setattr(training, "fit", fit_step_by_step)
    monkeypatch.setitem(OBJECTIVES._entries, "softmax", find_softmax_losses_by_torch)
    assert train(tmp_path / "old", regions, settings, seed=3) == facts
    for name in ("history.json", "explainer.safetensors", "explainer.json"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "old" / name).read_bytes()


def test_training_does_not_depend_on_global_random_state(tmp_path: Path) -> None:
    regions, settings = regions_of(tmp_path), TrainSettings(max_epochs=2)
    torch.manual_seed(1)
    train(tmp_path / "a", regions, settings)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    train(tmp_path / "b", regions, settings)
    assert torch.equal(torch.get_rng_state(), before)
    first, second = ((tmp_path / n / "explainer.safetensors").read_bytes() for n in "ab")
    assert first == second


def test_normalisations_learn_the_statistics_of_the_features(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(loc=5, scale=2, size=(120, 4))
    regions = publish_regions(tmp_path, features, np.repeat(np.arange(60), 2), rng.integers(0, 4, size=120))
    settings = TrainSettings(region_feature="raw", max_epochs=30, patience_epochs=30)
    facts = train(tmp_path / "t", regions, settings)
    state = load_explainer(tmp_path / "t", "cpu")[0].state_dict()
    steps = int(state["norm1.num_batches_tracked"])
    assert steps == (facts["best_epoch"] + 1) * math.ceil(facts["num_images"] / settings.batch_images)
    expected = 5 * (1 - 0.9**steps)
    np.testing.assert_allclose(state["norm1.running_mean"], expected, atol=0.6)
    assert not torch.equal(state["norm2.running_var"], torch.ones(4))


def published_part(folder: Path) -> dict[str, torch.Tensor]:
    """Weights of the explainer as published; the classifier of categories is trained after it, and stops by itself."""
    state = load_explainer(folder, "cpu")[0].state_dict()
    return {k: v for k, v in state.items() if not k.startswith("categories.")}


@pytest.mark.parametrize(("max_steps", "expected"), [(None, 3), (100, 3), (14, 3), (13, 4), (4, 10), (1, 40)])
def test_a_step_takes_as_many_pictures_as_the_set_needs(tmp_path: Path, max_steps: int | None, expected: int) -> None:
    """40 pictures in steps of at least 3; what was asked for says so where it is more."""
    inputs = inputs_of(regions_of(tmp_path), TrainSettings(batch_images=3, max_steps=max_steps))
    assert inputs.batch_images == expected
    assert inputs.request().settings.get("step_images") == (expected if expected > 3 else None)


def test_sets_of_512_steps_are_as_they_were(tmp_path: Path) -> None:
    for num, expected in ((8192, 16), (8193, 17)):
        regions = publish_regions(tmp_path / str(num), np.zeros((num, 1)), np.arange(num), np.zeros(num))
        assert inputs_of(regions, TrainSettings()).batch_images == expected


@pytest.mark.parametrize("objective", ["hinge", "softmax"])
def test_larger_steps_are_those_of_batch_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """The same pictures in each, learning rates by the root of the growth, and losses that differ by rounding alone."""
    regions, rates = regions_of(tmp_path), []
    rate, growth = TrainSettings().learning_rate, math.sqrt(10)

    def watch(module: Any, forward: Any, objective: Any, sets: Any, settings: TrainSettings, computing: Any) -> Any:
        rates.append(settings.learning_rate)
        return fit(module, forward, objective, sets, settings, computing)

    monkeypatch.setattr(training, "fit", watch)
    grown = train(
        tmp_path / "grown", regions, TrainSettings(objective=objective, batch_images=1, max_steps=4, max_epochs=4)
    )
    assert rates == [rate * growth, training._CATEGORY_LEARNING_RATE * growth]
    settings = TrainSettings(objective=objective, batch_images=10, learning_rate=rate * growth, max_epochs=4)
    asked = train(tmp_path / "asked", regions, settings)
    assert grown == pytest.approx(asked, rel=1e-4)
    states = [published_part(tmp_path / name) for name in ("grown", "asked")]
    assert states[0]["norm1.num_batches_tracked"] == states[1]["norm1.num_batches_tracked"] == 4 * 4


def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    """The kept weights are, to the bit, those of a training that ends with the best epoch."""
    regions = regions_of(tmp_path, num_images=30, noise=3.0)
    settings = TrainSettings(max_epochs=60, patience_epochs=5, learning_rate=0.02, early_stopping_share=0.3)
    facts = train(tmp_path / "long", regions, settings)
    history = json.loads((tmp_path / "long" / "history.json").read_text())
    held_out = [value for name, value, _ in history if name == "early_stopping_loss"]
    assert facts["best_epoch"] == int(np.argmin(held_out))
    assert facts["early_stopping_loss"] == min(held_out)
    assert facts["num_epochs"] == len(held_out) == facts["best_epoch"] + 1 + 5 < 60
    short = settings.model_copy(update={"max_epochs": facts["best_epoch"] + 1})
    again = train(tmp_path / "short", regions, short)
    assert again["best_epoch"] == facts["best_epoch"]
    kept, wanted = (published_part(tmp_path / n) for n in ("long", "short"))
    assert all(torch.equal(kept[k], wanted[k]) for k in wanted)


def test_early_stopping_loss_is_that_of_the_stored_explainer(tmp_path: Path) -> None:
    regions, settings = regions_of(tmp_path), TrainSettings(objective="hinge", max_epochs=6, early_stopping_share=0.3)
    facts = train(tmp_path / "t", regions, settings)
    explainer, stored = load_explainer(tmp_path / "t", "cpu")
    vocabulary = make_vocabulary(30, CONCEPTS)
    _, early = _load_sets(inputs_of(regions, settings, vocabulary=vocabulary), stored.supervised)
    with torch.inference_mode():
        out = explainer(early.features_RC).double().numpy()
    rows = vocabulary.positions_of(CONCEPTS)
    losses = losses_by_loops(settings, out, vocabulary.matrix.astype(np.float64), rows, early.word_R.tolist())
    expected = sum(w * value for w, value in zip(early.weight_R.tolist(), losses, strict=True)) / early.num_images
    assert facts["early_stopping_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", ["hinge", "cosine", "softmax"])
def test_training_learns_a_separable_problem(tmp_path: Path, objective: Any) -> None:
    vocabulary = make_vocabulary(200, CONCEPTS)
    regions = regions_of(tmp_path, num_images=120, noise=0.1)
    settings = TrainSettings(objective=objective, max_epochs=40, patience_epochs=40)
    train(tmp_path / "t", regions, settings, vocabulary=vocabulary)
    explainer, facts = load_explainer(tmp_path / "t", "cpu")
    fresh = regions_of(tmp_path / "fresh", num_images=120, noise=0.1)
    features = scale_features(torch.from_numpy(np.load(fresh.path("features.npy"))), facts.region_feature)
    with torch.inference_mode():
        scores = explainer(features).numpy() @ vocabulary.matrix.T
    truth = np.array(vocabulary.positions_of(CONCEPTS))[np.load(fresh.path("concept.npy"))]
    closed = scores[:, 200:].argmax(axis=1) + 200
    assert (closed == truth).mean() > 0.95
    top5 = np.argsort(-scores, axis=1)[:, :5]
    # Chance is 5 in 204.
    assert (top5 == truth[:, None]).any(axis=1).mean() > 0.6


# ---------------------------------------------------------------- the classifier of categories


def share_of_categories_right(folder: Path, regions: Handle) -> float:
    explainer, facts = load_explainer(folder, "cpu")
    features = scale_features(torch.from_numpy(np.load(regions.path("features.npy"))), facts.region_feature)
    with torch.inference_mode():
        found = explainer.category_logits(features).argmax(dim=1).numpy()
    truth = np.load(regions.path("concept.npy"))
    supervised = np.array([CONCEPTS.index(c) for c in facts.supervised])
    judged = np.isin(truth, supervised)
    return float((supervised[found] == truth)[judged].mean())


@pytest.mark.parametrize("supervised_share", [1.0, 0.5])
def test_categories_are_learned_on_a_separable_problem(tmp_path: Path, supervised_share: float) -> None:
    settings = TrainSettings(max_epochs=60, patience_epochs=60, supervised_share=supervised_share)
    train(tmp_path / "t", regions_of(tmp_path, num_images=120, noise=0.1), settings)
    fresh = regions_of(tmp_path / "fresh", num_images=120, noise=0.1)
    assert share_of_categories_right(tmp_path / "t", fresh) > 0.95
    explainer, facts = load_explainer(tmp_path / "t", "cpu")
    assert explainer.categories is not None
    assert explainer.categories.out_features == len(facts.supervised) == round(4 * supervised_share)


def test_weights_of_the_categories_are_those_of_their_best_epoch(tmp_path: Path) -> None:
    """Cross entropy on the held-out pictures, by loops, is not lower at any other length of training."""
    regions = regions_of(tmp_path, num_images=30, noise=3.0)
    settings = TrainSettings(max_epochs=40, patience_epochs=40, early_stopping_share=0.3)
    vocabulary = make_vocabulary(30, CONCEPTS)

    def early_stopping_loss(max_epochs: int) -> float:
        folder = tmp_path / str(max_epochs)
        train(folder, regions, settings.model_copy(update={"max_epochs": max_epochs}))
        explainer, facts = load_explainer(folder, "cpu")
        _, early = _load_sets(inputs_of(regions, settings, vocabulary=vocabulary), facts.supervised)
        with torch.inference_mode():
            logits = explainer.category_logits(early.features_RC).double()
        column = [vocabulary.positions_of(facts.supervised).index(w) for w in early.word_R.tolist()]
        losses = [
            math.log(sum(math.exp(v) for v in row)) - row[c] for row, c in zip(logits.tolist(), column, strict=True)
        ]
        return sum(w * v for w, v in zip(early.weight_R.tolist(), losses, strict=True)) / early.num_images

    losses = [early_stopping_loss(epochs) for epochs in (1, 3, 10, 20, 40)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_categories_change_nothing_of_the_published_part(tmp_path: Path, dropout: float) -> None:
    """To the bit what is trained without them; with dropout, after the numbers that their first weights draw."""
    regions, vocabulary = regions_of(tmp_path), make_vocabulary(30, CONCEPTS)
    settings = TrainSettings(dropout=dropout, max_epochs=5, weight_decay=0.01)
    train(tmp_path / "t", regions, settings, seed=3)
    sets = _load_sets(inputs_of(regions, settings, 3, vocabulary), CONCEPTS)
    matrix = torch.from_numpy(vocabulary.matrix)
    objective = Objective(settings, matrix, torch.tensor(vocabulary.positions_of(CONCEPTS)))
    with deterministic(3):
        alone = Explainer(8, 6, dropout)
        if dropout:
            torch.nn.Linear(8, len(CONCEPTS))
        fit(alone, alone, objective, sets, settings, Computing(3))
    found, expected = published_part(tmp_path / "t"), alone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


# ---------------------------------------------------------------- shuffled labels


def test_shuffled_labels_are_the_same_labels_on_other_regions(tmp_path: Path) -> None:
    regions, vocabulary = regions_of(tmp_path), make_vocabulary(30, CONCEPTS)
    plain, dealt, again, other = (
        _load_sets(inputs_of(regions, TrainSettings(), seed, vocabulary, shuffled), CONCEPTS)
        for seed, shuffled in ((0, False), (0, True), (0, True), (1, True))
    )
    words = [torch.cat([part.word_R for part in sets]) for sets in (plain, dealt, again, other)]
    assert torch.equal(words[0].sort().values, words[1].sort().values)
    assert not torch.equal(words[0], words[1])
    assert torch.equal(words[1], words[2])
    assert not torch.equal(words[1].sort().values, words[1])
    assert not torch.equal(dealt[0].word_R, other[0].word_R)
    # Regions stay where they are, and whole pictures are held out as before.
    for part, expected in zip(dealt, plain, strict=True):
        assert torch.equal(part.features_RC, expected.features_RC)
        assert torch.equal(part.first_I, expected.first_I)
        assert torch.equal(part.weight_R, expected.weight_R)


def test_nothing_is_learned_from_shuffled_labels(tmp_path: Path) -> None:
    """What it says of a category is the same by chance in one of four, over several ways of dealing the labels."""
    vocabulary = make_vocabulary(200, CONCEPTS)
    regions = regions_of(tmp_path, num_images=120, noise=0.1)
    fresh = regions_of(tmp_path / "fresh", num_images=120, noise=0.1)
    truth = np.array(vocabulary.positions_of(CONCEPTS))[np.load(fresh.path("concept.npy"))]

    def shares_right(shuffled: bool, seed: int) -> tuple[float, float]:
        folder = tmp_path / f"{shuffled} {seed}"
        settings = TrainSettings(max_epochs=12 if shuffled else 40)
        facts = train(folder, regions, settings, seed, vocabulary, shuffled)
        assert (facts["num_supervised"], facts["num_held_out"]) == (4, 0)
        explainer, stored = load_explainer(folder, "cpu")
        features = scale_features(torch.from_numpy(np.load(fresh.path("features.npy"))), stored.region_feature)
        with torch.inference_mode():
            scores = explainer(features).numpy() @ vocabulary.matrix[200:].T
        return float((scores.argmax(axis=1) + 200 == truth).mean()), share_of_categories_right(folder, fresh)

    assert min(shares_right(False, 0)) > 0.9
    by_chance = np.mean([shares_right(True, seed) for seed in range(6)], axis=0)
    assert (np.abs(by_chance - 0.25) < 0.15).all()


def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path: Path) -> None:
    settings = TrainSettings(learning_rate=1e30, region_feature="raw")
    with pytest.raises(UserError, match=r"train\.learning_rate: the loss became \S+ in epoch 0, step 1, with 1e\+30"):
        train(tmp_path / "t", regions_of(tmp_path), settings)
    assert not (tmp_path / "t" / "explainer.safetensors").exists()


def test_a_early_stopping_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    """One batch an epoch: the first loss after the bad step is that of the held-out pictures."""
    settings = TrainSettings(learning_rate=1e30, region_feature="raw", batch_images=1000)
    with pytest.raises(UserError, match="in epoch 0, the held-out pictures"):
        train(tmp_path / "t", regions_of(tmp_path), settings)


def test_a_learning_rate_beyond_float32_is_the_users_mistake(tmp_path: Path) -> None:
    """Whether the settings refuse it or the training does: one clear line, not a trace out of Adam."""
    regions = regions_of(tmp_path)
    with pytest.raises((UserError, ValidationError), match="learning_rate"):
        train(tmp_path / "t", regions, TrainSettings(learning_rate=1e38))


def test_two_pictures_are_too_few(tmp_path: Path) -> None:
    regions = publish_regions(tmp_path, np.ones((4, 3)), np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3]))
    with pytest.raises(UserError, match=r"found 2 pictures .* at least 3"):
        train(tmp_path / "t", regions, TrainSettings())


def test_three_pictures_are_enough(tmp_path: Path) -> None:
    regions = publish_regions(tmp_path, np.random.default_rng(0).normal(size=(3, 3)), np.arange(3), np.arange(3))
    facts = train(tmp_path / "t", regions, TrainSettings(max_epochs=1, early_stopping_share=0.9))
    assert (facts["num_images"], facts["num_regions"]) == (2, 2)


def test_zero_features_do_not_break_training(tmp_path: Path) -> None:
    regions = publish_regions(tmp_path, np.zeros((12, 3)), np.arange(12), np.arange(12) % 4)
    assert math.isfinite(train(tmp_path / "t", regions, TrainSettings(max_epochs=2))["early_stopping_loss"])


def test_a_new_objective_is_one_registered_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that asks for nothing changes no weight of the explainer that Adam's decay does not."""
    monkeypatch.setattr(OBJECTIVES, "_entries", dict(OBJECTIVES._entries))
    asked = []

    @OBJECTIVES.register("squared")
    def find_squares(objective: Objective, output_RE: torch.Tensor, word_R: torch.Tensor) -> torch.Tensor:
        asked.append(len(word_R))
        return ((output_RE - objective.vocabulary_VE[word_R]) ** 2).sum(dim=1)

    regions = regions_of(tmp_path)
    squared = train(tmp_path / "s", regions, TrainSettings(objective="squared", max_epochs=3))
    cosine = train(tmp_path / "c", regions, TrainSettings(objective="cosine", max_epochs=3))
    assert asked
    # |v̂ - v|² = 2 (1 - v·v̂) for vectors of length 1.
    assert squared["early_stopping_loss"] == pytest.approx(2 * cosine["early_stopping_loss"], rel=0.05)
