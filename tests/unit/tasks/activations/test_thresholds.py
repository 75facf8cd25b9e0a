"""Thresholds against sorting all activations."""

from __future__ import annotations

import math
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lavise.storage.activations import ActivationStore
from lavise.tasks.activations.thresholds import bin_edges, compute_thresholds, count_high_bytes, find_rank, sum_counts
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.numerics.float16_bits import order_bits
from tests.unit.tasks.halves import FINITE
from tests.unit.tasks.helpers import AnyArray, write_store

QUANTILE = 0.995


def test_bin_edges_are_the_lowest_values_of_the_bins() -> None:
    edges = bin_edges()
    high = order_bits(FINITE) >> 8
    for b in np.unique(high):
        assert edges[b] == FINITE[high == b].astype(np.float32).min() or not np.isfinite(edges[b])
    assert np.isfinite(edges).sum() >= 245


@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(0, 5)).filter(
        lambda counts: bool((counts.sum(axis=1) > 0).all())
    ),
    st.data(),
)
def test_find_rank_vs_sorted_entries(counts: npt.NDArray[np.int64], data: st.DataObject) -> None:
    rank = np.array([data.draw(st.integers(1, int(n))) for n in counts.sum(axis=1)])
    found, inside = find_rank(counts, rank)
    for row, row_rank in enumerate(rank):
        falling = [b for b in reversed(range(counts.shape[1])) for _ in range(counts[row, b])]
        expected = falling[row_rank - 1]
        assert found[row] == expected
        assert inside[row] == row_rank - sum(b > expected for b in falling)


def threshold_by_sorting(values: AnyArray, quantile: float) -> tuple[float, bool]:
    """T_u by a full sort: the floor((1 - q) n)-th largest; at a clip the next smaller float16."""
    falling = np.sort(values.astype(np.float64).ravel())[::-1]
    rank = max(math.floor((1 - Fraction(str(quantile))) * len(falling)), 1)
    value = falling[rank - 1]
    at_maximum = int((falling == falling[0]).sum())
    if value == falling[0] and rank <= at_maximum < len(falling):
        return float(np.nextafter(np.float16(value), np.float16(-np.inf))), True
    return float(value), False


def assert_thresholds(store: ActivationStore, maps: AnyArray, quantile: float, cluster: StatisticsCluster) -> None:
    found = compute_thresholds(store, quantile, cluster)
    expected = [threshold_by_sorting(maps[:, u].astype(np.float16), quantile) for u in range(maps.shape[1])]
    np.testing.assert_array_equal(found.value, [value for value, _ in expected])
    np.testing.assert_array_equal(found.saturated, [clipped for _, clipped in expected])


def make_maps(num: int = 10, side: int = 9, seed: int = 0) -> AnyArray:
    """Eight filters: signed, rectified, zero, constant, clipped at 6, small, huge, all negative."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(num, 8, side, side))
    maps[:, 1] = np.maximum(maps[:, 1], 0)
    maps[:, 2] = 0
    maps[:, 3] = -1.5
    maps[:, 4] = np.clip(maps[:, 4] * 5, 0, 6)
    maps[:, 5] *= 1e-6
    maps[:, 6] *= 2e4
    maps[:, 7] = -np.abs(maps[:, 7]) - 0.1
    return np.clip(maps, -65000, 65000).astype(np.float16)


@pytest.mark.parametrize("quantile", [0.995, 0.99, 0.9, 0.75])
def test_thresholds_vs_full_sort(tmp_path: Path, cluster: StatisticsCluster, quantile: float) -> None:
    maps = make_maps()
    assert_thresholds(write_store(tmp_path / "s", maps), maps, quantile, cluster)


@pytest.mark.parametrize(("quantile", "side", "num"), [(0.995, 10, 10), (0.99, 10, 3), (0.9, 5, 4)])
def test_thresholds_at_whole_ranks(
    tmp_path: Path, cluster: StatisticsCluster, quantile: float, side: int, num: int
) -> None:
    """(1 - q) n is a whole number here, where floating point would come out one short."""
    maps = np.random.default_rng(3).permutation(num * side * side).reshape(num, 1, side, side).astype(np.float16)
    found = compute_thresholds(write_store(tmp_path / "s", maps), quantile, cluster)
    rank = (1 - Fraction(str(quantile))) * num * side * side
    assert rank.denominator == 1
    assert found.value[0] == num * side * side - int(rank)


def test_share_above_threshold_is_what_was_asked(tmp_path: Path, cluster: StatisticsCluster) -> None:
    maps = np.random.default_rng(5).normal(size=(20, 3, 20, 20)).astype(np.float16)
    found = compute_thresholds(write_store(tmp_path / "s", maps), QUANTILE, cluster)
    share = (maps.astype(np.float32) > found.value[None, :, None, None]).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(share, 0.005, atol=0.001)


def test_threshold_of_zero_constant_and_clipped_filters(tmp_path: Path, cluster: StatisticsCluster) -> None:
    maps = make_maps()
    found = compute_thresholds(write_store(tmp_path / "s", maps), QUANTILE, cluster)
    assert found.value[2] == 0
    assert found.value[3] == -1.5
    assert found.value[4] == np.nextafter(np.float16(6), np.float16(0))
    np.testing.assert_array_equal(np.flatnonzero(found.saturated), [4])
    above = maps.astype(np.float32) > found.value[None, :, None, None]
    assert not above[:, [2, 3]].any()
    np.testing.assert_array_equal(above[:, 4], maps[:, 4] == 6)


def test_a_clip_that_holds_less_than_the_share_is_not_saturated(tmp_path: Path, cluster: StatisticsCluster) -> None:
    maps = np.random.default_rng(1).random((10, 1, 10, 10)).astype(np.float16)
    maps[0, 0, 0, :3] = 6
    found = compute_thresholds(write_store(tmp_path / "s", maps), QUANTILE, cluster)
    assert not found.saturated[0]
    assert found.value[0] == threshold_by_sorting(maps, QUANTILE)[0] < 6


def test_one_more_than_the_share_at_the_clip_is_saturated(tmp_path: Path, cluster: StatisticsCluster) -> None:
    maps = np.random.default_rng(1).random((10, 1, 10, 10)).astype(np.float16)
    maps[0, 0, 0, :6] = 6
    found = compute_thresholds(write_store(tmp_path / "s", maps), QUANTILE, cluster)
    assert found.saturated.tolist() == [True]
    assert found.value[0] == np.nextafter(np.float16(6), np.float16(0))


def test_zeros_of_both_signs_are_one_value(tmp_path: Path, cluster: StatisticsCluster) -> None:
    """A dead signed filter underflows to +0 and -0 in float16: it is constant, and has no region."""
    maps = np.zeros((10, 2, 10, 10), np.float16)
    maps[:, 0, ::2] = np.float16(-0.0)
    maps[:, 1] = -np.float16(1)
    maps[:5, 1, :, :5] = np.float16(-0.0)
    maps[0, 1, 0, :2] = np.float16(0)
    found = compute_thresholds(write_store(tmp_path / "s", maps), QUANTILE, cluster)
    np.testing.assert_array_equal(found.saturated, [False, True])
    np.testing.assert_array_equal(found.value, [0, np.nextafter(np.float16(0), np.float16(-1))])


def test_region_of_one_image_of_few_cells_is_its_maximum(tmp_path: Path, cluster: StatisticsCluster) -> None:
    maps = np.random.default_rng(2).normal(size=(1, 3, 4, 4)).astype(np.float16)
    found = compute_thresholds(write_store(tmp_path / "s", maps), QUANTILE, cluster)
    above = maps.astype(np.float32) > found.value[:, None, None]
    np.testing.assert_array_equal(above, maps == maps.max(axis=(2, 3), keepdims=True))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    maps=hnp.arrays(
        np.float16,
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
        # Few different values, so that there are many ties and clips. One zero only: see the test of both zeros.
        elements=st.one_of(
            st.sampled_from([-2.0, 0.0, 1.0, 6.0]), st.floats(width=16, min_value=0.25, max_value=60000)
        ),
    ),
    quantile=st.sampled_from([0.51, 0.6, 0.9, 0.995]),
)
def test_thresholds_vs_full_sort_on_any_maps(cluster: StatisticsCluster, maps: AnyArray, quantile: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_thresholds(write_store(Path(folder), maps, shard_images=2), maps, quantile, cluster)


def test_more_filters_than_a_block(tmp_path: Path, cluster: StatisticsCluster) -> None:
    maps = np.random.default_rng(4).normal(size=(3, 131, 5, 5)).astype(np.float16)
    assert_thresholds(write_store(tmp_path / "s", maps), maps, 0.9, cluster)


def test_histogram_counts_every_activation(tmp_path: Path, cluster: StatisticsCluster) -> None:
    maps = make_maps()
    store = write_store(tmp_path / "s", maps)
    found = compute_thresholds(store, QUANTILE, cluster)
    edges = bin_edges()
    for u in range(maps.shape[1]):
        values = np.sort(maps[:, u].astype(np.float32).ravel())
        bins = np.flatnonzero(found.histogram[u])
        assert found.histogram[u].sum() == values.size
        assert (edges[bins] <= values[np.cumsum(found.histogram[u][bins]) - 1]).all()
    parts = [count_high_bytes(store.shard_path(s)) for s in range(store.num_shards)]
    np.testing.assert_array_equal(sum_counts(parts), found.histogram)


@pytest.mark.parametrize("shard_images", [1, 3, 100])
def test_thresholds_do_not_depend_on_shards(tmp_path: Path, cluster: StatisticsCluster, shard_images: int) -> None:
    maps = make_maps()
    assert_thresholds(write_store(tmp_path / "s", maps, shard_images), maps, QUANTILE, cluster)
