"""Checkpoints of torch.distributed, against torch's own reader; parts of networks, as DeepSpeed and Megatron have."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_saver import save

from lavise.configs.errors import CheckpointError, UserError
from lavise.storage.models.checkpoint_files import NoNetworkError, read_checkpoint
from lavise.storage.models.state_dicts import list_state_dicts, load_weights
from lavise.storage.models.weight_files import find_weights_file
from tests.unit.storage.models.helpers import Small, equal


def make_trained() -> tuple[Small, torch.optim.SGD]:
    torch.manual_seed(2)
    network = Small()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(8, 3, 9, 9)).square().sum().backward()
    optimizer.step()
    return network, optimizer


def write(folder: Path, content: dict[str, Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(content, checkpoint_id=folder, no_dist=True)
    return folder


def read_with_torch(folder: Path) -> Any:
    """By torch's own reader, which unpickles."""
    whole = folder.with_suffix(".whole.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(folder, whole)
    return torch.load(whole, weights_only=True)


# What a chunk is: where it begins, how long it is, and the tensor in it.
Chunk = tuple[tuple[int, ...], tuple[int, ...], torch.Tensor]


def write_chunks(folder: Path, size: tuple[int, ...], chunks: list[Chunk]) -> Path:
    """As several processes write the parts of one tensor, each into a file of its own."""
    folder.mkdir()
    places = {}
    for rank, (offsets, _, tensor) in enumerate(chunks):
        buffer = io.BytesIO()
        torch.save(tensor, buffer)
        (folder / f"__{rank}_0.distcp").write_bytes(b"before" + buffer.getvalue())
        index = MetadataIndex("net.weight", torch.Size(offsets), rank)
        places[index] = _StorageInfo(f"__{rank}_0.distcp", len(b"before"), len(buffer.getvalue()))
    metadata = Metadata(
        {
            "net.weight": TensorStorageMetadata(
                TensorProperties(dtype=torch.float32),
                torch.Size(size),
                [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes, _ in chunks],
            )
        },
        planner_data={"net.weight": ("net", "weight")},
        storage_data=places,
    )
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def change_places(folder: Path, **changes: Any) -> None:
    """Say something else of where chunks are."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.storage_data = {k: dataclasses.replace(v, **changes) for k, v in metadata.storage_data.items()}
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def split(whole: torch.Tensor, *rows: int) -> list[Chunk]:
    """Chunks of so many rows each."""
    starts = [sum(rows[:i]) for i in range(len(rows))]
    return [
        ((start, 0), (n, whole.shape[1]), whole[start : start + n].clone())
        for start, n in zip(starts, rows, strict=True)
    ]


def test_folder_holds_what_torch_reads_from_it(tmp_path: Path) -> None:
    network, optimizer = make_trained()
    content = {
        "model": {**network.state_dict(), "half": torch.randn(3, 4).half(), "brain": torch.randn(2).bfloat16()},
        "optimizer": optimizer.state_dict(),
        "nested": {"ema": {"module": Small().state_dict()}},
        "history": [1, torch.ones(2, 2)],
        "epoch": 3,
    }
    folder = write(tmp_path / "step-1", content)
    found, expected = read_checkpoint(folder), read_with_torch(folder)
    assert equal(found["model"], expected["model"])
    assert found["model"]["half"].dtype == torch.float16
    assert equal(found["nested"]["ema"]["module"], expected["nested"]["ema"]["module"])
    assert torch.equal(found["history"][1], expected["history"][1])
    assert found.keys() == {"model", "nested", "history"}  # no optimizer, and nothing that is no tensor
    assert read_checkpoint(folder / ".metadata").keys() == found.keys()
    shapes = read_checkpoint(folder, values=False)
    assert {n: t.shape for n, t in shapes["model"].items()} == {n: t.shape for n, t in expected["model"].items()}
    assert all(t.is_meta for t in shapes["model"].values())


@pytest.mark.parametrize("inside", ["", "pytorch_model_fsdp_0"])
def test_network_gets_its_weights(tmp_path: Path, inside: str) -> None:
    """Of the folder itself, and of the one that Accelerate's FSDP leaves beside the optimizer's."""
    network, optimizer = make_trained()
    write(tmp_path / "step-1" / inside, {"model": network.state_dict()})
    if inside:
        write(tmp_path / "step-1" / "optimizer_0", {"optimizer": optimizer.state_dict()})
        torch.save({"last_epoch": 1}, tmp_path / "step-1" / "scheduler.bin")
    path = find_weights_file(str(tmp_path / "step-1"))
    assert path == tmp_path / "step-1" / inside
    load_weights(loaded := Small(), read_checkpoint(path), path)
    assert equal(dict(loaded.state_dict()), dict(network.state_dict()))


def test_optimizers_folder_holds_no_network(tmp_path: Path) -> None:
    folder = write(tmp_path / "optimizer_0", {"optimizer": make_trained()[1].state_dict()})
    with pytest.raises(NoNetworkError, match="found no state dict of a network"):
        list_state_dicts(read_checkpoint(folder, values=False), folder)


def test_chunks_of_several_processes_are_put_together(tmp_path: Path) -> None:
    whole = torch.randn(7, 4)
    blocks: list[Chunk] = [
        ((i, j), (n, m), whole[i : i + n, j : j + m].clone()) for i, n in ((0, 3), (3, 4)) for j, m in ((0, 1), (1, 3))
    ]
    for name, chunks in (("rows", split(whole, 3, 3, 1)), ("one", split(whole, 7)), ("blocks", blocks)):
        folder = write_chunks(tmp_path / name, (7, 4), chunks)
        found = read_checkpoint(folder)["net"]["weight"]
        assert torch.equal(found, whole), name
        assert torch.equal(found, read_with_torch(folder)["net"]["weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda chunks: chunks[:2], "do not cover it once"),
        (lambda chunks: [*chunks[:2], ((2, 0), (1, 4), chunks[2][2])], "do not cover it once"),
        (lambda chunks: [*chunks[:2], ((7, 0), (1, 4), chunks[2][2])], "do not cover it once"),
        (lambda chunks: [*chunks[:2], ((-1, 0), (1, 4), chunks[2][2])], "do not cover it once"),
        (lambda chunks: [*chunks[:2], ((6,), (4,), chunks[2][2])], "is nowhere"),
        (lambda chunks: [*chunks[:2], ((6, 0), (1, 4), torch.ones(4))], "is not what it is said to be"),
        (lambda chunks: [*chunks[:2], ((6, 0), (1, 4), torch.ones(1, 4).double())], "is not what it is said to be"),
    ],
    ids=["gap", "twice", "outside", "before the beginning", "another rank", "another shape", "another type"],
)
def test_chunks_that_do_not_make_the_tensor_are_refused(
    tmp_path: Path, change: Callable[[list[Chunk]], list[Chunk]], said: str
) -> None:
    folder = write_chunks(tmp_path / "a", (7, 4), change(split(torch.randn(7, 4), 3, 3, 1)))
    with pytest.raises(CheckpointError, match=rf"cannot read .*a \(ValueError: .*chunks? of net\.weight {said}"):
        read_checkpoint(folder)


def test_file_that_was_not_written_to_its_end_is_said(tmp_path: Path) -> None:
    folder = write_chunks(tmp_path / "a", (7, 4), split(torch.randn(7, 4), 4, 3))
    chunk = folder / "__1_0.distcp"
    chunk.write_bytes(chunk.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"__1_0\.distcp is shorter than its list of tensors says"):
        read_checkpoint(folder)
    chunk.unlink()
    with pytest.raises(UserError, match=r"cannot read .*__1_0\.distcp"):
        read_checkpoint(folder)
    (folder / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="its list of tensors is none of torch's"):
        read_checkpoint(folder)


def test_files_elsewhere_are_not_read(tmp_path: Path) -> None:
    folder = write_chunks(tmp_path / "a", (7, 4), split(torch.randn(7, 4), 7))
    (folder / "__0_0.distcp").rename(tmp_path / "x.distcp")
    change_places(folder, relative_path="../x.distcp")
    with pytest.raises(CheckpointError, match=r"its file '\.\./x\.distcp' is not beside its list of tensors"):
        read_checkpoint(folder)


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.witness),)


def test_nothing_of_a_folder_is_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    folder = write_chunks(tmp_path / "a", (7, 4), split(torch.randn(7, 4), 7))
    data = (folder / ".metadata").read_bytes()
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata({}, planner_data=Evil(witness), storage_data={})))
    with pytest.raises(
        CheckpointError,
        match=r"names the class posix\.mkdir, which is none of torch's writer; .*dcp_to_torch a weights",
    ):
        read_checkpoint(folder)
    buffer = io.BytesIO()
    torch.save(Evil(witness), buffer)
    (folder / "__0_0.distcp").write_bytes(b"before" + buffer.getvalue() + bytes(2000))
    (folder / ".metadata").write_bytes(data)
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)
    assert not witness.exists()


def test_what_an_extension_of_torchs_writer_changed_is_refused(tmp_path: Path) -> None:
    folder = write_chunks(tmp_path / "a", (7, 4), split(torch.randn(7, 4), 7))
    change_places(folder, transform_descriptors=["zstd"])
    with pytest.raises(CheckpointError, match=r"with an extension of torch's writer \(\['zstd'\]\), which is not read"):
        read_checkpoint(folder)


def make_deepspeed(**changes: Any) -> dict[str, Any]:
    """As DeepSpeed 0.19.8 writes `mp_rank_00_model_states.pt`."""
    state = {name: tensor.bfloat16() for name, tensor in Small().state_dict().items()}
    shapes = [{name: tensor.shape for name, tensor in state.items()}]
    settings = {"mp_world_size": 1, "ds_config": {"train_batch_size": 4}, "ds_version": "0.19.8"}
    return {"module": state, "optimizer": None, "param_shapes": shapes, **settings, **changes}


def test_deepspeeds_whole_weights_are_read_and_its_pieces_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "global_step1"
    folder.mkdir()
    path = folder / "mp_rank_00_model_states.pt"
    torch.save(make_deepspeed(), path)
    torch.save({"optimizer_state_dict": {}}, folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert find_weights_file(str(folder)) == path
    load_weights(network := Small(), read_checkpoint(path), path)
    assert network.conv.weight.dtype == torch.float32

    torch.save(make_deepspeed(mp_world_size=2), path)
    with pytest.raises(CheckpointError, match=r"holds one of 2 parts of a network \(tensor parallelism\)"):
        list_state_dicts(read_checkpoint(path), path)
    path = folder / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    empty = {name: torch.empty(0, dtype=torch.bfloat16) for name in Small().state_dict()}
    torch.save(make_deepspeed(module=empty), path)
    with pytest.raises(CheckpointError) as err:
        list_state_dicts(read_checkpoint(path), path)
    assert str(err.value) == (
        f"model.weights: {path} holds no weights: DeepSpeed's ZeRO-3 keeps them in files of all processes; where you "
        "trust the folder, put them together with the script that lies in it: python zero_to_fp32.py . weights"
    )


@pytest.mark.parametrize("layout", ["mp_rank_0{}/model_optim_rng.pt", "mp_rank_0{}_model_states.pt"])
def test_one_of_several_parts_is_refused(tmp_path: Path, layout: str) -> None:
    paths = [tmp_path / layout.format(rank) for rank in (0, 1)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        torch.save({"model": Small().state_dict()}, path)
        if path == paths[0]:  # alone it is whole
            list_state_dicts(read_checkpoint(path), path)
    with pytest.raises(CheckpointError, match=r"is one of several parts of a network \(tensor parallelism, as of Meg"):
        list_state_dicts(read_checkpoint(paths[0]), paths[0])
