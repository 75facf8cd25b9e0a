"""One of the trainers: a small network of timm, saved as the library does by default. Beside the watched folder it
keeps what it had in memory. Runs in an environment of its own.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.producers.shared import (
    CLASSES,
    copy_state,
    find_loss,
    make_batches,
    make_data,
    make_optimizer,
    run_script,
    train,
    write_truth,
)

NUM_EPOCHS = 2


def make_network() -> nn.Module:
    """timm's smallest."""
    import timm

    network: nn.Module = timm.create_model("test_resnet", num_classes=len(CLASSES))
    return network


def train_with_timm(folder: Path, beside: Path) -> None:
    """Raw weights with their average, and hard links to the last and the best."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    network = make_network()
    optimizer, average = make_optimizer(network), ModelEmaV3(network, decay=0.9)
    saver = CheckpointSaver(
        network, optimizer, args=Namespace(model="test_resnet"), model_ema=average, checkpoint_dir=str(folder)
    )
    for epoch in range(NUM_EPOCHS):
        train(network, optimizer, lambda: average.update(network))
        saver.save_checkpoint(epoch, metric=50.0 - epoch)
        write_truth(beside, f"timm, average of epoch {epoch}", copy_state(average.module))


def train_with_lightning(folder: Path, beside: Path) -> None:
    """A file for each epoch, and a link to the last."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Classifier(lightning.LightningModule):
        def __init__(self, lr: float = 0.002) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = make_network()

        def training_step(self, batch: tuple[torch.Tensor, ...], index: int) -> torch.Tensor:
            return find_loss(self.net, batch)

        def on_train_epoch_end(self) -> None:
            write_truth(beside, f"Lightning, epoch {self.current_epoch}", copy_state(self.net))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(self.net)

    trainer = lightning.Trainer(
        max_epochs=NUM_EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder, save_top_k=-1, save_last="link")],
    )
    trainer.fit(Classifier(), make_batches())


def train_with_hugging_face(folder: Path, beside: Path) -> None:
    """A folder for each epoch with weights, optimizer, scheduler and random state."""
    from transformers import (
        TimmWrapperConfig,
        TimmWrapperForImageClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    about = {"architecture": "test_resnet", "num_classes": len(CLASSES), "label_names": list(CLASSES)}
    network: Any = TimmWrapperForImageClassification(TimmWrapperConfig.from_dict(about))

    class Remember(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            write_truth(beside, f"Trainer, step {state.global_step}", copy_state(network, "timm_model."))

    settings = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=NUM_EPOCHS,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="epoch",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    images, targets = make_data(8).tensors
    rows: Any = [{"pixel_values": image, "labels": int(target)} for image, target in zip(images, targets, strict=True)]
    Trainer(model=network, args=settings, train_dataset=rows, callbacks=[Remember()]).train()


TRAINERS = {"timm": train_with_timm, "lightning": train_with_lightning, "huggingface": train_with_hugging_face}


def make(folder: Path) -> None:
    """By the folder's name; what was in memory goes beside the watched folder."""
    beside = folder.parents[1]
    TRAINERS[folder.name](folder, beside)


if __name__ == "__main__":
    run_script(make)
