"""Weights from where the user has them: finding the file, reading it without running code, and loading it strictly."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import CheckpointError, UserError
from lavise.configs.paths import expand_home

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
_NESTED_KEYS = ("state_dict", "model_state_dict", "model", "net", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
_NUM_SHOWN = 3


def find_weights_file(weights: str) -> Path:
    """The file behind `package:DISTRIBUTION` or a path.

    Raises:
        UserError: not installed, no or several weight files in the package, no such file, or a wrong ending.
    """
    if weights.startswith("package:"):
        name = weights.removeprefix("package:")
        try:
            files = metadata.files(name) or []
        except (metadata.PackageNotFoundError, ValueError):
            raise UserError(f"model.weights: package {name!r} is not installed; install it, or give a file") from None
        found = sorted(Path(str(f.locate())) for f in files if f.suffix in WEIGHT_SUFFIXES)
        if len(found) != 1:
            raise UserError(f"model.weights: found {len(found)} weight files in package {name!r}; allowed: exactly one")
        return found[0]
    path = expand_home(weights)
    if not path.is_file():
        raise UserError(
            f"model.weights: found {weights!r}, which is no file; "
            f"allowed: random, pretrained, package:NAME or a file ({', '.join(WEIGHT_SUFFIXES)})"
        )
    if path.suffix not in WEIGHT_SUFFIXES:
        raise UserError(f"model.weights: found ending {path.suffix!r}; allowed: {', '.join(WEIGHT_SUFFIXES)}")
    return path


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint file, by name; a `state_dict` (or like) key inside is unpacked.

    Raises:
        CheckpointError: not a checkpoint, damaged, or one that would have to run code to be read.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise CheckpointError(
            f"model.weights: {path} is damaged, or holds more than tensors and is not loaded, since that could run "
            f"foreign code ({one_line(err)[:120]}); save its state dict: torch.save(model.state_dict(), ...) or "
            "safetensors"
        ) from None
    except MemoryError:
        raise
    except OSError as err:  # the disk's or the network's fault, not the checkpoint's
        raise UserError(f"model.weights: cannot read {path} ({one_line(err)[:120]}); try again") from None
    except Exception as err:  # noqa: BLE001 - torch and safetensors raise many types on damaged files
        raise CheckpointError(
            f"model.weights: cannot read {path} ({type(err).__name__}: {one_line(err)[:120]}); "
            "allowed: a whole state dict in .pt, .pth or .safetensors"
        ) from None
    for _ in range(2):
        inner = [k for k in _NESTED_KEYS if isinstance(content, Mapping) and isinstance(content.get(k), Mapping)]
        if inner:
            content = content[inner[0]]
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, Mapping) else {}
    )
    if not tensors:
        raise CheckpointError(
            f"model.weights: found no tensors in {path}; allowed: a state dict, or one below 'state_dict'"
        )
    return tensors


def load_weights(network: nn.Module, tensors: Mapping[str, torch.Tensor], label: str, by_order: bool = False) -> None:
    """Put tensors into a network, all of them, with the shapes that it has.

    Args:
        by_order: where no name fits, pair names by their order, if the number and every shape are the same.

    Raises:
        CheckpointError: names the first keys that differ.
    """
    wanted = network.state_dict()
    given = _strip_prefix(dict(tensors), wanted)
    if by_order and not (given.keys() & wanted.keys()) and len(given) == len(wanted):
        paired = dict(zip(wanted, given.values(), strict=True))
        if all(paired[k].shape == wanted[k].shape for k in wanted):
            given = paired
    optional = {k for k in wanted if k.endswith("num_batches_tracked")}
    missing = [k for k in wanted if k not in given and k not in optional]
    unexpected = [k for k in given if k not in wanted]
    shapes = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in given and given[k].shape != wanted[k].shape
    ]
    if missing or unexpected or shapes:
        faults = [
            f"{len(found)} {what} ({', '.join(found[:_NUM_SHOWN])}{', ...' if len(found) > _NUM_SHOWN else ''})"
            for what, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if found
        ]
        raise CheckpointError(
            f"model.weights: {label} does not fit the architecture: {'; '.join(faults)}; "
            "set model.arch and model.num_classes to what the weights were trained with"
        )
    try:
        network.load_state_dict(given, strict=False)
    except RuntimeError as err:  # tensors that are sparse, quantised or on a device of their own
        raise CheckpointError(
            f"model.weights: {label} cannot be put into the architecture ({one_line(err)[:160]}); "
            "save dense floating-point tensors"
        ) from None


def _strip_prefix(given: dict[str, torch.Tensor], wanted: Iterable[str]) -> dict[str, torch.Tensor]:
    names = set(wanted)
    for _ in range(len(_PREFIXES)):
        if names & given.keys():
            break
        prefix = next((p for p in _PREFIXES if all(k.startswith(p) for k in given)), None)
        if prefix is None:
            break
        given = {k.removeprefix(prefix): v for k, v in given.items()}
    return given


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
