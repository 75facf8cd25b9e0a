"""Small YAML files of settings."""

from __future__ import annotations

from pathlib import Path

MINIMAL = """
name: small
model: {arch: "timm:resnet18"}
reference: {kind: openmoji}
target: {kind: openmoji}
"""


def write(tmp_path: Path, text: str, name: str = "run.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return str(path)
