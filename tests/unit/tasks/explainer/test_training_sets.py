"""Batches against the rule written as loops over pictures, and features that are copied block by block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lavise.tasks.explainer import training_sets
from lavise.tasks.explainer.network import scale_features
from lavise.tasks.explainer.training_sets import TrainingSet, copy_features


def training_set(counts: list[int]) -> TrainingSet:
    first = np.concatenate([[0], np.cumsum(counts)])
    num = int(first[-1])
    return TrainingSet(
        torch.zeros(num, 2), torch.zeros(num, dtype=torch.int64), torch.ones(num), torch.from_numpy(first)
    )


def list_regions(data: TrainingSet, images: list[int]) -> list[int]:
    return [r for i in images for r in range(int(data.first_I[i]), int(data.first_I[i + 1]))]


def batch_by_loops(data: TrainingSet, batch_images: int, shuffle: torch.Generator | None) -> Iterator[list[int]]:
    """Picture by picture; a batch of one region waits for the next, and none leaves a single region behind."""
    order = (
        torch.randperm(data.num_images, generator=shuffle) if shuffle is not None else torch.arange(data.num_images)
    ).tolist()
    waiting: list[int] = []
    for start in range(0, len(order), batch_images):
        waiting += order[start : start + batch_images]
        rest = order[start + batch_images :]
        left = sum(int(data.first_I[i + 1] - data.first_I[i]) for i in rest[:2])
        chosen = list_regions(data, waiting)
        if len(chosen) < 2 or left == 1:
            continue
        yield chosen
        waiting = []
    if waiting:
        yield list_regions(data, waiting)


@pytest.mark.parametrize("counts", [[1, 1], [1, 1, 1], [2, 1], [1, 2, 1], [1, 5, 1, 1, 1], [3] * 7, [1] * 9])
@pytest.mark.parametrize("batch_images", [1, 2, 3, 4, 50])
def test_batches_hold_every_region_once_and_never_one_alone(counts: list[int], batch_images: int) -> None:
    data = training_set(counts)
    image_of = np.repeat(np.arange(len(counts)), counts)
    for seed in range(12):
        batches = [b.tolist() for b in data.batch(batch_images, torch.Generator().manual_seed(seed))]
        assert sorted(r for b in batches for r in b) == list(range(sum(counts)))
        assert min(len(b) for b in batches) >= 2
        pictures = [set(image_of[b].tolist()) for b in batches]
        assert sum(len(p) for p in pictures) == len(counts)


@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    batch_images=st.integers(1, 12),
    seed=st.none() | st.integers(0, 99),
)
def test_batches_are_those_of_the_loops_in_their_order(counts: list[int], batch_images: int, seed: int | None) -> None:
    data = training_set(counts)
    found, expected = (
        [list(map(int, batch)) for batch in make(None if seed is None else torch.Generator().manual_seed(seed))]
        for make in (lambda g: data.batch(batch_images, g), lambda g: batch_by_loops(data, batch_images, g))
    )
    assert found == expected
    assert len(data.batch(batch_images, None)) == len(list(batch_by_loops(data, batch_images, None)))


def test_regions_of_pictures_follow_each_other_as_asked_for() -> None:
    data = training_set([3, 1, 2])
    assert data.regions_of([2, 0, 2]).tolist() == [4, 5, 0, 1, 2, 4, 5]
    assert data.regions_of([]).tolist() == []


def test_one_held_out_region_is_a_batch_of_its_own() -> None:
    assert [b.tolist() for b in training_set([1]).batch(4, None)] == [[0]]


@pytest.mark.parametrize("how", ["l2", "raw"])
@pytest.mark.parametrize("num", [1, 7, 8, 9, 17])
def test_features_are_copied_to_the_bit_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, num: int
) -> None:
    monkeypatch.setattr(training_sets, "_BLOCK_ROWS", 8)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "features.npy", rng.normal(size=(40, 33)).astype(np.float32))
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    chosen = np.sort(rng.permutation(40)[:num])
    found = copy_features(features, chosen, how, "cpu")
    assert torch.equal(found, scale_features(torch.from_numpy(features[chosen]), how))
