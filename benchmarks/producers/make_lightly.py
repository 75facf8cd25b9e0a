"""Lightly: BYOL as in its examples: the network's parts in a Sequential, beside their average."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum

from benchmarks.producers.shared import make_batches, make_network, run_script


class Byol(pytorch_lightning.LightningModule):
    """One view instead of two: the files are what matters."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Sequential(*list(make_network().children())[:-1], torch.nn.AdaptiveAvgPool2d(1))
        self.projection_head = BYOLProjectionHead(1024, 64, 16)
        self.prediction_head = BYOLPredictionHead(16, 64, 16)
        self.backbone_momentum = copy.deepcopy(self.backbone)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """Some loss."""
        update_momentum(self.backbone, self.backbone_momentum, 0.9)
        features = self.backbone(batch[0]).flatten(1)
        loss: torch.Tensor = self.prediction_head(self.projection_head(features)).pow(2).mean()
        return loss

    def configure_optimizers(self) -> Any:
        """A plain one."""
        return torch.optim.SGD(self.parameters(), lr=0.002)


def make(folder: Path) -> None:
    """One epoch."""
    trainer = pytorch_lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Byol(), make_batches())
    trainer.save_checkpoint(folder / "byol.ckpt")


if __name__ == "__main__":
    run_script(make)
