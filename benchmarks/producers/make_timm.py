"""timm: the files that CheckpointSaver of train.py writes, with an average (EMA)."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler

from benchmarks.producers.shared import CLASSES, copy_state, make_optimizer, run_script, train, write_truth


def make(folder: Path) -> None:
    """Two epochs of which the first is the best, a recovery file, and the state of a compiled network."""
    network = timm.create_model("test_resnet", num_classes=len(CLASSES))
    optimizer, average = make_optimizer(network), ModelEmaV3(network, decay=0.9)
    args = Namespace(model="test_resnet", num_classes=len(CLASSES), data_dir="/data/leaves", mean=(0.5, 0.4, 0.3))
    saver = CheckpointSaver(
        network,
        optimizer,
        args=args,
        model_ema=average,
        amp_scaler=NativeScaler(device="cpu"),
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
        max_history=2,
    )
    for epoch, metric in enumerate((50.0, 40.0)):
        train(network, optimizer, lambda: average.update(network))
        saver.save_checkpoint(epoch, metric=metric)
        write_truth(folder, f"raw weights of epoch {epoch}", copy_state(network))
        write_truth(folder, f"EMA of epoch {epoch}", copy_state(average.module))
    saver.save_recovery(1, 3)
    compiled: Any = torch.compile(network)
    torch.save(compiled.state_dict(), folder / "compiled.pth")


if __name__ == "__main__":
    run_script(make)
