"""Trying out an extraction on a few pictures: how long it takes on this machine, and how far maps can be compressed.

Shape legend: N pictures, C filters, H x W cells.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lavise.configs.schema import Compression
from lavise.storage.activations import measure_compressed
from lavise.storage.datasets.base import ImageRecord
from lavise.storage.datasets.input_images import InputImage, load_input
from lavise.storage.images.images import BrokenImageError
from lavise.storage.models.layers import ActivationTap, Layer
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.memory import freed_memory_kept
from lavise.tasks.activations.forward import normalise_images, run_network

if TYPE_CHECKING:
    import torch
    from torch import nn

_PASSES = 2


@dataclass(frozen=True)
class ExtractionProbe:
    """Seconds for one picture.

    Attributes:
        num_images: pictures that were tried.
        decode: by one thread.
        forward: in the network's own precision.
        forward_bfloat16: the same with torch.autocast; None where that was not tried.
    """

    num_images: int
    decode: float
    forward: float
    forward_bfloat16: float | None

    def estimate_seconds(self, num_images: int, decode_threads: int) -> tuple[float, float]:
        """Of the extraction of so many pictures: decoding wholly beside the forward passes, and wholly before them."""
        decode = self.decode / decode_threads
        return num_images * max(decode, self.forward), num_images * (decode + self.forward)


def decode_some(records: Sequence[ImageRecord], model: TargetModel) -> tuple[list[InputImage], float]:
    """Those pictures that can be read, and seconds for one of them."""
    images = []
    start = time.perf_counter()
    for record in records:
        try:
            images.append(load_input(record, model.geometry, model.channels))
        except BrokenImageError:
            continue  # a run names it
    return images, (time.perf_counter() - start) / max(len(images), 1)


def probe_extraction(
    records: Sequence[ImageRecord], model: TargetModel, device: str, max_seconds: float
) -> ExtractionProbe | None:
    """Decode some pictures and show them to the network, as one batch; None where none of them can be read.

    Args:
        max_seconds: where the first passes took longer, bfloat16 is not tried.
    """
    with freed_memory_kept():  # as an audit does
        end = time.monotonic() + max_seconds
        images, decode = decode_some(records, model)
        if not images:
            return None
        network, batch = model.place(device), normalise_images(np.stack(images), model, device)
        forward = _time_forward(network, batch) / len(images)
        is_slow = time.monotonic() > end
        bfloat16 = None if is_slow else _time_bfloat16(network, batch, device) / len(images)
        return ExtractionProbe(len(images), decode, forward, bfloat16)


def _time_bfloat16(network: nn.Module, batch_NCYX: torch.Tensor, device: str) -> float:
    import torch

    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        return _time_forward(network, batch_NCYX)


def _time_forward(network: nn.Module, batch_NCYX: torch.Tensor) -> float:
    """Seconds of the fastest of a few passes; a first one, which prepares kernels, is not counted."""
    import torch

    def run() -> float:
        start = time.perf_counter()
        run_network(network, batch_NCYX)
        if batch_NCYX.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    run()
    return min(run() for _ in range(_PASSES))


def measure_stored_shares(
    records: Sequence[ImageRecord], model: TargetModel, layers: Sequence[Layer], device: str, compression: Compression
) -> dict[str, float]:
    """By layer, bytes of the maps of these pictures where they are compressed, over those where they are not; 1 where
    no picture can be read."""
    images, _ = decode_some(records, model)
    if not images or compression == "none":
        return {layer.name: 1.0 for layer in layers}
    network = model.place(device)
    with ActivationTap(network, layers) as tap:
        run_network(network, normalise_images(np.stack(images), model, device))
        maps = {layer.name: tap.maps[layer.name].half().cpu().contiguous().numpy() for layer in layers}
    return {name: measure_compressed(own, compression) / own.nbytes for name, own in maps.items()}
