"""Meanings of a filter: groups made with known means, and the null's own properties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from storage.geometry import FloatArray
from tasks.meanings import (
    OTHER,
    Meaning,
    _cut_in_two,
    _draw_block,
    _draw_rotations,
    _find_components,
    find_meanings,
    summarise_meanings,
)
from tests.unit.tasks.helpers import AnyArray

DIMENSIONS = 50


def scatter(
    generator: np.random.Generator, sizes: Sequence[int], between: float, within: float, decay: float = 0.0
) -> FloatArray:
    """Unit vectors in groups: mean vectors with cosine `between`, members with cosines of about `within` in a group.

    With a decay, the noise lies mostly in a few random directions of each group.
    """
    axes, _ = np.linalg.qr(generator.standard_normal((DIMENSIONS, len(sizes) + 1)))
    parts = []
    for number, size in enumerate(sizes):
        centre = np.sqrt(between) * axes[:, -1] + np.sqrt(1 - between) * axes[:, number]
        spectrum = generator.permutation(np.exp(-decay * np.arange(DIMENSIONS)) + 0.01)
        noise = generator.standard_normal((size, DIMENSIONS)) * np.sqrt(spectrum / spectrum.sum())
        parts.append(centre + noise * np.sqrt(1 / within - 1))
    vectors = np.concatenate(parts)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def count_meanings(num: int, sizes: Sequence[int], between: float, within: float, decay: float) -> AnyArray:
    generator = np.random.default_rng(7)
    return np.array([find_meanings(scatter(generator, sizes, between, within, decay)).max() + 1 for _ in range(num)])


def same_partition(first: AnyArray, second: AnyArray) -> bool:
    return bool(((first[:, None] == first) == (second[:, None] == second)).all())


@pytest.mark.parametrize(("within", "decay"), [(0.5, 0.0), (0.7, 0.0), (0.9, 0.0), (0.7, 0.25), (0.9, 0.25)])
def test_one_scattered_group_is_one_meaning(within: float, decay: float) -> None:
    assert (count_meanings(60, [25], 0.0, within, decay) > 1).mean() <= 0.05


def test_one_group_is_cut_at_the_rate_of_alpha_whatever_its_covariance() -> None:
    """Without the limit on cosines; Gaussian, so the test is exact."""
    generator = np.random.default_rng(11)
    shape = np.exp(-np.arange(12) / 3) * 0.02
    far = np.zeros(12)
    far[0] = 1
    samples = [(far + generator.standard_normal((20, 12)) * shape).astype(np.float32) for _ in range(400)]
    cut = [find_meanings(s, 2, 0.0, 1, max_cosine=1.1, alpha=0.1).max() > 0 for s in samples]
    # A part of one region is a meaning here. 400 trials at 0.1 have a standard deviation of 0.015.
    assert 0.05 < np.mean(cut) < 0.15


@pytest.mark.parametrize("sizes", [[13, 12], [18, 7], [20, 5]])
@pytest.mark.parametrize(("between", "within", "decay"), [(0.0, 0.5, 0.0), (0.3, 0.5, 0.0), (0.5, 0.7, 0.25)])
def test_two_groups_are_found_with_their_members(sizes: list[int], between: float, within: float, decay: float) -> None:
    generator = np.random.default_rng(5)
    truth = np.repeat([0, 1], sizes)
    found = 0
    for _ in range(20):
        order = generator.permutation(25)
        labels = find_meanings(scatter(generator, sizes, between, within, decay)[order])
        found += labels.max() == 1 and (labels != truth[order]).sum() <= 1
    assert found >= 18


@pytest.mark.parametrize("sizes", [[9, 8, 8], [12, 8, 5]])
def test_three_groups_need_room_for_three(sizes: list[int]) -> None:
    vectors = scatter(np.random.default_rng(2), sizes, 0.2, 0.8)
    truth = np.repeat([0, 1, 2], sizes)
    np.testing.assert_array_equal(np.bincount(find_meanings(vectors)), sizes)
    assert same_partition(find_meanings(vectors), truth)
    assert find_meanings(vectors, max_meanings=2).max() == 1
    assert not find_meanings(vectors, max_meanings=1).any()


def test_labels_go_by_size_and_equal_sizes_by_the_first_region() -> None:
    vectors = scatter(np.random.default_rng(3), [6, 13, 6], 0.0, 0.9)
    np.testing.assert_array_equal(find_meanings(vectors), np.repeat([1, 0, 2], [6, 13, 6]))


def test_order_of_the_vectors_does_not_matter_and_runs_repeat() -> None:
    generator = np.random.default_rng(4)
    for _ in range(5):
        vectors = scatter(generator, [14, 11], 0.4, 0.6, 0.25)
        labels = find_meanings(vectors)
        _draw_block.cache_clear()
        np.testing.assert_array_equal(labels, find_meanings(vectors))
        order = generator.permutation(25)
        assert same_partition(labels[order], find_meanings(vectors[order]))
        np.testing.assert_array_equal(labels, find_meanings(vectors * np.float32(3)))


def test_a_small_group_that_stands_out_is_no_meaning() -> None:
    vectors = scatter(np.random.default_rng(6), [23, 2], 0.0, 0.95)
    np.testing.assert_array_equal(find_meanings(vectors), np.repeat([0, OTHER], [23, 2]))
    assert find_meanings(vectors, min_share=0.0, min_images=2).max() == 1


def test_a_small_group_that_stands_out_does_not_hide_two_meanings() -> None:
    vectors = scatter(np.random.default_rng(6), [12, 11, 2], 0.0, 0.95)
    np.testing.assert_array_equal(find_meanings(vectors), np.repeat([0, 1, OTHER], [12, 11, 2]))


def test_share_and_number_of_images_both_limit() -> None:
    vectors = scatter(np.random.default_rng(8), [20, 5], 0.0, 0.95)
    for settings in ({"min_share": 0.2}, {"min_images": 5}):
        assert find_meanings(vectors, **settings).max() == 1
    for settings in ({"min_share": 0.21}, {"min_images": 6}):
        np.testing.assert_array_equal(find_meanings(vectors, **settings), np.repeat([0, OTHER], [20, 5]))


def test_groups_with_like_means_are_one_meaning() -> None:
    vectors = scatter(np.random.default_rng(9), [13, 12], 0.8, 0.98)
    assert not find_meanings(vectors).any()
    assert same_partition(find_meanings(vectors, max_cosine=0.9), np.repeat([0, 1], [13, 12]))


@pytest.mark.parametrize("num", [0, 1, 2, 5])
def test_too_few_for_two_meanings_are_one(num: int) -> None:
    vectors = np.eye(DIMENSIONS, dtype=np.float32)[:num]
    labels = find_meanings(vectors)
    assert labels.dtype == np.int64
    assert labels.shape == (num,)
    assert not labels.any()


def test_vectors_without_noise() -> None:
    same = np.tile(np.eye(DIMENSIONS, dtype=np.float32)[:1], (25, 1))
    assert not find_meanings(same).any()
    opposite = np.eye(DIMENSIONS, dtype=np.float32)[np.repeat([0, 1], [10, 15])]
    np.testing.assert_array_equal(find_meanings(opposite), np.repeat([1, 0], [10, 15]))
    assert not find_meanings(np.zeros((25, DIMENSIONS), np.float32)).any()


@pytest.mark.parametrize(
    ("vectors", "settings"),
    [
        (np.full((9, 3), np.nan), {}),
        (np.zeros(9), {}),
        (np.eye(9), {"max_meanings": 0}),
        (np.eye(9), {"min_images": 0}),
        (np.eye(9), {"min_share": 1.5}),
        (np.eye(9), {"alpha": 0.001}),
        (np.eye(9), {"alpha": 1.0}),
    ],
)
def test_what_makes_no_sense_is_refused(vectors: AnyArray, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="to be"):
        find_meanings(vectors, **settings)  # type: ignore[arg-type]


def test_summary_has_shares_of_all_regions() -> None:
    meanings = summarise_meanings(np.array([1, 0, OTHER, 0, 1, 0, 0, OTHER]))
    assert [m.share for m in meanings] == [0.5, 0.25]
    assert [m.members.tolist() for m in meanings] == [[1, 3, 5, 6], [0, 4]]
    assert isinstance(meanings[0], Meaning)
    assert summarise_meanings(np.zeros(0, np.int64)) == []


def test_rotations_are_centred_orthonormal_and_uniform() -> None:
    blocks = list(_draw_rotations(9, 0))
    rotations = np.concatenate(blocks)
    assert rotations.shape == (499, 9, 8)
    np.testing.assert_allclose(rotations.sum(axis=1), 0, atol=1e-5)
    products = rotations.transpose(0, 2, 1) @ rotations
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(8), products.shape), atol=1e-5)
    # Columns have length 1, and no row is special.
    np.testing.assert_allclose(rotations.mean(axis=0), 0, atol=5 / np.sqrt(9 * 499))
    np.testing.assert_allclose((rotations**2).mean(axis=0), 1 / 9, atol=0.04)
    assert not np.array_equal(rotations, np.concatenate(list(_draw_rotations(9, 1))))


def test_cut_explains_what_its_parts_say_and_nearly_the_most_there_is() -> None:
    generator = np.random.default_rng(10)
    for _ in range(20):
        scores, scales = _find_components(generator.standard_normal((9, 4)))
        points = scores * scales
        explained, cut = (a[0] for a in _cut_in_two(points[None]))
        between = sum(part.sum() * (points[part].mean(axis=0) ** 2).sum() for part in (cut, ~cut))
        assert explained == pytest.approx(between, rel=1e-4)
        best = 0.0
        for bits in range(1, 2**8):
            mask = (bits >> np.arange(9)) & 1 == 1
            best = max(best, sum(p.sum() * (points[p].mean(axis=0) ** 2).sum() for p in (mask, ~mask)))
        assert 0.75 * best <= explained <= best * 1.0001


def test_components_have_the_geometry_of_the_rows_of_the_centred_cosines() -> None:
    vectors = np.random.default_rng(12).standard_normal((7, 20))
    centred = vectors - vectors.mean(axis=0)
    rows = centred @ centred.T
    scores, scales = _find_components(vectors)
    points = scores * scales
    expected = ((rows[:, None] - rows) ** 2).sum(axis=2)
    found = ((points[:, None] - points) ** 2).sum(axis=2)
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), atol=1e-4)
