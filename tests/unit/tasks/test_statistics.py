"""Thresholds, pooled regions and overlaps against slow references written from METHOD.md."""

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

from storage.activations import ActivationStore
from storage.datasets.base import Annotation, Dataset, ImageRecord
from storage.geometry import Geometry
from tasks.cluster import StatisticsCluster
from tasks.statistics import (
    AnnotatedShard,
    Overlaps,
    annotate_shards,
    bin_edges,
    compute_thresholds,
    count_high_bytes,
    count_overlaps,
    find_rank,
    load_overlaps,
    order_bits,
    pool_regions,
    pool_regions_of_shard,
    restore_bits,
    save_overlaps,
    sum_counts,
)
from tests.unit.tasks.helpers import AnyArray, encode_mask, upsample_with_torch, write_picture, write_store

ALL_HALVES = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
FINITE = ALL_HALVES[np.isfinite(ALL_HALVES)]
QUANTILE = 0.995


# ---------------------------------------------------------------- bits


def test_order_bits_sorts_like_the_values_for_every_half() -> None:
    distinct = FINITE[~((FINITE == 0) & np.signbit(FINITE))]
    by_bits = distinct[np.argsort(order_bits(distinct))].astype(np.float64)
    assert (np.diff(by_bits) > 0).all()
    assert len(np.unique(order_bits(distinct))) == len(distinct) == 2 * 31 * 1024 - 1


def test_restore_bits_inverts_order_bits_for_every_half() -> None:
    restored = restore_bits(order_bits(FINITE))
    np.testing.assert_array_equal(restored, FINITE)
    assert not np.signbit(restored[FINITE == 0]).any()


@given(st.floats(width=16, allow_nan=False), st.floats(width=16, allow_nan=False))
def test_order_bits_keeps_order_of_pairs(first: float, second: float) -> None:
    a, b = (int(order_bits(np.array([v], np.float16))[0]) for v in (first, second))
    assert (a < b) == (first < second) or first == second


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


# ---------------------------------------------------------------- thresholds


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


# ---------------------------------------------------------------- regions

CONCEPTS = ("cat", "dog", "sky")


def make_scene(folder: Path, num: int = 6, seed: int = 0) -> Dataset:
    """Pictures of 32 x 48 with masks of all kinds; the last picture has none."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(num):
        path = write_picture(folder / f"{i:03d}.png", 32, 48, seed=i)
        annotations: list[Annotation] = []
        if i < num - 1:
            mask = np.zeros((32, 48), bool)
            top, left = rng.integers(0, 16), rng.integers(0, 24)
            mask[top : top + rng.integers(8, 16), left : left + rng.integers(8, 24)] = True
            annotations = [encode_mask("cat", mask), encode_mask("dog", rng.random((32, 48)) < 0.6), Annotation("sky")]
        if i == 1:
            annotations.append(encode_mask("dog", np.zeros((32, 48), bool)))
            annotations.append(encode_mask("cat", np.ones((48, 32), bool)))
            annotations.append(Annotation("cat", boxes=((3.0, 2.0, 10.0, 12.0), (20.0, 10.0, 8.0, 8.0))))
        records.append(ImageRecord(f"{i:03d}.png", path, tuple(annotations)))
    return Dataset("scene", tuple(records), CONCEPTS, {"crowd": 2})


def shrink_by_area(mask: AnyArray, height: int, width: int) -> AnyArray:
    """Share of each cell that the mask covers, pixel by pixel; the cells of these tests hold whole pixels."""
    high, wide = mask.shape[0] // height, mask.shape[1] // width
    return np.array(
        [
            [mask[y * high : (y + 1) * high, x * wide : (x + 1) * wide].mean() for x in range(width)]
            for y in range(height)
        ]
    )


def test_pool_regions_vs_loops(tmp_path: Path, cluster: StatisticsCluster) -> None:
    dataset = make_scene(tmp_path / "pictures")
    maps = np.random.default_rng(0).normal(size=(6, 5, 4, 6)).astype(np.float16)
    store = write_store(tmp_path / "s", maps, shard_images=2)
    facts = pool_regions(store, dataset, Geometry(24), tmp_path, cluster)
    expected: list[tuple[AnyArray, float, int, int]] = []
    for i, record in enumerate(dataset.records):
        for annotation in record.annotations:
            if annotation.rle and annotation.rle["size"] != [32, 48]:
                continue
            mask = shrink_by_area(annotation.make_mask(32, 48), 4, 6)
            if not mask.any():
                continue
            feature = np.zeros(5)
            for channel in range(5):
                for y in range(4):
                    for x in range(6):
                        feature[channel] += float(maps[i, channel, y, x]) * mask[y, x] / 24
            expected.append((feature, mask.mean(), i, CONCEPTS.index(annotation.concept)))
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), [e[0] for e in expected], atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "coverage.npy"), [e[1] for e in expected], atol=1e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "image.npy"), [e[2] for e in expected])
    np.testing.assert_array_equal(np.load(tmp_path / "concept.npy"), [e[3] for e in expected])
    assert facts["num_regions"] == len(expected) == 16
    assert facts["num_images_with_regions"] == 5
    assert facts["skipped"] == {"crowd": 2, "empty mask": 1, "mask of another size": 1}
    assert not list(tmp_path.glob("part-*"))


def test_a_mask_of_one_pixel_is_kept(tmp_path: Path) -> None:
    """Shrunk by area, not by nearest neighbour: nothing inside the picture vanishes."""
    mask = np.zeros((32, 48), bool)
    mask[17, 5] = True
    record = ImageRecord("000.png", write_picture(tmp_path / "000.png", 32, 48), (encode_mask("cat", mask),))
    maps = np.random.default_rng(0).normal(size=(1, 5, 4, 6)).astype(np.float16)
    store = write_store(tmp_path / "s", maps)
    found = pool_regions_of_shard(AnnotatedShard(store.shard_path(0), (record,), CONCEPTS, Geometry(24)))
    np.testing.assert_allclose(found.features[0], maps[0, :, 2, 0].astype(np.float64) / 64 / 24, rtol=1e-5)
    assert dict(found.skipped) == {}


def test_pictures_without_regions_give_an_empty_set(tmp_path: Path, cluster: StatisticsCluster) -> None:
    path = write_picture(tmp_path / "000.png", 32, 48)
    dataset = Dataset("bare", (ImageRecord("000.png", path),), CONCEPTS)
    store = write_store(tmp_path / "s", np.zeros((1, 3, 4, 4)))
    facts = pool_regions(store, dataset, Geometry(16), tmp_path, cluster)
    assert facts == {"num_regions": 0, "num_images_with_regions": 0, "skipped": {}}
    assert np.load(tmp_path / "features.npy").shape == (0, 3)


def test_picture_that_a_worker_cannot_read_stops_the_stage(tmp_path: Path, cluster: StatisticsCluster) -> None:
    gone = ImageRecord("000.png", tmp_path / "000.png", (Annotation("cat"),))
    store = write_store(tmp_path / "s", np.zeros((1, 3, 4, 4)))
    with pytest.raises(ConnectionError, match=r"000\.png cannot be read any more, from this worker"):
        pool_regions(store, Dataset("gone", (gone,), CONCEPTS), Geometry(16), tmp_path, cluster)


# ---------------------------------------------------------------- overlaps


def overlaps_by_brute_force(maps: AnyArray, dataset: Dataset, size: int, thresholds: AnyArray) -> set[tuple[int, ...]]:
    rows = []
    for i, record in enumerate(dataset.records):
        for u in range(maps.shape[1]):
            region = upsample_with_torch(maps[i, u], size) > thresholds[u]
            if maps[i, u].astype(np.float32).max() <= thresholds[u]:
                continue
            for annotation in record.annotations:
                if annotation.rle and annotation.rle["size"] != [32, 48]:
                    continue
                mask = shrink_by_area(annotation.make_mask(32, 48), size, size) >= 0.5
                both = int((mask & region).sum())
                if both:
                    concept = CONCEPTS.index(annotation.concept)
                    rows.append((i, u, concept, both, int(region.sum()), int(mask.sum())))
    assert len(set(rows)) == len(rows)
    return set(rows)


def test_overlaps_vs_brute_force(tmp_path: Path, cluster: StatisticsCluster) -> None:
    dataset = make_scene(tmp_path / "pictures")
    maps = np.random.default_rng(8).normal(size=(6, 7, 4, 5)).astype(np.float16)
    maps[:, 2] = 0
    maps[:, 3] = 2
    thresholds = np.array([0.5, 1.5, 0, 2, -1, 9, 0.2], np.float32)
    store = write_store(tmp_path / "s", maps, shard_images=4)
    found, _ = count_overlaps(store, dataset, Geometry(16), thresholds, cluster)
    rows = np.stack(list(vars(found).values()), axis=1)
    assert {tuple(map(int, row)) for row in rows} == overlaps_by_brute_force(maps, dataset, 16, thresholds)
    assert len(rows) == len({tuple(row) for row in rows.tolist()}) > 20
    assert not np.isin(found.filter, [2, 3, 5]).any()
    assert all(a.dtype == np.int64 for a in vars(found).values())


@pytest.mark.parametrize(("cells", "size"), [(7, 224), (10, 300), (7, 320)])
def test_plateau_at_the_threshold_is_not_in_the_region(
    tmp_path: Path, cluster: StatisticsCluster, cells: int, size: int
) -> None:
    """A filter that is at its resting value, which is T_u, except near one peak: rounding must not lift the rest."""
    resting = np.random.default_rng(0).uniform(0.1, 6, 30).astype(np.float16)
    maps = np.broadcast_to(resting[None, :, None, None], (1, 30, cells, cells)).copy()
    maps[:, :, 2, 3] = 20
    path = write_picture(tmp_path / "000.png", size, size)
    dataset = Dataset("one", (ImageRecord("000.png", path, (Annotation("sky"),)),), CONCEPTS)
    store = write_store(tmp_path / "s", maps)
    found, _ = count_overlaps(store, dataset, Geometry(size), resting.astype(np.float32), cluster)
    expected = [(upsample_with_torch(m, size) > t).sum() for m, t in zip(maps[0], resting, strict=True)]
    np.testing.assert_array_equal(found.filter, np.arange(30))
    np.testing.assert_array_equal(found.region, expected)
    np.testing.assert_array_equal(found.intersection, expected)


def test_iou_vs_boolean_masks() -> None:
    rng = np.random.default_rng(0)
    masks, regions = rng.random((9, 8, 8)) < 0.5, rng.random((9, 8, 8)) < 0.3
    counts = [(m & r).sum() for m, r in zip(masks, regions, strict=True)]
    zero = np.zeros(9, np.int64)
    overlaps = Overlaps(zero, zero, zero, np.array(counts), regions.sum((1, 2)), masks.sum((1, 2)))
    expected = [(m & r).sum() / (m | r).sum() for m, r in zip(masks, regions, strict=True)]
    np.testing.assert_array_equal(overlaps.compute_iou(), expected)


def test_no_annotations_no_overlaps(tmp_path: Path, cluster: StatisticsCluster) -> None:
    path = write_picture(tmp_path / "000.png", 32, 48)
    store = write_store(tmp_path / "s", np.ones((1, 3, 4, 4)))
    dataset = Dataset("bare", (ImageRecord("000.png", path),), CONCEPTS)
    found, _ = count_overlaps(store, dataset, Geometry(16), np.zeros(3, np.float32), cluster)
    assert [len(a) for a in vars(found).values()] == [0] * 6
    assert found.compute_iou().shape == (0,)


def test_saved_overlaps_come_back(tmp_path: Path) -> None:
    overlaps = Overlaps(*np.arange(18, dtype=np.int64).reshape(6, 3))
    save_overlaps(overlaps, tmp_path)
    back = load_overlaps(tmp_path)
    for name, array in vars(overlaps).items():
        np.testing.assert_array_equal(getattr(back, name), array)


def test_store_of_other_pictures_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", np.zeros((1, 1, 2, 2)), keys=["stranger.png"])
    with pytest.raises(ValueError, match=r"other pictures: \['stranger.png'\]"):
        annotate_shards(store, Dataset("scene", ()), Geometry(16))


# ---------------------------------------------------------------- workers


def test_two_processes_and_one_thread_give_the_same_bits(
    tmp_path: Path, cluster: StatisticsCluster, process_cluster: StatisticsCluster
) -> None:
    dataset = make_scene(tmp_path / "pictures", num=8)
    maps = np.random.default_rng(8).normal(size=(8, 40, 8, 8)).astype(np.float16)
    results = []
    for name, chosen, shard_images in (("one", cluster, 100), ("many", cluster, 1), ("two", process_cluster, 1)):
        folder = tmp_path / name
        store = write_store(folder, maps, shard_images)
        thresholds = compute_thresholds(store, 0.9, chosen)
        pool_regions(store, dataset, Geometry(16), folder, chosen)
        overlaps, _ = count_overlaps(store, dataset, Geometry(16), thresholds.value, chosen)
        files = [(folder / f"{n}.npy").read_bytes() for n in ("features", "coverage", "image", "concept")]
        arrays = [*vars(thresholds).values(), *vars(overlaps).values()]
        results.append([*files, *(a.tobytes() for a in arrays)])
    assert results[0] == results[1] == results[2]
    assert len(results[0][0]) > 1000
