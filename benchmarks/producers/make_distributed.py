"""torch.distributed.checkpoint: saved directly, and by FSDP over two processes; on CPUs.

Lightning's FSDPStrategy asks for a GPU, and Accelerate shards nothing without one: they are not among them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from benchmarks.producers.shared import (
    copy_state,
    make_network,
    make_optimizer,
    run_script,
    train,
    write_truth,
)

PORT = 29_653


def make_plain(folder: Path) -> None:
    """One process that knows of no others."""
    network = make_network()
    optimizer = make_optimizer(network)
    train(network, optimizer)
    write_truth(folder, "raw weights of dcp", copy_state(network))
    save(
        {"model": network.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint_id=folder / "dcp", no_dist=True
    )


def make_sharded(folder: Path) -> None:
    """What each of two processes does."""
    distributed.init_process_group("gloo")
    torch.manual_seed(1)  # other weights than those of one process
    network = make_network()
    fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    optimizer = make_optimizer(network)
    train(network, optimizer)
    model, state = get_state_dict(network, optimizer)
    save({"model": model, "optimizer": state}, checkpoint_id=folder / "fsdp")
    whole = {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in network.state_dict().items()
    }
    if distributed.get_rank() == 0:
        write_truth(folder, "raw weights of fsdp", whole)
    distributed.barrier()
    distributed.destroy_process_group()


def start_ranks(folder: Path, number: int) -> None:
    """Run the part of this script that is for several processes which know of each other."""
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT), "WORLD_SIZE": str(number)}
    command: list[str | Path] = [sys.executable, "-P", "-m", "benchmarks.producers.make_distributed", folder]
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    processes = [subprocess.Popen(command, env=environment) for environment in ranks]
    ends = [process.wait() for process in processes]
    if any(ends):
        raise RuntimeError("one of the processes failed")


def make(folder: Path) -> None:
    """All of it, each with processes of its own."""
    make_plain(folder)
    start_ranks(folder, 2)


if __name__ == "__main__":
    run_script(make_sharded if "RANK" in os.environ else make)
