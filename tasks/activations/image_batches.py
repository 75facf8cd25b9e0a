"""Pictures on their way into a network: decoded ahead in threads, in batches that depend on the records alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lavise.storage.datasets.base import ImageRecord
from lavise.storage.datasets.input_images import InputImage, load_input
from lavise.storage.images.images import BrokenImageError
from lavise.storage.models.target_model import TargetModel
from lavise.tasks.activations.extract import normalise_images

if TYPE_CHECKING:
    import torch

_THREADS = 2
_BATCHES_AHEAD = 2
Decoded = InputImage | None


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

    def decode(record: ImageRecord) -> Decoded:
        try:
            return load_input(record, model.geometry, model.channels)
        except BrokenImageError:
            return None

    starts = iter(range(0, len(records), batch_size))
    waiting: deque[tuple[int, list[Future[Decoded]]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:

        def refill() -> None:
            while len(waiting) < _BATCHES_AHEAD and (start := next(starts, None)) is not None:
                waiting.append((start, [pool.submit(decode, r) for r in records[start : start + batch_size]]))

        refill()
        while waiting:
            start, futures = waiting.popleft()
            refill()
            read = [(start + i, picture) for i, f in enumerate(futures) if (picture := f.result()) is not None]
            images = normalise_images(np.stack([p for _, p in read]), model, device) if read else None
            yield ImageBatch(tuple(i for i, _ in read), images, len(futures))
