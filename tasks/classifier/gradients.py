"""Activation times gradient: how much each filter contributes to the logit of the class that a picture is given.

Shape legend: B pictures of a batch, K classes, C filters, H x W cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from lavise.storage.models.classifier_head import NO_LOGITS, to_class_logits
from lavise.storage.models.layers import ActivationLeaf, Layer


@dataclass(frozen=True)
class Attribution:
    """What one batch says.

    Attributes:
        logits: float32 [B, K].
        contributions: float32 [B, C].
        pooled: float32 [B, C], mean of F_u over its cells.
    """

    logits: torch.Tensor
    contributions: torch.Tensor
    pooled: torch.Tensor


class _OrdinaryTensors(TorchFunctionMode):
    """Copies tensors made in inference mode wherever they are used: some networks keep such ones from an earlier pass,
    and autograd refuses them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_copy_inference_tensor, (args, kwargs or {}))
        return func(*args, **kwargs)


def _copy_inference_tensor(value: Any) -> Any:
    with torch._C.DisableTorchFunction():
        return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value


def attribute_classes(network: nn.Module, layer: Layer, images_N3SS: torch.Tensor) -> Attribution | str:
    """Σ_hw F_u · ∂ logit_k / ∂ F_u of each picture, k the class that the network gives it (highest logit, the first
    of equal ones); gradient times input (Shrikumar et al. 2016) at a layer, summed over the map.

    One pass forward, one pass back to the layer. The parameters get no gradients.

    Args:
        network: in evaluation mode, so that pictures of a batch do not know of each other.

    Returns:
        tensors on the network's device, or a reason why there are none.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        ActivationLeaf(network, layer) as leaf,
        _OrdinaryTensors(),
    ):
        logits = to_class_logits(network(images_N3SS))
        if logits is None:
            return NO_LOGITS
        output = leaf.output
        if output is None or not logits.requires_grad:
            return f"no gradient of the class logits leads to layer {layer.name}"
        picked = logits.gather(1, logits.argmax(dim=1, keepdim=True)).sum()
        (gradient,) = torch.autograd.grad(picked, output, allow_unused=True)
        if gradient is None:
            return f"no gradient of the class logits leads to layer {layer.name}"
        maps = layer.to_maps(output.detach()).float()
        contributions = (maps * layer.to_maps(gradient).float()).sum(dim=(2, 3))
        return Attribution(logits.detach().float(), contributions, maps.mean(dim=(2, 3)))
