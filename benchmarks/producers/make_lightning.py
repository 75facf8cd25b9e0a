"""Lightning: ModelCheckpoint with hyper-parameters of all sorts, compiled parts, and the three averages."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from omegaconf import OmegaConf

from benchmarks.producers.shared import copy_state, find_loss, make_batches, make_network, run_script, write_truth

PREFIX = "model."


class Classifier(lightning.LightningModule):
    """A network, and a loss that has a buffer; whatever else it is given are hyper-parameters."""

    def __init__(self, compiled: bool = False, **settings: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = settings.get("net") or make_network()
        if compiled:
            self.model = torch.compile(self.model, backend="eager")
        self.loss_fn = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Loss of a batch."""
        loss: torch.Tensor = self.loss_fn(self.model(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Nothing."""

    def configure_optimizers(self) -> Any:
        """One that is scheduled."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.002, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])}


class Configured(lightning.LightningModule):
    """Its hyper-parameters are a single object of OmegaConf."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.save_hyperparameters(settings)
        self.model = make_network()

    def training_step(self, batch: tuple[torch.Tensor, ...], index: int) -> torch.Tensor:
        """Loss of a batch."""
        return find_loss(self.model, batch)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Nothing."""

    def configure_optimizers(self) -> Any:
        """A plain one."""
        return torch.optim.SGD(self.parameters(), lr=0.002)


class Remember(lightning.Callback):
    """Keeps the weights that were trained, before any callback puts others in their place."""

    def __init__(self) -> None:
        self.raw: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        """After every step; the last of an epoch stays."""
        self.raw[trainer.current_epoch] = copy_state(module, PREFIX)


def fit(
    folder: Path, module: lightning.LightningModule, callbacks: list[Any], epochs: int = 1, validate: bool = True
) -> Any:
    """Train and save below a folder; returns the trainer."""
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=callbacks,
    )
    trainer.fit(module, make_batches(), make_batches(4) if validate else None)
    return trainer


def make_plain(folder: Path) -> None:
    """Files without an average, told apart by their hyper-parameters."""
    config = OmegaConf.create({"model": {"name": "x", "layers": [2, 2]}, "path": "${oc.env:HOME}/x"})
    plain: dict[str, Any] = {
        "lr": np.float64(0.1),
        "n": np.int64(3),
        "array": np.arange(3),
        "data": Path("/data/leaves"),
    }
    modules: dict[str, Any] = {
        "default": Classifier(),
        "hparams": Classifier(cfg=config, **plain, size=torch.Size([3, 32]), dtype=torch.float16),
        "dictconfig": Configured(config),
        "compiled": Classifier(compiled=True),
        "class_in_hparams": Classifier(optimizer=functools.partial(torch.optim.Adam, lr=0.1)),
        "net_in_hparams": Classifier(net=make_network()),
    }
    for name, module in modules.items():
        fit(folder / name, module, [ModelCheckpoint(folder / name, filename="last")])
        prefix = f"{PREFIX}_orig_mod." if name == "compiled" else PREFIX
        write_truth(folder, f"raw weights of {name}", copy_state(module, prefix))


def find_average(callback: Any, module: lightning.LightningModule) -> dict[str, torch.Tensor]:
    """What a callback has averaged; for SWA, which averages parameters alone, with the network's batch statistics."""
    if not isinstance(callback, StochasticWeightAveraging):
        return copy_state(callback._average_model, f"module.{PREFIX}")
    plain = {key.removeprefix(PREFIX): value for key, value in callback._average_model.named_parameters()}
    return {**copy_state(module, PREFIX), **plain}


def make_averages(folder: Path) -> None:
    """Files with each kind of average, whole and weights alone."""
    for name, average, epochs in (
        ("swa", StochasticWeightAveraging(swa_lrs=0.001, swa_epoch_start=1), 3),
        ("swa_no_validation", StochasticWeightAveraging(swa_lrs=0.001, swa_epoch_start=1), 3),
        ("ema", EMAWeightAveraging(decay=0.9), 2),
        ("ema_weights_only", EMAWeightAveraging(decay=0.9), 2),
        ("weight_averaging", WeightAveraging(), 2),
    ):
        module, remember = Classifier(), Remember()
        saver = ModelCheckpoint(
            folder / name,
            filename="{epoch}",
            save_top_k=-1,
            save_last=True,
            save_weights_only=name == "ema_weights_only",
        )
        trainer = fit(folder / name, module, [remember, average, saver], epochs, name != "swa_no_validation")
        trainer.save_checkpoint(folder / name / "after_fit.ckpt")
        for epoch, state in remember.raw.items():
            write_truth(folder, f"raw weights of {name} epoch {epoch}", state)
        write_truth(folder, f"network after training of {name}", copy_state(module, PREFIX))
        write_truth(folder, f"average of {name}", find_average(average, module))


def make(folder: Path) -> None:
    """All of it."""
    make_plain(folder)
    make_averages(folder)


if __name__ == "__main__":
    run_script(make)
