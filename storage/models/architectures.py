"""Architectures by name: of torchvision, of timm, of a folder of transformers, or a callable of the user's own."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lavise.configs.base import TRANSFORMERS
from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home
from lavise.storage.images.geometry import Size
from lavise.storage.models.transformers_networks import Preprocessing, find_network
from lavise.storage.state.digest import canonical_json, digest_file
from lavise.storage.state.text import one_line

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class _Architecture:
    name: str
    build: Callable[[bool], nn.Module]
    code: str
    size_px: Size = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    stated: Preprocessing | None = None
    """Of a folder that says how pictures become input, in more ways than those above."""


Options = Mapping[str, Any]
_NOT_IN_A_FILE = {"googlenet": "transform_input", "inception_v3": "transform_input"}
"""Builders' arguments that torchvision sets with its trained weights, and that change the network without a trace in
its state dict."""


def find_architecture(
    arch: str, num_classes: int | None, options: Options | None = None, weights: str = "random"
) -> _Architecture:
    """What builds a network.

    Args:
        options: keyword arguments of the builder, as a user gives them.
        weights: of the settings; where they are a file, what cannot be known from it has to be given.

    Raises:
        UserError: no such architecture; says what there is.
    """
    given = dict(options or {})
    if num_classes is not None:
        given["num_classes"] = num_classes
    found = _find_architecture(arch, given, weights)
    return replace(found, code=f"{found.code} {canonical_json(dict(options))}") if options else found


def _find_architecture(arch: str, options: Options, weights: str) -> _Architecture:
    if arch.startswith(TRANSFORMERS):
        return _transformers_architecture(arch.removeprefix(TRANSFORMERS), options)
    library, sep, name = arch.rpartition(":")
    if not sep:
        return _find_bare_name(arch, options, weights)
    if library == "torchvision":
        return _torchvision_architecture(name, options, weights)
    if library == "timm":
        return _timm_architecture(name, options)
    return _callable_architecture(library, name, options)


def _find_bare_name(name: str, options: Options, weights: str) -> _Architecture:
    import torchvision.models as models

    if name in models.list_models(module=models):
        return _torchvision_architecture(name, options, weights)
    import timm

    if name in timm.list_models():
        return _timm_architecture(name, options)
    known = models.list_models(module=models) + timm.list_models()
    raise UserError(
        f"model.arch: found {name!r}; allowed: timm:NAME, torchvision:NAME, transformers:FOLDER, "
        "package.module:callable or file.py:callable" + _suggest(name, known)
    )


def _torchvision_architecture(name: str, options: Options, weights: str) -> _Architecture:
    import torchvision
    import torchvision.models as models

    known = models.list_models(module=models)
    if name not in known:
        others = [n for n in models.list_models() if n.rpartition("/")[2] == name or n == name]
        if others:
            raise UserError(
                f"model.arch: torchvision's {name!r} does not classify pictures (segmentation, detection, video or "
                "quantised); give its backbone: a file.py:callable that returns it"
            )
        raise UserError(f"model.arch: torchvision has no {name!r}{_suggest(name, known)}")
    arguments = dict(options)
    unknown = _NOT_IN_A_FILE.get(name)
    if name in _NOT_IN_A_FILE:
        arguments.setdefault("init_weights", True)
        if weights not in ("random", "pretrained"):
            if unknown not in options:
                raise UserError(
                    f"model.options: {name} was trained with {unknown} true (torchvision's trained weights, and what "
                    "is fine-tuned from them) or false, which a file does not tell; "
                    f"set model.options={{{unknown}: true}} or {{{unknown}: false}}"
                )
            arguments.setdefault("aux_logits", False)  # a head for training alone; the file may have it or not

    def build(pretrained: bool) -> Any:
        if pretrained and options.get("num_classes") is not None:
            raise UserError(
                f"model.num_classes: found {options['num_classes']} with pretrained weights of torchvision, which have "
                "a head of their own; leave it empty"
            )
        if pretrained:
            return models.get_model(name, weights="DEFAULT", **options)
        return _call(f"torchvision:{name}", lambda: models.get_model(name, weights=None, **arguments), options)

    size_px = 299 if name == "inception_v3" else 224
    code = f"torchvision {torchvision.__version__}"
    return _Architecture(f"torchvision:{name}", build, code, size_px)


def _call(arch: str, build: Callable[[], Any], options: Options) -> Any:
    """What a builder returns.

    Raises:
        UserError: it does not take its arguments.
    """
    try:
        return build()
    except TypeError as err:
        raise UserError(
            f"model.options: {arch!r} cannot be called with {dict(options) or 'no arguments'} ({one_line(err)}); "
            "leave out model.num_classes or model.options, or give the callable such a parameter"
        ) from None


def _timm_architecture(name: str, options: Options) -> _Architecture:
    import timm

    known = timm.list_models() + timm.list_models(pretrained=True)
    if name not in known:
        raise UserError(f"model.arch: timm has no {name!r}{_suggest(name, known)}")
    cfg = timm.get_pretrained_cfg(name)
    size_px = _simplify(cfg.input_size[1:]) if cfg else 224
    mean, std = (tuple(cfg.mean), tuple(cfg.std)) if cfg else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    interpolation = cfg.interpolation if cfg and cfg.interpolation in ("bilinear", "bicubic") else "bicubic"

    def build(pretrained: bool) -> Any:
        return _call(f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained, **options), options)

    return _Architecture(f"timm:{name}", build, f"timm {timm.__version__}", size_px, mean, std, interpolation)


def _simplify(size: Sequence[int]) -> Size:
    """One number for a square."""
    height, width = size
    return height if height == width else (height, width)


def _transformers_architecture(folder: str, options: Options) -> _Architecture:
    found = find_network(folder, options)
    asked = found.preprocessing
    return _Architecture(
        f"{TRANSFORMERS}{folder}",
        found.build,
        found.code,
        asked.size_px,
        asked.mean,
        asked.std,
        asked.interpolation,
        asked,
    )


def _callable_architecture(home: str, attribute: str, options: Options) -> _Architecture:
    arch = f"{home}:{attribute}"
    try:
        module = _import_file(home) if home.endswith(".py") else _import_module(home)
        factory = getattr(module, attribute)
    except UserError:
        raise
    except Exception as err:  # noqa: BLE001 - the user's own module may fail in any way
        raise UserError(
            f"model.arch: cannot import {arch!r} ({one_line(err)}); "
            "allowed: timm:NAME, torchvision:NAME, transformers:FOLDER, package.module:callable or file.py:callable"
        ) from None
    if not callable(factory):
        raise UserError(
            f"model.arch: {arch!r} is {type(factory).__name__}; allowed: a callable that returns the network"
        )

    def build(pretrained: bool) -> Any:
        import torch
        from torch import nn

        if pretrained:
            raise UserError(
                "model.weights: 'pretrained' is for timm, torchvision and transformers; allowed here: random, or a file"
            )
        network = _call(arch, lambda: factory(**options), options)
        if isinstance(network, torch.jit.ScriptModule):
            raise UserError(
                f"model.arch: {arch!r} returned a ScriptModule, whose layers cannot be read; allowed: the module that "
                "it was made from"
            )
        if not isinstance(network, nn.Module):
            raise UserError(f"model.arch: {arch!r} returned {type(network).__name__}; allowed: a torch.nn.Module")
        return network

    # Where the callable is defined, which need not be where it is imported from.
    source = _find_source(inspect.unwrap(factory)) or _find_source(module)
    code = digest_file(source) if source else ""
    return _Architecture(arch, build, f"{arch} sha256:{code}")


def _import_module(name: str) -> ModuleType:
    """A module of the current folder, or of a package that is installed."""
    _add_folder(Path.cwd())
    return importlib.import_module(name)


def _import_file(name: str) -> ModuleType:
    """A file of any folder; what lies beside it can be imported by it. Another content is another module.

    Raises:
        UserError: no such file.
    """
    path = expand_home(name).absolute()
    if not path.is_file():
        raise UserError(f"model.arch: found {name!r}, which is no file; allowed: path/to/file.py:callable")
    known = f"lavise_network_{digest_file(path)[:16]}_{path.stem}"
    if known in sys.modules:
        return sys.modules[known]
    _add_folder(path.parent)
    _check_imports(path)
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module


def _check_imports(path: Path) -> None:
    """What a file imports and what lies beside it is meant, not another module of that name.

    Raises:
        UserError: another one is there, or was imported before from another folder.
    """
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in {name.partition(".")[0] for name in names}:
            beside = [path.parent / f"{name}.py", path.parent / name / "__init__.py"]
            if not any(file.is_file() for file in beside):
                continue
            origin = importlib.util.find_spec(name)
            if origin is None or origin.origin is None or Path(origin.origin) not in beside:
                raise UserError(
                    f"model.arch: {path.name} imports {name!r}, which lies beside it, but another module has that name "
                    f"({origin.origin if origin else 'none can be found'}); give it another name, or start anew"
                )


def _add_folder(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that a folder named like one of ours does not stand in for it


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
        library = kind.__module__.split(".")[0] in ("torch", "torchvision", "timm", "transformers")
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
