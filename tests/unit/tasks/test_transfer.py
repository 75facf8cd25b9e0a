"""Renormalisation: windows and statistics against brute force; the weights stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from storage.activations import ActivationStore
from storage.artefacts import Handle
from tasks.explainer import Explainer, ExplainerFacts, load_explainer, save_explainer
from tasks.transfer import make_windows, renormalise_explainer
from tests.unit.tasks.helpers import AnyArray, publish, write_store

STATISTICS = ("running_mean", "running_var")


def windows_by_loops(height: int, width: int) -> list[AnyArray]:
    """Whole map, quarters, ninths; each cell by the share of it that the window covers."""
    windows = []
    for parts in (1, 2, 3):
        for row in range(parts):
            for column in range(parts):
                window = np.zeros((height, width))
                for y in range(height):
                    for x in range(width):
                        high = min((row + 1) * height / parts, y + 1) - max(row * height / parts, y)
                        wide = min((column + 1) * width / parts, x + 1) - max(column * width / parts, x)
                        window[y, x] = max(high, 0) * max(wide, 0)
                windows.append(window)
    return windows


@pytest.mark.parametrize(("height", "width"), [(7, 7), (6, 4), (1, 1), (2, 5)])
def test_windows_vs_loops(height: int, width: int) -> None:
    found = make_windows(height, width)
    np.testing.assert_allclose(found.reshape(-1, height, width), windows_by_loops(height, width), atol=1e-6)
    assert found.max() <= 1
    for first, last in ((0, 1), (1, 5), (5, 14)):
        np.testing.assert_allclose(found[first:last].sum(axis=0), 1, atol=1e-6)


def publish_explainer(root: Path, how: str, seed: int = 0) -> Handle:
    def fill(folder: Path) -> None:
        torch.manual_seed(seed)
        explainer = Explainer(5, 3, 0.1)
        explainer.train()
        explainer(torch.randn(30, 5) * 2 + 1)
        save_explainer(explainer, ExplainerFacts(5, 3, 0.1, how, "cosine", ("cat",), (), {}), folder)

    return publish(root, "train", fill)


def make_store(folder: Path, shard_images: int) -> ActivationStore:
    maps = np.random.default_rng(3).normal(size=(9, 5, 4, 7))
    maps[:, 0] = np.maximum(maps[:, 0], 0)
    maps[:, 1] = 0
    maps[:, 2] = 3
    return write_store(folder, maps, shard_images)


def pool_by_loops(store: ActivationStore, how: str) -> AnyArray:
    rows = []
    for maps in store.read_images(range(store.shape[0])).astype(np.float64):
        for window in windows_by_loops(*store.shape[2:]):
            row = np.array([(channel * window).sum() / window.size for channel in maps])
            rows.append(row / np.linalg.norm(row) if how == "l2" else row)
    return np.array(rows)


@pytest.mark.parametrize("how", ["raw", "l2"])
def test_statistics_vs_brute_force(tmp_path: Path, how: str) -> None:
    handle, store = publish_explainer(tmp_path / "a", how), make_store(tmp_path / "s", 4)
    before, _ = load_explainer(handle.folder, "cpu")
    facts = renormalise_explainer(handle, store, "cpu", tmp_path)
    after, _ = load_explainer(tmp_path, "cpu")
    rows = pool_by_loops(store, how)
    state = after.state_dict()
    np.testing.assert_allclose(state["norm1.running_mean"], rows.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(state["norm1.running_var"], rows.var(axis=0, ddof=1), rtol=1e-4, atol=1e-7)
    with torch.inference_mode():
        # What the second normalisation sees, with the first one already fitted.
        hidden = after.hidden(torch.from_numpy(rows).float()).double().numpy()
    np.testing.assert_allclose(state["norm2.running_mean"], hidden.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(state["norm2.running_var"], hidden.var(axis=0, ddof=1), rtol=1e-3, atol=1e-6)
    old = before.state_dict()
    moved = np.abs(rows.mean(axis=0) - old["norm1.running_mean"].numpy())
    spread = np.sqrt(old["norm1.running_var"].numpy() + before.norm1.eps)
    assert facts["num_windows"] == 9 * 14 == len(rows)
    assert facts["shift"] == pytest.approx((moved / spread).mean(), rel=1e-4)


def test_weights_stay_and_statistics_move(tmp_path: Path) -> None:
    handle = publish_explainer(tmp_path / "a", "l2")
    renormalise_explainer(handle, make_store(tmp_path / "s", 4), "cpu", tmp_path)
    (before, facts), (after, kept) = load_explainer(handle.folder, "cpu"), load_explainer(tmp_path, "cpu")
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]) == (not name.endswith(STATISTICS)), name
    assert kept == facts


def test_statistics_do_not_depend_on_shards(tmp_path: Path) -> None:
    handle = publish_explainer(tmp_path / "a", "l2")
    states = []
    for shard_images in (1, 4, 100):
        folder = tmp_path / f"out{shard_images}"
        folder.mkdir()
        renormalise_explainer(handle, make_store(tmp_path / f"s{shard_images}", shard_images), "cpu", folder)
        states.append(load_explainer(folder, "cpu")[0].state_dict())
    for other in states[1:]:
        for name, tensor in states[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-6)


def test_repeated_renormalisation_is_identical(tmp_path: Path) -> None:
    handle, store = publish_explainer(tmp_path / "a", "l2"), make_store(tmp_path / "s", 4)
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        renormalise_explainer(handle, store, "cpu", tmp_path / name)
        contents.append((tmp_path / name / "explainer.safetensors").read_bytes())
    assert contents[0] == contents[1]


def test_one_image_with_one_cell(tmp_path: Path) -> None:
    """All windows of a single cell are shares of it: finite, and the variance is that of the shares."""
    handle = publish_explainer(tmp_path / "a", "raw")
    store = write_store(tmp_path / "s", np.arange(5.0).reshape(1, 5, 1, 1))
    renormalise_explainer(handle, store, "cpu", tmp_path)
    state = load_explainer(tmp_path, "cpu")[0].state_dict()
    shares = np.array([1.0, *[1 / 4] * 4, *[1 / 9] * 9])
    np.testing.assert_allclose(state["norm1.running_mean"], shares.mean() * np.arange(5), rtol=1e-5)
    np.testing.assert_allclose(state["norm1.running_var"], shares.var(ddof=1) * np.arange(5) ** 2, rtol=1e-4)
