"""The region feature of filter u on a picture, by the methods of the paper, for many filters at once.

Shape legend: P pairs (filter, picture), U filters looked at on one picture, C filters, H x W cells, Y x X input pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lavise.configs.registry import ATTENTION
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import FloatArray, IntArray
from lavise.storage.datasets.input_images import ImageSource, InputImage, load_input
from lavise.storage.images.geometry import Size, count_bilinear, split_size, take_thresholds_off
from lavise.storage.models.layers import ActivationTap
from lavise.tasks.activations.extract import normalise_images, run_network
from lavise.tasks.activations.layer_maps import LayerMaps, MaskedForward
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.engine.computing import Computing

# Of F [C, H·W], filters u [U] and their T_u [U] -> region features [U, C].
Pool = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_IMAGES_PER_BLOCK = 16
_DECODE_THREADS, _IMAGES_AHEAD = 2, 4

# Of F float32 [C, H, W], filters u [U], all T [C], the picture's file and the network -> region features [U, C].
Look = Callable[[FloatArray, IntArray, FloatArray, ImageSource, MaskedForward], torch.Tensor]


@dataclass(frozen=True)
class AskedImage:
    """A picture, and the filters that are explained on it.

    Attributes:
        rows: int64 [U], positions of the pairs.
        filters: int64 [U].
        maps: F, float32 [C, H, W].
        image: position in the store.
    """

    rows: IntArray
    filters: IntArray
    maps: FloatArray
    image: int


# Of pictures in turn, all T [C] and the network -> positions of pairs int64 [B] and their region features [B, C].
LookAcross = Callable[[Iterable[AskedImage], FloatArray, MaskedForward], Iterator[tuple[IntArray, torch.Tensor]]]


@dataclass(frozen=True)
class AttentionMethod:
    """How region features are made: of maps alone (`pool`), or by the network, of a picture at a time (`look`) or of
    many in turn (`look_across`).

    Attributes:
        for_unsigned_maps: it means nothing on maps with negative values; a layer that has some gets a warning.
    """

    pool: Pool | None = None
    look: Look | None = None
    for_unsigned_maps: bool = False
    look_across: LookAcross | None = None


def register_pool(name: str, *, for_unsigned_maps: bool = False) -> Callable[[Pool], Pool]:
    """Decorator: a function of maps becomes the method of that name.

    Raises:
        ValueError: something else has that name.
    """

    def put(pool: Pool) -> Pool:
        ATTENTION.register(name)(AttentionMethod(pool, for_unsigned_maps=for_unsigned_maps))
        return pool

    return put


def pool_pairs(
    maps: LayerMaps, pairs: Pairs, method: str, computing: Computing
) -> Iterator[tuple[IntArray, torch.Tensor]]:
    """Region features of all pairs (METHOD, explaining filter u), a few pictures at a time.

    Args:
        maps: with the network, for methods that need it.
        method: of `explain.method`.

    Yields:
        (positions in pairs int64 [B], features float32 [B, C] on the device).
    """
    thresholds_C, forward, device = maps.thresholds_C, maps.forward, computing.device
    chosen = _find_method(method)
    if chosen.pool is None and forward is None:
        raise ValueError(f"{method.replace('_', ' ')} needs the network")
    asked_images = _read_asked_images(maps.store, pairs, method, computing)
    if chosen.look_across and forward is not None:
        yield from chosen.look_across(asked_images, thresholds_C, forward)
        return
    for asked in asked_images:
        if chosen.look and forward is not None:
            features = chosen.look(asked.maps, asked.filters, thresholds_C, forward.pictures[asked.image], forward)
        else:
            maps_CP = torch.from_numpy(asked.maps).to(device).flatten(1)
            filters_U = torch.from_numpy(asked.filters).to(device)
            thresholds_U = torch.from_numpy(thresholds_C[asked.filters]).to(device)
            features = pool_maps(maps_CP, filters_U, thresholds_U, method)
        yield asked.rows, features


def _read_asked_images(store: ActivationStore, pairs: Pairs, method: str, computing: Computing) -> Iterator[AskedImage]:
    """The pairs by picture, in the order of the store, with the maps of a few pictures read at a time."""
    images, inverse = np.unique(pairs.image, return_inverse=True)
    by_image = np.argsort(inverse, kind="stable")
    ends = np.searchsorted(inverse[by_image], np.arange(len(images) + 1))
    with computing.progress(f"features, {method.replace('_', ' ')}", len(images)) as bar:
        for start in range(0, len(images), _IMAGES_PER_BLOCK):
            block = images[start : start + _IMAGES_PER_BLOCK]
            maps_BCHW = store.read_images(block.tolist())
            for offset, image in enumerate(block.tolist()):
                rows = by_image[ends[start + offset] : ends[start + offset + 1]]
                yield AskedImage(rows, pairs.filter[rows], maps_BCHW[offset].astype(np.float32), image)
                bar.advance()


def pool_features(maps: LayerMaps, pairs: Pairs, method: str, channels: int, computing: Computing) -> FloatArray:
    """Region features of all pairs, float32 [P, channels] (see `pool_pairs`).

    The store may have more filters than the explainer reads (benchmarks.planted_filters): they can be explained as any
    other, but what they are explained by are the filters that it was trained on, which come first.
    """
    features = np.zeros((len(pairs), channels), np.float32)
    for positions, found in pool_pairs(maps, pairs, method, computing):
        features[positions] = found[:, :channels].cpu().numpy()
    return features


def pool_maps(maps_CP: torch.Tensor, filters_U: torch.Tensor, thresholds_U: torch.Tensor, method: str) -> torch.Tensor:
    """Region features of some filters on one picture: [U, C].

    Args:
        maps_CP: F, float32 [C, H·W].
        filters_U: the filters u.
        thresholds_U: T_u of these.
        method: one that needs no network.
    """
    pool = _find_method(method).pool
    if pool is None:
        raise ValueError(f"{method.replace('_', ' ')} needs the network")
    return pool(maps_CP, filters_U, thresholds_U)


def describe_unfit_maps(method: str, thresholds: Mapping[str, Any]) -> str:
    """What a method is not made for in a layer's maps, and what to do; empty where it fits.

    Args:
        thresholds: facts of the stage: num_signed of num_filters have negative values.
    """
    if not _find_method(method).for_unsigned_maps or not thresholds["num_signed"]:
        return ""
    return (
        f"negative activations in {thresholds['num_signed']} of {thresholds['num_filters']} filters; "
        f"{method.replace('_', ' ')} is made for maps without (after the activation): "
        "explain.method=activation_masking is safer here"
    )


def _find_method(name: str) -> AttentionMethod:
    found: AttentionMethod = ATTENTION.get(name)
    return found


@register_pool("original")
def pool_whole(maps_CP: torch.Tensor, filters_U: torch.Tensor, thresholds_U: torch.Tensor) -> torch.Tensor:
    """The mean of every map, whichever filter asks."""
    return maps_CP.mean(dim=1).expand(len(filters_U), -1)


@register_pool("activation_masking")
def pool_activation_region(maps_CP: torch.Tensor, filters_U: torch.Tensor, thresholds_U: torch.Tensor) -> torch.Tensor:
    """The mean of every map where the filter is above its threshold, 0 elsewhere."""
    above_UP = maps_CP[filters_U] > thresholds_U[:, None]
    return above_UP.to(maps_CP.dtype) @ maps_CP.T / maps_CP.shape[1]


@register_pool("filter_attention", for_unsigned_maps=True)
def pool_by_attention(maps_CP: torch.Tensor, filters_U: torch.Tensor, thresholds_U: torch.Tensor) -> torch.Tensor:
    """The mean of every map, weighted by its cosine with the filter's own map."""
    dots_UC, length_U = _multiply_maps(maps_CP, filters_U)
    length_C = maps_CP.norm(dim=1).clamp_min(torch.finfo(maps_CP.dtype).tiny)
    return dots_UC / length_U[:, None] / length_C * maps_CP.mean(dim=1)


@register_pool("filter_attention_unnormalised", for_unsigned_maps=True)
def pool_by_dots(maps_CP: torch.Tensor, filters_U: torch.Tensor, thresholds_U: torch.Tensor) -> torch.Tensor:
    """The formula of the public code: dots with the filter's map of length 1."""
    dots_UC, length_U = _multiply_maps(maps_CP, filters_U)
    return dots_UC / maps_CP.shape[1] / length_U[:, None]


def _multiply_maps(maps_CP: torch.Tensor, filters_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dots of the filters' maps with all maps [U, C], and the lengths of the former [U]."""
    own_UP = maps_CP[filters_U]
    length_U = own_UP.norm(dim=1).clamp_min(torch.finfo(maps_CP.dtype).tiny)
    return own_UP @ maps_CP.T, length_U


def look_at_masked_images(
    asked_images: Iterable[AskedImage], thresholds_C: FloatArray, forward: MaskedForward
) -> Iterator[tuple[IntArray, torch.Tensor]]:
    """pool(Feat(x ⊙ R_u)) for filters on pictures; x is the normalised input, so what is masked becomes 0.

    Masked pictures fill batches of one size, whichever pictures they are of, and the last one is filled up with zeros:
    for every other size a GPU would choose its kernels anew, which takes longer than the batch itself.

    Yields:
        a batch at a time: positions of pairs int64 [B], features float32 [B, C] on the device.
    """
    model, device = forward.model, forward.device
    network, size_px = model.network.to(device), model.geometry.size_px
    shape = (forward.batch_size, model.channels, *split_size(size_px))
    masked_BCYX = torch.zeros(shape, dtype=model.dtype, device=device).contiguous(memory_format=torch.channels_last)
    rows: list[IntArray] = []
    num_filled = 0
    with ActivationTap(network, (model.find_layer(forward.layer),)) as tap:

        def pool_batch() -> tuple[IntArray, torch.Tensor]:
            run_network(network, masked_BCYX)
            return np.concatenate(rows), tap.maps[forward.layer].float().mean(dim=(2, 3))[:num_filled]

        for asked, image in _decode_ahead(asked_images, forward):
            image_1CYX = normalise_images(image[None], model, device)
            start = 0
            while start < len(asked.filters):
                end = min(start + len(masked_BCYX) - num_filled, len(asked.filters))
                filters = asked.filters[start:end]
                regions_AYX = find_regions_there(asked.maps[filters], thresholds_C[filters], size_px, device)
                masked_BCYX[num_filled : num_filled + end - start] = image_1CYX * regions_AYX[:, None]
                rows.append(asked.rows[start:end])
                num_filled += end - start
                start = end
                if num_filled == len(masked_BCYX):
                    yield pool_batch()
                    rows, num_filled = [], 0
        if num_filled:
            masked_BCYX[num_filled:] = 0
            yield pool_batch()


def find_regions_there(maps_AHW: FloatArray, thresholds_A: FloatArray, size_px: Size, device: str) -> torch.Tensor:
    """`storage.images.geometry.find_regions` on the device, bool [A, Y, X]; the same on each, as its sums are exact."""
    rows_YH, columns_XW = (
        torch.from_numpy(count_bilinear(cells, size)).to(device)
        for cells, size in zip(maps_AHW.shape[1:], split_size(size_px), strict=True)
    )
    return rows_YH @ torch.from_numpy(take_thresholds_off(maps_AHW, thresholds_A)).to(device) @ columns_XW.T > 0


def _decode_ahead(
    asked_images: Iterable[AskedImage], forward: MaskedForward
) -> Iterator[tuple[AskedImage, InputImage]]:
    """With the pictures themselves, in the same order, a few decoded ahead in threads."""
    geometry, channels = forward.model.geometry, forward.model.channels
    waiting: deque[tuple[AskedImage, Future[InputImage]]] = deque()
    with ThreadPoolExecutor(_DECODE_THREADS) as pool:
        for asked in asked_images:
            waiting.append((asked, pool.submit(load_input, forward.pictures[asked.image], geometry, channels)))
            if len(waiting) > _IMAGES_AHEAD:
                first, decoded = waiting.popleft()
                yield first, decoded.result()
        for last, decoded in waiting:
            yield last, decoded.result()


ATTENTION.register("image_masking")(AttentionMethod(look_across=look_at_masked_images))
