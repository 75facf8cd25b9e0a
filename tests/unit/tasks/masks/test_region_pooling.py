"""Pooled regions against loops over cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.masks.annotated_shards import AnnotatedShard
from lavise.tasks.masks.region_pooling import pool_regions, pool_regions_of_shard
from tests.unit.tasks.helpers import AnyArray, encode_mask, write_image, write_store
from tests.unit.tasks.masked_scenes import CONCEPTS, make_scene, shrink_by_area


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
    record = ImageRecord("000.png", write_image(tmp_path / "000.png", 32, 48), (encode_mask("cat", mask),))
    maps = np.random.default_rng(0).normal(size=(1, 5, 4, 6)).astype(np.float16)
    store = write_store(tmp_path / "s", maps)
    found = pool_regions_of_shard(AnnotatedShard(store.shard_path(0), (record,), CONCEPTS, Geometry(24)))
    np.testing.assert_allclose(found.features[0], maps[0, :, 2, 0].astype(np.float64) / 64 / 24, rtol=1e-5)
    assert dict(found.skipped) == {}


def test_pictures_without_regions_give_an_empty_set(tmp_path: Path, cluster: StatisticsCluster) -> None:
    path = write_image(tmp_path / "000.png", 32, 48)
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
