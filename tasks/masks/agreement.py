"""How the activations of filters agree with the masks of concepts, on pictures with masks: counts and sums per picture.

What is kept are whole numbers and sums of each picture, not figures: every figure over the data set, and over any
resample of its pictures, follows from them exactly (`tasks.evaluation.panel`). A function of one shard runs on any
worker and a merge puts the shards together; the bits are the same whatever the number of workers.

The mask of a concept in a picture is the union of all its masks there, made in the picture's own pixels before it is
shrunk. Masks at the input's size and regions R_u give the overlap over the data set of network dissection (Bau et al.,
CVPR 2017); masks at the map's size give correlation and precision per position (NeuronEval, ICML 2025).

Shape legend: N pictures, C filters, K concepts, P = H·W cells, S input pixels, M pairs (picture, concept in it),
R triples (picture, filter, concept) whose region and mask meet.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from lavise.storage.activations import ActivationStore, read_shard_maps
from lavise.storage.array_files import AppendedArray, join_arrays, map_arrays
from lavise.storage.array_types import BoolArray, DoubleArray, FloatArray, IntArray
from lavise.storage.datasets.base import Dataset, ImageRecord, mark_looked_for
from lavise.storage.images.geometry import Geometry, Size, find_regions
from lavise.tasks.activations.thresholds import load_thresholds
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.masks.annotated_shards import AnnotatedShard, annotate_shards, make_masks
from lavise.tasks.masks.mask_inputs import MaskedRegionInputs

AGREEMENT = Stage("agreement", version=2)
_FILE = "agreement.npz"
_MASK = "mask_"
_IMAGES, _LOOKED_FOR = f"{_MASK}image", f"{_MASK}looked_for"
_REGION_BLOCK = 256


@dataclass(frozen=True)
class ConceptMasks:
    """Masks of the concepts, only where a concept is in a picture; sorted by picture, then by concept.

    A concept is in a picture if its mask touches the part of it that the network sees.

    Attributes:
        image: int64 [M], position in the store.
        concept: int64 [M], position in the data set's concepts.
        coverage: float32 [M, P], share of each cell's area that the mask covers, in 0..1.
        pixels: int64 [M], pixels of S x S of which the mask covers at least half; 0 for a very small one.
        presence: bool [N, K], whether the concept is in the picture.
        looked_for: bool [N, K], whether that is known (`storage.datasets.base.mark_looked_for`); None: of all.
    """

    image: IntArray
    concept: IntArray
    coverage: FloatArray
    pixels: IntArray
    presence: BoolArray
    looked_for: BoolArray | None = None

    def group_concepts(self) -> list[tuple[IntArray | None, IntArray]]:
        """Concepts that were looked for on the same pictures: positions of these pictures, rising, and the concepts.

        Pictures are None where they are all of them, as always without `looked_for`. What is said of a concept holds
        for its pictures alone: elsewhere, nobody knows whether it is there.
        """
        return group_looked_for(self.looked_for, self.presence.shape[1])

    def take_images(self, images: IntArray) -> ConceptMasks:
        """Of some pictures, by rising position, which are counted anew."""
        rows = np.flatnonzero(np.isin(self.image, images))
        return ConceptMasks(
            np.searchsorted(images, self.image[rows]),
            self.concept[rows],
            self.coverage[rows],
            self.pixels[rows],
            self.presence[images],
            None if self.looked_for is None else self.looked_for[images],
        )

    def mark_cells(self) -> BoolArray:
        """bool [M, P]: cells of which at least half is covered; where there is none, the cell covered most (first)."""
        cells = self.coverage >= 0.5
        small = np.flatnonzero(~cells.any(axis=1))
        cells[small, self.coverage[small].argmax(axis=1)] = True
        return cells

    def spread(self, values_M: npt.NDArray[np.generic]) -> DoubleArray:
        """float64 [N, K]: a number of each pair at its place, 0 where the concept is not in the picture."""
        out = np.zeros(self.presence.shape)
        out[self.image, self.concept] = values_M
        return out


@dataclass(frozen=True)
class MaskAgreement:
    """Sums of each picture, from which figures over any weighting of the pictures follow.

    Attributes:
        masks: of the concepts.
        activation_sum: float64 [N, C], sum of a_u over the cells (a is the stored float16).
        activation_squares: float64 [N, C], sum of a_u².
        activation_mask: float64 [M, C], sum of a_u · coverage, rows as in `masks`.
        region_px: int64 [N, C], pixels of R_u at S x S.
        overlap_image, overlap_filter, overlap_concept: int64 [R], sorted in this order.
        overlap_px: int64 [R], pixels of S x S that the region and the concept's mask share, at least 1.
    """

    masks: ConceptMasks
    activation_sum: DoubleArray
    activation_squares: DoubleArray
    activation_mask: DoubleArray
    region_px: IntArray
    overlap_image: IntArray
    overlap_filter: IntArray
    overlap_concept: IntArray
    overlap_px: IntArray

    @property
    def num_images(self) -> int:
        return self.masks.presence.shape[0]

    @property
    def num_concepts(self) -> int:
        return self.masks.presence.shape[1]

    @property
    def num_filters(self) -> int:
        return self.activation_sum.shape[1]

    @property
    def num_cells(self) -> int:
        return self.masks.coverage.shape[1]


def group_looked_for(looked_for_NK: BoolArray | None, num_concepts: int) -> list[tuple[IntArray | None, IntArray]]:
    """See `ConceptMasks.group_concepts`."""
    if looked_for_NK is None:
        return [(None, np.arange(num_concepts))]
    groups: dict[bytes, list[int]] = {}
    for concept in range(num_concepts):
        groups.setdefault(np.packbits(looked_for_NK[:, concept]).tobytes(), []).append(concept)
    found = []
    for own in groups.values():
        known_N = looked_for_NK[:, own[0]]
        found.append((None if known_N.all() else np.flatnonzero(known_N), np.array(own, dtype=np.int64)))
    return found


def unite_masks(
    record: ImageRecord, number_of: Mapping[str, int], geometry: Geometry, height: int, width: int
) -> tuple[dict[int, tuple[FloatArray, BoolArray]], dict[str, int]]:
    """The concepts of one picture, by rising number: coverage float32 [H, W] and mask at the input's size bool [Y, X].

    Returns:
        the concepts; and what was left out, by reason: masks of another size than the picture, and concepts whose
        mask is empty in the part that the network sees.
    """
    skipped: Counter[str] = Counter()
    unions: dict[int, BoolArray] = {}
    for name, mask_hw in make_masks(record, skipped):
        number = number_of[name]
        unions[number] = unions[number] | mask_hw if number in unions else mask_hw
    found = {}
    for number in sorted(unions):
        coverage = np.clip(geometry.shrink_mask(unions[number], height, width), 0, 1)
        if coverage.any():
            found[number] = (coverage, geometry.mask_at_input(unions[number]))
        else:
            skipped["empty mask"] += 1
    return found, dict(skipped)


def measure_agreement_of_shard(thresholds_C: FloatArray, shard: AnnotatedShard) -> tuple[MaskAgreement, dict[str, int]]:
    """Agreement of one shard, pictures counted within it; and what was left out, by reason (see `unite_masks`)."""
    maps = read_shard_maps(shard.path)
    num, channels, height, width = maps.shape
    number_of = {c: i for i, c in enumerate(shard.concepts)}
    skipped: Counter[str] = Counter()
    presence = np.zeros((num, len(shard.concepts)), dtype=bool)
    sums, squares = np.zeros((num, channels)), np.zeros((num, channels))
    region_px = np.zeros((num, channels), dtype=np.int64)
    pairs = [np.zeros((0, 3), np.int64)]
    coverages = [np.zeros((0, height * width), np.float32)]
    crosses = [np.zeros((0, channels))]
    overlaps = [np.zeros((0, 4), np.int64)]
    with threadpool_limits(1):
        for position, record in enumerate(shard.records):
            maps_CP = maps[position].reshape(channels, -1).astype(np.float64)
            sums[position] = maps_CP.sum(axis=1)
            squares[position] = (maps_CP * maps_CP).sum(axis=1)
            found, left_out = unite_masks(record, number_of, shard.geometry, height, width)
            skipped.update(left_out)
            numbers = np.array(list(found), dtype=np.int64)
            presence[position, numbers] = True
            if found:
                coverage_MP = np.stack([coverage.ravel() for coverage, _ in found.values()])
                coverages.append(coverage_MP)
                crosses.append(coverage_MP.astype(np.float64) @ maps_CP.T)
            size = shard.geometry.size_px
            no_masks = np.zeros((0, prod(shard.geometry.shape)))
            masks_MS = np.stack([mask.ravel() for _, mask in found.values()]) if found else no_masks
            pixels = masks_MS.sum(axis=1).astype(np.int64)
            pairs.append(np.stack([np.full(len(numbers), position), numbers, pixels], axis=1))
            region_px[position], shared = _meet_regions(
                maps[position].astype(np.float32), thresholds_C, masks_MS.astype(np.float32), size
            )
            unit, which = np.nonzero(shared)
            overlaps.append(np.stack([np.full(len(unit), position), unit, numbers[which], shared[unit, which]], axis=1))
    pair, overlap = np.concatenate(pairs), np.concatenate(overlaps)
    known = mark_looked_for(shard.records, shard.concepts)
    masks = ConceptMasks(pair[:, 0], pair[:, 1], np.concatenate(coverages), pair[:, 2], presence, known)
    part = MaskAgreement(masks, sums, squares, np.concatenate(crosses), region_px, *overlap.T)
    return part, dict(skipped)


def _meet_regions(
    maps_CHW: FloatArray, thresholds_C: FloatArray, masks_MS: FloatArray, size: Size
) -> tuple[IntArray, IntArray]:
    """Pixels of R_u [C], and of R_u that each mask shares [C, M], on one picture; some filters at a time."""
    region_px = np.zeros(len(maps_CHW), dtype=np.int64)
    shared = np.zeros((len(maps_CHW), len(masks_MS)), dtype=np.int64)
    active = np.flatnonzero(maps_CHW.max(axis=(1, 2)) > thresholds_C)
    for start in range(0, len(active), _REGION_BLOCK):
        block = active[start : start + _REGION_BLOCK]
        regions_AS = find_regions(maps_CHW[block], thresholds_C[block], size).reshape(len(block), -1)
        region_px[block] = regions_AS.sum(axis=1)
        # Sums of ones in float32 are exact up to 2^24 pixels.
        shared[block] = regions_AS.astype(np.float32) @ masks_MS.T
    return region_px, shared


def make_agreement(inputs: MaskedRegionInputs, folder: Path) -> Info:
    """Write what `measure_agreement` writes, and return its facts."""
    return measure_agreement(
        ActivationStore(inputs.activations.folder),
        inputs.data.value,
        inputs.geometry,
        load_thresholds(inputs.thresholds),
        inputs.cluster,
        folder,
    )


def measure_agreement(
    store: ActivationStore,
    dataset: Dataset,
    geometry: Geometry,
    thresholds_C: FloatArray,
    cluster: StatisticsCluster,
    folder: Path,
) -> Info:
    """Agreement of all filters with all concepts on the pictures of a store, into folder/agreement.npz.

    Args:
        dataset: has the masks of the store's pictures.
        thresholds_C: T_u, for the regions.

    Returns:
        facts: num_masks, num_concepts, skipped by reason.
    """
    shards = annotate_shards(store, dataset, geometry)
    skipped = Counter(dataset.skipped)

    def take_parts() -> Iterator[MaskAgreement]:
        measure = partial(measure_agreement_of_shard, thresholds_C)
        for part, counts in cluster.stream("agreement with masks", measure, shards):
            skipped.update(counts)
            yield part

    num_masks = save_agreement(take_parts(), store.starts[:-1], folder)
    return {"num_masks": num_masks, "num_concepts": len(dataset.concepts), "skipped": dict(skipped)}


def save_agreement(parts: Iterable[MaskAgreement], starts: Sequence[int], folder: Path) -> int:
    """Write folder/agreement.npz from the agreements of the shards, each as it comes.

    Args:
        parts: at least one.
        starts: positions of the shards' first pictures.

    Returns:
        how many masks there are.
    """
    is_partly_known = False
    with tempfile.TemporaryDirectory(prefix="agreement-", dir=folder) as scratch, ExitStack() as stack:
        written: dict[str, AppendedArray] = {}
        for part, start in zip(parts, starts, strict=True):
            for name, values in _list_arrays(part, start).items():
                if name not in written:
                    path = Path(scratch) / f"{name}.npy"
                    written[name] = stack.enter_context(AppendedArray(path, values.dtype, values.shape[1:]))
                written[name].append(values)
            is_partly_known |= part.masks.looked_for is not None
        stack.close()
        members = {name: file.path for name, file in written.items() if is_partly_known or name != _LOOKED_FOR}
        join_arrays(folder / _FILE, members)
    return written[_IMAGES].num_rows


def _list_arrays(part: MaskAgreement, start: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a shard by their names in the file, pictures counted from `start` on."""
    masks = part.masks
    looked_for = np.ones_like(masks.presence) if masks.looked_for is None else masks.looked_for
    found = {name: value for name, value in vars(part).items() if name != "masks"}
    found |= {f"{_MASK}{name}": value for name, value in vars(masks).items()}
    found |= {_IMAGES: masks.image + start, "overlap_image": part.overlap_image + start, _LOOKED_FOR: looked_for}
    return found


def load_agreement(folder: Path) -> MaskAgreement:
    """Read what `save_agreement` wrote; the numbers stay in the file until they are used."""
    arrays = map_arrays(folder / _FILE)
    masks = {n.removeprefix(_MASK): array for n, array in arrays.items() if n.startswith(_MASK)}
    return MaskAgreement(
        masks=ConceptMasks(**masks), **{n: array for n, array in arrays.items() if not n.startswith(_MASK)}
    )
