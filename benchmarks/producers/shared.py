"""What the scripts of producers share: pictures, a small network, and the truth to hold files against.

They run in virtual environments of their own, where lavise's code is not imported.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = ("ash", "elm", "oak")
TRUTH = "truth"
"""Folder beside the files of a producer: the weights that it had in memory, by what they are."""


def run_script(make: Callable[[Path], None]) -> None:
    """Call `make` with the folder that is to be filled, given on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    make(folder)


def make_data(number: int = 12) -> TensorDataset:
    """Noise of 32 x 32 with a class each."""
    draw = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(number, 3, 32, 32, generator=draw), torch.arange(number) % len(CLASSES))


def make_batches(number: int = 12) -> DataLoader[tuple[torch.Tensor, ...]]:
    """The same, four at a time, in their order."""
    return DataLoader(make_data(number), batch_size=4)


def write_images(folder: Path, number: int = 12) -> None:
    """The same as PNG files, in a folder for each class."""
    for i, (picture, target) in enumerate(zip(*make_data(number).tensors, strict=True)):
        path = folder / CLASSES[int(target)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = (picture * 60 + 128).clamp(0, 255).byte().permute(1, 2, 0)
        Image.fromarray(levels.numpy()).save(path)


def make_network() -> nn.Module:
    """torchvision's smallest, for three classes."""
    network: nn.Module = torchvision.models.shufflenet_v2_x0_5(num_classes=len(CLASSES))
    return network


def make_small_network() -> nn.Module:
    """Without batch normalisation, whose statistics DeepSpeed keeps in another precision than a processor takes."""
    first, second = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 16, 3, 2)
    return nn.Sequential(
        first, nn.GroupNorm(2, 8), nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(784, len(CLASSES))
    )


def make_optimizer(network: nn.Module) -> torch.optim.SGD:
    """With momentum, so that its state has tensors of the weights' shapes."""
    return torch.optim.SGD(network.parameters(), lr=0.002, momentum=0.9)


def find_loss(network: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Of a batch of pictures and targets."""
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    after_step: Callable[[], object] = lambda: None,
    batches: DataLoader[tuple[torch.Tensor, ...]] | None = None,
) -> None:
    """One epoch."""
    network.train()
    for batch in batches or make_batches():
        loss = find_loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step()


def copy_state(network: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """State dict as it is now, below a prefix, without it."""
    state = network.state_dict()
    return {key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)}


def write_truth(folder: Path, name: str, state: Mapping[str, torch.Tensor]) -> None:
    """Keep weights, under the network's own names, so that what was read from a file can be held against them."""
    (folder / TRUTH).mkdir(exist_ok=True)
    tensors = {key: value.detach().contiguous().clone() for key, value in state.items()}
    save_file(tensors, folder / TRUTH / f"{name}.safetensors")
