"""Checkpoint files as trainers write them: what a file is goes by its content, and nothing in it is ever run.

Read are torch files (zip and older), safetensors (whole, or in shards with an index), the weights of exported programs
(.pt2), and folders of torch.distributed.checkpoint. Everything else is named, with what to do.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from lavise.configs.errors import CheckpointError, UserError
from lavise.storage.models.distributed_checkpoints import METADATA, read_distributed
from lavise.storage.models.inert_pickle import Inert, RefusedClassError, StorageKind, load_pickle, walk
from lavise.storage.state.text import one_line, printable

if TYPE_CHECKING:
    import torch

INDEX_SUFFIX = ".index.json"
"""Of the file beside shards that says which of them holds what."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_JSON_BYTES = 64 << 20
_MAX_REASON_CHARS = 120
_MAX_UNPACKED_BYTES, _MAX_UNPACKED_TIMES = 1 << 30, 100
_WEIGHTS_KEYS = ("state_dict", "model_state_dict")
# Lightning keeps arguments here, often with the network itself or an optimizer's class among them.
_PASSED_OVER = frozenset({"hyper_parameters"})
_ALLOWED = "what torch.save writes (.pt, .pth, .ckpt, .bin), safetensors, or an exported program (.pt2)"
_SAVE_STATE = "torch.save(model.state_dict(), 'weights.pt')"
# torch._export.serde.schema.ScalarType; its numbers are not those of torch's own scalar types.
_EXPORTED_TYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}


class NoNetworkError(CheckpointError):
    """A file that is beside checkpoints, and none itself: of an optimizer, of random states, a part of one."""


def read_checkpoint(path: Path, values: bool = True) -> Any:
    """What a checkpoint file holds: tensors in nested mappings, with stand-ins for whatever else there is.

    Args:
        path: a file; or a folder of torch.distributed.checkpoint, or the file in it that lists its tensors.
        values: False: tensors have their shapes and types alone (torch's meta device), so that little is read.

    Raises:
        CheckpointError: not a checkpoint, damaged, or one that would have to run code to be read; says what to do.
        UserError: the disk's or the network's fault.
    """
    try:
        if path.name == METADATA or path.is_dir():
            folder = path if path.is_dir() else path.parent
            return read_distributed(folder, values, lambda data: _read_part(path, data))
        with path.open("rb") as file:
            head = file.read(16)
            file.seek(0)
            return _read(path, file, head, values)
    except (UserError, MemoryError):
        raise
    except RefusedClassError as err:
        is_beside = err.content is not None and not _has_tensors(err.content)
        kind = NoNetworkError if is_beside else CheckpointError
        raise kind(f"model.weights: {path} {_explain_class(err, path, is_beside)}") from None
    except OSError as err:
        # Of a folder, the file in it that is meant.
        where = Path(path, Path(err.filename).name) if path.is_dir() and isinstance(err.filename, str) else path
        reason = printable(err.strerror or one_line(err))[:_MAX_REASON_CHARS]
        raise UserError(f"model.weights: cannot read {where} ({reason}); try again") from None
    except Exception as err:  # noqa: BLE001 - readers raise many types on damaged files
        raise CheckpointError(
            f"model.weights: cannot read {path} ({type(err).__name__}: {printable(one_line(err))[:_MAX_REASON_CHARS]})"
            f"; allowed: {_ALLOWED}"
        ) from None


def _read(path: Path, file: IO[bytes], head: bytes, values: bool) -> Any:
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path, values)
    if head[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(file) as archive:
            return _read_zip(path, archive, values)
    if head[8:9] == b"{":
        return _read_safetensors(path, values)
    if head[:1] == b"\x80":
        return _read_legacy(path, file, values)
    raise CheckpointError(f"model.weights: {path} {_name_other_format(path, head)}")


def _read_part(path: Path, data: bytes) -> Any:
    """A chunk of a tensor, as torch.save writes it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return _read_zip(path, archive, values=True)


def _read_zip(path: Path, archive: zipfile.ZipFile, values: bool) -> Any:
    unpacked, packed = (sum(getattr(i, name) for i in archive.infolist()) for name in ("file_size", "compress_size"))
    if unpacked > max(_MAX_UNPACKED_BYTES, _MAX_UNPACKED_TIMES * packed):
        raise CheckpointError(
            f"model.weights: {path} unpacks from {packed:,} to {unpacked:,} bytes; allowed: what torch.save writes, "
            "which is not packed"
        )
    names = [PurePosixPath(name) for name in archive.namelist()]
    inner = {PurePosixPath(*name.parts[1:]).as_posix() for name in names if len(name.parts) > 1}
    root = names[0].parts[0] if names and names[0].parts else ""
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise CheckpointError(
            f"model.weights: {path} is a TorchScript archive, which is code; where you trust it, save its state: "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pt')"
        )
    if "data/weights/model_weights_config.json" in inner:
        return _read_exported(archive, root, values)
    if "data.pkl" in inner:
        return _read_torch_zip(archive, root, values)
    if any(name.as_posix() == "model.weights.h5" for name in names):
        raise CheckpointError(f"model.weights: {path} is a Keras model; allowed: networks of PyTorch")
    raise CheckpointError(
        f"model.weights: {path} is a zip file that holds no checkpoint of torch; allowed: what torch.save writes"
    )


def _read_torch_zip(archive: zipfile.ZipFile, root: str, values: bool) -> Any:

    if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
        raise ValueError("its numbers are big-endian")
    storages: dict[str, torch.Tensor] = {}

    def load_storage(pid: tuple[Any, ...]) -> Any:
        kind, key = pid[1], str(pid[2])
        if not isinstance(kind, StorageKind):
            return None
        if key not in storages:
            name = f"{root}/data/{key}"
            size = archive.getinfo(name).file_size
            storages[key] = _view_bytes(archive.read(name), kind) if values else _make_empty(size, kind)
        # The same bytes may be named as another kind.
        return storages[key] if kind.dtype in (None, storages[key].dtype) else storages[key].view(kind.dtype)

    with archive.open(f"{root}/data.pkl") as file:
        return load_pickle(file, load_storage, _PASSED_OVER)


def _read_legacy(path: Path, file: IO[bytes], values: bool) -> Any:
    """Pickles one after another, then the storages (torch before 1.6); or a bare pickle of something."""
    import torch

    size = path.stat().st_size

    def refuse(pid: tuple[Any, ...]) -> Any:
        raise pickle.UnpicklingError("a persistent id where none can be")

    try:
        magic = load_pickle(file, refuse)
    except RefusedClassError as err:
        if err.name != "torch.storage._load_from_bytes":
            raise
        magic = None
    if magic != _LEGACY_MAGIC:
        raise CheckpointError(
            f"model.weights: {path} is a bare pickle, not what torch.save writes; where you trust it, load it and save "
            f"its state: {_SAVE_STATE}"
        )
    load_pickle(file, refuse)
    load_pickle(file, refuse)
    kinds: dict[str, tuple[StorageKind, int]] = {}
    views: dict[str, torch.Tensor] = {}

    def announce(pid: tuple[Any, ...]) -> Any:
        if pid[0] == "module":  # a class, with its source file and text
            return pid[1]
        if not isinstance(pid[1], StorageKind):
            return None
        key, number = str(pid[2]), int(pid[4])
        if key not in kinds:
            dtype = pid[1].dtype or torch.uint8
            if not 0 <= number * dtype.itemsize <= size:
                raise ValueError(f"a storage of {number} numbers in a file of {size} bytes")
            kinds[key] = (pid[1], number)
            views[key] = torch.empty(number, dtype=dtype, device="cpu" if values else "meta")
        return views[key]

    content = load_pickle(file, announce, _PASSED_OVER)
    if not values:
        return content
    for key in load_pickle(file, refuse):
        kind, number = kinds[str(key)]
        (stated,) = struct.unpack("<q", file.read(8))
        data = file.read(number * views[str(key)].element_size())
        if stated != number:
            raise ValueError(f"a storage of {stated} numbers where {number} were announced")
        views[str(key)].copy_(_view_bytes(data, kind))
    return content


def _view_bytes(data: bytes, kind: StorageKind) -> torch.Tensor:
    import torch

    if not data:
        return torch.empty(0, dtype=kind.dtype or torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(kind.dtype or torch.uint8)


def _read_exported(archive: zipfile.ZipFile, root: str, values: bool) -> dict[str, torch.Tensor]:
    """Weights of an exported program (torch.export.save): raw numbers beside a description; its graph is not read."""
    import torch

    described = archive.getinfo(f"{root}/data/weights/model_weights_config.json")
    if described.file_size > _MAX_JSON_BYTES:
        raise ValueError("the description of its weights is too long")
    found = {}
    for name, entry in json.loads(archive.read(described))["config"].items():
        meta, part = entry["tensor_meta"], archive.getinfo(f"{root}/data/weights/{entry['path_name']}")
        if entry.get("use_pickle") or meta["dtype"] not in _EXPORTED_TYPES:
            raise ValueError(f"{printable(name)} is no plain tensor")
        kind = StorageKind(vars(torch)[_EXPORTED_TYPES[meta["dtype"]]])
        storage = _view_bytes(archive.read(part), kind) if values else _make_empty(part.file_size, kind)
        sizes, strides = ([int(n["as_int"]) for n in meta[key]] for key in ("sizes", "strides"))
        found[name] = torch.as_strided(storage, sizes, strides, int(meta["storage_offset"]["as_int"]))
    return found


def _make_empty(num_bytes: int, kind: StorageKind) -> torch.Tensor:
    """A storage without values."""
    import torch

    dtype = kind.dtype or torch.uint8
    return torch.empty(num_bytes // dtype.itemsize, dtype=dtype, device="meta")


def _read_safetensors(path: Path, values: bool) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    if values:
        return load_file(path)
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return {
            name: torch.empty(part.get_shape(), dtype=_get_dtype(part.get_dtype()), device="meta")
            for name, part in shapes.items()
        }


def _get_dtype(name: str) -> torch.dtype:
    """Of safetensors' name for it, as far as it matters whether numbers are floating-point ones."""
    import torch

    known = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return known.get(name, torch.int64)


def list_shards(path: Path) -> list[Path]:
    """Files of a checkpoint in shards, which lie beside its index, sorted by name.

    Raises:
        ValueError: the index is none, or leads elsewhere.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError("its index is too long")
    names = sorted(set(json.loads(path.read_text("utf-8"))["weight_map"].values()))
    for name in names:
        if PurePosixPath(name).name != name:
            raise ValueError(f"its shard {printable(name)!r} is not beside the index")
    return [path.parent / name for name in names]


def _read_shards(path: Path, values: bool) -> dict[str, Any]:
    """All tensors of a checkpoint in several files, which lie beside its index."""
    found: dict[str, Any] = {}
    for shard in list_shards(path):
        part = read_checkpoint(shard, values)
        if not isinstance(part, Mapping):
            raise ValueError(f"its shard {printable(shard.name)!r} is no state dict")
        found.update(part)
    names = json.loads(path.read_text("utf-8"))["weight_map"]
    missing = [key for key in names if key not in found]
    if missing:
        raise ValueError(f"{len(missing)} of its tensors are in no shard, {printable(missing[0])} the first")
    return found


def _has_tensors(content: Any) -> bool:
    import torch

    return any(isinstance(value, torch.Tensor) for _, value in walk(content))


def _explain_class(err: RefusedClassError, path: Path, is_beside: bool) -> str:
    if is_beside:
        where = f"holds an object of the class {err.name}" + (f" under {err.key!r}" if err.key else "")
        return f"{where} and no network; give the file of the weights"
    load = f"torch.load({path.name!r}, weights_only=False)"
    if not err.key:
        save = f"torch.save({load}.state_dict(), 'weights.pt')" if _is_module(err.content) else _SAVE_STATE
        return (
            f"is no state dict but a pickled object ({err.name}), which only code could read; where its classes are "
            f"installed and you trust it: {save}"
        )
    inside = err.content if isinstance(err.content, Mapping) else {}
    network = next((key for key in _WEIGHTS_KEYS if key in inside), None)
    if network:
        save = f"torch.save({load}[{network!r}], 'weights.pt')"
    elif _is_module(inside.get(err.key)):
        save = f"torch.save({load}[{err.key!r}].state_dict(), 'weights.pt')"
    else:
        save = _SAVE_STATE
    return (
        f"holds an object of the class {err.name} under {err.key!r} and is not read, since that could run foreign "
        f"code; where you trust it, save the weights alone: {save}"
    )


def _is_module(value: Any) -> bool:
    """Whether a stand-in is one of a torch module, which keeps its parts under a name of its own."""
    return isinstance(value, Inert) and isinstance(value.state, dict) and "_modules" in value.state


def _name_other_format(path: Path, head: bytes) -> str:
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "is an HDF5 file (of Keras?); allowed: networks of PyTorch"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b"\x3a")):
        return f"is an ONNX graph, which has no torch modules; save the network that it was made from: {_SAVE_STATE}"
    if not head.strip(b"\0"):
        return "is empty, or was not written to its end; train or copy it again"
    return f"is no checkpoint; allowed: {_ALLOWED}"
