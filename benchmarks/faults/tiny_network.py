"""The network of the tiny audits; read by its path, since they run in folders of their own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class TinyNetwork(nn.Module):
    """Two convolutions: S -> S/2 -> S/4; `tail` has eight filters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.tail = nn.Conv2d(6, 8, 3, stride=2, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.tail(functional.relu(self.stem(images)))
        return maps.mean(dim=(2, 3))
