"""DINO, MoCo and SimCLR: no packages, so files with the names and keys that their published training scripts write."""

from __future__ import annotations

import copy
from argparse import Namespace
from pathlib import Path

import torch
from torch import nn

from benchmarks.producers.shared import copy_state, make_network, run_script, write_truth


class _Parts(nn.Module):
    """Networks under the names that they have in a method's module."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def _replace_head(network: nn.Module, head: nn.Module) -> nn.Module:
    network.fc = head
    return network


def make(folder: Path) -> None:
    """Student and teacher, query and key, and one alone with another head."""
    student = _replace_head(make_network(), nn.Identity())
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(0.9)
    write_truth(folder, "student", copy_state(student))
    write_truth(folder, "teacher", copy_state(teacher))

    # facebookresearch/dino, main_dino.py
    head = nn.Sequential(nn.Linear(1024, 32), nn.GELU(), nn.utils.weight_norm(nn.Linear(32, 64, bias=False)))
    dino = {
        "student": nn.DataParallel(_Parts(backbone=student, head=head)).state_dict(),
        "teacher": _Parts(backbone=teacher, head=head).state_dict(),
        "epoch": 1,
        "args": Namespace(arch="shufflenet_v2_x0_5", patch_size=16),
        "dino_loss": {"center": torch.zeros(1, 64)},
    }
    torch.save(dino, folder / "dino.pth")
    # facebookresearch/moco, main_moco.py, and moco-v3
    for name, (query, key) in {
        "moco": ("encoder_q", "encoder_k"),
        "moco_v3": ("base_encoder", "momentum_encoder"),
    }.items():
        pair = _Parts(**{query: student, key: teacher})
        pair.register_buffer("queue", torch.zeros(16, 64))
        content = {"epoch": 1, "arch": "shufflenet_v2_x0_5", "state_dict": nn.DataParallel(pair).state_dict()}
        torch.save(content, folder / f"{name}.pth.tar")
    # sthalles/SimCLR
    projection = nn.Sequential(nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 16))
    simclr = _Parts(backbone=_replace_head(copy.deepcopy(student), projection))
    torch.save({"epoch": 1, "state_dict": simclr.state_dict()}, folder / "simclr.pth.tar")


if __name__ == "__main__":
    run_script(make)
