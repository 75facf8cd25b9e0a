"""The classifier head of a network: the linear layer that reads the pooled maps of a target layer, and what its logits
mean.

Shape legend: N pictures, K classes, C filters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lavise.storage.images.geometry import Size, split_size
from lavise.storage.models.layers import ActivationTap, Layer, to_input

if TYPE_CHECKING:
    import torch
    from torch import nn

NO_LOGITS = "the network's output is no table of class logits"
NO_SHARES = "model.head is sigmoid, and words are told from the shares that a softmax gives the classes"
NO_LOGIT_SCALE = (
    "model.head is sigmoid, and all outputs of the network lie between 0 and 1, as probabilities do, where logits are "
    "expected; give the network without its last sigmoid (model.arch=path/to/file.py:callable)"
)
NO_LOGIT_SCALE_OF_ONE = (
    "the network has one output, and it lies between 0 and 1 on all pictures, as a probability does, where a logit is "
    "expected; give the network without its last sigmoid (model.arch=path/to/file.py:callable)"
)
_TOLERANCE = 1e-3
_PROBES = 2


@dataclass(frozen=True)
class AnswerRule:
    """What the class logits of a network mean, and which classes are its answers to a picture.

    Attributes:
        head: `softmax`, one answer: the class with the highest logit, the first of equal ones. `sigmoid`, each class by
            itself: those whose probability is above the threshold.
        threshold: of that probability, between 0 and 1.
    """

    head: Literal["softmax", "sigmoid"] = "softmax"
    threshold: float = 0.5

    @property
    def is_multi_label(self) -> bool:
        return self.head == "sigmoid"

    @property
    def least_logit(self) -> float:
        """Whose sigmoid is the threshold."""
        return math.log(self.threshold / (1 - self.threshold))

    def describe(self) -> dict[str, Any]:
        """What results depend on; nothing for a softmax."""
        return {"head": self.head, "head_threshold": self.threshold} if self.is_multi_label else {}

    def read_logits(self, output: Any) -> torch.Tensor | None:
        """Class logits [N, K] of what a network gives; None where that is no table of at least one class.

        With a softmax one logit is two classes (see `to_class_logits`).
        """
        logits = to_class_logits(output)
        return output if logits is not None and self.is_multi_label else logits

    def find_scale_fault(self, outputs: OutputRange) -> str | None:
        """Why what a network gives on all pictures is taken for probabilities; None where it may be logits, or where it
        does not matter: the highest of several outputs is the same."""
        if not (outputs.num_columns and outputs.lowest >= 0 and outputs.highest <= 1):
            return None
        if self.is_multi_label:
            return NO_LOGIT_SCALE
        return NO_LOGIT_SCALE_OF_ONE if outputs.num_columns == 1 else None


SOFTMAX = AnswerRule()


@dataclass(frozen=True)
class OutputRange:
    """Extremes of what a network gives, and of how many columns it is; of no pictures infinite."""

    lowest: float = math.inf
    highest: float = -math.inf
    num_columns: int = 0

    def include(self, output_NK: torch.Tensor) -> OutputRange:
        """The range with further pictures; their output as the network gives it."""
        lowest, highest = float(output_NK.min()), float(output_NK.max())
        return OutputRange(min(self.lowest, lowest), max(self.highest, highest), int(output_NK.shape[1]))


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
    network: nn.Module, layer: Layer, size_px: Size, channels: int = 3, rule: AnswerRule = SOFTMAX
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
    images = to_input(network, torch.randn(_PROBES, channels, *split_size(size_px), generator=generator))
    try:
        with torch.inference_mode(), ActivationTap(network, (layer,)) as tap:
            logits = network(images)
            pooled = tap.maps[layer.name].float().mean(dim=(2, 3))
    finally:
        for handle in handles:
            handle.remove()
    if to_class_logits(logits) is None:
        return None, NO_LOGITS
    for name, (given, out) in seen.items():
        if out.shape == logits.shape and _is_close(out, logits):
            if given.shape == pooled.shape and _is_close(given, pooled):
                module = linear[name]
                bias = module.bias if module.bias is not None else torch.zeros(len(module.weight))
                return LinearHead(_read_tensor(module.weight, rule), _read_tensor(bias, rule)), ""
            return None, f"layer {layer.name} does not feed the classifier head {name} directly"
    return None, "the network does not end in a linear classifier"


def count_classes(network: nn.Module, size_px: Size, channels: int = 3, rule: AnswerRule = SOFTMAX) -> int:
    """K, where the network's output is a table [N, K] of class logits (with a softmax, one logit is two classes);
    else 0."""
    import torch

    with torch.inference_mode():
        output = network(to_input(network, torch.zeros(1, channels, *split_size(size_px))))
    logits = rule.read_logits(output)
    return 0 if logits is None else int(logits.shape[1])


def to_class_logits(output: Any) -> torch.Tensor | None:
    """Class logits [N, K] of what a network gives; None where that is no table [N, K].

    One logit z (as for a sigmoid) stands for two classes, no and yes: -z/2 and z/2; their softmax is its sigmoid.
    """
    import torch

    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        return None
    return output if output.shape[1] != 1 else torch.cat([-output / 2, output / 2], dim=1)


def _read_tensor(tensor: torch.Tensor, rule: AnswerRule) -> torch.Tensor:
    """Weight [K, C] or bias [K] of a head as float32 on the processor; of one logit of a softmax, those of the two
    classes."""
    import torch

    tensor = tensor.detach().float().cpu()
    return tensor if len(tensor) != 1 or rule.is_multi_label else torch.cat([-tensor / 2, tensor / 2])


def _is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    scale = expected.abs().max().clamp_min(1e-12)
    return bool((found - expected).abs().max() <= _TOLERANCE * scale)
