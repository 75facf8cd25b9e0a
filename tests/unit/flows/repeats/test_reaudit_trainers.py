"""Re-audits of a folder in which several trainers write at once, each in its own way."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from lavise.flows.repeats.reaudit import failed_outcomes
from lavise.storage.models.target_model import load_target_model
from tests.unit.flows.repeats.watched_folder import Tensors, Watched, make_weights


def prefix(weights: Tensors, start: str, **more: torch.Tensor) -> Tensors:
    return {**{f"{start}{name}": tensor for name, tensor in weights.items()}, **more}


def write_as_timm(folder: Path) -> None:
    """Raw weights and their average in one file; `last` and `model_best` are hard links."""
    folder.mkdir()
    content = {
        "epoch": 0,
        "state_dict": make_weights(1),
        "state_dict_ema": make_weights(2),
        "optimizer": {"state": {}, "param_groups": []},
        "args": argparse.Namespace(model="tiny"),
    }
    torch.save(content, folder / "checkpoint-0.pth.tar")
    for name in ("last.pth.tar", "model_best.pth.tar"):
        os.link(folder / "checkpoint-0.pth.tar", folder / name)


def write_as_lightning(folder: Path) -> None:
    folder.mkdir()
    state = prefix(make_weights(3), "net.", **{"loss_fn.weight": torch.randn(3, 3)})
    content = {"state_dict": state, "hyper_parameters": {"root": Path("/data")}, "loops": {}}
    torch.save(content, folder / "epoch=0-step=3.ckpt")
    (folder / "last.ckpt").symlink_to("epoch=0-step=3.ckpt")


def write_as_trainer(folder: Path) -> None:
    for step, seed in ((100, 4), (200, 5)):
        inner = folder / f"checkpoint-{step}"
        inner.mkdir(parents=True)
        save_file(prefix(make_weights(seed), "timm_model."), inner / "model.safetensors")
        torch.save({"state": {0: {"exp_avg": torch.randn(3, 3)}}, "param_groups": []}, inner / "optimizer.pt")
        torch.save({"last_epoch": 1}, inner / "scheduler.pt")
        torch.save({"cpu": torch.arange(9).byte()}, inner / "rng_state.pth")
        torch.save(argparse.Namespace(lr=0.1), inner / "training_args.bin")
        (inner / "config.json").write_text("{}")


def write_all(watched: Watched) -> None:
    write_as_timm(watched.folder / "timm")
    write_as_lightning(watched.folder / "lightning")
    write_as_trainer(watched.folder / "trainer")


def test_each_network_is_audited_once_and_nothing_fails(watched: Watched) -> None:
    write_all(watched)
    model = watched.config.model.model_copy(update={"weights_key": ("state_dict_ema", "auto")})
    config = watched.config.model_copy(update={"model": model})
    result = watched.make_reaudit(config).run()
    outcomes = {c.name: c.outcome for c in result.checkpoints}
    assert sorted(name for name, outcome in outcomes.items() if outcome == "known") == [
        "lightning/last.ckpt",
        "timm/last.pth.tar",
        "timm/model_best.pth.tar",
    ]
    assert set(outcomes.values()) == {"audited", "known"}
    assert (len(outcomes), result.num_skipped) == (7, 8)
    assert "8 without a network" in result.summarise()
    digests = {digest for _, digest, _ in watched.audits.audited}
    expected = set()
    for seed in (2, 3, 4, 5):  # of timm's the average
        torch.save(make_weights(seed), watched.root / "one.pth")
        one = watched.config.model.model_copy(update={"weights": str(watched.root / "one.pth")})
        expected.add(load_target_model(one, 0).digest)
    assert digests == expected
    assert len(watched.audits.audited) == 4
    assert watched.find_runs("FAILED") == []
    again = watched.make_reaudit(config).run()
    assert {c.outcome for c in again.checkpoints} == {"known"}


def test_average_that_nobody_chose_is_asked_for_and_stops_no_other(watched: Watched) -> None:
    write_all(watched)
    result = watched.make_reaudit().run()
    unclear = [c for c in result.checkpoints if c.outcome == "unclear"]
    assert [c.name for c in unclear] == ["timm/checkpoint-0.pth.tar", "timm/last.pth.tar", "timm/model_best.pth.tar"]
    assert unclear[0].detail == (
        "model.weights_key: timm/checkpoint-0.pth.tar holds 2 networks that fit and differ: state_dict, state_dict_ema "
        "(the average (EMA)); set model.weights_key to the one to audit"
    )
    assert failed_outcomes(result) == unclear
    assert len(watched.audits.audited) == 3
    assert watched.find_runs("FAILED") == []
