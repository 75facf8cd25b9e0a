"""Overlaps against brute force, and the same bits from any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry, Size, split_size
from lavise.tasks.activations.thresholds import compute_thresholds
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.masks.overlaps import Overlaps, count_overlaps, load_overlaps, save_overlaps
from lavise.tasks.masks.region_pooling import pool_regions
from tests.unit.tasks.helpers import AnyArray, upsample_with_torch, write_image, write_store
from tests.unit.tasks.masked_scenes import CONCEPTS, make_scene, shrink_by_area


def overlaps_by_brute_force(maps: AnyArray, dataset: Dataset, size: Size, thresholds: AnyArray) -> set[tuple[int, ...]]:
    rows = []
    for i, record in enumerate(dataset.records):
        for u in range(maps.shape[1]):
            region = upsample_with_torch(maps[i, u], size) > thresholds[u]
            if maps[i, u].astype(np.float32).max() <= thresholds[u]:
                continue
            for annotation in record.annotations:
                if annotation.rle and annotation.rle["size"] != [32, 48]:
                    continue
                mask = shrink_by_area(annotation.make_mask(32, 48), *split_size(size)) >= 0.5
                both = int((mask & region).sum())
                if both:
                    concept = CONCEPTS.index(annotation.concept)
                    rows.append((i, u, concept, both, int(region.sum()), int(mask.sum())))
    assert len(set(rows)) == len(rows)
    return set(rows)


@pytest.mark.parametrize("size", [16, (32, 12), (8, 24)])
def test_overlaps_vs_brute_force(tmp_path: Path, cluster: StatisticsCluster, size: Size) -> None:
    dataset = make_scene(tmp_path / "pictures")
    maps = np.random.default_rng(8).normal(size=(6, 7, 4, 5)).astype(np.float16)
    maps[:, 2] = 0
    maps[:, 3] = 2
    thresholds = np.array([0.5, 1.5, 0, 2, -1, 9, 0.2], np.float32)
    store = write_store(tmp_path / "s", maps, shard_images=4)
    count_overlaps(store, dataset, Geometry(size), thresholds, cluster, tmp_path)
    found = load_overlaps(tmp_path)
    rows = np.stack(list(vars(found).values()), axis=1)
    assert {tuple(map(int, row)) for row in rows} == overlaps_by_brute_force(maps, dataset, size, thresholds)
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
    path = write_image(tmp_path / "000.png", size, size)
    dataset = Dataset("one", (ImageRecord("000.png", path, (Annotation("sky"),)),), CONCEPTS)
    store = write_store(tmp_path / "s", maps)
    count_overlaps(store, dataset, Geometry(size), resting.astype(np.float32), cluster, tmp_path)
    found = load_overlaps(tmp_path)
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
    path = write_image(tmp_path / "000.png", 32, 48)
    store = write_store(tmp_path / "s", np.ones((1, 3, 4, 4)))
    dataset = Dataset("bare", (ImageRecord("000.png", path),), CONCEPTS)
    count_overlaps(store, dataset, Geometry(16), np.zeros(3, np.float32), cluster, tmp_path)
    found = load_overlaps(tmp_path)
    assert [len(a) for a in vars(found).values()] == [0] * 6
    assert found.compute_iou().shape == (0,)


def test_saved_overlaps_come_back(tmp_path: Path) -> None:
    """The file is the one that numpy writes of all shards' rows at once, pictures counted on."""
    parts = [np.arange(18, dtype=np.int64).reshape(3, 6), np.zeros((0, 6), np.int64), np.ones((2, 6), np.int64)]
    assert save_overlaps(parts, [0, 5, 7], tmp_path) == 5
    rows = np.concatenate(parts)
    rows[3:, 0] += 7
    gathered = Overlaps(*np.ascontiguousarray(rows.T))
    np.savez(tmp_path / "gathered.npz", **vars(gathered))
    assert (tmp_path / "overlaps.npz").read_bytes() == (tmp_path / "gathered.npz").read_bytes()
    back = load_overlaps(tmp_path)
    for name, array in vars(gathered).items():
        np.testing.assert_array_equal(getattr(back, name), array)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gathered.npz", "overlaps.npz"]


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
        count_overlaps(store, dataset, Geometry(16), thresholds.value, chosen, folder)
        overlaps = load_overlaps(folder)
        files = [(folder / f"{n}.npy").read_bytes() for n in ("features", "coverage", "image", "concept")]
        arrays = [*vars(thresholds).values(), *vars(overlaps).values()]
        results.append([*files, *(a.tobytes() for a in arrays)])
    assert results[0] == results[1] == results[2]
    assert len(results[0][0]) > 1000
