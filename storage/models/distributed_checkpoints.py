"""Checkpoints that several processes wrote: folders of torch.distributed.checkpoint, and parts of other libraries'.

A folder has a pickle that says which tensors there are and where their chunks lie (`.metadata`), and files of chunks
(`__0_0.distcp`), each of them what torch.save writes. Both are read as any checkpoint is, without running anything.
FSDP's sharded state dicts are saved as such folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import CheckpointError
from lavise.storage.models.inert_pickle import Inert, RefusedClassError, load_pickle
from lavise.storage.state.text import printable

if TYPE_CHECKING:
    import torch

METADATA = ".metadata"
CHUNK_SUFFIX = ".distcp"
OPTIMIZER_SHARDS = "*zero_pp_rank_*_optim_states.pt"
"""Names of what DeepSpeed's ZeRO writes beside the weights: optimizers, a file for each process."""
FURTHER_STATES = "zero_pp_rank_[1-9]*_model_states.pt"
"""Of ZeRO-3, of all processes but the first, whose file tells what is to be told."""
_MAX_METADATA_BYTES = 256 << 20
_TENSOR_PARALLEL = re.compile(r"^mp_rank_(\d\d)(_\d+)*")
_MAX_SHOWN_CHARS = 80

# What a chunk's bytes hold.
ReadPart = Callable[[bytes], Any]


def is_distributed_folder(folder: Path) -> bool:
    """Whether a folder is a checkpoint of torch.distributed, complete: what lists its tensors is written last."""
    return (folder / METADATA).is_file() and any(folder.glob(f"*{CHUNK_SUFFIX}"))


def list_chunk_files(folder: Path) -> list[Path]:
    """Files of the chunks of a checkpoint, sorted by name."""
    return sorted(folder.glob(f"*{CHUNK_SUFFIX}"))


def read_distributed(folder: Path, values: bool, read_part: ReadPart) -> dict[str, Any]:
    """Tensors in mappings nested as they were saved; optimizers, and whatever is no tensor, are left out.

    Args:
        values: False: tensors have their shapes and types alone, and no chunk is read.

    Raises:
        CheckpointError: it names a class that is on no list, or was written by an extension of torch's writer.
        ValueError and others: it is damaged.
    """
    metadata = _read_metadata(folder)
    places: dict[tuple[str, tuple[int, ...]], tuple[str, int, int]] = {}
    for index, info in metadata["storage_data"].items():
        where, place = _state_of(index), _state_of(info)
        if place.get("transform_descriptors"):
            raise CheckpointError(
                f"model.weights: {folder} was written with an extension of torch's writer "
                f"({_show(place['transform_descriptors'])}), which is not read; {_advise(folder)}"
            )
        if where.get("offset") is not None:
            key = str(where["fqn"]), _sizes_of(where["offset"])
            places[key] = str(place["relative_path"]), int(place["offset"]), int(place["length"])
    paths = metadata.get("planner_data") or {}
    found: dict[str, Any] = {}
    for name, entry in metadata["state_dict_metadata"].items():
        if isinstance(entry, Inert) and entry.origin.endswith(".BytesStorageMetadata"):
            continue
        path = paths.get(name, (name,))
        if not isinstance(path, tuple) or not path or not all(isinstance(part, str | int) for part in path):
            raise ValueError(f"the path of {_show(name)} is none")
        if not str(path[0]).startswith("optim"):
            _put(found, path, _read_tensor(folder, name, _state_of(entry), places, values, read_part))
    return found


def _read_metadata(folder: Path) -> Mapping[str, Any]:
    path = folder / METADATA
    if path.stat().st_size > _MAX_METADATA_BYTES:
        raise ValueError("its list of tensors is too long")

    def refuse(pid: tuple[Any, ...]) -> Any:
        raise ValueError("a persistent id where none can be")

    try:
        with path.open("rb") as file:
            return _state_of(load_pickle(file, refuse))
    except RefusedClassError as err:
        raise CheckpointError(
            f"model.weights: {path} names the class {err.name}, which is none of torch's writer; it is not read, since "
            f"that could run foreign code; {_advise(folder)}"
        ) from None


def _advise(folder: Path) -> str:
    return (
        "where you trust it, make a file of it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
        f"{printable(folder.name)} weights.pt"
    )


def _state_of(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Inert) or not isinstance(value.state, Mapping):
        raise ValueError("its list of tensors is none of torch's")
    return value.state


def _sizes_of(value: Any) -> tuple[int, ...]:
    """Of a torch.Size, which is not built."""
    given = vars(value).get("arguments", ()) if isinstance(value, Inert) else ()
    return tuple(int(n) for n in given[0]) if given else ()


def _read_tensor(
    folder: Path,
    name: str,
    facts: Mapping[str, Any],
    places: Mapping[tuple[str, tuple[int, ...]], tuple[str, int, int]],
    values: bool,
    read_part: ReadPart,
) -> torch.Tensor:
    """One tensor, whole: its chunks cover it, and no number twice."""
    import torch

    size, properties = _sizes_of(facts["size"]), facts["properties"].state
    dtype = properties["dtype"] if isinstance(properties, Mapping) else properties[0]
    if not isinstance(dtype, torch.dtype) or any(n < 0 for n in size):
        raise ValueError(f"{_show(name)} has no type or no shape")
    if not values:
        return torch.empty(size, dtype=dtype, device="meta")
    chunks = [(_sizes_of(_state_of(c)["offsets"]), _sizes_of(_state_of(c)["sizes"])) for c in facts["chunks"]]
    whole = covered = None
    for offsets, sizes in chunks:
        if (name, offsets) not in places or not len(offsets) == len(sizes) == len(size):
            raise ValueError(f"a chunk of {_show(name)} is nowhere")
        part = read_part(_read_bytes(folder, *places[name, offsets]))
        if not isinstance(part, torch.Tensor) or tuple(part.shape) != sizes or part.dtype != dtype:
            raise ValueError(f"a chunk of {_show(name)} is not what it is said to be")
        if len(chunks) == 1 and sizes == size:
            return part
        if whole is None or covered is None:
            if sum(_count(s) for _, s in chunks) != _count(size):
                break
            whole, covered = torch.empty(size, dtype=dtype), torch.zeros(size, dtype=torch.bool)
        window = tuple(slice(start, start + n) for start, n in zip(offsets, sizes, strict=True))
        if min(offsets, default=0) < 0 or covered[window].shape != part.shape or covered[window].any():
            break
        whole[window], covered[window] = part, True
    else:
        if whole is not None and covered is not None and covered.all():
            return whole
    raise ValueError(f"the chunks of {_show(name)} do not cover it once")


def _count(sizes: tuple[int, ...]) -> int:
    number = 1
    for n in sizes:
        number *= n
    return number


def _show(name: object) -> str:
    return printable(str(name))[:_MAX_SHOWN_CHARS]


def _read_bytes(folder: Path, name: str, offset: int, length: int) -> bytes:
    if PurePosixPath(name).name != name:
        raise ValueError(f"its file {_show(name)!r} is not beside its list of tensors")
    path = folder / name
    if not 0 <= offset <= offset + length <= path.stat().st_size:
        raise ValueError(f"{_show(name)} is shorter than its list of tensors says; copy or write it again")
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _put(found: dict[Any, Any], path: tuple[str | int, ...], tensor: torch.Tensor) -> None:
    """Under the keys that it was saved under; the places in a list become keys, too."""
    *above, last = path
    for key in above:
        found = found.setdefault(key, {})
        if not isinstance(found, dict):
            raise ValueError("one of its tensors is below another")
    found[last] = tensor


def explain_part(content: Any, path: Path) -> str | None:
    """Why a file is only a part of a network, and what to do; None where it is not known to be one."""
    import torch

    top = content if isinstance(content, Mapping) else {}
    module = top.get("module")
    if "ds_version" in top and isinstance(module, Mapping):
        shards = top.get("mp_world_size")
        if isinstance(shards, int) and shards > 1:
            return f"holds one of {shards} parts of a network (tensor parallelism); merge them with what wrote them"
        tensors = [t for t in module.values() if isinstance(t, torch.Tensor) and t.is_floating_point()]
        if any(t.numel() == 0 for t in tensors) and top.get("param_shapes"):
            return (
                "holds no weights: DeepSpeed's ZeRO-3 keeps them in files of all processes; where you trust the "
                "folder, put them together with the script that lies in it: python zero_to_fp32.py . weights"
            )
    match = next((m for part in (path.name, path.parent.name) if (m := _TENSOR_PARALLEL.match(part))), None)
    if match and any(_list_parallel(path, match[0])):
        return (
            "is one of several parts of a network (tensor parallelism, as of Megatron); merge them with what wrote "
            "them, and save the whole state dict"
        )
    return None


def _list_parallel(path: Path, own: str) -> Iterator[Path]:
    """What another process wrote in the place of a file, or of its folder."""
    is_file = path.name.startswith(own)
    for other in (path.parent if is_file else path.parent.parent).glob("mp_rank_*"):
        match = _TENSOR_PARALLEL.match(other.name)
        if match and match[0] != own and other.is_file() == is_file:
            yield other
