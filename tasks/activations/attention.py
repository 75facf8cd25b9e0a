"""The region feature of filter u on a picture, by the methods of the paper, for many filters at once.

Shape legend: P pairs (filter, picture), U filters looked at on one picture, C filters, H x W cells, Y x X input pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lavise.configs.registry import ATTENTION
from lavise.storage.array_types import FloatArray, IntArray
from lavise.storage.datasets.input_images import ImageSource, load_input
from lavise.storage.images.geometry import find_regions
from lavise.storage.models.layers import ActivationTap
from lavise.tasks.activations.forward import normalise_images, run_network
from lavise.tasks.activations.layer_maps import LayerMaps, MaskedForward
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.engine.computing import Computing

# Of F [C, H·W], filters u [U] and their T_u [U] -> region features [U, C].
Pool = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_IMAGES_PER_BLOCK = 16


# Of F float32 [C, H, W], filters u [U], all T [C], the picture's file and the network -> region features [U, C].
Look = Callable[[FloatArray, IntArray, FloatArray, ImageSource, MaskedForward], torch.Tensor]


@dataclass(frozen=True)
class AttentionMethod:
    """How region features are made: of maps alone (`pool`), or by the network (`look`).

    Attributes:
        for_unsigned_maps: it means nothing on maps with negative values; a layer that has some gets a warning.
    """

    pool: Pool | None = None
    look: Look | None = None
    for_unsigned_maps: bool = False


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
    store, thresholds_C, forward, device = maps.store, maps.thresholds_C, maps.forward, computing.device
    look = _find_method(method).look
    images, inverse = np.unique(pairs.image, return_inverse=True)
    by_image = np.argsort(inverse, kind="stable")
    ends = np.searchsorted(inverse[by_image], np.arange(len(images) + 1))
    with computing.progress(f"features, {method.replace('_', ' ')}", len(images)) as bar:
        for start in range(0, len(images), _IMAGES_PER_BLOCK):
            block = images[start : start + _IMAGES_PER_BLOCK]
            maps_BCHW = store.read_images(block.tolist())
            for offset, image in enumerate(block):
                rows = by_image[ends[start + offset] : ends[start + offset + 1]]
                filters = pairs.filter[rows]
                maps_CHW = maps_BCHW[offset].astype(np.float32)
                if look:
                    if forward is None:
                        raise ValueError(f"{method.replace('_', ' ')} needs the network")
                    features = look(maps_CHW, filters, thresholds_C, forward.pictures[image], forward)
                else:
                    maps_CP = torch.from_numpy(maps_CHW).to(device).flatten(1)
                    filters_U = torch.from_numpy(filters).to(device)
                    thresholds_U = torch.from_numpy(thresholds_C[filters]).to(device)
                    features = pool_maps(maps_CP, filters_U, thresholds_U, method)
                yield rows, features
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


def look_at_masked_image(
    maps_CHW: FloatArray, filters: IntArray, thresholds_C: FloatArray, picture: ImageSource, forward: MaskedForward
) -> torch.Tensor:
    """pool(Feat(x ⊙ R_u)) for some filters on one picture; x is the normalised input, so what is masked becomes 0."""
    model, device = forward.model, forward.device
    size = model.geometry.size_px
    image_1CYX = normalise_images(load_input(picture, model.geometry, model.channels)[None], model, device)
    network = model.network.to(device)
    parts = []
    with ActivationTap(network, (model.find_layer(forward.layer),)) as tap:
        for start in range(0, len(filters), forward.batch_size):
            block = filters[start : start + forward.batch_size]
            regions = find_regions(maps_CHW[block], thresholds_C[block], size)
            masked = image_1CYX * torch.from_numpy(regions).to(device)[:, None]
            run_network(network, masked.contiguous(memory_format=torch.channels_last))
            parts.append(tap.maps[forward.layer].float().mean(dim=(2, 3)))
    return torch.cat(parts)


ATTENTION.register("image_masking")(AttentionMethod(look=look_at_masked_image))
