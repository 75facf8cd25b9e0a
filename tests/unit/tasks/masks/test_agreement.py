"""Agreement of activations with masks, against loops over pixels and cells."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry, Size, split_size
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.masks.agreement import (
    ConceptMasks,
    MaskAgreement,
    load_agreement,
    measure_agreement,
    measure_agreement_of_shard,
    save_agreement,
)
from lavise.tasks.masks.annotated_shards import annotate_shards
from tests.unit.tasks.helpers import AnyArray, encode_mask, upsample_with_torch, write_image, write_store
from tests.unit.tasks.masked_scenes import CONCEPTS, make_scene, shrink_by_area

THRESHOLDS = np.array([0.5, 1.5, 0, 2, -1, 9, 0.2], np.float32)
SIZE = 16


def make_maps(num: int = 6) -> AnyArray:
    maps = np.random.default_rng(8).normal(size=(num, 7, 4, 6)).astype(np.float16)
    maps[:, 2] = 0
    maps[:, 3] = 2
    return maps


def unite_by_hand(record: ImageRecord) -> dict[int, AnyArray]:
    """Union of the masks of each concept of a picture of 32 x 48 that has any pixel."""
    unions: dict[int, AnyArray] = {}
    for annotation in record.annotations:
        if annotation.rle and annotation.rle["size"] != [32, 48]:
            continue
        mask = annotation.make_mask(32, 48)
        number = CONCEPTS.index(annotation.concept)
        unions[number] = unions.get(number, np.zeros((32, 48), bool)) | mask
    return {t: unions[t] for t in sorted(unions) if unions[t].any()}


def fields_of(agreement: MaskAgreement) -> dict[str, AnyArray]:
    fields = {name: value for name, value in vars(agreement).items() if name != "masks"}
    return fields | {f"masks.{name}": value for name, value in vars(agreement.masks).items() if value is not None}


def assert_same(first: MaskAgreement, second: MaskAgreement) -> None:
    one, other = fields_of(first), fields_of(second)
    for name, value in one.items():
        assert value.dtype == other[name].dtype, name
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def run_stage(
    folder: Path,
    store: ActivationStore,
    dataset: Dataset,
    geometry: Geometry,
    thresholds: AnyArray,
    cluster: StatisticsCluster,
) -> tuple[MaskAgreement, dict[str, int]]:
    """What the stage writes, read back; and what it left out."""
    own = Path(tempfile.mkdtemp(dir=folder))
    facts = measure_agreement(store, dataset, geometry, thresholds, cluster, own)
    assert [path.name for path in own.iterdir()] == ["agreement.npz"]
    return load_agreement(own), facts["skipped"]


@pytest.mark.parametrize(("shard_images", "size"), [(1, SIZE), (4, SIZE), (100, SIZE), (4, (32, 12)), (4, (8, 24))])
def test_agreement_vs_loops(tmp_path: Path, cluster: StatisticsCluster, shard_images: int, size: Size) -> None:
    dataset, maps = make_scene(tmp_path / "pictures"), make_maps()
    store = write_store(tmp_path / "s", maps, shard_images)
    found, skipped = run_stage(tmp_path, store, dataset, Geometry(size), THRESHOLDS, cluster)
    region_px = np.zeros((6, 7), np.int64)
    masks, overlaps = [], []
    for i, record in enumerate(dataset.records):
        regions = [upsample_with_torch(maps[i, u], size) > THRESHOLDS[u] for u in range(7)]
        region_px[i] = [region.sum() for region in regions]
        for t, union in unite_by_hand(record).items():
            coverage = shrink_by_area(union, 4, 6)
            fine = shrink_by_area(union, *split_size(size)) >= 0.5
            cross = [(maps[i, u].astype(np.float64) * coverage).sum() for u in range(7)]
            masks.append((i, t, coverage.ravel(), int(fine.sum()), cross))
            overlaps += [(i, u, t, int((fine & regions[u]).sum())) for u in range(7)]
    assert found.masks.image.tolist() == [m[0] for m in masks]
    assert found.masks.concept.tolist() == [m[1] for m in masks]
    np.testing.assert_allclose(found.masks.coverage, [m[2] for m in masks], atol=1e-6)
    assert found.masks.pixels.tolist() == [m[3] for m in masks]
    np.testing.assert_allclose(found.activation_mask, [m[4] for m in masks], atol=1e-5)
    expected_presence = np.zeros((6, 3), bool)
    expected_presence[[m[0] for m in masks], [m[1] for m in masks]] = True
    np.testing.assert_array_equal(found.masks.presence, expected_presence)
    np.testing.assert_array_equal(found.region_px, region_px)
    rows = zip(found.overlap_image, found.overlap_filter, found.overlap_concept, found.overlap_px, strict=True)
    assert [tuple(map(int, row)) for row in rows] == sorted(o for o in overlaps if o[3])
    assert len(found.overlap_px) > 20
    wide = maps.astype(np.float64)
    np.testing.assert_allclose(found.activation_sum, wide.sum((2, 3)), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.activation_squares, (wide**2).sum((2, 3)), rtol=1e-12)
    assert skipped == {"crowd": 2, "mask of another size": 1}
    assert (found.num_images, found.num_filters, found.num_concepts, found.num_cells) == (6, 7, 3, 24)


def test_two_masks_of_a_concept_are_counted_once(tmp_path: Path, cluster: StatisticsCluster) -> None:
    left, middle = np.zeros((2, 32, 48), bool)
    left[:, :24] = True
    middle[:, 12:36] = True
    path = write_image(tmp_path / "000.png", 32, 48)
    record = ImageRecord("000.png", path, (encode_mask("cat", left), encode_mask("cat", middle)))
    store = write_store(tmp_path / "s", np.ones((1, 1, 4, 4)))
    zero = np.zeros(1, np.float32)
    found, _ = run_stage(tmp_path, store, Dataset("one", (record,), CONCEPTS), Geometry(SIZE), zero, cluster)
    assert found.overlap_px.tolist() == found.masks.pixels.tolist() == [SIZE * SIZE * 3 // 4]
    assert found.region_px.tolist() == [[SIZE * SIZE]]
    assert found.masks.coverage.tolist() == [[1.0, 1.0, 1.0, 0.0] * 4]


def test_a_concept_outside_of_what_the_network_sees_is_absent(tmp_path: Path, cluster: StatisticsCluster) -> None:
    border = np.zeros((32, 48), bool)
    border[:, :4] = True
    path = write_image(tmp_path / "000.png", 32, 48)
    dataset = Dataset("one", (ImageRecord("000.png", path, (encode_mask("cat", border), Annotation("sky"))),), CONCEPTS)
    store = write_store(tmp_path / "s", np.ones((1, 1, 4, 4)))
    zero = np.zeros(1, np.float32)
    found, skipped = run_stage(tmp_path, store, dataset, Geometry(SIZE, "center_crop", 1.0), zero, cluster)
    assert found.masks.presence.tolist() == [[False, False, True]]
    assert found.masks.concept.tolist() == [2]
    assert skipped == {"empty mask": 1}


def test_regions_count_where_nothing_is_annotated(tmp_path: Path, cluster: StatisticsCluster) -> None:
    path = write_image(tmp_path / "000.png", 32, 48)
    store = write_store(tmp_path / "s", np.ones((1, 2, 4, 4)))
    thresholds = np.array([0, 1], np.float32)
    dataset = Dataset("bare", (ImageRecord("000.png", path),), CONCEPTS)
    found, _ = run_stage(tmp_path, store, dataset, Geometry(SIZE), thresholds, cluster)
    assert found.region_px.tolist() == [[SIZE * SIZE, 0]]
    assert found.masks.coverage.shape == (0, 16)
    assert found.activation_mask.shape == (0, 2)
    assert not found.masks.presence.any()
    assert found.masks.mark_cells().shape == (0, 16)


def test_more_filters_than_a_block(tmp_path: Path) -> None:
    dataset = make_scene(tmp_path / "pictures", num=2)
    maps = np.random.default_rng(4).normal(size=(2, 300, 4, 6)).astype(np.float16)
    thresholds = np.full(300, 0.5, np.float32)
    shard = annotate_shards(write_store(tmp_path / "s", maps), dataset, Geometry(SIZE))[0]
    found, _ = measure_agreement_of_shard(thresholds, shard)
    few, _ = measure_agreement_of_shard(
        thresholds[290:], annotate_shards(write_store(tmp_path / "few", maps[:, 290:]), dataset, Geometry(SIZE))[0]
    )
    np.testing.assert_array_equal(found.region_px[:, 290:], few.region_px)
    late = found.overlap_filter >= 290
    np.testing.assert_array_equal(found.overlap_filter[late] - 290, few.overlap_filter)
    np.testing.assert_array_equal(found.overlap_px[late], few.overlap_px)


def test_cells_of_a_small_mask_are_the_one_covered_most() -> None:
    coverage = np.array([[0.1, 0.5, 0.9, 0.4], [0.1, 0.3, 0.0, 0.3]], np.float32)
    one = np.zeros(2, np.int64)
    masks = ConceptMasks(np.arange(2), one, coverage, one, np.ones((2, 1), bool))
    assert masks.mark_cells().tolist() == [[False, True, True, False], [False, True, False, False]]
    assert masks.spread(np.array([3, 4])).tolist() == [[3], [4]]


def test_same_bits_with_two_processes(
    tmp_path: Path, cluster: StatisticsCluster, process_cluster: StatisticsCluster
) -> None:
    dataset = make_scene(tmp_path / "pictures")
    store = write_store(tmp_path / "s", make_maps(), shard_images=1)
    found, _ = run_stage(tmp_path, store, dataset, Geometry(SIZE), THRESHOLDS, cluster)
    other, _ = run_stage(tmp_path, store, dataset, Geometry(SIZE), THRESHOLDS, process_cluster)
    assert_same(found, other)


def gather(parts: list[MaskAgreement], starts: list[int]) -> dict[str, Any]:
    """All shards in memory at once, by the names in the file."""
    found = {n: np.concatenate([getattr(p, n) for p in parts]) for n in vars(parts[0]) if n != "masks"}
    known = [p.masks.looked_for for p in parts]
    masks = {n: [getattr(p.masks, n) for p in parts] for n in vars(parts[0].masks) if n != "looked_for"}
    if any(own is not None for own in known):
        masks["looked_for"] = [
            np.ones_like(p.masks.presence) if own is None else own for p, own in zip(parts, known, strict=True)
        ]
    found |= {f"mask_{n}": np.concatenate(own) for n, own in masks.items()}
    moved = {"overlap_image": [p.overlap_image for p in parts], "mask_image": masks["image"]}
    return found | {n: np.concatenate([a + s for a, s in zip(own, starts, strict=True)]) for n, own in moved.items()}


@pytest.mark.parametrize("known", [None, frozenset({"cat"})])
def test_streamed_file_is_the_one_of_the_gathered_arrays(tmp_path: Path, known: frozenset[str] | None) -> None:
    dataset = make_scene(tmp_path / "pictures")
    records = (*dataset.records[:-1], replace(dataset.records[-1], looked_for=known))
    store = write_store(tmp_path / "s", make_maps(), shard_images=2)
    shards = annotate_shards(store, replace(dataset, records=records), Geometry(SIZE))
    parts = [measure_agreement_of_shard(THRESHOLDS, shard)[0] for shard in shards]
    assert save_agreement(iter(parts), store.starts[:-1], tmp_path) == sum(len(p.masks.image) for p in parts) > 0
    np.savez(tmp_path / "gathered.npz", **gather(parts, store.starts[:-1]))
    assert (tmp_path / "agreement.npz").read_bytes() == (tmp_path / "gathered.npz").read_bytes()
    assert (load_agreement(tmp_path).masks.looked_for is None) == (known is None)


def test_what_was_looked_for_is_kept_and_read_back(tmp_path: Path, cluster: StatisticsCluster) -> None:
    """Also where only some shards have pictures of which not all is known."""
    dataset = make_scene(tmp_path / "pictures")
    concepts = dataset.concepts
    asked = [*[None] * (len(dataset.records) - 1), frozenset(concepts[:1])]
    records = tuple(replace(r, looked_for=own) for r, own in zip(dataset.records, asked, strict=True))
    store = write_store(tmp_path / "s", make_maps(), shard_images=1)
    plain, _ = run_stage(tmp_path, store, dataset, Geometry(SIZE), THRESHOLDS, cluster)
    found, _ = run_stage(tmp_path, store, replace(dataset, records=records), Geometry(SIZE), THRESHOLDS, cluster)
    assert plain.masks.looked_for is None
    assert found.masks.looked_for is not None
    assert found.masks.looked_for.tolist() == [[own is None or c in own for c in concepts] for own in asked]
    everywhere, elsewhere = found.masks.group_concepts()
    assert everywhere[0] is None
    assert everywhere[1].tolist() == [0]
    assert elsewhere[0] is not None
    assert elsewhere[0].tolist() == list(range(len(records) - 1))
    assert elsewhere[1].tolist() == [1, 2]
