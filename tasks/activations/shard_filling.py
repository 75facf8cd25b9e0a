"""From the maps of batches to the shards of a layer, which a thread of its own writes while the network computes.

Of each layer two shards are in memory: one that is filled, one that is written.

Shape legend: B pictures of a batch, N of a shard, C filters, H x W cells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.schema import Compression
from lavise.storage.activations import ShardGrid, write_shard
from lavise.storage.map_summaries import MapSummary
from lavise.storage.models.layers import Layer
from lavise.tasks.activations.decoding import DecodedBatch

if TYPE_CHECKING:
    import torch

_NUM_BUFFERS = 2
_MAP_BYTES = 2


def plan_shards(num_images: int, layer: Layer, batch_size: int, shard_images: int, shard_bytes: int) -> ShardGrid:
    """Which pictures are in which shard of a layer: `shard_images` of them, or fewer where their maps are too large.

    A shard is a whole part of that many pictures, and of whole batches as long as one fits: else of a whole part of a
    batch, of one picture at least.
    """
    image_bytes = layer.channels * layer.height * layer.width * _MAP_BYTES
    fitting = max(1, shard_bytes // image_bytes)
    sizes = {batch_size * n for n in _list_divisors(shard_images // batch_size)} | set(_list_divisors(batch_size))
    return ShardGrid(num_images, max(size for size in sizes if size <= fitting))


def _list_divisors(number: int) -> list[int]:
    small = [n for n in range(1, isqrt(number) + 1) if not number % n]
    return small + [number // n for n in small]


@dataclass(frozen=True)
class LayerShards:
    """The shards of a layer that are to be made. Can be sent to another process.

    Attributes:
        folder: of the store.
        grid: of the whole store.
        numbers: of those that are to be made.
        provenance: what a shard says of itself.
        compression: of the maps.
    """

    folder: Path
    layer: Layer
    grid: ShardGrid
    numbers: frozenset[int]
    provenance: Mapping[str, str]
    compression: Compression = "none"

    def find_open(self, positions: range) -> list[int]:
        """Those with pictures at these positions."""
        first, last = positions.start // self.grid.shard_images, (positions.stop - 1) // self.grid.shard_images
        return [number for number in range(first, last + 1) if number in self.numbers]


class ShardWriter:
    """Writes shards one after the other beside whoever makes them; an error of it is raised in the maker's thread."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._running: deque[Future[None]] = deque()

    def submit(self, write: Any, *arguments: Any) -> Future[None]:
        """To be written after those before it."""
        future: Future[None] = self._pool.submit(write, *arguments)
        self._running.append(future)
        return future

    def check(self) -> None:
        """Raises: whatever a finished write raised."""
        while self._running and self._running[0].done():
            self._running.popleft().result()

    def wait(self) -> None:
        """Until all is written. Raises: whatever a write raised."""
        while self._running:
            self._running.popleft().result()


@contextmanager
def open_writer() -> Iterator[ShardWriter]:
    """A writer whose last shard is written when the block is left; after an error, those that wait are let go."""
    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        writer = ShardWriter(pool)
        try:
            yield writer
            writer.wait()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Buffer:
    """A shard's maps in memory, and who has them.

    Attributes:
        peaks_NC, means_NC: made on the device; None where the writer makes them.
        written: of the shard that was last in it.
    """

    maps_NCHW: torch.Tensor
    peaks_NC: torch.Tensor | None
    means_NC: torch.Tensor | None
    written: Future[None] | None = None


@dataclass
class _Shard:
    """One that is being filled."""

    number: int
    buffer: _Buffer
    keys: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    flat: list[str] = field(default_factory=list)


class ShardFiller:
    """Puts a layer's maps into its shards, and each shard that is full to the writer."""

    def __init__(self, writer: ShardWriter, device: str) -> None:
        self._writer, self._device = writer, device
        self._buffers: deque[_Buffer] = deque()
        self._shard: _Shard | None = None

    def add(self, shards: LayerShards, start: int, batch: DecodedBatch, maps_BCHW: torch.Tensor | None) -> None:
        """The maps of a batch; batches come in the order of their pictures.

        Args:
            shards: those to be made; always of the same layer.
            start: position of its first record in the data set.
            maps_BCHW: of the pictures that could be read; None where there is none.
        """
        end = start + len(batch.records)
        for number in shards.find_open(range(start, end)):
            own = shards.grid.images_of(number)
            if self._shard is None:
                self._shard = _Shard(number, self._take_buffer(shards))
            own_records = batch.records[max(own.start - start, 0) : own.stop - start]
            rows = [row for row, position in enumerate(batch.positions) if start + position in own]
            if rows and maps_BCHW is not None:
                self._put(self._shard, maps_BCHW[rows[0] : rows[-1] + 1])
            _note(self._shard, [r.key for r in own_records], batch)
            if own.stop <= end:
                self._finish(shards, self._shard)
                self._shard = None

    def _take_buffer(self, shards: LayerShards) -> _Buffer:
        if len(self._buffers) < _NUM_BUFFERS:
            return self._make_buffer(shards)
        buffer = self._buffers.popleft()
        if buffer.written is not None:
            buffer.written.result()
        return buffer

    def _make_buffer(self, shards: LayerShards) -> _Buffer:
        import torch

        layer, is_pinned = shards.layer, self._device == "cuda"
        num = min(shards.grid.shard_images, shards.grid.num_images)
        nc = (num, layer.channels)
        maps_NCHW = torch.empty((*nc, layer.height, layer.width), dtype=torch.float16, pin_memory=is_pinned)
        if not is_pinned:
            return _Buffer(maps_NCHW, None, None)
        peaks_NC = torch.empty(nc, dtype=torch.float16, pin_memory=True)
        return _Buffer(maps_NCHW, peaks_NC, torch.empty(nc, dtype=torch.float32, pin_memory=True))

    def _put(self, shard: _Shard, maps_BCHW: torch.Tensor) -> None:
        """Rounded to float16 and laid out with the channels first, in one pass."""
        import torch

        rows = slice(len(shard.keys), len(shard.keys) + len(maps_BCHW))
        buffer = shard.buffer
        if buffer.peaks_NC is None or buffer.means_NC is None:
            buffer.maps_NCHW[rows].copy_(maps_BCHW)
            return
        half = maps_BCHW.to(torch.float16).contiguous()
        peaks_BC, means_BC = summarise_on_device(half)
        buffer.maps_NCHW[rows].copy_(half, non_blocking=True)
        buffer.peaks_NC[rows].copy_(peaks_BC, non_blocking=True)
        buffer.means_NC[rows].copy_(means_BC, non_blocking=True)

    def _finish(self, shards: LayerShards, shard: _Shard) -> None:
        import torch

        arrived = torch.cuda.current_stream().record_event() if self._device == "cuda" else None
        shard.buffer.written = self._writer.submit(_write, shards, shard, arrived)
        self._buffers.append(shard.buffer)


def summarise_on_device(maps_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Peaks float16 and means float32, [B, C] each, of maps float16."""
    import torch

    return maps_BCHW.amax(dim=(2, 3)), maps_BCHW.mean(dim=(2, 3), dtype=torch.float32)


def _note(shard: _Shard, keys: Collection[str], batch: DecodedBatch) -> None:
    shard.keys += [key for key in keys if key not in batch.broken]
    shard.broken |= {key: batch.broken[key] for key in keys if key in batch.broken}
    shard.flat += [key for key in keys if key in batch.flat]


def _write(shards: LayerShards, shard: _Shard, arrived: torch.cuda.Event | None) -> None:
    if arrived is not None:
        arrived.synchronize()
    buffer, num = shard.buffer, len(shard.keys)
    summary = None
    if buffer.peaks_NC is not None and buffer.means_NC is not None:
        summary = MapSummary(buffer.peaks_NC[:num].numpy(), buffer.means_NC[:num].numpy())
    maps_NCHW = buffer.maps_NCHW[:num].numpy()
    facts = (shard.keys, shard.broken, shards.provenance, shard.flat)
    write_shard(shards.folder, shard.number, maps_NCHW, *facts, summary, shards.compression)
