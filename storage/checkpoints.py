"""Target models: an architecture by name and weights from where the user has them. No pickle is ever executed."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import CheckpointError, UserError
from configs.paths import expand_home
from configs.schema import ModelSettings
from storage.artefacts import write_json
from storage.digest import digest_file, digest_tensors, short
from storage.geometry import Geometry
from storage.layers import ActivationTap

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
PACKED_WEIGHTS = "network.safetensors"
PACKED_FACTS = "network.json"
_NESTED_KEYS = ("state_dict", "model_state_dict", "model", "net", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
_NUM_SHOWN = 3
_PROBE_TOLERANCE = 0.02


@dataclass(frozen=True)
class TargetModel:
    """The trained CNN f under audit, frozen, in evaluation mode.

    Attributes:
        network: takes float32 [N, 3, S, S], normalised.
        digest: sha256 of its state dict: names, shapes, bytes; not of any file name.
        geometry: from a picture to the input.
        mean, std: of the normalisation, per channel on the scale 0..1.
    """

    arch: str
    network: nn.Module
    digest: str
    code: str
    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def describe_preprocessing(self) -> dict[str, Any]:
        """What the input depends on besides the picture; part of every digest of activations."""
        geometry = self.geometry
        return {
            "size_px": geometry.size_px,
            "fit": geometry.fit,
            "crop_share": geometry.crop_share if geometry.fit == "center_crop" else None,
            "interpolation": geometry.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


@dataclass(frozen=True)
class PackedNetwork:
    """A target model and one of its layers, as they travel with an explainer.

    Attributes:
        num_classes: size of the classifier head, where it is not the architecture's default.
        layer: the module whose output is the map.
    """

    model: TargetModel
    num_classes: int | None
    layer: str


@dataclass(frozen=True)
class _Architecture:
    name: str
    build: Callable[[bool], nn.Module]
    code: str
    size_px: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"


def load_target_model(settings: ModelSettings, seed: int) -> TargetModel:
    """Build the architecture and load its weights.

    Args:
        seed: of random weights.

    Raises:
        UserError: unknown architecture, unreadable or mismatching weights; says what is allowed.
    """
    import torch

    architecture = _find_architecture(settings.arch, settings.num_classes)
    torch.manual_seed(seed)
    try:
        network = architecture.build(settings.weights == "pretrained")
    except (OSError, ConnectionError) as err:
        raise UserError(
            f"model.weights: 'pretrained' could not be fetched ({_one_line(err)}); "
            f"allowed: random, package:NAME or a file ({', '.join(WEIGHT_SUFFIXES)})"
        ) from None
    if settings.weights not in ("random", "pretrained"):
        path = find_weights_file(settings.weights)
        load_weights(network, read_state_dict(path), str(path), by_order=settings.weights.startswith("package:"))
    network.eval().requires_grad_(False)
    chosen = settings.preprocessing
    return TargetModel(
        arch=architecture.name,
        network=network,
        digest=digest_tensors(network.state_dict()),
        code=f"{architecture.code} {_digest_code(network)}",
        geometry=Geometry(
            size_px=chosen.size_px or architecture.size_px,
            fit=chosen.fit,
            crop_share=chosen.crop_share,
            interpolation=chosen.interpolation or architecture.interpolation,
        ),
        mean=chosen.mean or architecture.mean,
        std=chosen.std or architecture.std,
    )


def save_packed_network(packed: PackedNetwork, folder: Path) -> None:
    """Write folder/network.safetensors (the state dict) and folder/network.json (what else it takes to build it)."""
    import torch
    from safetensors.torch import save_file

    model = packed.model
    # Copies, since tensors that share memory (tied weights) cannot be saved as they are.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.network.state_dict().items()
    }
    save_file(tensors, folder / PACKED_WEIGHTS)
    content = {
        "arch": model.arch,
        "num_classes": packed.num_classes,
        "preprocessing": model.describe_preprocessing(),
        "layer": packed.layer,
        "digest": model.digest,
        "probe": _probe_layer(model.network, packed.layer, model.geometry.size_px),
    }
    write_json(folder / PACKED_FACTS, content)


def load_packed_network(folder: Path) -> PackedNetwork:
    """Build a packed network again, on the processor, and see that its layer still answers as it did.

    The architecture comes from its library, or from the user's own module: only its name is in the folder.

    Raises:
        UserError: the architecture is not there or another one by now, or the weights are not those that were packed.
    """
    import torch

    content = json.loads((folder / PACKED_FACTS).read_text("utf-8"))
    settings = ModelSettings.model_validate(
        {
            "arch": content["arch"],
            "weights": str((folder / PACKED_WEIGHTS).resolve()),
            "num_classes": content["num_classes"],
            "preprocessing": {k: v for k, v in content["preprocessing"].items() if v is not None},
        }
    )
    with torch.random.fork_rng():
        model = load_target_model(settings, seed=0)
    if model.digest != content["digest"]:
        raise UserError(
            f"{folder / PACKED_WEIGHTS}: found weights with the digest {short(model.digest)}; "
            f"allowed: {short(content['digest'])}, as packed; pack the network again"
        )
    layer, expected = content["layer"], content["probe"]
    if layer not in dict(model.network.named_modules()):
        raise UserError(
            f"model.arch: {model.arch} has no module {layer!r} any more; use the code that it was packed with"
        )
    found = _probe_layer(model.network, layer, model.geometry.size_px)
    largest = max(map(abs, expected))
    if len(found) != len(expected) or not all(
        abs(a - b) <= _PROBE_TOLERANCE * largest for a, b in zip(found, expected, strict=True)
    ):
        raise UserError(
            f"model.arch: {model.arch} with the packed weights gives other maps of {layer!r} than when it was packed: "
            "its code is another, or sets more than weights; use the code that it was packed with"
        )
    return PackedNetwork(model, content["num_classes"], layer)


def _probe_layer(network: nn.Module, layer: str, size_px: int) -> list[float]:
    """Mean of each of the C filters of a layer, for an input that is the same everywhere: noise of whole numbers."""
    import torch

    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    noise = torch.arange(3 * size_px**2) * 7919 % 257
    images = (noise / 64 - 2).view(1, 3, size_px, size_px).to(device)
    with torch.inference_mode(), ActivationTap(network, (layer,)) as tap:
        network(images)
        return [float(v) for v in tap.maps[layer][0].float().mean(dim=(1, 2))]


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
            f"foreign code ({_one_line(err)[:120]}); save its state dict: torch.save(model.state_dict(), ...) or "
            "safetensors"
        ) from None
    except MemoryError:
        raise
    except OSError as err:  # the disk's or the network's fault, not the checkpoint's
        raise UserError(f"model.weights: cannot read {path} ({_one_line(err)[:120]}); try again") from None
    except Exception as err:  # noqa: BLE001 - torch and safetensors raise many types on damaged files
        raise CheckpointError(
            f"model.weights: cannot read {path} ({type(err).__name__}: {_one_line(err)[:120]}); "
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
            f"model.weights: {label} cannot be put into the architecture ({_one_line(err)[:160]}); "
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


def _find_architecture(arch: str, num_classes: int | None) -> _Architecture:
    library, sep, name = arch.partition(":")
    if not sep:
        return _find_bare_name(arch, num_classes)
    if library == "torchvision":
        return _torchvision_architecture(name, num_classes)
    if library == "timm":
        return _timm_architecture(name, num_classes)
    return _callable_architecture(library, name, num_classes)


def _find_bare_name(name: str, num_classes: int | None) -> _Architecture:
    import torchvision.models as models

    if name in models.list_models(module=models):
        return _torchvision_architecture(name, num_classes)
    import timm

    if name in timm.list_models():
        return _timm_architecture(name, num_classes)
    known = models.list_models(module=models) + timm.list_models()
    raise UserError(
        f"model.arch: found {name!r}; allowed: timm:NAME, torchvision:NAME or package.module:callable"
        + _suggest(name, known)
    )


def _torchvision_architecture(name: str, num_classes: int | None) -> _Architecture:
    import torchvision
    import torchvision.models as models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"model.arch: torchvision has no {name!r}{_suggest(name, known)}")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True

    def build(pretrained: bool) -> Any:
        if pretrained and options.get("num_classes") is not None:
            raise UserError(
                f"model.num_classes: found {num_classes} with pretrained weights of torchvision, which have a head of "
                "their own; leave it empty"
            )
        return models.get_model(name, weights="DEFAULT" if pretrained else None, **({} if pretrained else options))

    size_px = 299 if name == "inception_v3" else 224
    code = f"torchvision {torchvision.__version__}"
    return _Architecture(f"torchvision:{name}", build, code, size_px)


def _timm_architecture(name: str, num_classes: int | None) -> _Architecture:
    import timm

    known = timm.list_models() + timm.list_models(pretrained=True)
    if name not in known:
        raise UserError(f"model.arch: timm has no {name!r}{_suggest(name, known)}")
    cfg = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    size_px = cfg.input_size[-1] if cfg else 224
    mean, std = (tuple(cfg.mean), tuple(cfg.std)) if cfg else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    interpolation = cfg.interpolation if cfg and cfg.interpolation in ("bilinear", "bicubic") else "bicubic"

    def build(pretrained: bool) -> Any:
        return timm.create_model(name, pretrained=pretrained, **options)

    return _Architecture(f"timm:{name}", build, f"timm {timm.__version__}", size_px, mean, std, interpolation)


def _callable_architecture(module_name: str, attribute: str, num_classes: int | None) -> _Architecture:
    arch = f"{module_name}:{attribute}"
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that a folder named like one of ours does not stand in for it
    try:
        module = importlib.import_module(module_name)
        factory = getattr(module, attribute)
    except Exception as err:  # noqa: BLE001 - the user's own module may fail in any way
        raise UserError(
            f"model.arch: cannot import {arch!r} ({_one_line(err)}); "
            "allowed: timm:NAME, torchvision:NAME or package.module:callable"
        ) from None
    if not callable(factory):
        raise UserError(
            f"model.arch: {arch!r} is {type(factory).__name__}; allowed: a callable that returns the network"
        )
    options = {} if num_classes is None else {"num_classes": num_classes}

    def build(pretrained: bool) -> Any:
        from torch import nn

        if pretrained:
            raise UserError("model.weights: 'pretrained' is for timm and torchvision; allowed here: random, or a file")
        try:
            network = factory(**options)
        except TypeError as err:
            raise UserError(
                f"model.arch: {arch!r} cannot be called with {options or 'no arguments'} ({_one_line(err)}); "
                "leave model.num_classes empty, or give the callable such a parameter"
            ) from None
        if not isinstance(network, nn.Module):
            raise UserError(f"model.arch: {arch!r} returned {type(network).__name__}; allowed: a torch.nn.Module")
        return network

    # Where the callable is defined, which need not be where it is imported from.
    source = _find_source(inspect.unwrap(factory)) or _find_source(module)
    code = digest_file(source) if source else ""
    return _Architecture(arch, build, f"{arch} sha256:{code}")


def _find_source(thing: Any) -> Path | None:
    try:
        source = inspect.getsourcefile(thing)
    except TypeError:  # built in, or an object without a file
        return None
    return Path(source) if source else None


def _digest_code(network: nn.Module) -> str:
    """sha256 over the source files of all module classes of a network that are not of a library, and its structure:
    the same weights in a changed forward pass are another model."""
    files = set()
    for kind in {type(module) for module in network.modules()}:
        library = kind.__module__.split(".")[0] in ("torch", "torchvision", "timm")
        source = None if library else _find_source(kind)
        if source:
            files.add(source)
    sha = hashlib.sha256(repr(network).encode())
    for file in sorted(files):
        sha.update(file.read_bytes())
    return sha.hexdigest()


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else f"; it has {len(known)} architectures"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
