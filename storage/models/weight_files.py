"""Where a checkpoint is: the file, or the folder, behind what `model.weights` says; and names that trainers give."""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home
from lavise.storage.models.checkpoint_files import INDEX_SUFFIX, read_checkpoint
from lavise.storage.models.distributed_checkpoints import OPTIMIZER_SHARDS, is_distributed_folder
from lavise.storage.state.text import printable

WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".pth.tar", ".pt2")
_COMPANIONS = (
    *("optimizer*.pt", "optimizer*.bin", "scheduler*.pt", "scheduler*.bin", "scaler*.pt", "criterion.pt"),
    *("rng_state*.pth", "training_args.bin", OPTIMIZER_SHARDS),
)
"""Names that Hugging Face's Trainer, accelerate, skorch and DeepSpeed give to files beside the weights."""
_SHARDS = ("*-[0-9]*-of-[0-9]*.safetensors", "*-[0-9]*-of-[0-9]*.bin")
_NUM_SHOWN = 3


def find_weights_file(weights: str) -> Path:
    """What is behind `package:DISTRIBUTION`, a path, or a folder with one checkpoint (whole or in shards): a file, or a
    folder of torch.distributed.checkpoint.

    Raises:
        UserError: not installed, no or several weight files in the package or folder, or no such file.
    """
    if weights.startswith("package:"):
        name = weights.removeprefix("package:")
        try:
            files = metadata.files(name) or []
        except (metadata.PackageNotFoundError, ValueError):
            raise UserError(f"model.weights: package {name!r} is not installed; install it, or give a file") from None
        found = sorted(Path(str(f.locate())) for f in files if is_weights_name(f.name))
        if len(found) != 1:
            raise UserError(f"model.weights: found {len(found)} weight files in package {name!r}; allowed: exactly one")
        return found[0]
    path = expand_home(weights)
    if path.is_dir():
        return _find_in_folder(path)
    if not path.is_file():
        raise UserError(
            f"model.weights: found {weights!r}, which is no file; "
            f"allowed: random, pretrained, package:NAME or a file ({', '.join(WEIGHT_SUFFIXES)})"
        )
    return path


def is_weights_name(name: str) -> bool:
    """Whether a file's name is one that trainers give to weights."""
    return name.endswith(WEIGHT_SUFFIXES)


def is_shard_name(name: str) -> bool:
    """Whether a file's name is one that is given to a part of a checkpoint."""
    return any(fnmatchcase(name, pattern) for pattern in _SHARDS)


def is_companion_name(name: str) -> bool:
    """Whether a name is one that trainers give to what lies beside weights: optimizers, random states, shards."""
    return any(fnmatchcase(name, pattern) for pattern in (*_COMPANIONS, *_SHARDS))


def _find_in_folder(folder: Path) -> Path:
    """As of Hugging Face's checkpoint-N: the index of its shards, else its one file that is called after the model, or
    its one folder of torch.distributed.checkpoint, where it is none itself."""
    if is_distributed_folder(folder):
        return folder
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    indices = [name for name in names if name.endswith(INDEX_SUFFIX)]
    found = indices or [name for name in names if is_weights_name(name) and not is_companion_name(name)]
    inner = sorted(path.name for path in folder.iterdir() if is_distributed_folder(path))
    found += [name for name in inner if not name.startswith("optimizer")]
    if len(found) != 1:
        raise UserError(
            f"model.weights: found {len(found)} checkpoints in the folder {str(folder)!r}"
            f"{': ' if found else ''}{', '.join(map(printable, found[:_NUM_SHOWN]))}; give the file itself"
        )
    return folder / found[0]


def read_weights(weights: str) -> tuple[Any, Path]:
    """Content and path of what `model.weights` names."""
    path = find_weights_file(weights)
    return read_checkpoint(path), path
