"""Composer: Trainer with EMA, with SWA, and with neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from composer import Callback, Trainer
from composer.algorithms import EMA, SWA
from composer.models import ComposerClassifier

from benchmarks.producers.shared import (
    CLASSES,
    copy_state,
    make_batches,
    make_network,
    make_optimizer,
    run_script,
    write_truth,
)

PREFIX = "module."


class Remember(Callback):
    """Keeps the weights that were trained and their average, before they change places."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def batch_end(self, state: Any, logger: Any) -> None:
        """After every step, and after the algorithms; the last of an epoch stays."""
        where = f"{self.name} epoch {int(state.timestamp.epoch) + 1}"
        write_truth(self.folder, f"raw weights of {where}", copy_state(state.model, PREFIX))
        average = next((a.ema_model for a in state.algorithms if isinstance(a, EMA)), None)
        if average is not None:
            tensors = {**average.named_parameters_dict, **average.named_buffers_dict}
            plain = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
            write_truth(self.folder, f"EMA of {where}", plain)

    def epoch_end(self, state: Any, logger: Any) -> None:
        """SWA averages at the end of an epoch."""
        average = next((a.swa_model for a in state.algorithms if isinstance(a, SWA)), None)
        if average is not None:
            where = f"{self.name} epoch {int(state.timestamp.epoch)}"
            write_truth(self.folder, f"SWA average of {where}", copy_state(average, f"module.{PREFIX}"))


def make(folder: Path) -> None:
    """Two epochs each."""
    for name, algorithms in (
        ("plain", []),
        ("ema", [EMA(half_life="2ba", update_interval="1ba")]),
        ("swa", [SWA(swa_start="0.5dur", swa_end="0.99dur", update_interval="1ba")]),
    ):
        network = ComposerClassifier(make_network(), num_classes=len(CLASSES))
        Trainer(
            model=network,
            train_dataloader=make_batches(8),
            eval_dataloader=make_batches(4),
            max_duration="2ep",
            optimizers=make_optimizer(network),
            algorithms=algorithms,
            callbacks=[Remember(folder, name)],
            save_folder=str(folder / name),
            save_interval="1ep",
            device="cpu",
            progress_bar=False,
            run_name="demo",
        ).fit()


if __name__ == "__main__":
    run_script(make)
