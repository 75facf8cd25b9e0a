"""A network with its weights in one folder, as it is logged with an explainer, and proof that it computes the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lavise.configs.errors import UserError
from lavise.configs.schema import ModelSettings
from lavise.storage.models.layers import ActivationTap, to_input
from lavise.storage.models.target_model import TargetModel, load_target_model
from lavise.storage.state.digest import short
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.file_names import SNAPSHOTS_FOLDER
from lavise.storage.state.files import write_json

PACKED_WEIGHTS = "network.safetensors"
PACKED_FACTS = "network.json"
_PROBE_TOLERANCE = 0.02


class KeptWeights(BaseModel):
    """How the weights are found again: settings of the audit (see `ModelSettings`), and its seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    weights: str
    weights_key: tuple[str, ...] = ()
    weights_prefix: str | None = None
    precision: Literal["as_built", "float32"] = "as_built"
    seed: int


def keep_weights(settings: ModelSettings, seed: int) -> KeptWeights:
    """By reference to where an audit found them."""
    names = ("weights", "weights_key", "weights_prefix", "precision")
    return KeptWeights(**{name: getattr(settings, name) for name in names}, seed=seed)


@dataclass(frozen=True)
class PackedNetwork:
    """A target model and one of its layers, as they travel with an explainer.

    Attributes:
        num_classes: size of the classifier head, where it is not the architecture's default.
        layer: the module whose output is the map.
        kept_at: where the weights lie, which then stay there; None packs them.
    """

    model: TargetModel
    num_classes: int | None
    layer: str
    kept_at: KeptWeights | None = None


def save_packed_network(packed: PackedNetwork, folder: Path) -> None:
    """Write folder/network.json (what it takes to build it), and folder/network.safetensors (the state dict) where the
    weights are not kept elsewhere."""
    import torch
    from safetensors.torch import save_file

    model = packed.model
    if packed.kept_at is None:
        # Copies, since tensors that share memory (tied weights) cannot be saved as they are.
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in model.network.state_dict().items()
        }
        save_file(tensors, folder / PACKED_WEIGHTS)
    content = {
        "arch": model.arch,
        "num_classes": packed.num_classes,
        "options": dict(model.options),
        "preprocessing": model.describe_preprocessing(),
        "layer": packed.layer,
        "digest": model.digest,
        "probe": _probe_layer(model, packed.layer),
        **({"kept_at": packed.kept_at.model_dump(mode="json")} if packed.kept_at else {}),
    }
    write_json(folder / PACKED_FACTS, content)


def load_packed_network(folder: Path) -> PackedNetwork:
    """Build a packed network again, on the processor, and see that its layer still answers as it did.

    The architecture comes from its library, or from the user's own module: only its name is in the folder.

    Raises:
        UserError: the architecture is not there or another one by now, or the weights are not those that were packed,
            or are no longer where they were.
    """
    import torch

    content = json.loads((folder / PACKED_FACTS).read_text("utf-8"))
    kept_at = KeptWeights.model_validate(content["kept_at"]) if "kept_at" in content else None
    packed = {"weights": str((folder / PACKED_WEIGHTS).resolve())}
    where, seed = (packed, 0) if kept_at is None else (_find_weights(kept_at), kept_at.seed)
    settings = ModelSettings.model_validate(
        {
            "arch": content["arch"],
            **where,
            "num_classes": content["num_classes"],
            "options": content.get("options", {}),
            "preprocessing": {k: v for k, v in content["preprocessing"].items() if v is not None},
        }
    )
    with torch.random.fork_rng():
        model = load_target_model(settings, seed)
    if model.digest != content["digest"]:
        raise UserError(
            f"{settings.weights}: found weights with the digest {short(model.digest)}; "
            f"allowed: {short(content['digest'])}, as packed; pack the network again"
        )
    layer, expected = content["layer"], content["probe"]
    try:
        model.find_layer(layer)
    except UserError as err:
        raise UserError(
            f"model.arch: {model.arch} has no layer {layer!r} any more ({err}); use the code that it was packed with"
        ) from None
    found = _probe_layer(model, layer)
    largest = max(map(abs, expected))
    if len(found) != len(expected) or not all(
        abs(a - b) <= _PROBE_TOLERANCE * largest for a, b in zip(found, expected, strict=True)
    ):
        raise UserError(
            f"model.arch: {model.arch} with the packed weights gives other maps of {layer!r} than when it was packed: "
            "its code is another, or sets more than weights; use the code that it was packed with"
        )
    return PackedNetwork(model, content["num_classes"], layer, kept_at)


def _find_weights(kept_at: KeptWeights) -> dict[str, Any]:
    """Settings; a copy of a checkpoint that was in a state folder is looked for in this one, as that may have moved."""
    settings = kept_at.model_dump(exclude={"seed"})
    path = Path(kept_at.weights)
    here = find_state_root(None) / SNAPSHOTS_FOLDER / path.name
    is_snapshot = path.parent.name == SNAPSHOTS_FOLDER
    return settings | ({"weights": str(here)} if is_snapshot and not path.exists() and here.is_file() else {})


def _probe_layer(model: TargetModel, layer: str) -> list[float]:
    """Mean of each of the C filters of a layer, for an input that is the same everywhere: noise of whole numbers."""
    import torch

    network, shape = model.network, (1, model.channels, *model.geometry.shape)
    noise = torch.arange(prod(shape)) * 7919 % 257
    images = (noise / 64 - 2).view(shape)
    with torch.inference_mode(), ActivationTap(network, (model.find_layer(layer),)) as tap:
        network(to_input(network, images))
        return [float(v) for v in tap.maps[layer][0].float().mean(dim=(1, 2))]
