"""torchvision: files with the keys that its reference script for classification writes, and an average saved alone.

That script is no part of the package; its average is torch's AveragedModel with buffers, as here.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

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
    """Two epochs, the first a warm-up, in which the average is set back."""
    args = Namespace(model="shufflenet_v2_x0_5", data_path="/data/leaves", epochs=2, model_ema=True, device="cpu")
    network = make_network()
    optimizer, scaler = make_optimizer(network), torch.amp.GradScaler("cpu")
    average = AveragedModel(network, avg_fn=get_ema_avg_fn(0.9), use_buffers=True)
    swa = AveragedModel(network)
    warm_up = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=1)
    main = lr_scheduler.CosineAnnealingLR(optimizer, T_max=1)
    scheduler = lr_scheduler.SequentialLR(optimizer, [warm_up, main], milestones=[1])
    for epoch in range(2):
        network.train()
        for pictures, targets in make_batches():
            loss = torch.nn.functional.cross_entropy(network(pictures), targets, label_smoothing=0.1)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            average.update_parameters(network)
            if epoch == 0:
                average.n_averaged.fill_(0)
        scheduler.step()
        swa.update_parameters(network)
        checkpoint = {
            "model": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": epoch,
            "args": args,
            "model_ema": average.state_dict(),
            "scaler": scaler.state_dict(),
        }
        torch.save(checkpoint, folder / f"model_{epoch}.pth")
        torch.save(checkpoint, folder / "checkpoint.pth")
    torch.save(swa.state_dict(), folder / "swa.pth")
    plain = {key: checkpoint[key] for key in ("model", "optimizer", "epoch", "args")}
    torch.save({**plain, "lr_scheduler": lr_scheduler.MultiStepLR(optimizer, [30]).state_dict()}, folder / "no_ema.pth")
    write_truth(folder, "raw weights", copy_state(network))
    write_truth(folder, "EMA", copy_state(average, "module."))
    write_truth(folder, "SWA average", copy_state(swa, "module."))
    train(network, optimizer)
    torch.save(
        {
            "epoch": 3,
            "arch": args.model,
            "state_dict": torch.nn.DataParallel(network).state_dict(),
            "best_acc1": torch.tensor(50.0),
            "optimizer": optimizer.state_dict(),
        },
        folder / "example.pth.tar",
    )
    write_truth(folder, "raw weights of the example", copy_state(network))


if __name__ == "__main__":
    run_script(make)
