"""MLflow: models in both formats of mlflow.pytorch, state dicts, and what autolog keeps of Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import mlflow.pytorch
import numpy as np
import torch

from benchmarks.producers.shared import copy_state, find_loss, make_batches, make_network, run_script, write_truth


class Classifier(lightning.LightningModule):
    """A network in Lightning's form."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_network()

    def training_step(self, batch: tuple[torch.Tensor, ...], index: int) -> torch.Tensor:
        """Loss of a batch."""
        return find_loss(self.model, batch)

    def validation_step(self, batch: tuple[torch.Tensor, ...], index: int) -> None:
        """What autolog's checkpoints go by."""
        self.log("val_loss", find_loss(self.model, batch))

    def configure_optimizers(self) -> Any:
        """A plain one."""
        return torch.optim.SGD(self.parameters(), lr=0.002)


def make(folder: Path) -> None:
    """Models below a folder each; artefacts of a run below `artifacts`."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("producers", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("producers")
    network, example = make_network().eval(), np.zeros((1, 3, 32, 32), np.float32)
    mlflow.pytorch.save_model(network, str(folder / "default"), input_example=example)
    mlflow.pytorch.save_model(network, str(folder / "pickle"), serialization_format="pickle")
    with mlflow.start_run():
        mlflow.pytorch.log_state_dict(network.state_dict(), artifact_path="state")
    write_truth(folder, "raw weights", copy_state(network))

    mlflow.pytorch.autolog()
    module = Classifier()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder / "lightning",
    )
    with mlflow.start_run():
        trainer.fit(module, make_batches(), make_batches(4))
    write_truth(folder, "raw weights of autolog", copy_state(module, "model."))


if __name__ == "__main__":
    run_script(make)
