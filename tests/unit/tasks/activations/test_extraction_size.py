"""Sizes that are reckoned, against files that are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.storage.activations import shard_name
from lavise.storage.datasets.base import Annotation, ImageRecord
from lavise.tasks.activations.extraction_size import (
    LabelCounts,
    StoreSize,
    count_labels,
    estimate_agreement_bytes,
    estimate_region_bytes,
    estimate_writing_memory,
)
from tests.unit.tasks.helpers import write_store

AnyShape = tuple[int, int, int]


@pytest.mark.parametrize(
    ("shape", "num", "shard_images", "most"),
    [
        ((64, 7, 7), 300, 128, 1.2),
        ((512, 14, 14), 40, 32, 1.02),
        ((3, 1, 1), 1000, 128, 2.0),
        ((16, 9, 5), 1, 128, 2.5),
        ((128, 28, 28), 33, 1, 1.2),
    ],
)
def test_a_store_is_no_larger_than_reckoned_and_not_much_smaller(
    tmp_path: Path, shape: AnyShape, num: int, shard_images: int, most: float
) -> None:
    keys = [f"folder of some length/picture number {i:06d}.jpg" for i in range(num)]
    maps = np.random.default_rng(0).normal(size=(num, *shape))
    store = write_store(tmp_path / "store", maps, shard_images, keys)
    written = sum(path.stat().st_size for path in (tmp_path / "store").iterdir())
    size = StoreSize(shape, num, shard_images, sum(map(len, keys)))
    assert written <= size.num_bytes <= most * written
    largest = max((store.folder / shard_name(s)).stat().st_size for s in range(store.num_shards))
    assert largest <= size.num_shard_bytes + sum(map(len, keys)) <= 1.2 * most * largest + 100_000


def test_maps_of_nothing() -> None:
    assert StoreSize((8, 2, 2), 0, 128, 0).num_shard_bytes < 100_000
    assert estimate_writing_memory([]) == 0


def test_memory_is_two_shards_of_each_layer_and_two_copies_of_the_largest() -> None:
    small, large = StoreSize((8, 2, 2), 100, 50, 0), StoreSize((64, 7, 7), 100, 50, 0)
    expected = 2 * small.num_shard_bytes + 4 * large.num_shard_bytes
    assert estimate_writing_memory([small, large]) == expected


def test_labels_are_counted() -> None:
    cat, dog = Annotation("cat"), Annotation("dog")
    records = [
        ImageRecord("a", Path("a"), (cat, cat, dog)),
        ImageRecord("b", Path("b")),
        ImageRecord("c", Path("c"), (dog,)),
    ]
    assert count_labels(records, 5) == LabelCounts(num_images=3, num_masks=4, num_pairs=3, num_categories=5)


def test_tables_of_the_demo_are_within_the_rule() -> None:
    """Sizes that were measured: 50 pictures with 156 masks, 1,280 filters of 7 x 7 cells."""
    labels = LabelCounts(num_images=50, num_masks=156, num_pairs=156, num_categories=133)
    assert 802_352 <= estimate_region_bytes((1280, 7, 7), labels) <= 1.05 * 802_352
    measured = 4_079_702 + 1_354_374 + 1_540_000
    assert measured <= estimate_agreement_bytes((1280, 7, 7), labels, 0.995) <= 2 * measured
    assert estimate_agreement_bytes((1280, 56, 56), labels, 0.995) > estimate_agreement_bytes(
        (1280, 7, 7), labels, 0.995
    )
