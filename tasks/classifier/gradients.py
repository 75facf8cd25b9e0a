"""Activation times gradient: how much each filter contributes to the logits of the classes that a picture is given.

Shape legend: B pictures of a batch, K classes, C filters, H x W cells, P answers: pairs of a picture and a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from lavise.storage.models.classifier_head import NO_LOGITS, SOFTMAX, AnswerRule
from lavise.storage.models.layers import ActivationLeaf, Layer


@dataclass(frozen=True)
class Attribution:
    """What one batch says.

    Attributes:
        logits: float32 [B, K].
        output: float32 [B, K], as the network gives it; [B, 1] where one output stands for two classes.
        image: int64 [P], pictures of the answers, rising.
        answer: int64 [P], their classes; of a picture the one with the highest logit first.
        contributions: float32 [P, C].
        pooled: float32 [B, C], mean of F_u over its cells.
    """

    logits: torch.Tensor
    output: torch.Tensor
    image: torch.Tensor
    answer: torch.Tensor
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


def attribute_classes(
    network: nn.Module, layer: Layer, images_N3SS: torch.Tensor, rule: AnswerRule = SOFTMAX, max_answers: int = 1
) -> Attribution | str:
    """Σ_hw F_u · ∂ logit_k / ∂ F_u of each picture and each class k that the network gives it; gradient times input
    (Shrikumar et al. 2016) at a layer, summed over the map.

    One pass forward, one pass back to the layer for each answer that the picture with the most of them has. The
    parameters get no gradients.

    Args:
        network: in evaluation mode, so that pictures of a batch do not know of each other.
        max_answers: of a picture, those with the highest logits (the first of equal ones).

    Returns:
        tensors on the network's device, or a reason why there are none.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        ActivationLeaf(network, layer) as leaf,
        _OrdinaryTensors(),
    ):
        given = network(images_N3SS)
        logits = rule.read_logits(given)
        if logits is None:
            return NO_LOGITS
        output = leaf.output
        if output is None or not logits.requires_grad:
            return f"no gradient of the class logits leads to layer {layer.name}"
        maps = layer.to_maps(output.detach()).float()
        rounds = _list_answers(logits.detach().float(), rule, max_answers)
        images, answers, contributions = [], [], []
        for place, (image_P, answer_P) in enumerate(rounds, start=1):
            picked = logits[image_P].gather(1, answer_P[:, None]).sum()
            (gradient,) = torch.autograd.grad(picked, output, allow_unused=True, retain_graph=place < len(rounds))
            if gradient is None:
                return f"no gradient of the class logits leads to layer {layer.name}"
            images.append(image_P)
            answers.append(answer_P)
            contributions.append((maps * layer.to_maps(gradient).float()).sum(dim=(2, 3))[image_P])
        image = torch.cat([*images, logits.new_zeros(0).long()])
        order = torch.argsort(image, stable=True)
        return Attribution(
            logits.detach().float(),
            given.detach().float(),
            image[order],
            torch.cat([*answers, logits.new_zeros(0).long()])[order],
            torch.cat([*contributions, maps.new_zeros((0, maps.shape[1]))])[order],
            maps.mean(dim=(2, 3)),
        )


def _list_answers(
    logits_BK: torch.Tensor, rule: AnswerRule, max_answers: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first answers of the pictures that have any, then their second ones and so on: (picture, class) of each."""
    if not rule.is_multi_label:
        return [(torch.arange(len(logits_BK), device=logits_BK.device), logits_BK.argmax(dim=1))]
    ranked = torch.sort(logits_BK, dim=1, descending=True, stable=True)
    found = []
    for place in range(min(max_answers, logits_BK.shape[1])):
        image_P = (ranked.values[:, place] > rule.least_logit).nonzero()[:, 0]
        if not len(image_P):
            break
        found.append((image_P, ranked.indices[image_P, place]))
    return found
