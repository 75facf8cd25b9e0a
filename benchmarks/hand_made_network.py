"""A network whose filters are made by hand, so that the words that are right for each are known: colours and textures.

Shape legend: N pictures, H x W pixels, C filters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CELL_PX = 8
WINDOW_PX = 24
# Red, green, blue, 0..255: what a detector of the colour answers to most; it answers to nothing further than _REACH.
PROTOTYPES = {
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "grey": (128, 128, 128),
    "red": (210, 20, 20),
    "orange": (240, 135, 20),
    "yellow": (240, 220, 40),
    "green": (40, 160, 50),
    "blue": (30, 80, 220),
    "purple": (120, 50, 170),
    "pink": (245, 160, 195),
    "brown": (100, 60, 25),
}
_REACH = 0.3
PERIODS_PX = (5, 9, 16)
ORIENTATIONS = 8
# Decided before any audit was looked at. A zigzag is stripes of two directions.
RIGHT: tuple[tuple[str, frozenset[str]], ...] = (
    *((f"colour {term}", frozenset({"gray", "grey"} if term == "grey" else {term})) for term in PROTOTYPES),
    *(
        (f"stripes of {period} px, {180 * turn // ORIENTATIONS} degrees", frozenset({"striped", "zigzag"}))
        for period in PERIODS_PX
        for turn in range(ORIENTATIONS)
    ),
    ("one direction", frozenset({"striped"})),
    ("blobs", frozenset({"dotted", "checkered"})),
    ("high frequencies", frozenset({"grainy"})),
    ("nothing but one tone", frozenset({"smooth", "gradient"})),
)
"""Of each filter what it answers to, and the words that are right for it."""


def _make_gabors() -> list[Tensor]:
    """Pairs of even and odd waves under a bell, of sum 0: for each period [2 * ORIENTATIONS, 1, k, k]."""
    banks = []
    for period in PERIODS_PX:
        reach = round(1.5 * period)
        y, x = torch.meshgrid(torch.arange(-reach, reach + 1), torch.arange(-reach, reach + 1), indexing="ij")
        bell = torch.exp(-(x**2 + y**2) / (2 * (0.5 * period) ** 2))
        waves = []
        for turn in range(ORIENTATIONS):
            angle = math.pi * turn / ORIENTATIONS
            phase = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period
            even = bell * phase.cos()
            waves += [even - bell * even.sum() / bell.sum(), bell * phase.sin()]
        bank = torch.stack(waves)[:, None]
        banks.append(bank / bank.abs().sum(dim=(1, 2, 3), keepdim=True))
    return banks


class HandMade(nn.Module):
    """Pictures [N, 3, H, W] of values 0..1 -> maps [N, C, H / 8, W / 8], none below 0, in the order of `RIGHT`."""

    prototypes: Tensor
    sobel: Tensor

    def __init__(self) -> None:
        super().__init__()
        for number, bank in enumerate(_make_gabors()):
            self.register_buffer(f"gabors_{number}", bank)
        prototypes = torch.tensor(list(PROTOTYPES.values()), dtype=torch.float32) / 255
        self.register_buffer("prototypes", prototypes)
        steps = torch.tensor([[-1.0, 0.0, 1.0]])
        sobel = torch.tensor([[1.0], [2.0], [1.0]]) @ steps / 8
        self.register_buffer("sobel", torch.stack([sobel, sobel.T])[:, None])
        self.maps = nn.Identity()

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        grey = pictures.mean(dim=1, keepdim=True)
        prototypes = self.prototypes[:, :, None, None]
        far = (pictures[:, None] - prototypes).square().sum(dim=2).sqrt()
        found = [functional.avg_pool2d((1 - far / _REACH).relu(), CELL_PX)]
        for number in range(len(PERIODS_PX)):
            bank = getattr(self, f"gabors_{number}")
            waves = functional.conv2d(_pad(grey, bank.shape[-1] // 2), bank, stride=2)
            energy = waves.unflatten(1, (ORIENTATIONS, 2)).square().sum(dim=2).sqrt()
            energy = functional.avg_pool2d(energy, CELL_PX // 2)
            found.append((energy - 2 * energy.roll(ORIENTATIONS // 2, dims=1)).relu())  # less what lies across
        found += self._find_shapes(grey, pictures)
        return self.maps(torch.cat(found, dim=1))

    def _find_shapes(self, grey: Tensor, pictures: Tensor) -> list[Tensor]:
        slope = functional.conv2d(_pad(grey, 1), self.sobel)
        xx, yy = _average(slope[:, :1].square()), _average(slope[:, 1:].square())
        xy = _average(slope[:, :1] * slope[:, 1:])
        contrast = (xx + yy).sqrt()
        coherence = ((xx - yy).square() + 4 * xy.square()).sqrt() / (xx + yy + 1e-4)
        blurred = grey
        for _ in range(3):
            blurred = functional.avg_pool2d(_pad(blurred, 2), 5, stride=1)
        bend = functional.conv2d(
            _pad(functional.conv2d(_pad(blurred, 1), self.sobel).flatten(0, 1)[:, None], 1), self.sobel
        )
        bend = bend.unflatten(0, (-1, 2))
        determinant = bend[:, 0, :1] * bend[:, 1, 1:] - bend[:, 0, 1:].square()
        fine = (grey - functional.avg_pool2d(_pad(grey, 1), 3, stride=1)).abs()
        mean = _average(pictures)
        spread = (_average(pictures.square()) - mean.square()).clamp(min=0).sum(dim=1, keepdim=True).sqrt()
        return [
            contrast * coherence**2,
            _average(determinant.relu()).sqrt(),
            _average((fine / 0.03).clamp(max=1)) * (1 - coherence),
            (1 - spread / 0.1).relu(),
        ]


def _pad(values: Tensor, by: int) -> Tensor:
    return functional.pad(values, (by, by, by, by), mode="reflect")


def _average(values: Tensor) -> Tensor:
    """Over windows of 24 px around cells of 8 px."""
    return functional.avg_pool2d(_pad(values, (WINDOW_PX - CELL_PX) // 2), WINDOW_PX, stride=CELL_PX)


def make_network() -> nn.Module:
    """What `model.arch: benchmarks.hand_made_network:make_network` builds."""
    return HandMade()
