"""Files as trainers write them, by their content; and what is none, with what to do."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lavise.configs.errors import CheckpointError, UserError
from lavise.storage.models.checkpoint_files import NoNetworkError, read_checkpoint
from lavise.storage.models.inert_pickle import Inert
from lavise.storage.models.state_dicts import list_state_dicts
from tests.unit.storage.models.helpers import Small, equal


def make_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return dict(Small().state_dict())


def read_one(path: Path) -> dict[str, torch.Tensor]:
    (found,) = list_state_dicts(read_checkpoint(path), path)
    return dict(found.tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}])
def test_tensors_are_those_that_torch_reads(tmp_path: Path, dtype: torch.dtype, options: dict[str, Any]) -> None:
    """Of all kinds of numbers, with strides that are not those of their shape, and views of one storage."""
    flat = torch.randn(600, dtype=torch.float64).to(dtype)
    state = {
        "plain": torch.randn(4, 3, 5, 5, dtype=torch.float64).to(dtype),
        "channels_last": torch.randn(4, 3, 5, 5).to(dtype).to(memory_format=torch.channels_last),
        "view": flat[100:400].view(30, 10),
        "transposed": flat[:60].view(6, 10).t(),
        "parameter": nn.Parameter(torch.randn(3, 3).to(dtype)),
        "counter": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "empty": torch.empty(0, 4),
    }
    path = tmp_path / "a.pth"
    torch.save({"state_dict": state, "epoch": 3}, path, **options)
    expected = torch.load(path, weights_only=True) if "pickle_protocol" not in options else {"state_dict": state}
    found = read_checkpoint(path)
    assert found["epoch"] == 3
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], tensor), name
        assert found["state_dict"][name].dtype == tensor.dtype
        assert found["state_dict"][name].stride() == tensor.stride()


def test_what_stands_beside_weights_is_no_hindrance(tmp_path: Path) -> None:
    content = {
        "model": make_state(),
        "args": argparse.Namespace(lr=0.1, data_path=Path("/data")),
        "best": np.float64(0.5),
        "history": np.arange(4.0),
        "version": torch.__version__,
        "optimizer": {"state": {0: {"exp_avg": torch.randn(4, 4)}}, "param_groups": [{"params": [0]}]},
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert equal(read_one(path), make_state())


@pytest.mark.parametrize("ending", [".pt", ".bin", ".ckpt", ".safetensors", ".whatever"])
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_content_decides_and_not_the_ending(tmp_path: Path, ending: str, kind: str) -> None:
    path = tmp_path / f"model{ending}"
    if kind == "torch":
        torch.save(make_state(), path)
    else:
        save_file(make_state(), path)
    assert equal(read_one(path), make_state())


def test_checkpoint_in_shards(tmp_path: Path) -> None:
    state = make_state()
    names = sorted(state)
    save_file({k: state[k] for k in names[:3]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({k: state[k] for k in names[3:]}, tmp_path / "model-00002-of-00002.safetensors")
    where = {k: f"model-0000{1 if k in names[:3] else 2}-of-00002.safetensors" for k in names}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert equal(read_one(index), state)
    index.write_text(json.dumps({"weight_map": {**where, "more": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match="1 of its tensors are in no shard, more the first"):
        read_checkpoint(index)
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"its shard '\.\./outside\.safetensors' is not beside the index"):
        read_checkpoint(index)


def test_weights_of_an_exported_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).eval()
    program = torch.export.export(network, (torch.randn(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "model.pt2")
    assert equal(read_one(tmp_path / "model.pt2"), dict(network.state_dict()))


def test_torchscript_is_named_and_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.jit.save lays it out
        for name in ("script/data.pkl", "script/constants.pkl", "script/code/__torch__.py"):
            archive.writestr(name, b"")
    expected = (
        r"is a TorchScript archive, which is code; .*torch\.jit\.load\('script\.pt'\)\.state_dict\(\), 'weights\.pt'"
    )
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(path)


def test_other_formats_are_named(tmp_path: Path) -> None:
    def told(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError) as err:
            read_checkpoint(tmp_path / name)
        return str(err.value)

    assert "is an HDF5 file (of Keras?)" in told("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "is an ONNX graph" in told("model.onnx", b"\x08\x07\x12\x07pytorch")
    assert "is an ONNX graph" in told("renamed.pt", b"\x08\x07\x12\x07pytorch")
    assert "is empty, or was not written to its end" in told("zeros.pt", bytes(4096))
    assert "is a bare pickle, not what torch.save writes" in told("a.pkl", pickle.dumps({"a": 1}))
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        for name in ("config.json", "model.weights.h5"):
            archive.writestr(name, b"")
    assert "is a Keras model" in told("b.keras", (tmp_path / "b.keras").read_bytes())


def test_pickled_state_dict_is_named_and_its_bytes_are_not_loaded(tmp_path: Path) -> None:
    """In a bare pickle each tensor is bytes for torch's own loader, which would run what they ask for."""
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(make_state()))
    with pytest.raises(CheckpointError, match=r"is a bare pickle, not what torch\.save writes; where"):
        read_checkpoint(tmp_path / "a.pkl")


def test_network_among_hyper_parameters_is_passed_over(tmp_path: Path) -> None:
    """As Lightning writes it where a module is given its network; what is there is never built."""
    path = tmp_path / "last.ckpt"
    hyper = {"net": Small(), "optimizer": torch.optim.Adam, "lr": 0.1}
    torch.save({"state_dict": make_state(), "hyper_parameters": hyper}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert equal(read_one(path), make_state())
    net = read_checkpoint(path)["hyper_parameters"]["net"]
    assert isinstance(net, Inert)
    assert not isinstance(net, nn.Module)


def test_object_beside_a_state_dict_is_named_with_its_key_and_the_conversion(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": make_state(), "extras": {"net": Small()}}, path)
    with pytest.raises(CheckpointError) as err:
        read_checkpoint(path)
    assert str(err.value) == (
        f"model.weights: {path} holds an object of the class tests.unit.storage.models.helpers.Small under "
        "'extras.net' and is not read, since that could run foreign code; where you trust it, save the "
        "weights alone: torch.save(torch.load('last.ckpt', weights_only=False)['state_dict'], 'weights.pt')"
    )


@pytest.mark.parametrize(
    ("content", "save"),
    [
        (Small(), "torch.load('last.pt', weights_only=False).state_dict()"),
        ({"model": None, "ema": Small()}, "torch.load('last.pt', weights_only=False)['ema'].state_dict()"),
        ({"learner": {"model": Small()}}, "model.state_dict()"),
    ],
    ids=["network", "network under a key, as of Ultralytics", "deeper"],
)
def test_conversion_of_a_whole_network_says_where_it_is(tmp_path: Path, content: Any, save: str) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=re.escape(f": torch.save({save}, 'weights.pt')") + "$"):
        read_checkpoint(tmp_path / "last.pt")


def test_object_that_its_class_would_have_to_make_is_no_file_beside_weights(tmp_path: Path) -> None:
    """As of cloudpickle, which MLflow's autolog uses: nothing can be said of what is in it."""
    (tmp_path / "model.pth").write_bytes(b"\x80\x04cfoo\nmake\n)R(ccollections\nOrderedDict\n)K\x01\x85R.")
    with pytest.raises(CheckpointError, match=r"is no state dict but a pickled object \(foo\.make\)") as err:
        read_checkpoint(tmp_path / "model.pth")
    assert not isinstance(err.value, NoNetworkError)


@pytest.mark.parametrize(
    "content",
    [
        {"state": {0: {"exp_avg": torch.randn(4, 4)}}, "param_groups": [{"params": [0]}]},
        {
            "python": (3, (1, 2), None),
            "numpy": np.random.RandomState(0).get_state(),
            "cpu": torch.zeros(9, dtype=torch.uint8),
        },
        {"last_epoch": 3, "_last_lr": [0.1]},
        {},
    ],
    ids=["optimizer", "random states", "scheduler", "nothing"],
)
def test_file_beside_weights_is_no_network(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(NoNetworkError, match="found no state dict of a network"):
        read_one(tmp_path / "a.pt")


def test_settings_without_tensors_are_no_network(tmp_path: Path) -> None:
    """As Hugging Face's training_args.bin."""
    torch.save(Small.__mro__, tmp_path / "training_args.bin")
    with pytest.raises(NoNetworkError, match=r"holds an object of the class .* and no network; give the file"):
        read_checkpoint(tmp_path / "training_args.bin")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensors_are_named(tmp_path: Path) -> None:
    state = {**make_state(), "q": torch.quantize_per_tensor(torch.randn(3, 3), 0.1, 0, torch.qint8)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match="holds quantised tensors; allowed: a state dict of floating-point numbers"
    ):
        read_one(tmp_path / "a.pth")


def test_tensors_without_values_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.empty(3, 3, device="meta"), "b": torch.zeros(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds tensors without values"):
        read_one(tmp_path / "a.pth")


def test_storage_that_is_too_short_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(10, 10)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name in whole.namelist():
            data = whole.read(name)
            archive.writestr(name, data[:40] if name.endswith("data/0") else data)
    with pytest.raises(UserError, match=r"^model\.weights: cannot read .*a\.pth \(RuntimeError"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_file_that_was_written_on_a_gpu_is_read_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Its storages are marked with the device that they were on; torch itself wants to be told another one."""
    path = tmp_path / "a.pth"
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save({"state_dict": make_state(), "best": torch.ones(())}, path, **options)
    assert b"cuda:0" in path.read_bytes()
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="deserialize object on a CUDA device"):
            torch.load(path, weights_only=True)
    assert equal(read_one(path), make_state())
    assert all(tensor.device.type == "cpu" for tensor in read_one(path).values())
