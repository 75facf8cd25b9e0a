"""DeepSpeed on a CPU, one process: checkpoints of each stage of ZeRO, and what its own script makes of the last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import deepspeed
import torch

from benchmarks.producers.shared import copy_state, make_batches, make_small_network, run_script, write_truth

PORT = 29_655


def make(folder: Path) -> None:
    """One epoch of each stage."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    os.environ.update(address)
    deepspeed.init_distributed(dist_backend="gloo")
    for stage in range(4):
        network = make_small_network()
        settings = {
            "train_batch_size": 4,
            "zero_optimization": {"stage": stage},
            "bf16": {"enabled": True},
            "zero_allow_untested_optimizer": True,
        }
        optimizer = torch.optim.SGD(network.parameters(), lr=0.002, momentum=0.9)
        engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=settings)
        for pictures, targets in make_batches():
            engine.backward(torch.nn.functional.cross_entropy(engine(pictures.bfloat16()).float(), targets))
            engine.step()
        engine.save_checkpoint(folder / f"zero_{stage}", tag="step")
        if stage < 3:
            write_truth(folder, f"weights of ZeRO-{stage} as they computed (bfloat16)", _widen(copy_state(network)))
        else:
            whole = {name: deepspeed.utils.safe_get_full_fp32_param(p) for name, p in network.named_parameters()}
            write_truth(folder, "weights of ZeRO-3 as they were trained (float32)", whole)
    script = [sys.executable, "zero_to_fp32.py", ".", "weights"]
    subprocess.run(script, check=True, cwd=folder / "zero_3")


def _widen(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in state.items()}


if __name__ == "__main__":
    run_script(make)
