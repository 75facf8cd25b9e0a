"""Pictures on their way into a network, for whoever reads more of it than an ActivationTap does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavise.storage.datasets.base import ImageRecord
from lavise.storage.models.target_model import TargetModel
from lavise.tasks.activations.decoding import decode_batches
from lavise.tasks.activations.forward import normalise_images

if TYPE_CHECKING:
    import torch

_THREADS = 2


@dataclass(frozen=True)
class ImageBatch:
    """Some pictures, as the network takes them.

    Attributes:
        positions: of those that could be read, in the records.
        images: float32 [B, C, Y, X], normalised; None where no picture of the batch could be read.
        num_offered: records that the batch was made of.
    """

    positions: tuple[int, ...]
    images: torch.Tensor | None
    num_offered: int


def read_batches(
    records: Sequence[ImageRecord], model: TargetModel, batch_size: int, device: str
) -> Iterator[ImageBatch]:
    """Batches of `batch_size` records each; pictures that cannot be read are left out of theirs."""
    batches = (records[start : start + batch_size] for start in range(0, len(records), batch_size))
    start = 0
    with closing(decode_batches(batches, model, _THREADS, device)) as decoded:
        for batch in decoded:
            positions = tuple(start + i for i in batch.positions)
            images = normalise_images(batch.pictures, model, device) if positions else None
            yield ImageBatch(positions, images, len(batch.records))
            start += len(batch.records)
