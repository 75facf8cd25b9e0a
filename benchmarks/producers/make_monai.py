"""MONAI: CheckpointSaver of one object and of several; and a network of its own under torchvision's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointSaver
from monai.networks.nets import resnet18
from torch.utils.data import DataLoader

from benchmarks.producers.shared import copy_state, make_data, make_network, make_optimizer, run_script, write_truth


def make(folder: Path) -> None:
    """One epoch each."""
    network = make_network()
    optimizer = make_optimizer(network)
    pictures, targets = make_data(8).tensors
    data: Any = [{"image": picture, "label": target} for picture, target in zip(pictures, targets, strict=True)]
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(data, batch_size=4),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[
            CheckpointSaver(str(folder / "several"), {"net": network, "opt": optimizer}, save_final=True),
            CheckpointSaver(str(folder / "one"), {"net": network}, save_final=True),
        ],
    ).run()
    write_truth(folder, "raw weights", copy_state(network))
    torch.save(resnet18(spatial_dims=2, n_input_channels=3, num_classes=3).state_dict(), folder / "own_resnet18.pt")


if __name__ == "__main__":
    run_script(make)
