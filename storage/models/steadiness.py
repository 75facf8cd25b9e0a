"""Whether a network's maps are those of a picture alone: the same twice, and whatever pictures are beside it.

Dropout that stays on, or batch normalisation without running statistics, would make thresholds and top images of a run
depend on chance or on the size of a batch, without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lavise.configs.errors import UserError
from lavise.storage.images.geometry import Size, split_size
from lavise.storage.models.layers import ActivationTap, Layer, to_input

if TYPE_CHECKING:
    import torch
    from torch import nn

# Kernels for one picture and for two add up in another order; what batch statistics do is far larger.
_TOLERANCE = 0.02


def check_steadiness(network: nn.Module, layers: Sequence[Layer], size_px: Size, channels: int = 3) -> None:
    """Look at one picture twice, and once beside another.

    Maps that are not finite pass: extraction says so, with the picture.

    Args:
        layers: whose maps are compared.
        size_px: of the input.
        channels: of the input.

    Raises:
        UserError: the maps differ; names the layer.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, channels, *split_size(size_px), generator=generator)
    pictures[1] *= 3
    pictures = to_input(network, pictures)
    with torch.inference_mode(), ActivationTap(network, layers) as tap:
        alone, again, beside = (_read(network, tap, images) for images in (pictures[:1], pictures[:1], pictures))
    for layer in layers:
        name = layer.name
        if not torch.allclose(alone[name], again[name], rtol=0, atol=0, equal_nan=True):
            raise UserError(
                f"model.arch: the maps of layer {name} are not the same when one picture is looked at twice; a network "
                "that draws at random in evaluation (dropout that stays on, noise) cannot be audited: switch that off"
            )
        difference = (beside[name] - alone[name]).abs().max()
        if difference > _TOLERANCE * alone[name].abs().max().clamp_min(1e-12):
            raise UserError(
                f"model.arch: the maps of layer {name} depend on the other pictures of the batch (batch normalisation "
                "without running statistics?); give the network statistics of its own, as evaluation needs them"
            )


def _read(network: nn.Module, tap: ActivationTap, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Maps of the first picture."""
    network(images)
    return {name: maps[:1].float() for name, maps in tap.maps.items()}
