"""Exact correlations of filters of two audits, over all positions of the pictures in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.configs.errors import UserError
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.history import filter_matching
from lavise.tasks.history.filter_matching import (
    PairMoments,
    align_images,
    bootstrap_similarity,
    correlate,
    sum_per_image,
)
from tests.unit.tasks.helpers import AnyArray, write_store
from tests.unit.tasks.history.compared_layers import (
    HALF,
    by_position,
    compare,
    correlate_with_numpy,
    make_layer,
    make_maps,
    moments_of,
)


@pytest.mark.parametrize("offset", [0, 30])
def test_correlation_is_numpys_over_all_positions(tmp_path: Path, offset: float) -> None:
    """Shards of other sizes, the pictures in another order, and on either side a picture that the other lacks."""
    old = make_maps(37, 6).astype(np.float64) + offset
    new = 0.6 * old[:, [3, 1, 5, 0]] + make_maps(37, 4, seed=1)
    names = [f"{i:03d}.png" for i in range(37)]
    order = np.random.default_rng(2).permutation(37)
    order = order[order != 11]
    first = write_store(tmp_path / "old", old[:36], shard_images=5, keys=names[:36])
    second = write_store(tmp_path / "new", new[order], shard_images=16, keys=[names[i] for i in order])
    shared = [i for i in range(36) if i != 11]
    blocks = align_images(first, second)
    assert [first.keys[i] for b in blocks for i in b.old_images] == [names[i] for i in shared]
    assert [second.keys[i] for b in blocks for i in b.new_images] == [names[i] for i in shared]
    moments = moments_of(first, second)
    assert moments.count == 35 * 25
    np.testing.assert_allclose(correlate(moments), correlate_with_numpy(old[shared], new[shared]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_images", [1, 2, 16, 17, 33, 100])
def test_every_picture_is_in_one_block(tmp_path: Path, num_images: int) -> None:
    store = write_store(tmp_path / "maps", np.ones((num_images, 1, 1, 1)), shard_images=64)
    blocks = align_images(store, store)
    assert [i for b in blocks for i in b.old_images] == list(range(num_images))
    assert 1 <= len(blocks) <= 16
    assert all(b.old_images for b in blocks)


def test_reading_a_few_pictures_at_a_time_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = make_maps(40, 3), make_maps(40, 4, seed=1)
    first, second = write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)
    pairs = (np.array([0, 2]), np.array([3, 0]))
    (block, *_) = align_images(first, second)
    whole = sum_per_image(pairs, block)
    monkeypatch.setattr(filter_matching, "_BLOCK_VALUES", 2 * 4 * 25)
    assert len(list(filter_matching._read_positions(block))) == 2
    np.testing.assert_array_equal(sum_per_image(pairs, block), whole)
    np.testing.assert_allclose(correlate(moments_of(first, second)), correlate_with_numpy(old, new), rtol=0, atol=1e-12)


def test_constant_filter_has_no_correlation_but_with_another_one(tmp_path: Path) -> None:
    """Constants whose sums round, over several blocks; one that differs at a single position is none."""
    old = make_maps(33, 4).astype(np.float64)
    old[:, 1], old[:, 2] = 0.3, 0
    new = make_maps(33, 4, seed=1).astype(np.float64)
    new[:, 0], new[:, 3] = -7.7, 0.3
    new[:, 1] = 0.3
    new[32, 1, 4, 4] = np.nextafter(HALF(0.3), HALF(1))
    found = correlate(moments_of(write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)))
    assert found[1].tolist() == found[2].tolist() == [1, 0, 0, 1]
    assert found[0, [0, 3]].tolist() == found[3, [0, 3]].tolist() == [0, 0]
    assert found[0, 1] == pytest.approx(np.corrcoef(by_position(old)[0], by_position(new)[1])[0, 1], abs=1e-6)
    assert found[0, 1] != 0


def test_constant_filter_is_known_by_its_range_and_not_by_rounded_sums() -> None:
    """A thousand times 0.1: the sums round, and would leave a spread where there is none."""
    x, y = np.full(1000, 0.1), np.random.default_rng(0).normal(size=1000)
    values = np.stack([x, y], axis=1)
    total, squared = (np.array([sum(column.tolist()) for column in m.T]) for m in (values, values**2))
    assert 1000 * squared[0] > total[0] ** 2
    extremes = np.stack([-values.min(axis=0), values.max(axis=0)])
    moments = PairMoments(1000, total, total, squared, squared, values.T @ values, extremes, extremes)
    assert correlate(moments).tolist() == [[1, 0], [0, 1]]
    images = values.reshape(20, 50, 2)
    sums = np.stack([_sum_pair(images[..., u], images[..., v]) for u, v in ((0, 0), (0, 1), (1, 0))], axis=2)
    constant = np.array([[True, True, False], [True, False, True]])
    low, high = bootstrap_similarity(sums, constant, 50, 100, seed=0)
    assert low.tolist() == high.tolist() == [1, 0, 0]


def _sum_pair(x: AnyArray, y: AnyArray) -> AnyArray:
    return np.stack([values.cumsum(axis=1)[:, -1] for values in (x, y, x * x, y * y, x * y)])


def test_negated_filter_has_the_lowest_correlation(tmp_path: Path) -> None:
    """However the sums of numbers of all sizes round."""
    maps = make_maps(8, 40) * 10 ** np.random.default_rng(2).uniform(-4, 3, size=(8, 40, 5, 5))
    found = correlate(moments_of(write_store(tmp_path / "old", maps), write_store(tmp_path / "new", -maps)))
    assert np.diag(found) == pytest.approx(-1, abs=1e-12)
    assert found.min() >= -1


@pytest.mark.parametrize("seed", range(4))
def test_what_does_the_same_has_a_correlation_of_just_one(tmp_path: Path, seed: int) -> None:
    scale, offset = ((1, 0), (0.01, 3), (100, 0), (1, 50))[seed]
    maps = (np.random.default_rng(seed).normal(size=(37, 20, 5, 7)) * scale + offset).astype(HALF)
    first = write_store(tmp_path / "old", maps, shard_images=7)
    second = write_store(tmp_path / "new", maps, shard_images=64)
    assert np.diag(correlate(moments_of(first, second))).tolist() == [1.0] * 20


def mean_of_cells(map_hw: AnyArray, height: int, width: int) -> AnyArray:
    """Area mean by loops: each finer cell counts by its overlap with the coarser one."""
    found = np.zeros((height, width))
    h, w = map_hw.shape
    for i in range(height):
        for j in range(width):
            area = 0.0
            for y in range(h):
                for x in range(w):
                    tall = max(min((i + 1) / height, (y + 1) / h) - max(i / height, y / h), 0)
                    wide = max(min((j + 1) / width, (x + 1) / w) - max(j / width, x / w), 0)
                    found[i, j] += tall * wide * float(map_hw[y, x])
                    area += tall * wide
            found[i, j] /= area
    return found


@pytest.mark.parametrize(
    ("old_grid", "new_grid"), [((6, 8), (3, 4)), ((3, 4), (6, 8)), ((7, 5), (5, 3)), ((7, 3), (4, 5)), ((1, 1), (3, 2))]
)
def test_other_grids_are_compared_on_the_coarser_one(
    tmp_path: Path, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    old, new = (rng.normal(size=(6, 3, *grid)).astype(HALF) for grid in (old_grid, new_grid))
    grid = (min(old_grid[0], new_grid[0]), min(old_grid[1], new_grid[1]))
    coarse = [np.array([[mean_of_cells(c, *grid) for c in image] for image in maps]) for maps in (old, new)]
    first_CP, second_CP = (m.transpose(1, 0, 2, 3).reshape(3, -1) for m in coarse)
    expected = np.corrcoef(first_CP, second_CP)[:3, 3:]
    first, second = write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)
    moments = moments_of(first, second)
    assert moments.count == 6 * grid[0] * grid[1]
    # The weights of the mean are of single precision.
    np.testing.assert_allclose(correlate(moments), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("fine", "coarse"), [(5, 4), (10, 7), (14, 13), (14, 7)])
def test_constant_filter_stays_constant_on_a_coarser_grid(tmp_path: Path, fine: int, coarse: int) -> None:
    old, new = make_maps(5, 2, side=fine).astype(np.float64), make_maps(5, 2, seed=1, side=coarse).astype(np.float64)
    old[:, 1] = 0.3
    new[:, 1] = 0.7
    found = correlate(moments_of(write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)))
    assert (found[1, 1], found[0, 1], found[1, 0]) == (1, 0, 0)


def test_no_picture_in_common_is_the_users_mistake(tmp_path: Path, cluster: StatisticsCluster) -> None:
    first = write_store(tmp_path / "old", make_maps(3, 2))
    second = write_store(tmp_path / "new", make_maps(3, 2), keys=["a.png", "b.png", "c.png"])
    with pytest.raises(
        UserError,
        match=r"^diff: the two audits have no picture in common; compare audits of the same target pictures$",
    ):
        compare(tmp_path / "diff", make_layer(first), make_layer(second), cluster)
    assert list((tmp_path / "diff").iterdir()) == []
