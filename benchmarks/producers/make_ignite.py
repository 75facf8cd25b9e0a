"""Ignite: Checkpoint of one object and of several, with EMAHandler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver, EMAHandler

from benchmarks.producers.shared import (
    copy_state,
    find_loss,
    make_batches,
    make_network,
    make_optimizer,
    run_script,
    write_truth,
)


def make(folder: Path) -> None:
    """Two epochs."""
    network = make_network()
    optimizer = make_optimizer(network)

    def step(engine: Any, batch: Any) -> float:
        loss = find_loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = Engine(step)
    average = EMAHandler(network, momentum=0.1)
    average.attach(trainer, event=Events.ITERATION_COMPLETED)
    several = {"model": network, "optimizer": optimizer, "trainer": trainer, "ema_model": average.ema_model}
    for name, objects in (("several", several), ("one", {"model": network})):
        saver = Checkpoint(objects, DiskSaver(str(folder / name), require_empty=False), n_saved=1)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)
    trainer.run(make_batches(), max_epochs=2)
    write_truth(folder, "raw weights", copy_state(network))
    write_truth(folder, "EMA", copy_state(average.ema_model))


if __name__ == "__main__":
    run_script(make)
