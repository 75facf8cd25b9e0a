"""A user's project whose packages happen to be called as our folders are."""

from __future__ import annotations

from pathlib import Path

_ARCHITECTURE = """
import timm
from torch import nn


def make(num_classes: int = 1000) -> nn.Module:
    return timm.create_model("tf_efficientnet_lite0", num_classes=num_classes)
"""


def write_users_folder(folder: Path) -> Path:
    """Packages configs, flows, storage and tasks; tasks/net.py makes EfficientNet-Lite0 as the user's own network."""
    for name in ("configs", "flows", "storage", "tasks"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f'OWNER = "the user\'s {name}"\n', "utf-8")
    (folder / "tasks" / "net.py").write_text(_ARCHITECTURE, "utf-8")
    return folder
