"""Shards of an activation store beside the annotations of their pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray
from lavise.storage.datasets.base import Dataset, ImageRecord, mark_looked_for
from lavise.storage.datasets.input_images import read_input_size
from lavise.storage.images.geometry import Geometry
from lavise.storage.images.images import BrokenImageError
from lavise.storage.packed_list import PackedList


@dataclass(frozen=True)
class AnnotatedShard:
    """A shard and the records of its pictures, in its order."""

    path: Path
    records: Sequence[ImageRecord]
    concepts: tuple[str, ...]
    geometry: Geometry


def annotate_shards(store: ActivationStore, dataset: Dataset, geometry: Geometry) -> list[AnnotatedShard]:
    """Pair each shard with the records of its pictures.

    Raises:
        ValueError: the store holds a picture that the data set does not know.
    """
    unknown = [k for k in store.keys if k not in dataset.by_key]
    if unknown:
        raise ValueError(f"the activation store {store.folder} is of other pictures: {unknown[:3]}")
    return [
        AnnotatedShard(
            store.shard_path(s),
            PackedList(dataset.by_key[k] for k in store.keys[store.starts[s] : store.starts[s + 1]]),
            dataset.concepts,
            geometry,
        )
        for s in range(store.num_shards)
    ]


def find_looked_for(store: ActivationStore, dataset: Dataset) -> BoolArray | None:
    """bool [N, K]: of which concepts it is known whether the pictures of a store have them; None: of all."""
    return mark_looked_for(PackedList(dataset.by_key[key] for key in store.keys), dataset.concepts)


def make_masks(record: ImageRecord, skipped: Counter[str]) -> list[tuple[str, BoolArray]]:
    if not record.annotations:
        return []
    try:
        height, width = read_input_size(record.path)
    except BrokenImageError as err:
        # Extraction has read it, so it is gone or out of reach from this worker: nothing to count, something to mend.
        raise ConnectionError(f"{record.path} cannot be read any more, from this worker at least: {err}") from None
    masks = []
    for annotation in record.annotations:
        try:
            masks.append((annotation.concept, annotation.make_mask(height, width)))
        except ValueError:
            skipped["mask of another size"] += 1
    return masks
