"""Networks of transformers, from a folder that `save_pretrained` wrote: config.json says what is built.

Nothing is fetched and no code of a folder is run: kinds of networks are on a fixed list, each of them a class of the
installed package, and what a config could have it load from elsewhere is refused or taken out. The folder's
preprocessor_config.json says how pictures become its input, as far as lavise can do the same.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.configs.base import TRANSFORMERS
from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home
from lavise.storage.models.state_dicts import load_weights
from lavise.storage.models.weight_files import read_weights
from lavise.storage.state.digest import canonical_json, digest_of
from lavise.storage.state.text import one_line, printable

if TYPE_CHECKING:
    from torch import nn

# Classifiers of transformers that take pixel values and give logits; each was built and run (docs/checkpoints.md).
MODEL_TYPES = frozenset(
    "beit bit convnext convnextv2 cvt data2vec-vision deit dinov2 dinov2_with_registers efficientnet focalnet hgnet_v2 "
    "hiera ijepa levit mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 poolformer pvt pvt_v2 regnet resnet segformer "
    "swiftformer swin swinv2 textnet vit vit_msn".split()
)
_DTYPES = (None, "float32", "float16", "bfloat16", "float64")
# What would be fetched (kernels of attention and of experts), or says where the folder came from.
_TAKEN_OUT = ("attn_implementation", "experts_implementation", "name_or_path", "use_kernels")
_MAX_JSON_BYTES = 16 << 20
_MAX_SHOWN_CHARS, _MAX_REASON_CHARS = 80, 160
_Numbers = tuple[float, ...]
_IMAGENET: tuple[_Numbers, _Numbers] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers of resampling filters, which is what such files have."""
_SHARE_TOLERANCE = 1e-3
_CONVNEXT_SQUASHED_PX = 384
"""From this size on transformers' ConvNextImageProcessor does not crop."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Preprocessing:
    """What a folder's preprocessor_config.json asks for.

    Attributes:
        crop_share: side of the centred square as a share of the shorter side; None where nothing is cropped.
        undone: what else it asks for, which lavise cannot do.
    """

    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_share: float | None = None
    undone: tuple[str, ...] = ()

    def describe_difference(self, fit: str, crop_share: float) -> str | None:
        """What pictures are not given as the folder says, in a line; None where they are."""
        said = list(self.undone)
        is_cropped = fit == "center_crop"
        if self.crop_share is not None and not (is_cropped and abs(crop_share - self.crop_share) < _SHARE_TOLERANCE):
            share = round(self.crop_share, 4)
            said.insert(0, f"the centre (set fit: center_crop and crop_share: {share} for the same)")
        return f"preprocessor_config.json also asks for {'; '.join(said)}" if said else None


@dataclass(frozen=True)
class FoundNetwork:
    """What builds a network; with True, it has the folder's own weights."""

    build: Callable[[bool], nn.Module]
    code: str
    preprocessing: Preprocessing


def find_names_in_files(network: nn.Module) -> dict[str, str] | None:
    """Names that `save_pretrained` gives to a network's tensors, by those that they have in it; None where the two are
    the same, or are not one to one."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    names = list(network.state_dict())
    try:
        numbered = revert_weight_conversion(network, {name: torch.tensor(i) for i, name in enumerate(names)})
        found = {names[int(number)]: name for name, number in numbered.items()}
    except (RuntimeError, ValueError):  # tensors that are split or joined, not only renamed
        return None
    return found if found.keys() == set(names) and list(found.values()) != list(found) else None


def find_network(name: str, options: Options) -> FoundNetwork:
    """The network of a folder.

    Args:
        name: the folder.
        options: entries of config.json that are to be others; `num_classes` stands for `num_labels`.

    Raises:
        UserError: no such folder, a config that is not taken, or transformers is not installed.
    """
    folder = expand_home(name).absolute()
    content = _change_config(_read_config(folder), options, folder)
    version = _import_transformers().__version__

    def build(pretrained: bool) -> Any:
        network = _build(content, folder)
        if pretrained:
            load_weights(network, *read_weights(str(folder)), names_in_files=find_names_in_files(network))
        return network

    return FoundNetwork(
        build,
        f"transformers {version} config:{digest_of(canonical_json(content))}",
        _read_preprocessing(folder, content),
    )


def list_labels(name: str) -> list[str]:
    """Names of the classes in a folder's config, in their order; none where it only numbers them."""
    content = _read_config(expand_home(name).absolute())
    labels = content.get("id2label")
    if not isinstance(labels, Mapping) or set(labels) != {str(k) for k in range(len(labels))}:
        return []
    names = [str(labels[str(k)]) for k in range(len(labels))]
    return [] if any(label == f"LABEL_{k}" or not label.strip() for k, label in enumerate(names)) else names


def _tell(err: Exception) -> str:
    return printable(one_line(err))[:_MAX_REASON_CHARS]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("it is too long")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise UserError(
            f"model.arch: cannot read {path} ({_tell(err)}); allowed: {TRANSFORMERS}FOLDER, which save_pretrained wrote"
        ) from None
    if not isinstance(content, dict):
        raise UserError(
            f"model.arch: {path} holds no mapping; allowed: {TRANSFORMERS}FOLDER, which save_pretrained wrote"
        )
    return content


def _read_config(folder: Path) -> dict[str, Any]:
    """Of a network that may be built.

    Raises:
        UserError: it may not; says why.
    """
    path = folder / "config.json"
    content = _read_json(path)
    kind = content.get("model_type")
    if "auto_map" in content:
        raise UserError(
            f"model.arch: {path} names code of its own (auto_map), which is not run; where you trust it, give a "
            "file.py:callable that builds the network"
        )
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        shown = printable(str(kind))[:_MAX_SHOWN_CHARS]
        advice = (
            "set model.arch to timm:NAME and give the folder as model.weights"
            if kind == "timm_wrapper"
            else ("give a file.py:callable that builds the network")
        )
        raise UserError(
            f"model.arch: {path} is of the model_type {shown!r}; allowed: {', '.join(sorted(MODEL_TYPES))}; "
            f"for another network {advice}"
        )
    if content.get("quantization_config") is not None:
        raise UserError(f"model.arch: {path} is of a quantised network; give the one that it was made from")
    for key in ("dtype", "torch_dtype"):
        if content.get(key) not in _DTYPES:
            raise UserError(
                f"model.arch: {path} has {key} {printable(str(content[key]))[:_MAX_SHOWN_CHARS]!r}; "
                f"allowed: {', '.join(filter(None, _DTYPES))}"
            )
    return {k: v for k, v in content.items() if not k.startswith("_") and k not in _TAKEN_OUT}


def _change_config(content: dict[str, Any], options: Options, folder: Path) -> dict[str, Any]:
    changed = dict(content)
    for key, value in options.items():
        if key == "num_classes":
            if value != len(content.get("id2label") or ()):
                changed = {k: v for k, v in changed.items() if k not in ("id2label", "label2id")}
                changed["num_labels"] = value
        elif key in content and key not in ("model_type", "architectures", "dtype", "torch_dtype"):
            changed[key] = value
        else:
            raise UserError(
                f"model.options: found {key!r}, which is no setting of the network in {folder / 'config.json'}; "
                "allowed: an entry of that file, but for those that say what it is"
            )
    return changed


def _import_transformers() -> Any:
    try:
        with _stay_offline():
            import transformers
            from transformers import AutoModelForImageClassification  # noqa: F401 - is imported when it is first named
    except ImportError as err:
        raise UserError(
            f"model.arch: {TRANSFORMERS}FOLDER needs the package transformers ({_tell(err)}); "
            "install it: uv sync --extra transformers, or pip install transformers"
        ) from None
    return transformers


@contextmanager
def _stay_offline() -> Iterator[None]:
    """Neither transformers nor what it rests on asks a server for anything meanwhile."""
    from huggingface_hub import constants

    before = {name: os.environ.get(name) for name in _OFFLINE}, constants.HF_HUB_OFFLINE
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before[1]
        for name, value in before[0].items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _build(content: Mapping[str, Any], folder: Path) -> nn.Module:
    """A network with random weights, whose output is a tensor of logits.

    Raises:
        UserError: transformers cannot build what the config says.
    """
    transformers = _import_transformers()
    try:
        with _stay_offline():
            config = transformers.CONFIG_MAPPING[content["model_type"]].from_dict(dict(content))
            config.return_dict = True
            network: Any = transformers.AutoModelForImageClassification.from_config(
                config, trust_remote_code=False, attn_implementation="eager"
            )
            first = next(iter(inspect.signature(network.forward).parameters))
    except MemoryError:
        raise
    except Exception as err:  # noqa: BLE001 - a config may be wrong in any way
        raise UserError(
            f"model.arch: transformers cannot build the network of {folder / 'config.json'} "
            f"({type(err).__name__}: {_tell(err)}); write it again with save_pretrained"
        ) from None
    if first != "pixel_values":
        raise UserError(
            f"model.arch: the network of {folder} takes {printable(first)!r}; allowed: one that takes pictures"
        )
    network.register_forward_hook(_take_logits)
    return network


def _take_logits(network: nn.Module, inputs: Any, output: Any) -> Any:
    return output.logits


def _read_preprocessing(folder: Path, config: Mapping[str, Any]) -> Preprocessing:
    """Of preprocessor_config.json; where there is none, ImageNet's mean and deviation.

    Raises:
        UserError: it has values that are none.
    """
    path = folder / "preprocessor_config.json"
    stated = config.get("image_size")
    default_px = stated if isinstance(stated, int) else 224
    if not path.is_file():
        missing = "nothing, since there is none: ImageNet's mean and deviation are taken"
        return Preprocessing(default_px, *_IMAGENET, "bilinear", None, (missing,))
    content = _read_json(path)
    undone: list[str] = []
    size_px, crop_share = _read_sizes(content, default_px, undone)
    mean, std = _IMAGENET
    if content.get("do_normalize", True):
        mean = _read_numbers(content, "image_mean", path) or mean
        std = _read_numbers(content, "image_std", path) or std
        if len(mean) != len(std) or min(std) <= 0:
            raise UserError(
                f"model.arch: {path} has image_mean {list(mean)} and image_std {list(std)}, which do not fit"
            )
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    resample = content.get("resample", 2)
    if resample not in _INTERPOLATIONS:
        undone.append(f"the resampling filter {printable(str(resample))[:_MAX_SHOWN_CHARS]}, not bilinear")
    if (
        content.get("do_rescale", True) is not True
        or abs(float(content.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-3
    ):
        undone.append("numbers that are not on the scale 0..1 before they are normalised")
    if content.get("rescale_offset"):
        undone.append("an offset of the numbers (rescale_offset)")
    if content.get("do_flip_channel_order"):
        undone.append(
            "blue before red (do_flip_channel_order), so that answers are those to pictures with wrong colours"
        )
    return Preprocessing(size_px, mean, std, _INTERPOLATIONS.get(resample, "bilinear"), crop_share, tuple(undone))


def _read_sizes(content: Mapping[str, Any], default_px: int, undone: list[str]) -> tuple[int, float | None]:
    """Size of the input, and which share of the shorter side it is cut out of."""
    edge, is_square = _read_edge(content.get("size"), default_px, undone)
    if not content.get("do_resize", True):
        undone.append("pictures of their own size")
    if content.get("do_center_crop") and content.get("crop_size") is not None:
        crop, _ = _read_edge(content["crop_size"], default_px, undone)
        if is_square:
            undone.append(f"squares of {edge} pixels, of which the middle {crop} are taken")
            return crop, None
        return crop, crop / edge if edge >= crop else None
    if is_square:
        return edge, None
    crop_pct = content.get("crop_pct")
    if isinstance(crop_pct, int | float) and 0 < crop_pct <= 1:
        return edge, float(crop_pct) if edge < _CONVNEXT_SQUASHED_PX else None
    undone.append("pictures that keep the ratio of their sides")
    return edge, None


def _read_edge(value: Any, default_px: int, undone: list[str]) -> tuple[int, bool]:
    """Of a size as transformers writes it: pixels, and whether both sides get them."""
    if isinstance(value, int):
        return value, True
    if isinstance(value, Mapping) and isinstance(value.get("height"), int) and isinstance(value.get("width"), int):
        if value["height"] != value["width"]:
            undone.append(f"pictures of {value['height']} x {value['width']} pixels")
        return value["height"], True
    if isinstance(value, Mapping) and isinstance(value.get("shortest_edge"), int):
        return value["shortest_edge"], False
    return default_px, True


def _read_numbers(content: Mapping[str, Any], key: str, path: Path) -> tuple[float, ...] | None:
    value = content.get(key)
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (1, 3) or not all(type(n) in (int, float) for n in numbers):
        raise UserError(
            f"model.arch: {path} has {key} {printable(str(value))[:_MAX_SHOWN_CHARS]}; allowed: a number for each of "
            "red, green and blue, or one"
        )
    return tuple(float(n) for n in numbers)
