"""Which architectures of torchvision and timm a checkpoint fits, by the names and shapes of its tensors.

Networks are built without values (torch's meta device) and held against each state dict of the file; of the head, which
a fine-tuned network has its own of, only the number of classes may differ.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavise.storage.models.state_dicts import (
    StateDict,
    count_prefixes,
    is_optional,
    list_inner,
    list_state_dicts,
    plain_names,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

NUM_CLASSES = 1000
_WITH_AUXILIARY_HEADS = ("inception_v3", "googlenet")
_TIMM = (
    *(
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet26d",
        "resnet50d",
        "seresnext50_32x4d",
        "resnext50_32x4d",
    ),
    *("resnetv2_50", "res2net50_26w_4s", "ecaresnet50d", "skresnet18", "wide_resnet50_2", "densenet121", "densenet169"),
    *(f"efficientnet_b{n}" for n in range(5)),
    *(f"tf_efficientnet_b{n}" for n in range(5)),
    *("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnetv2_s", "efficientnetv2_rw_s"),
    *("mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv3_small_100", "mobilenetv4_conv_small", "ghostnet_100"),
    *("convnext_nano", "convnext_tiny", "convnext_small", "convnext_base", "convnextv2_nano", "convnextv2_tiny"),
    *("regnetx_004", "regnetx_008", "regnety_004", "regnety_008", "regnety_016", "regnety_032"),
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_base_patch32_224"),
    *("vit_large_patch16_224", "deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224"),
    *("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224"),
    *("xception41", "inception_v3", "inception_v4", "inception_resnet_v2", "hrnet_w18", "dla34", "vgg16", "vgg16_bn"),
)
"""Names of timm that people fine-tune most; there are some 1,300, too many to build them all."""


@dataclass(frozen=True)
class RecognisedNetwork:
    """An architecture that a state dict of a checkpoint fits.

    Attributes:
        arch: as for `model.arch`.
        key: of the state dict in the file, dotted; empty where it is the whole file.
        prefix: before the network's names in it.
        num_classes: of the head in the file; None where the network has none.
        num_parameters: of the network.
    """

    arch: str
    key: str
    prefix: str
    num_classes: int | None
    num_parameters: int


def recognise_network(content: Any, path: Path, known: Sequence[str] | None = None) -> list[RecognisedNetwork]:
    """State dicts of a checkpoint that fit a known architecture: of the first that any fits, and of its namesake in the
    other library, which has another preprocessing. The one that the file itself names is tried first, then those of
    torchvision.

    Args:
        known: architectures to try; None: all.

    Raises:
        CheckpointError: the file holds no network.
    """
    candidates = list_state_dicts(content, path)
    found: list[RecognisedNetwork] = []
    for arch in _list_known(_find_named(content)) if known is None else known:
        is_other = bool(found) and found[0].arch.partition(":")[2] != arch.partition(":")[2]
        network = None if is_other else _build(arch)
        if network is None:
            continue
        found += [fit for one in candidates if (fit := _fit(arch, network, one)) is not None]
    return found


def _find_named(content: Any) -> str | None:
    """What a training script of torchvision or timm notes: `arch`, or `model` among its arguments."""
    if not isinstance(content, Mapping):
        return None
    named = content.get("arch")
    arguments = content.get("args")
    if not isinstance(named, str):
        named = arguments.get("model") if isinstance(arguments, Mapping) else getattr(arguments, "model", None)
    return named if isinstance(named, str) else None


def _list_known(named: str | None) -> list[str]:
    """Architectures in the order in which they are tried."""
    import timm
    import torchvision.models as models

    ours = [f"torchvision:{name}" for name in models.list_models(module=models)]
    ours += [f"timm:{name}" for name in _TIMM if name in timm.list_models()]
    first: list[str] = []
    if named:
        first = [arch for arch in ours if arch.partition(":")[2] == named]
        first += [f"timm:{named}"] if not first and named in timm.list_models() else []
    return list(dict.fromkeys([*first, *ours]))


def _build(arch: str) -> nn.Module | None:
    """None where a network computes with its weights while it is built, which needs values."""
    import timm
    import torch
    import torchvision.models as models

    library, _, name = arch.partition(":")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if library == "timm":
                return timm.create_model(name)
            options = {"init_weights": False, "aux_logits": False} if name in _WITH_AUXILIARY_HEADS else {}
            return models.get_model(name, weights=None, **options)
        except (NotImplementedError, RuntimeError):
            return None


def _fit(arch: str, network: nn.Module, found: StateDict) -> RecognisedNetwork | None:
    """The network as this state dict has it, where all but the number of classes is the same."""
    wanted = network.state_dict()
    given = plain_names(found.tensors)
    counts = count_prefixes(given, wanted)
    for prefix in sorted(counts, key=lambda start: (-counts[start], start)):
        own = {key: given[prefix + key] for key in wanted if prefix + key in given}
        if any(key not in own and not is_optional(key, wanted) for key in wanted):
            continue
        foreign = [k for k in given if not k.startswith(prefix) or k.removeprefix(prefix) not in wanted]
        others = [key for key in own if own[key].shape != wanted[key].shape]
        if list_inner(foreign, prefix, wanted) or not _is_head(others, own, wanted):
            continue
        head = [key for key in wanted if wanted[key].ndim >= 2 and wanted[key].shape[0] == NUM_CLASSES]
        num_classes = int(own[head[-1]].shape[0]) if head else None
        return RecognisedNetwork(arch, found.key, prefix, num_classes, _count(own.values()))
    return None


def _is_head(keys: Sequence[str], own: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> bool:
    """Whether tensors differ in nothing but their number of classes, which is one for all of them."""
    sizes = {int(own[key].shape[0]) if own[key].ndim else -1 for key in keys}
    return len(sizes) <= 1 and all(
        wanted[key].ndim > 0 and wanted[key].shape[0] == NUM_CLASSES and own[key].shape[1:] == wanted[key].shape[1:]
        for key in keys
    )


def _count(tensors: Any) -> int:
    return sum(int(tensor.numel()) for tensor in tensors)
