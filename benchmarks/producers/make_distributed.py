"""torch.distributed.checkpoint: saved directly, by FSDP over two processes, and by Accelerate; on CPUs.

Lightning's FSDPStrategy asks for a GPU, and is not among them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch import distributed
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.fsdp import fully_shard

from benchmarks.producers.shared import (
    copy_state,
    make_batches,
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
    torch.manual_seed(0)
    network = make_network()
    fully_shard(network, mesh=distributed.init_device_mesh("cpu", (2,)))
    optimizer = make_optimizer(network)
    train(network, optimizer)
    model, state = get_state_dict(network, optimizer)
    save({"model": model, "optimizer": state}, checkpoint_id=folder / "fsdp")
    whole = {name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for name, tensor in model.items()}
    if distributed.get_rank() == 0:
        write_truth(folder, "raw weights of fsdp", whole)
    distributed.barrier()
    distributed.destroy_process_group()


def start_ranks(folder: Path, number: int, what: str) -> None:
    """Run a part of this script in several processes that know of each other."""
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT), "WORLD_SIZE": str(number)}
    command = [sys.executable, "-P", "-m", "benchmarks.producers.make_distributed", folder, what]
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    processes = [subprocess.Popen(command, env=environment) for environment in ranks]
    ends = [process.wait() for process in processes]
    if any(ends):
        raise RuntimeError(f"a process of {what} failed")


def gather(network: torch.nn.Module, prefix: str = "") -> Mapping[str, torch.Tensor]:
    """Whole weights of a network in pieces."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    state = get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def make_accelerate(folder: Path) -> None:
    """One process, of a group of one."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    network = make_network()
    network, optimizer, batches = accelerator.prepare(network, make_optimizer(network), make_batches())
    train(network, optimizer, batches=batches)
    accelerator.save_state(str(folder / "accelerate"))
    write_truth(folder, "raw weights of accelerate", gather(network))


PARTS = {"sharded": make_sharded, "accelerate": make_accelerate}


def make(folder: Path) -> None:
    """All of it, each with processes of its own."""
    make_plain(folder)
    start_ranks(folder, 2, "sharded")
    start_ranks(folder, 1, "accelerate")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        part = PARTS[sys.argv.pop()]
        run_script(part)
    else:
        run_script(make)
