"""Folders as trainers leave them: what is beside checkpoints, checkpoints in shards, and looks that read nothing."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict_saver import save

from lavise.storage.checkpoint_sources.base import CheckpointChangedError, FoundCheckpoint
from lavise.storage.checkpoint_sources.snapshots import take_snapshot
from lavise.storage.state.progress import Bar
from tests.unit.storage.checkpoint_sources.helpers import names, scan, write

DAY = 86_400.0


def age(folder: Path, seconds: float = DAY) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def write_trainer_folder(folder: Path) -> dict[str, torch.Tensor]:
    """As Hugging Face's Trainer, with whole weights in step 1 and weights in shards in step 2."""
    state = {"timm_model.a.weight": torch.randn(4, 3, 3, 3), "timm_model.b.weight": torch.randn(2, 4)}
    optimizer = {"state": {0: {"exp_avg": torch.randn(4, 3)}}, "param_groups": [{"params": [0]}]}
    for step in ("checkpoint-1", "checkpoint-2"):
        (folder / step).mkdir(parents=True)
        torch.save(optimizer, folder / step / "optimizer.pt")
        torch.save({"last_epoch": 3}, folder / step / "scheduler.pt")
        torch.save({"cpu": torch.arange(9).byte()}, folder / step / "rng_state.pth")
        (folder / step / "config.json").write_text("{}")
    save_file(state, folder / "checkpoint-1" / "model.safetensors")
    for number, (name, tensor) in enumerate(state.items(), start=1):
        save_file({name: tensor}, folder / "checkpoint-2" / f"model-0000{number}-of-00002.safetensors")
    where = {name: f"model-0000{number}-of-00002.safetensors" for number, name in enumerate(state, start=1)}
    index = folder / "checkpoint-2" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    age(folder)
    return state


def find_sharded(folder: Path) -> FoundCheckpoint:
    (found,) = (f for f in scan(folder).found if f.shards)
    return found


def test_files_without_a_network_are_passed_over_with_a_count(folder: Path) -> None:
    write_trainer_folder(folder)
    found = scan(folder)
    assert sorted(names(found)) == ["checkpoint-1/model.safetensors", "checkpoint-2/model.safetensors.index.json"]
    beside = [f"checkpoint-{n}/{name}" for n in (1, 2) for name in ("optimizer.pt", "rng_state.pth", "scheduler.pt")]
    assert found.skipped == tuple(beside)
    assert (found.num_other, found.waiting, found.unusable) == (2, (), ())


def test_checkpoint_in_shards_is_one_and_its_snapshot_is_whole(folder: Path) -> None:
    state = write_trainer_folder(folder)
    sharded = find_sharded(folder)
    assert [path.name for path in sharded.shards] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    snapshot = take_snapshot(sharded, folder.parent / "snapshots")
    assert snapshot.name == f"{sharded.sha256}.safetensors"
    assert {k: v.tolist() for k, v in load_file(snapshot).items()} == {k: v.tolist() for k, v in state.items()}
    save_file({"timm_model.b.weight": torch.zeros(2, 4)}, sharded.shards[1])
    with pytest.raises(CheckpointChangedError, match="a file of it was changed since it was found"):
        take_snapshot(sharded, folder.parent / "other")
    age(folder)
    assert find_sharded(folder).sha256 != sharded.sha256
    sharded.shards[1].unlink()
    with pytest.raises(CheckpointChangedError, match="a file of it is gone since it was found"):
        take_snapshot(sharded, folder.parent / "other")


def test_index_that_leads_elsewhere_is_unusable(folder: Path) -> None:
    index = write(folder / "model.safetensors.index.json", b'{"weight_map": {"a": "../b.safetensors"}}')
    age(folder)
    assert scan(folder).unusable == (
        (index.name, "no index of shards: ValueError: its shard '../b.safetensors' is not beside the index"),
    )


def test_what_has_not_changed_is_not_read_again(folder: Path) -> None:
    read: list[int] = []

    @contextmanager
    def count(title: str, total: int) -> Iterator[Bar]:
        class Nothing:
            def advance(self, steps: int = 1) -> None:
                """Not shown."""

        read.append(total)
        yield Nothing()

    write_trainer_folder(folder)
    first = scan(folder, progress=count)
    assert scan(folder, progress=count) == first
    assert read == [8, 0]
    torch.save({"a.weight": torch.ones(3, 3)}, folder / "checkpoint-1" / "new.ckpt")
    age(folder / "checkpoint-1", DAY / 2)
    assert len(scan(folder, progress=count).found) == 3
    assert read[2] == 5, "the times of all files of that folder were changed"


def test_links_and_copies_have_one_content(folder: Path) -> None:
    """`last` is a hard link in timm's folders, and a link or a copy in Lightning's."""
    torch.save({"state_dict": {"a.weight": torch.ones(3, 3)}}, folder / "checkpoint-0.pth.tar")
    os.link(folder / "checkpoint-0.pth.tar", folder / "last.pth.tar")
    (folder / "last.ckpt").symlink_to("checkpoint-0.pth.tar")
    age(folder)
    found = scan(folder)
    assert names(found) == ["checkpoint-0.pth.tar", "last.ckpt", "last.pth.tar"]
    assert len({f.sha256 for f in found.found}) == 1


def write_distributed(folder: Path) -> dict[str, torch.Tensor]:
    """As Lightning's FSDP: a folder for each checkpoint, with a file of what is no tensor, and one not yet complete."""
    state = {"model.a.weight": torch.randn(4, 3, 3, 3), "model.b.weight": torch.randn(2, 4)}
    for name in ("epoch=1.ckpt", "epoch=2.ckpt"):
        state["model.b.weight"] = state["model.b.weight"] + 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save(
                {"state_dict": state, "optimizer_0": {"a": torch.ones(2, 2)}}, checkpoint_id=folder / name, no_dist=True
            )
        torch.save({"epoch": 1}, folder / name / "meta.pt")
    age(folder)
    return state


@pytest.mark.parametrize("pattern", ["**/*", "*.ckpt", "*/.metadata"])
def test_folder_of_torch_distributed_is_one_checkpoint(folder: Path, pattern: str) -> None:
    state = write_distributed(folder)
    found = scan(folder, pattern)
    assert sorted(names(found)) == ["epoch=1.ckpt", "epoch=2.ckpt"]
    assert found.skipped == (("epoch=1.ckpt/meta.pt", "epoch=2.ckpt/meta.pt") if pattern == "**/*" else ())
    assert (found.num_other, found.waiting, found.unusable) == (0, (), ())
    (last,) = (f for f in found.found if f.name == "epoch=2.ckpt")
    content = torch.load(take_snapshot(last, folder.parent / "snapshots"), weights_only=True)
    assert content.keys() == {"state_dict"}
    assert all(torch.equal(content["state_dict"][name], state[name]) for name in state)
    assert names(scan(folder, "**/*.pth")) == []
    chunk = folder / "epoch=2.ckpt" / "__0_0.distcp"
    chunk.write_bytes(chunk.read_bytes() + b"more")
    with pytest.raises(CheckpointChangedError, match=r"epoch=2\.ckpt: a file of it was changed since it was found"):
        take_snapshot(last, folder.parent / "others")


def test_folder_of_torch_distributed_that_is_not_complete(folder: Path) -> None:
    """What lists the tensors is written last: so long as chunks are new it may come, afterwards it will not."""
    write_distributed(folder)
    (folder / "epoch=2.ckpt" / ".metadata").unlink()
    found = scan(folder, "*.ckpt", later=0)
    assert (found.waiting, found.unusable) == (("epoch=1.ckpt", "epoch=2.ckpt"), ())
    found = scan(folder)
    assert names(found) == ["epoch=1.ckpt"]
    assert found.unusable == (
        ("epoch=2.ckpt", "its .metadata, which is written last, is not there: it was not written to its end"),
    )
    assert found.waiting == ()


def test_optimizers_of_deepspeed_are_skipped_unread(folder: Path) -> None:
    """They are as large as the weights, and hold objects of its classes."""
    step = folder / "global_step1"
    step.mkdir()
    torch.save({"module": {"a.weight": torch.randn(2, 3)}, "ds_version": "0.19.8"}, step / "mp_rank_00_model_states.pt")
    for rank in (0, 1):
        write(step / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    write(step / "zero_pp_rank_1_mp_rank_00_model_states.pt")
    age(folder)
    found = scan(folder)
    assert names(found) == ["global_step1/mp_rank_00_model_states.pt"]
    assert found.skipped == (
        "global_step1/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "global_step1/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
        "global_step1/zero_pp_rank_1_mp_rank_00_model_states.pt",
    )
