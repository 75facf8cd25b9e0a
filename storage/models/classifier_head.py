"""The classifier head of a network: the linear layer that reads the pooled maps of a target layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lavise.storage.models.layers import ActivationTap, Layer, to_input

if TYPE_CHECKING:
    import torch
    from torch import nn

_TOLERANCE = 1e-3
_PROBES = 2


@dataclass(frozen=True)
class LinearHead:
    """Class logits = weight · pool(F) + bias, exactly as in the network itself.

    Attributes:
        weight: float32 [K, C].
        bias: float32 [K].
    """

    weight: torch.Tensor
    bias: torch.Tensor


def find_linear_head(
    network: nn.Module, layer: Layer, size_px: int, channels: int = 3
) -> tuple[LinearHead | None, str]:
    """The linear layer that a target layer feeds through nothing but mean pooling, and whose output is the network's.

    It is not guessed by name: noise goes through the network, and input and output of every linear layer are compared
    with the pooled maps and with the class logits.

    Returns:
        the head, or None and the reason.
    """
    import torch
    from torch import nn

    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = (inputs[0].detach(), output.detach())

        return keep

    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    handles = [module.register_forward_hook(watch(name)) for name, module in linear.items()]
    generator = torch.Generator().manual_seed(0)
    images = to_input(network, torch.randn(_PROBES, channels, size_px, size_px, generator=generator))
    try:
        with torch.inference_mode(), ActivationTap(network, (layer,)) as tap:
            logits = network(images)
            pooled = tap.maps[layer.name].float().mean(dim=(2, 3))
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        return None, "the network's output is no table of class logits"
    for name, (given, out) in seen.items():
        if out.shape == logits.shape and _is_close(out, logits):
            if given.shape == pooled.shape and _is_close(given, pooled):
                module = linear[name]
                bias = module.bias if module.bias is not None else torch.zeros(len(module.weight))
                return LinearHead(module.weight.detach().float().cpu(), bias.detach().float().cpu()), ""
            return None, f"layer {layer.name} does not feed the classifier head {name} directly"
    return None, "the network does not end in a linear classifier"


def count_classes(network: nn.Module, size_px: int, channels: int = 3) -> int:
    """K, where the network's output is a table [N, K] of class logits; else 0."""
    import torch

    with torch.inference_mode():
        output = network(to_input(network, torch.zeros(1, channels, size_px, size_px)))
    return int(output.shape[1]) if isinstance(output, torch.Tensor) and output.ndim == 2 else 0


def _is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    scale = expected.abs().max().clamp_min(1e-12)
    return bool((found - expected).abs().max() <= _TOLERANCE * scale)
