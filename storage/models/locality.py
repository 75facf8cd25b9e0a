"""Whether the cells of a map lie where the picture has them: each quarter of a picture is changed in turn, and looked
where the map changes.

Some transformers keep their tokens in another order than row by row (units that are masked together, windows). The
number of tokens does not tell; this does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lavise.storage.images.geometry import Size, split_size
from lavise.storage.models.layers import Layer, LayerHooks, to_input

if TYPE_CHECKING:
    import torch
    from torch import nn

_LEAST_SIDE = 2


def find_misplaced(network: nn.Module, layers: Sequence[Layer], size_px: Size, channels: int) -> list[str]:
    """Names of those layers in which a change of one quarter of a picture does not show most in that quarter.

    What changes everywhere alike (attention, normalisation over the whole picture) is taken off: a quarter of the map
    is compared with itself, over the changes of all four quarters of the picture. Maps with a side of one cell are not
    tried; of maps that never change, or are not finite, nothing can be told, and they pass.

    Args:
        size_px: of the input.
        channels: of the input.
    """
    import torch

    tried = [layer for layer in layers if min(layer.height, layer.width) >= _LEAST_SIDE]
    if not tried:
        return []
    images = to_input(network, _make_probes(size_px, channels))
    with torch.inference_mode(), _Places(network, tried) as places:
        network(images)
        return [layer.name for layer in tried if layer.name in places.misplaced]


class _Places(LayerHooks):
    """Looks at the map of each layer when it is there, and keeps none: all together may not fit into memory."""

    def __init__(self, network: nn.Module, layers: Sequence[Layer]) -> None:
        super().__init__(network, layers)
        self.misplaced: set[str] = set()

    def handle(self, layer: Layer, output: torch.Tensor) -> None:
        if not _is_placed(layer.to_maps(output.detach()).float()):
            self.misplaced.add(layer.name)

    def forget(self) -> None:
        """Nothing is kept but names."""


def _make_probes(size_px: Size, channels: int) -> torch.Tensor:
    """[5, channels, Y, X]: noise, and the same noise with other noise in the middle of each quarter."""
    import torch

    generator = torch.Generator().manual_seed(0)
    height, width = split_size(size_px)
    base = torch.randn(1, channels, height, width, generator=generator)
    other = torch.randn(1, channels, height, width, generator=generator)
    probes = base.repeat(5, 1, 1, 1)
    for number in range(4):
        rows, columns = _find_middle(height, number // 2), _find_middle(width, number % 2)
        probes[1 + number, :, rows, columns] = other[0, :, rows, columns]
    return probes


def _find_middle(length: int, half: int) -> slice:
    """Of the first or second half of an axis, what is not near its ends."""
    start, margin = half * (length // 2), length // 16
    return slice(start + margin, start + length // 2 - margin)


def _is_placed(maps_5CHW: torch.Tensor) -> bool:
    import torch

    change_4HW = (maps_5CHW[1:] - maps_5CHW[:1]).norm(dim=1)
    height, width = change_4HW.shape[1:]
    # The middle row and column of an odd number belong to no quarter.
    rows, columns = (
        (slice(0, height // 2), slice(-(-height // 2), None)),
        (slice(0, width // 2), slice(-(-width // 2), None)),
    )
    quarters = torch.stack([change_4HW[:, r, c].mean(dim=(1, 2)) for r in rows for c in columns], dim=1)
    if not torch.isfinite(quarters).all() or (quarters == 0).all():
        return True
    share_44 = quarters / quarters.sum(dim=1, keepdim=True).clamp_min(1e-30)
    contrast = share_44 - share_44.mean(dim=0, keepdim=True)
    return bool((contrast.argmax(dim=1) == torch.arange(4, device=contrast.device)).all())
