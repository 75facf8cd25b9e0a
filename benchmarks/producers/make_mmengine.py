"""mmengine: CheckpointHook with and without EMAHook, and a published file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from benchmarks.producers.shared import copy_state, make_batches, make_network, run_script, write_truth

PREFIX = "backbone."


class Classifier(BaseModel):
    """In the form that Runner takes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = make_network()

    def forward(self, pictures: torch.Tensor, targets: torch.Tensor, mode: str = "tensor") -> Any:
        """The loss, or scores and targets."""
        scores = self.backbone(pictures)
        is_loss = mode == "loss"
        return {"loss": torch.nn.functional.cross_entropy(scores, targets)} if is_loss else [scores, targets]


class Accuracy(BaseMetric):
    """Share of right answers."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        """Count a batch."""
        scores, targets = data_samples
        self.results.append((scores.argmax(1) == targets).float().mean().item())

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Over all batches."""
        return {"accuracy": sum(results) / len(results)}


class Remember(Hook):
    """Keeps the weights that were trained and their average, before they change places."""

    priority = "VERY_LOW"

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        """After every step; the last of an epoch stays."""
        average = next(hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))
        where = f"{self.name} epoch {runner.epoch + 1}"
        write_truth(self.folder, f"raw weights of {where}", copy_state(runner.model, PREFIX))
        write_truth(self.folder, f"EMA of {where}", copy_state(average, f"module.{PREFIX}"))


def run(folder: Path, hooks: list[Any], **saving: Any) -> Any:
    """Train two epochs; returns the runner."""
    runner = Runner(
        model=Classifier(),
        work_dir=str(folder),
        train_dataloader=make_batches(),
        val_dataloader=make_batches(4),
        val_cfg={},
        val_evaluator={"type": Accuracy},
        train_cfg={"by_epoch": True, "max_epochs": 2, "val_interval": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.002, "momentum": 0.9}},
        param_scheduler={"type": "MultiStepLR", "milestones": [1]},
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1, "save_best": "accuracy", **saving}},
        custom_hooks=hooks,
        experiment_name=folder.name,
        log_level="ERROR",
        cfg={"work_dir": str(folder)},
    )
    runner.train()
    return runner


def make(folder: Path) -> None:
    """Without an average, with one, and with one that was published."""
    write_truth(folder, "raw weights of plain", copy_state(run(folder / "plain", []).model, PREFIX))
    average = {"type": "EMAHook", "momentum": 0.1}
    published = {"save_optimizer": False, "save_param_scheduler": False, "published_keys": ["meta", "state_dict"]}
    for name, options in (("ema", {}), ("published", published)):
        run(folder / name, [average, Remember(folder, name)], **options)


if __name__ == "__main__":
    run_script(make)
