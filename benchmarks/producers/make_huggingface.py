"""Hugging Face: Trainer and save_pretrained, with a timm network in TimmWrapper and with networks of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainingArguments,
)

from benchmarks.producers.shared import CLASSES, copy_state, make_data, run_script, write_truth


class Images(Dataset[dict[str, Any]]):
    """In the form that Trainer takes."""

    data = make_data(8)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture, target = self.data[index]
        return {"pixel_values": picture, "labels": int(target)}


def train(network: Any, folder: Path) -> None:
    """One epoch of two steps, which leaves checkpoint-2."""
    settings = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="epoch",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    Trainer(model=network, args=settings, train_dataset=Images()).train()


def make(folder: Path) -> None:
    """A checkpoint of each, and the first one in shards and as earlier versions wrote it."""
    about = {"architecture": "test_resnet", "num_classes": len(CLASSES), "label_names": list(CLASSES)}
    wrapped = TimmWrapperForImageClassification(TimmWrapperConfig.from_dict(about))
    train(wrapped, folder / "timm")
    wrapped.save_pretrained(folder / "timm_sharded", max_shard_size="500KB")
    write_truth(folder, "raw weights", copy_state(wrapped, "timm_model."))
    torch.save(wrapped.state_dict(), folder / "pytorch_model.bin")
    resnet = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=3)
    train(ResNetForImageClassification(resnet), folder / "resnet")
    convnext = ConvNextConfig(hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], num_labels=3, image_size=32)
    train(ConvNextForImageClassification(convnext), folder / "convnext")


if __name__ == "__main__":
    run_script(make)
