"""Small networks whose layers are probed, read and edited."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lavise.storage.images.geometry import Size, split_size


class Small(nn.Module):
    """Two maps of different height and width, an in-place activation, and a head without maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(4, 6, (3, 1), stride=2, bias=False), nn.BatchNorm2d(6))
        self.unused = nn.Conv2d(3, 3, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.block(self.act(self.first(images)))
        out: torch.Tensor = self.head(self.pool(maps).flatten(1))
        return out


class Breaking(nn.Module):
    """Fails in the middle of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Linear(99, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(images))
        return out


def num_hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


class ChannelsLast(nn.Module):
    """A normalisation of [N, H, W, C] behind a convolution, as in Swin and ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.norm.weight.data = torch.linspace(1, 2, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.first(images).permute(0, 2, 3, 1))
        logits: torch.Tensor = self.head(maps.mean(dim=(1, 2)))
        return logits


class Tokens(nn.Module):
    """A transformer in small: patches in `order`, a class token before them, attention over all."""

    def __init__(self, size_px: Size = 16, order: torch.Tensor | None = None) -> None:
        super().__init__()
        self.size_px, self.order = size_px, order
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.qkv = nn.Linear(8, 24)
        self.weights, self.heads = nn.Identity(), nn.Identity()
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert tuple(images.shape[2:]) == split_size(self.size_px), "one size only"
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        if self.order is not None:
            tokens = tokens[:, self.order]
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1)
        q, k, v = (self.heads(part.unflatten(2, (2, 4)).transpose(1, 2)) for part in self.qkv(tokens).chunk(3, dim=2))
        mixed = self.weights((q @ k.transpose(2, 3)).softmax(dim=-1)) @ v
        tokens = self.norm(tokens + mixed.transpose(1, 2).flatten(2))
        logits: torch.Tensor = self.head(tokens[:, 0])
        return logits


class Reused(nn.Module):
    """One activation module in three places, as in ResNet; then an activation function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.c(self.relu(self.b(self.relu(self.a(images))))))
        logits: torch.Tensor = self.head(functional.relu(maps - 0.35, inplace=True).mean(dim=(2, 3)))
        return logits
