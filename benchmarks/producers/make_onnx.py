"""ONNX: the graph that torch.onnx exports, with its weights inside and beside it."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.producers.shared import make_network, run_script


def make(folder: Path) -> None:
    """One of each."""
    network, picture = make_network().eval(), torch.zeros(1, 3, 32, 32)
    torch.onnx.export(network, (picture,), folder / "beside.onnx", verbose=False)
    torch.onnx.export(network, (picture,), folder / "inside.onnx", external_data=False, verbose=False)


if __name__ == "__main__":
    run_script(make)
