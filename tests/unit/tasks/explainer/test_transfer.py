"""Transfer: windows and statistics against brute force, what stays as it was, and what the head teaches."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lavise.configs.errors import UserError
from lavise.configs.registry import TRANSFERS
from lavise.configs.schema import TrainSettings, TransferSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.word_vectors import WordVectors
from lavise.tasks.engine.computing import Computing
from lavise.tasks.explainer import transfer
from lavise.tasks.explainer.class_head import ClassifierHead, build_head
from lavise.tasks.explainer.network import (
    Adapter,
    Explainer,
    ExplainerFacts,
    deterministic,
    load_attached_head,
    load_explainer,
    save_explainer,
)
from lavise.tasks.explainer.transfer import (
    Fitting,
    HeadObjective,
    RowMoments,
    TransferInputs,
    TransferMethod,
    match_covariances,
    match_variances,
    measure_covariance,
    measure_variances,
    transfer_explainer,
)
from tests.unit.tasks.activations.test_windows import windows_by_loops
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, publish, publish_maps, publish_regions

CHANNELS, DIMENSIONS = 5, 6
CATEGORIES = ("dog", "cat", "unseen", "zebra")
SUPERVISED = ("cat", "zebra")
VOCABULARY = make_vocabulary(12, CATEGORIES, DIMENSIONS)
CLASSES = ClassNames((("word3",), ("word5",), ("word7", "word8"), ("nonsense",)), "settings")
AFFINE = ("renormalise", "align_covariance")
METHODS = (*AFFINE, "distil_head")

TRAINING = TrainSettings()


def make_head() -> tuple[ClassifierHead, ExplainerFacts]:
    weight = torch.zeros(4, CHANNELS)
    weight[range(4), [0, 3, 4, 1]] = 8
    vectors = WordVectors(VOCABULARY.words, VOCABULARY.matrix)
    head, facts = build_head(LinearHead(weight, torch.zeros(4)), CLASSES, vectors, VOCABULARY, 1.0)
    return head, ExplainerFacts(
        CHANNELS,
        DIMENSIONS,
        0.1,
        "l2",
        "softmax",
        SUPERVISED,
        ("unseen",),
        {},
        kind="fused",
        open_share=0.5,
        head=facts,
    )


def publish_explainer(root: Path, how: str = "l2", with_head: bool = True) -> Handle:
    def fill(folder: Path) -> None:
        with deterministic(0):
            explainer = Explainer(CHANNELS, DIMENSIONS, 0.1, len(SUPERVISED))
            explainer.train()
            explainer(torch.randn(30, CHANNELS) * 2 + 1)
        head, facts = make_head()
        if with_head:
            save_explainer(explainer, replace(facts, region_feature=how), folder, head)
        else:
            plain = replace(facts, region_feature=how, head=None, no_head="the network does not end in one")
            save_explainer(explainer, plain, folder)

    return publish(root, "explainer", fill)


def publish_reference(root: Path, seed: int = 1) -> Handle:
    """30 pictures of 3 regions; the categories differ in their features."""
    rng = np.random.default_rng(seed)
    concept = np.tile([1, 3, 1, 0, 3], 18)
    features = rng.uniform(0, 1, size=(90, CHANNELS)) + 2 * np.eye(CHANNELS)[concept]
    return publish_regions(root, features, np.repeat(np.arange(30), 3), concept)


def publish_target(root: Path, shard_images: int = 4) -> Handle:
    maps = np.random.default_rng(3).normal(size=(9, CHANNELS, 4, 7))
    maps[:, 0] = np.maximum(maps[:, 0], 0)
    maps[:, 1] = 0
    maps[:, 2] = 3
    return publish_maps(root, maps, shard_images=shard_images)


def transfer_to(
    folder: Path,
    method: str,
    explainer: Handle,
    activations: Handle,
    regions: Handle,
    computing: Computing | None = None,
    shuffled_labels: bool = False,
) -> dict[str, Any]:
    """Facts of a transfer that is written to `folder`."""
    inputs = TransferInputs(
        method=method,
        explainer=explainer,
        activations=activations,
        regions=regions,
        vocabulary=VOCABULARY,
        training=TRAINING,
        computing=computing or Computing(),
        shuffled_labels=shuffled_labels,
    )
    return dict(transfer_explainer(inputs, folder))


@dataclass(frozen=True)
class Run:
    """What one transfer was given and gave."""

    before: Explainer
    after: Explainer
    old_facts: ExplainerFacts
    facts: ExplainerFacts
    found: dict[str, Any]
    store: ActivationStore
    regions: Handle
    folder: Path

    def content(self) -> bytes:
        return (self.folder / "explainer.safetensors").read_bytes()


def run(
    root: Path,
    method: str,
    how: str = "l2",
    shard_images: int = 4,
    seed: int = 0,
    shuffled_labels: bool = False,
) -> Run:
    handle = publish_explainer(root / "a", how)
    regions, target = publish_reference(root / "a"), publish_target(root / "a", shard_images)
    folder = root / "out"
    folder.mkdir()
    found = transfer_to(folder, method, handle, target, regions, Computing(seed), shuffled_labels)
    before, old_facts = load_explainer(handle.folder, "cpu")
    after, facts = load_explainer(folder, "cpu")
    return Run(before, after, old_facts, facts, found, ActivationStore(target.folder), regions, folder)


def scale(row: AnyArray, how: str) -> AnyArray:
    return np.asarray(row / np.linalg.norm(row)) if how == "l2" else row


def pool_by_loops(store: ActivationStore, how: str) -> AnyArray:
    rows = []
    for maps in store.read_images(range(store.shape[0])).astype(np.float64):
        for window in windows_by_loops(*store.shape[2:]):
            row = np.array([(channel * window).sum() / window.size for channel in maps])
            rows.append(scale(row, how))
    return np.array(rows)


def read_reference(regions: Handle, how: str) -> AnyArray:
    rows = np.load(regions.path("features.npy")).astype(np.float64)
    return np.array([scale(row, how) for row in rows])


def adapt(explainer: Explainer, rows: AnyArray) -> AnyArray:
    with torch.inference_mode():
        return explainer.adapt(torch.from_numpy(rows).float()).double().numpy()


def power(matrix: AnyArray, exponent: float) -> AnyArray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(vectors @ np.diag(values**exponent) @ vectors.T)


# ---------------------------------------------------------------- affine maps


@pytest.mark.parametrize("how", ["raw", "l2"])
def test_renormalise_vs_brute_force(tmp_path: Path, how: str) -> None:
    done = run(tmp_path, "renormalise", how)
    target, source = pool_by_loops(done.store, how), read_reference(done.regions, how)
    variances = [rows.var(axis=0, ddof=1) for rows in (target, source)]
    floored = [v + v.mean() * 1e-3 for v in variances]
    expected = (target - target.mean(axis=0)) * np.sqrt(floored[1] / floored[0]) + source.mean(axis=0)
    found = adapt(done.after, target)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(found.mean(axis=0), source.mean(axis=0), atol=1e-5)
    with torch.inference_mode():
        hidden = done.after.hidden(torch.from_numpy(target).float()).double().numpy()
    state, old = done.after.state_dict(), done.before.state_dict()
    np.testing.assert_allclose(state["norm2.running_mean"], hidden.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(state["norm2.running_var"], hidden.var(axis=0, ddof=1), rtol=1e-3, atol=1e-6)
    moved = {n for n in old if not torch.equal(old[n], state[n])}
    assert moved == {"norm2.running_mean", "norm2.running_var"}
    spread = np.sqrt(variances[1] + done.before.norm1.eps)
    shift = (np.abs(target.mean(axis=0) - source.mean(axis=0)) / spread).mean()
    assert done.found == {"num_windows": 9 * 14, "shift": pytest.approx(shift, rel=1e-4)}


@pytest.mark.parametrize("how", ["raw", "l2"])
def test_align_covariance_vs_numpy(tmp_path: Path, how: str) -> None:
    """Against CORAL by hand."""
    done = run(tmp_path, "align_covariance", how)
    target, source = pool_by_loops(done.store, how), read_reference(done.regions, how)
    shrunk = [shrink_by_loops(rows) for rows in (target, source)]
    matrix = power(shrunk[0][0], -0.5) @ power(shrunk[1][0], 0.5)
    expected = (target - target.mean(axis=0)) @ matrix + source.mean(axis=0)
    np.testing.assert_allclose(adapt(done.after, target), expected, atol=1e-4)
    assert done.found["shrinkage_target"] == pytest.approx(shrunk[0][1], rel=1e-3)
    assert done.found["shrinkage_reference"] == pytest.approx(shrunk[1][1], rel=1e-3)
    old, state = done.before.state_dict(), done.after.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in old.items())


def shrink_by_loops(rows: AnyArray) -> tuple[AnyArray, float]:
    """(shrunk covariance, share), by the estimators as Ledoit and Wolf define them."""
    centred = rows - rows.mean(axis=0)
    products = [np.outer(row, row) for row in centred]
    sample = np.mean(products, axis=0)
    identity = np.eye(len(sample)) * np.trace(sample) / len(sample)
    distance = ((sample - identity) ** 2).sum()
    noise = sum(((product - sample) ** 2).sum() for product in products) / len(rows) ** 2
    share = max(min(noise, distance) / distance, 1e-3)
    return (1 - share) * sample + share * identity, share


def rows_of(values: AnyArray, num_parts: int = 3) -> Callable[[], Iterator[torch.Tensor]]:
    return lambda: iter(torch.from_numpy(values).float().tensor_split(num_parts))


@pytest.mark.parametrize(("num", "channels"), [(500, 4), (30, 12), (6, 12)])
def test_covariance_vs_loops(num: int, channels: int) -> None:
    rng = np.random.default_rng(num)
    rows = rng.normal(size=(num, channels)) @ rng.normal(size=(channels, channels)) + 3
    expected, shrinkage = shrink_by_loops(rows.astype(np.float32).astype(np.float64))
    found = measure_covariance(rows_of(rows))
    np.testing.assert_allclose(found.spread.numpy(), expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found.mean.numpy(), rows.mean(axis=0), atol=1e-6)
    assert (found.count, found.shrinkage) == (num, pytest.approx(shrinkage, rel=1e-8))
    # What makes it invertible although there are fewer rows than filters.
    assert np.linalg.eigvalsh(found.spread.numpy()).min() > 0


def test_distorted_source_is_brought_back_by_the_variances() -> None:
    rng = np.random.default_rng(0)
    source = rng.normal(size=(400, 6)) * rng.uniform(0.5, 2, size=6) + rng.normal(size=6)
    target = source * rng.uniform(0.5, 2, size=6) + rng.normal(size=6)
    adapter = match_variances(measure_variances(rows_of(target)), measure_variances(rows_of(source)))
    back = adapter(torch.from_numpy(target).float()).numpy()
    np.testing.assert_allclose(back, source, rtol=0.02, atol=0.02)


def test_rotated_source_gets_its_covariance_back() -> None:
    """Not the rows themselves: a covariance does not say which rotation it was."""
    rng = np.random.default_rng(0)
    source = rng.normal(size=(5000, 4)) @ rng.normal(size=(4, 4))
    target = source @ np.linalg.qr(rng.normal(size=(4, 4))).Q * 2 + 5
    moments = [measure_covariance(rows_of(rows)) for rows in (target, source)]
    back = match_covariances(*moments)(torch.from_numpy(target).float()).numpy()
    np.testing.assert_allclose(np.cov(back.T), np.cov(source.T), rtol=0.1, atol=0.1 * np.cov(source.T).max())
    np.testing.assert_allclose(back.mean(axis=0), source.mean(axis=0), atol=1e-3)
    only_variances = match_variances(*(RowMoments(m.count, m.mean, m.variance) for m in moments))
    left = np.cov(only_variances(torch.from_numpy(target).float()).numpy().T) - np.cov(source.T)
    assert np.abs(left).max() > 3 * np.abs(np.cov(back.T) - np.cov(source.T)).max()


@pytest.mark.parametrize("method", AFFINE)
def test_constant_filter_is_not_blown_up(tmp_path: Path, method: str) -> None:
    """Filter 1 of the target is always 0, and varies on the reference."""
    done = run(tmp_path, method, "raw")
    assert done.after.adapter is not None
    weight = done.after.adapter.weight
    source = read_reference(done.regions, "raw").var(axis=0)
    target = pool_by_loops(done.store, "raw").var(axis=0)
    assert target[1] == 0
    assert float(weight.abs().max()) < 3 * np.sqrt(source.max() / (target.mean() * 1e-3))


@pytest.mark.parametrize("method", AFFINE)
def test_head_of_the_target_model_stays_and_sees_no_adapter(tmp_path: Path, method: str) -> None:
    done = run(tmp_path, method)
    head = load_attached_head(done.folder, "cpu")
    assert head is not None
    expected = make_head()[0].state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in head.state_dict().items())
    assert done.facts == done.old_facts
    assert not done.facts.uses_learned


@pytest.mark.parametrize("method", AFFINE)
def test_statistics_do_not_depend_on_shards(tmp_path: Path, method: str) -> None:
    states = [run(tmp_path / str(n), method, shard_images=n).after.state_dict() for n in (1, 4, 100)]
    for other in states[1:]:
        for name, tensor in states[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_repeated_transfer_is_identical(tmp_path: Path, method: str) -> None:
    first = run(tmp_path / "first", method)
    torch.rand(5)
    second = run(tmp_path / "second", method)
    assert first.content() == second.content()
    assert first.found == second.found


@pytest.mark.parametrize("method", METHODS)
def test_one_image_with_one_cell(tmp_path: Path, method: str) -> None:
    """All windows of a single cell are shares of it: finite, if they are not brought to the same length."""
    handle, regions = publish_explainer(tmp_path / "a", "raw"), publish_reference(tmp_path / "a")
    target = publish_maps(tmp_path / "a", np.arange(5.0).reshape(1, 5, 1, 1))
    transfer_to(tmp_path, method, handle, target, regions)
    state = load_explainer(tmp_path, "cpu")[0].state_dict()
    assert all(v.isfinite().all() for v in state.values())


@pytest.mark.parametrize("method", AFFINE)
def test_windows_that_are_all_alike(tmp_path: Path, method: str) -> None:
    handle, regions = publish_explainer(tmp_path / "a", "l2"), publish_reference(tmp_path / "a")
    target = publish_maps(tmp_path / "a", np.arange(5.0).reshape(1, 5, 1, 1))
    expected = f"transfer.method: found '{method}', but the 14 windows of the pictures are all alike; "
    with pytest.raises(UserError, match=re.escape(expected)):
        transfer_to(tmp_path, method, handle, target, regions)
    assert not (tmp_path / "explainer.safetensors").exists()


# ---------------------------------------------------------------- distillation


def test_distillation_without_a_head(tmp_path: Path) -> None:
    handle, regions = publish_explainer(tmp_path / "a", with_head=False), publish_reference(tmp_path / "a")
    with pytest.raises(UserError) as error:
        transfer_to(tmp_path, "distil_head", handle, publish_target(tmp_path / "a"), regions)
    assert str(error.value) == (
        "transfer.method: found 'distil_head', but the network does not end in one; "
        "allowed here: none, renormalise, align_covariance"
    )


def test_head_objective_vs_loops() -> None:
    head, _ = make_head()
    objective = HeadObjective(head, torch.from_numpy(VOCABULARY.matrix), 0.05)
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(4, CHANNELS, generator=generator)
    output = torch.nn.functional.normalize(torch.randn(4, DIMENSIONS, generator=generator), dim=1)
    words = objective.words_of(features)
    total = 0.0
    for feature, vector in zip(features.double().numpy(), output.double().numpy(), strict=True):
        logits = head.weight.double().numpy() @ (feature / np.linalg.norm(feature)) / 1.5
        p = np.exp(logits) / np.exp(logits).sum()
        named = p[:3].sum()
        said = {"word3": p[0], "word5": p[1], "word7": p[2] / 2, "word8": p[2] / 2}
        scores = VOCABULARY.matrix.astype(np.float64) @ vector / 0.05
        log_normaliser = math.log(sum(math.exp(s) for s in scores))
        for name, share in said.items():
            total -= share / named * (scores[VOCABULARY.words.index(name)] - log_normaliser)
    torch.testing.assert_close(words.sum(dim=1), torch.ones(4))
    assert float(objective(output, words)) == pytest.approx(total / 4, rel=1e-5)


def share_of_best(explainer: Explainer, rows: AnyArray, expected: list[int], candidates: list[int]) -> float:
    """How often the nearest of some words is the expected one."""
    matrix = torch.from_numpy(VOCABULARY.matrix[candidates])
    with torch.inference_mode():
        best = (explainer(torch.from_numpy(rows).float()) @ matrix.T).argmax(dim=1)
    return float(np.mean([candidates[b] == e for b, e in zip(best.tolist(), expected, strict=True)]))


def test_distillation_teaches_the_heads_words_and_forgets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_DISTIL_EPOCHS", 60)
    done = run(tmp_path, "distil_head")
    head, _ = make_head()
    windows = pool_by_loops(done.store, "l2")
    posterior = head.posterior(torch.from_numpy(windows).float())
    best = head.word_J[head.word_probabilities(posterior).argmax(dim=1)].tolist()
    learned = [share_of_best(e, windows, best, head.word_J.tolist()) for e in (done.before, done.after)]
    # word7 and word8 are equally probable, so that one of them is never the expected one.
    assert learned[0] < 0.5
    assert learned[1] > learned[0] + 0.2
    concept = np.load(done.regions.path("concept.npy"))
    known = np.isin(concept, [1, 3])
    rows, words = read_reference(done.regions, "l2")[known], [VOCABULARY.words.index(c) for c in SUPERVISED]
    expected = [words[(1, 3).index(c)] for c in concept[known]]
    assert share_of_best(done.after, rows, expected, words) > 0.9
    assert done.found["target_loss"] < done.found["target_loss_before"]
    assert done.found["reference_loss"] < done.found["reference_loss_before"]
    assert (done.found["num_windows"], done.found["num_distilled"], done.found["num_epochs"]) == (126, 126, 60)


def test_distillation_says_so_and_leaves_the_rest(tmp_path: Path) -> None:
    done = run(tmp_path, "distil_head")
    assert done.facts == replace(done.old_facts, uses_learned=True)
    assert done.after.adapter is None
    old, state = done.before.state_dict(), done.after.state_dict()
    same = {n for n in old if torch.equal(old[n], state[n])}
    assert same == {"categories.weight", "categories.bias"}


def test_reference_loss_vs_training(tmp_path: Path) -> None:
    """Mean over regions of supervised categories, weighted by 1 / regions of the picture."""
    done = run(tmp_path, "distil_head")
    concept, image = (np.load(done.regions.path(f"{n}.npy")) for n in ("concept", "image"))
    rows = read_reference(done.regions, "l2")
    for explainer, name in ((done.before, "reference_loss_before"), (done.after, "reference_loss")):
        total = weights = 0.0
        for row, c, picture in zip(rows, concept, image, strict=True):
            if CATEGORIES[c] not in SUPERVISED:
                continue
            with torch.inference_mode():
                vector = explainer(torch.from_numpy(row[None]).float())[0].double().numpy()
            scores = VOCABULARY.matrix.astype(np.float64) @ vector / 0.05
            loss = math.log(sum(math.exp(s) for s in scores)) - scores[VOCABULARY.words.index(CATEGORIES[c])]
            weight = 1 / sum(CATEGORIES[k] in SUPERVISED for k in concept[image == picture])
            total, weights = total + weight * loss, weights + weight
        assert done.found[name] == pytest.approx(total / weights, rel=1e-4)


def test_seed_and_shuffled_labels_give_another_network(tmp_path: Path) -> None:
    contents = [
        run(tmp_path / "plain", "distil_head").content(),
        run(tmp_path / "seed", "distil_head", seed=1).content(),
        run(tmp_path / "shuffled", "distil_head", shuffled_labels=True).content(),
    ]
    assert len(set(contents)) == 3


@pytest.mark.parametrize("shard_images", [1, 4, 100])
def test_windows_to_learn_from_are_drawn_once_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_images: int
) -> None:
    monkeypatch.setattr(transfer, "_DISTIL_WINDOWS", 50)
    done = run(tmp_path, "distil_head", shard_images=shard_images)
    assert (done.found["num_windows"], done.found["num_distilled"]) == (126, 50)
    windows = pool_by_loops(done.store, "l2")
    chosen = np.sort(np.random.default_rng([0, 8]).choice(126, 50, replace=False))
    parts = torch.from_numpy(windows).split(14 * shard_images)
    np.testing.assert_allclose(transfer._draw_windows(lambda: iter(parts), 126, 0), windows[chosen], atol=1e-12)


def test_windows_without_a_word_do_not_teach(tmp_path: Path) -> None:
    """A map of zeros has no direction."""
    handle, regions = publish_explainer(tmp_path / "a"), publish_reference(tmp_path / "a")
    maps = np.random.default_rng(0).uniform(size=(5, CHANNELS, 3, 3))
    maps[2:] = 0
    target = publish_maps(tmp_path / "a", maps)
    found = transfer_to(tmp_path, "distil_head", handle, target, regions)
    assert (found["num_windows"], found["num_distilled"]) == (70, 28)


def test_nothing_to_learn_from_leaves_the_network(tmp_path: Path) -> None:
    handle, regions = publish_explainer(tmp_path / "a"), publish_reference(tmp_path / "a")
    target = publish_maps(tmp_path / "a", np.zeros((2, CHANNELS, 3, 3)))
    found = transfer_to(tmp_path, "distil_head", handle, target, regions)
    assert (found["num_distilled"], found["num_epochs"]) == (0, 0)
    (before, _), (after, _) = load_explainer(handle.folder, "cpu"), load_explainer(tmp_path, "cpu")
    assert all(torch.equal(v, after.state_dict()[n]) for n, v in before.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_progress_is_complete(tmp_path: Path, method: str) -> None:
    totals, steps = [], []

    class Count:
        def advance(self, num: int = 1) -> None:
            steps.append(num)

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Count]:
        totals.append(total)
        yield Count()

    root = tmp_path / "a"
    handle, regions, target = publish_explainer(root), publish_reference(root), publish_target(root)
    transfer_to(tmp_path, method, handle, target, regions, Computing(progress=progress))
    assert sum(steps) == totals[0]


def test_a_new_method_is_one_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TRANSFERS, "_entries", dict(TRANSFERS._entries))

    def shift(fitting: Fitting) -> dict[str, Any]:
        own, other = fitting.measure(measure_variances)
        fitting.explainer.adapter = Adapter(torch.ones(len(own.mean)), (other.mean - own.mean).float())
        return {"moved": 1.0}

    TRANSFERS.register("shift")(TransferMethod(shift, passes=2))
    found = run(tmp_path, TransferSettings(method="shift").method)
    assert found.found["moved"] == 1.0
    assert found.after.adapter is not None
    assert found.before.adapter is None


def test_of_the_training_only_what_the_method_reads_is_stated(tmp_path: Path) -> None:
    root = tmp_path / "a"
    inputs = TransferInputs(
        method="renormalise",
        explainer=publish_explainer(root),
        activations=publish_target(root),
        regions=publish_reference(root),
        vocabulary=VOCABULARY,
        training=TRAINING,
        computing=Computing(),
    )
    hotter = TRAINING.model_copy(update={"temperature": TRAINING.temperature * 2})
    assert replace(inputs, training=hotter).request() == inputs.request()
    assert not {"temperature", "batch_images"} & set(inputs.request().settings)
    taught = replace(inputs, method="distil_head")
    assert replace(taught, training=hotter).request() != taught.request()
    longer = TRAINING.model_copy(update={"max_epochs": TRAINING.max_epochs + 1})
    assert replace(taught, training=longer).request() == taught.request()
