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
    ViTConfig,
    ViTForImageClassification,
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
    network = ResNetForImageClassification(resnet)
    train(network, folder / "resnet")
    write_truth(folder, "raw weights of resnet", copy_state(network))
    convnext = ConvNextConfig(hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], num_labels=3, image_size=32)
    network = ConvNextForImageClassification(convnext)
    train(network, folder / "convnext")
    write_truth(folder, "raw weights of convnext", copy_state(network))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    network = ViTForImageClassification(ViTConfig(num_labels=3, image_size=32, patch_size=8, **sizes))
    network.save_pretrained(folder / "vit")
    torch.save(network.state_dict(), folder / "vit_state.pth")
    write_truth(folder, "raw weights of vit", copy_state(network))


if __name__ == "__main__":
    run_script(make)
