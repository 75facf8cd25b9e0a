"""Accelerate: save_state and save_model, in both formats, whole and in shards."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from benchmarks.producers.shared import (
    copy_state,
    make_batches,
    make_network,
    make_optimizer,
    run_script,
    train,
    write_truth,
)


def make(folder: Path) -> None:
    """One epoch."""
    accelerator, network = Accelerator(cpu=True), make_network()
    network, optimizer, batches = accelerator.prepare(network, make_optimizer(network), make_batches())
    train(network, optimizer, batches=batches)
    accelerator.save_state(str(folder / "state"))
    accelerator.save_state(str(folder / "state_bin"), safe_serialization=False)
    accelerator.save_model(network, str(folder / "model"), max_shard_size="400KB")
    accelerator.save_model(network, str(folder / "model_bin"), max_shard_size="400KB", safe_serialization=False)
    write_truth(folder, "raw weights", copy_state(network))


if __name__ == "__main__":
    run_script(make)
