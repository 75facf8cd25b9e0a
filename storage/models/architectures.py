"""Architectures by name: of torchvision, of timm, or a callable of the user's own."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.errors import UserError
from lavise.storage.models.state_dicts import one_line
from lavise.storage.state.digest import digest_file

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class _Architecture:
    name: str
    build: Callable[[bool], nn.Module]
    code: str
    size_px: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"


def find_architecture(arch: str, num_classes: int | None) -> _Architecture:
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
            f"model.arch: cannot import {arch!r} ({one_line(err)}); "
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
                f"model.arch: {arch!r} cannot be called with {options or 'no arguments'} ({one_line(err)}); "
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


def digest_code(network: nn.Module) -> str:
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
