"""Bad checkpoints of a small network: read, put into the network, and shown two pictures."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.bad_inputs.answers import READ, REFUSED, WITNESS, Case, Found
from benchmarks.bad_inputs.good_sets import write_picture
from lavise.configs.schema import ExtractSettings, ModelSettings
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.models.target_model import load_target_model
from lavise.tasks.activations.extract import ExtractionInputs, extract_activations
from lavise.tasks.engine.stage_inputs import Given

GROUP = "checkpoints"
State = dict[str, Any]


class Small(nn.Module):
    """Two convolutions and a classifier of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.tail = nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        maps: torch.Tensor = self.tail(torch.relu(self.stem(images)))
        return self.head(maps.mean(dim=(2, 3)))


class Stranger:
    """Of a class that is on no list; whoever made it would make a folder."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.witness),)


def list_cases() -> Iterator[Case]:
    """All of them."""
    for what, change, expected in _STATES:
        yield Case(GROUP, what, partial(_read_state, change), expected)
    for what, write, expected in _FILES:
        yield Case(GROUP, what, partial(_read_file, write), expected)
    for tenth in range(10):
        yield Case(GROUP, f"cut after {tenth} tenths", partial(_read_file, partial(_cut, tenth, True)))
        yield Case(
            GROUP, f"torch before 1.6, cut after {tenth} tenths", partial(_read_file, partial(_cut, tenth, False))
        )
        yield Case(
            GROUP, f"safetensors, cut after {tenth} tenths", partial(_read_file, partial(_cut_safetensors, tenth))
        )
    for what, change_folder in _FOLDERS:
        yield Case(GROUP, f"torch.distributed: {what}", partial(_read_folder, change_folder))


def make_state() -> State:
    """Of a network."""
    torch.manual_seed(0)
    return dict(Small().state_dict())


def _read_state(change: Callable[[State], Any], folder: Path) -> Found:
    state = make_state()
    torch.save(state if (other := change(state)) is None else other, folder / "a.pth")
    return read_weights(folder, folder / "a.pth")


def _read_file(write: Callable[[Path], Path | None], folder: Path) -> Found:
    return read_weights(folder, write(folder) or folder / "a.pth")


def read_weights(folder: Path, weights: Path) -> Found:
    """As an audit does: load, find the layers, extract."""
    arch = f"{__name__}:Small"
    settings: Any = {
        "arch": arch,
        "weights": str(weights),
        "preprocessing": {"size_px": 32, "mean": [0.5], "std": [0.5]},
    }
    settings["preprocessing"] = {"size_px": 32}
    model = load_target_model(ModelSettings.model_validate(settings), 0)
    (layer,) = model.select_layers(("tail",))
    pictures = [write_picture(folder / f"{n}.png", n) for n in range(2)]
    data = Dataset("two", tuple(ImageRecord(p.name, p) for p in pictures))
    inputs = ExtractionInputs(model, (layer.name,), Given(data, data.digest_images()), ExtractSettings(), "cpu")
    (folder / "store").mkdir()
    extract_activations(inputs, {layer.name: folder / "store"})
    return Found(len(pictures))


# ---------------------------------------------------------------- changes


def _set(name: str, value: Any) -> Callable[[State], None]:
    return lambda state: state.update({name: value})


def _fill(name: str, number: float) -> Callable[[State], None]:
    return lambda state: state[name].view(-1)[:1].fill_(number)


def _drop(name: str) -> Callable[[State], Any]:
    return lambda state: {k: v for k, v in state.items() if k != name}


def _cut(tenth: int, new: bool, folder: Path) -> None:
    torch.save(make_state(), folder / "a.pth", _use_new_zipfile_serialization=new)
    content = (folder / "a.pth").read_bytes()
    (folder / "a.pth").write_bytes(content[: len(content) * tenth // 10])


def _save_safetensors(path: Path) -> Path:
    from safetensors.torch import save_file

    save_file(make_state(), path)
    return path


def _cut_safetensors(tenth: int, folder: Path) -> Path:
    path = _save_safetensors(folder / "a.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    return path


def _write(content: bytes, name: str = "a.pth") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _zip(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def _stranger(folder: Path) -> None:
    witness = folder / WITNESS
    torch.save({"state_dict": make_state(), "config": Stranger(witness)}, folder / "a.pth")


def _stranger_alone(folder: Path) -> Path:
    (folder / "a.pkl").write_bytes(pickle.dumps(Stranger(folder / WITNESS)))
    return folder / "a.pkl"


def _safetensors_header(header: Any, body: bytes = b"") -> Callable[[Path], Path]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return _write(len(text).to_bytes(8, "little") + text + body, "a.safetensors")


def _index(weight_map: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        _save_safetensors(folder / "model-00001-of-00002.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder / "model.safetensors.index.json"

    return write


def _nothing(folder: Path) -> Path:
    return folder / "nowhere.pth"


def _empty_folder(folder: Path) -> Path:
    (folder / "checkpoint").mkdir()
    return folder / "checkpoint"


def _two_files(folder: Path) -> Path:
    (folder / "checkpoint").mkdir()
    for name in ("a.pth", "b.pth"):
        torch.save(make_state(), folder / "checkpoint" / name)
    return folder / "checkpoint"


def _read_folder(change: Callable[[Path], object], folder: Path) -> Found:
    from torch.distributed.checkpoint.state_dict_saver import save

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save({"model": make_state()}, checkpoint_id=folder / "checkpoint", no_dist=True)
    change(folder / "checkpoint")
    return read_weights(folder, folder / "checkpoint")


def _cut_file(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


_ONLY_REFUSED, _ONLY_READ = (REFUSED,), (READ,)
_STATES: tuple[tuple[str, Callable[[State], Any], tuple[str, ...]], ...] = (
    ("NaN in the layer's weights", _fill("tail.weight", float("nan")), _ONLY_REFUSED),
    ("infinity in the layer's weights", _fill("tail.weight", float("inf")), _ONLY_REFUSED),
    ("1e38 in the layer's weights", _fill("tail.weight", 1e38), _ONLY_REFUSED),
    ("NaN in a layer before", _fill("stem.bias", float("nan")), _ONLY_REFUSED),
    ("weights of zeros alone", lambda state: {k: torch.zeros_like(v) for k, v in state.items()}, (READ, REFUSED)),
    ("a tensor of another shape", _set("tail.weight", torch.zeros(5, 4, 5, 5)), _ONLY_REFUSED),
    ("a tensor of no axis", _set("tail.weight", torch.zeros(())), _ONLY_REFUSED),
    ("a tensor of no number", _set("tail.weight", torch.zeros(0)), _ONLY_REFUSED),
    ("a tensor that is missing", _drop("tail.weight"), _ONLY_REFUSED),
    ("a tensor too many", _set("tail.extra", torch.zeros(3)), _ONLY_REFUSED),
    ("a text in the place of a tensor", _set("tail.weight", "weights"), _ONLY_REFUSED),
    ("a tensor of whole numbers", _set("tail.weight", torch.zeros(5, 4, 3, 3, dtype=torch.int64)), (READ, REFUSED)),
    ("a sparse tensor", _set("tail.weight", torch.zeros(5, 4, 3, 3).to_sparse()), _ONLY_REFUSED),
    ("complex numbers", _set("tail.weight", torch.zeros(5, 4, 3, 3, dtype=torch.complex64)), (READ, REFUSED)),
    ("doubles", lambda state: {k: v.double() for k, v in state.items()}, _ONLY_READ),
    ("half precision", lambda state: {k: v.half() for k, v in state.items()}, _ONLY_READ),
    ("a state dict of another network", lambda state: dict(nn.Linear(2, 2).state_dict()), _ONLY_REFUSED),
    ("an empty state dict", lambda state: {}, _ONLY_REFUSED),
    ("a list of tensors", lambda state: list(state.values()), _ONLY_REFUSED),
    ("a tensor alone", lambda state: state["tail.weight"], _ONLY_REFUSED),
    ("a number", lambda state: 7, _ONLY_REFUSED),
    ("an optimizer alone", lambda state: {"state": {}, "param_groups": []}, _ONLY_REFUSED),
    ("keys that are numbers", lambda state: dict(enumerate(state.values())), _ONLY_REFUSED),
    (
        "two networks that fit",
        lambda state: {"model": state, "ema": {k: v + 1 for k, v in state.items()}},
        _ONLY_REFUSED,
    ),
    ("names with control characters", lambda state: {f"\x1b[31m{k}": v for k, v in state.items()}, (READ, REFUSED)),
    (
        "a prefix of 100,000 characters",
        lambda state: {"a" * 100_000 + "." + k: v for k, v in state.items()},
        _ONLY_READ,
    ),
    (
        "a state dict that holds itself",
        lambda state: state | {"self": state} if not state.update(self=state) else state,
        _ONLY_READ,
    ),
)
_FILES: tuple[tuple[str, Callable[[Path], Path | None], tuple[str, ...]], ...] = (
    ("a path that leads nowhere", _nothing, _ONLY_REFUSED),
    ("an empty folder", _empty_folder, _ONLY_REFUSED),
    ("a folder of two checkpoints", _two_files, _ONLY_REFUSED),
    ("no byte", _write(b""), _ONLY_REFUSED),
    ("zeros alone", _write(bytes(5000)), _ONLY_REFUSED),
    ("text", _write(b"<!DOCTYPE html><title>Sign in</title>"), _ONLY_REFUSED),
    (
        "a pointer of Git LFS",
        _write(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        _ONLY_REFUSED,
    ),
    ("a zip archive of something else", _write(_zip(("a.txt", b"hello"))), _ONLY_REFUSED),
    ("a zip archive without a file", _write(_zip()), _ONLY_REFUSED),
    ("TorchScript", _write(_zip(("a/code/net.py", b""), ("a/data.pkl", b"\x80\x02N."))), _ONLY_REFUSED),
    ("a zip archive whose data.pkl is none", _write(_zip(("a/data.pkl", b"hello"))), _ONLY_REFUSED),
    ("a zip archive whose data.pkl is empty", _write(_zip(("a/data.pkl", b""))), _ONLY_REFUSED),
    ("big-endian numbers", _write(_zip(("a/data.pkl", b"\x80\x02N."), ("a/byteorder", b"big"))), _ONLY_REFUSED),
    ("an object of a class that is on no list", _stranger, _ONLY_REFUSED),
    ("a bare pickle of such an object", _stranger_alone, _ONLY_REFUSED),
    ("a bare pickle of a list", _write(pickle.dumps([1, 2, 3])), _ONLY_REFUSED),
    ("HDF5", _write(b"\x89HDF\r\n\x1a\n" + bytes(100), "a.h5"), _ONLY_REFUSED),
    ("ONNX", _write(b"\x08\x07\x12\x07pytorch", "a.onnx"), _ONLY_REFUSED),
    ("safetensors: a header that is no JSON", _safetensors_header(b"{nothing"), _ONLY_REFUSED),
    ("safetensors: no tensors", _safetensors_header({}), _ONLY_REFUSED),
    (
        "safetensors: places beyond the end",
        _safetensors_header({"a": {"dtype": "F32", "shape": [9, 9], "data_offsets": [0, 324]}}),
        _ONLY_REFUSED,
    ),
    (
        "safetensors: a type that is none",
        _safetensors_header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        _ONLY_REFUSED,
    ),
    (
        "safetensors: a negative shape",
        _safetensors_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        _ONLY_REFUSED,
    ),
    ("shards: a name that leads out", _index({"stem.weight": "../a.safetensors"}), _ONLY_REFUSED),
    ("shards: one is missing", _index({"stem.weight": "model-00002-of-00002.safetensors"}), _ONLY_REFUSED),
    ("shards: a tensor that is in none", _index({"other": "model-00001-of-00002.safetensors"}), _ONLY_REFUSED),
    ("shards: weight_map a list", _index([1, 2]), _ONLY_REFUSED),
    ("shards: names that are numbers", _index({"stem.weight": 5}), _ONLY_REFUSED),
    (
        "exported program: no description",
        _write(_zip(("a/data/weights/model_weights_config.json", b"{}"))),
        _ONLY_REFUSED,
    ),
    (
        "exported program: a description that is no JSON",
        _write(_zip(("a/data/weights/model_weights_config.json", b"{"))),
        _ONLY_REFUSED,
    ),
)
_FOLDERS: tuple[tuple[str, Callable[[Path], object]], ...] = (
    (".metadata cut", _cut_file(".metadata")),
    (".metadata empty", lambda folder: (folder / ".metadata").write_bytes(b"")),
    (".metadata of another class", lambda folder: (folder / ".metadata").write_bytes(pickle.dumps(Stranger(folder)))),
    (".metadata of a list", lambda folder: (folder / ".metadata").write_bytes(pickle.dumps([1]))),
    ("a chunk cut", _cut_file("__0_0.distcp")),
    ("a chunk of zeros", lambda folder: (folder / "__0_0.distcp").write_bytes(bytes(100_000))),
    ("a chunk missing", lambda folder: (folder / "__0_0.distcp").rename(folder / "__9_9.distcp")),
)
