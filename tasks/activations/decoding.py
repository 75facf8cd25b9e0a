"""Pictures decoded ahead in threads, in batches that depend on the records alone.

Shape legend: B pictures, Y x X input pixels, N channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lavise.storage.datasets.base import ImageRecord
from lavise.storage.datasets.input_images import InputImage, load_input, make_blank
from lavise.storage.images.images import BrokenImageError, uses_little
from lavise.storage.models.target_model import TargetModel

if TYPE_CHECKING:
    import torch

_AHEAD_BYTES = 64 << 20
"""Decoded pictures that wait, at most: enough that a slow one does not keep the network waiting."""
_BATCHES_AHEAD = 2
"""However large a batch is."""


@dataclass(frozen=True)
class DecodedBatch:
    """Pictures as the network's input is made of them.

    Attributes:
        records: that the batch was made of.
        positions: of those that could be read, in the records.
        pictures: of these, uint8 [B, Y, X, 3], or bands, float32 [B, Y, X, N] on the scale 0..1.
        broken: key -> reason, of the others.
        flat: keys of pictures that are nearly of one shade.
    """

    records: tuple[ImageRecord, ...]
    positions: tuple[int, ...]
    pictures: torch.Tensor
    broken: Mapping[str, str]
    flat: frozenset[str]


@dataclass(frozen=True)
class _Waiting:
    """A batch on its way: a place for each picture, and what is found out about it."""

    records: tuple[ImageRecord, ...]
    places: torch.Tensor
    found: list[Future[str | bool]] = field(default_factory=list)

    def collect(self) -> DecodedBatch:
        found = [future.result() for future in self.found]
        positions = tuple(i for i, what in enumerate(found) if not isinstance(what, str))
        pictures = self.places if len(positions) == len(found) else self.places[list(positions)]
        broken = {r.key: what for r, what in zip(self.records, found, strict=True) if isinstance(what, str)}
        flat = frozenset(r.key for r, what in zip(self.records, found, strict=True) if what is True)
        return DecodedBatch(self.records, positions, pictures, broken, flat)


def decode_batches(
    batches: Iterable[Sequence[ImageRecord]], model: TargetModel, num_threads: int, device: str = "cpu"
) -> Generator[DecodedBatch, None, None]:
    """The batches in their order; those after the one that is handed out are decoded meanwhile.

    Args:
        device: that the pictures go to; for a GPU they lie in memory that it reads by itself.
    """
    import torch

    blank = torch.from_numpy(make_blank(model.geometry, model.channels))
    upcoming = iter(batches)
    waiting: deque[_Waiting] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:

        def must_refill() -> bool:
            num_bytes = sum(batch.places.nbytes for batch in waiting)
            return len(waiting) < _BATCHES_AHEAD or num_bytes < _AHEAD_BYTES

        def refill() -> None:
            while must_refill() and (batch := next(upcoming, None)) is not None:
                places = torch.empty((len(batch), *blank.shape), dtype=blank.dtype, pin_memory=device == "cuda")
                entry = _Waiting(tuple(batch), places)
                rows = places.numpy()
                entry.found.extend(pool.submit(_decode, r, model, rows[i]) for i, r in enumerate(batch))
                waiting.append(entry)

        try:
            refill()
            while waiting:
                entry = waiting.popleft()
                refill()
                yield entry.collect()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode(record: ImageRecord, model: TargetModel, place: InputImage) -> str | bool:
    """Put a picture in its place; whether it is nearly of one shade, or why it cannot be read."""
    try:
        place[:] = load_input(record, model.geometry, model.channels)
    except BrokenImageError as err:
        return str(err)
    return uses_little(place)
