"""The target model: a network with its weights, its preprocessing and the digest of both."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lavise.configs.base import TRANSFORMERS
from lavise.configs.errors import UserError
from lavise.configs.schema import ModelSettings
from lavise.storage.images.geometry import Geometry
from lavise.storage.models.architectures import digest_code, find_architecture
from lavise.storage.models.layer_survey import LayerSurvey, select_layers, survey_layers
from lavise.storage.models.layers import Layer
from lavise.storage.models.state_dicts import load_weights
from lavise.storage.models.steadiness import check_steadiness
from lavise.storage.models.transformers_networks import find_names_in_files
from lavise.storage.models.weight_files import WEIGHT_SUFFIXES, read_weights
from lavise.storage.state.digest import digest_tensors
from lavise.storage.state.text import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn


log = logging.getLogger("lavise")


@dataclass(frozen=True)
class TargetModel:
    """The trained CNN f under audit, frozen, in evaluation mode.

    Attributes:
        network: takes [N, C, Y, X], normalised; C is 3 for colours, 1 for grey, or a number of bands.
        digest: sha256 of its state dict: names, shapes, bytes; not of any file name.
        geometry: from a picture to the input.
        mean, std: of the normalisation, per channel on the scale 0..1.
        options: keyword arguments that the architecture was built with.
        settings, seed: what it was loaded from, for other processes; None where it was made otherwise.
    """

    arch: str
    network: nn.Module
    digest: str
    code: str
    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: ModelSettings | None = None
    seed: int = 0

    @property
    def channels(self) -> int:
        """Of its input: 3, 1 where it takes grey pictures, or the number of its bands."""
        return len(self.mean)

    @cached_property
    def survey(self) -> LayerSurvey:
        """What can be explained of it; found by probing, once."""
        return survey_layers(self.network, self.geometry.size_px, self.channels)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of its parameters, and so of its input."""
        import torch

        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)

    def find_layer(self, name: str) -> Layer:
        """Raises: UserError: no such layer."""
        return select_layers(self.survey, (name,))[0]

    def select_layers(self, names: tuple[str, ...] | str) -> list[Layer]:
        """The target layers, of which one picture's maps are always the same.

        Raises:
            UserError: no such layer, or a network that draws at random or looks at all pictures of a batch.
        """
        layers = select_layers(self.survey, names)
        check_steadiness(self.network, layers, self.geometry.size_px, self.channels)
        return layers

    def place(self, device: str) -> nn.Module:
        """The network on a device, its weights laid out with channels last, which is faster.

        torch refuses that layout for tensors of five axes, whoever reads them; a network that has such keeps its own.
        """
        import torch

        network = self.network.to(device)
        if any(tensor.ndim == 5 for tensor in (*network.parameters(), *network.buffers())):
            return network
        return network.to(memory_format=torch.channels_last)

    def describe_preprocessing(self) -> dict[str, Any]:
        """What the input depends on besides the picture; part of every digest of activations."""
        geometry = self.geometry
        return {
            "size_px": geometry.size_px if isinstance(geometry.size_px, int) else list(geometry.size_px),
            "fit": geometry.fit,
            "crop_share": geometry.crop_share if geometry.fit == "center_crop" else None,
            "interpolation": geometry.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def load_target_model(settings: ModelSettings, seed: int) -> TargetModel:
    """Build the architecture and load its weights.

    Args:
        seed: of random weights.

    Raises:
        UserError: unknown architecture, unreadable or mismatching weights; says what is allowed.
    """
    import torch

    architecture = find_architecture(settings.arch, settings.num_classes, settings.options, settings.weights)
    try:
        with torch.random.fork_rng(devices=[]):  # the seed is the network's: whoever draws afterwards goes on as before
            torch.default_generator.manual_seed(seed)
            network = architecture.build(settings.weights == "pretrained")
    except (OSError, ConnectionError) as err:
        raise UserError(
            f"model.weights: 'pretrained' could not be fetched ({one_line(err)}); "
            f"allowed: random, package:NAME or a file ({', '.join(WEIGHT_SUFFIXES)})"
        ) from None
    if settings.weights not in ("random", "pretrained"):
        content, path = read_weights(settings.weights)
        load_weights(
            network,
            content,
            path,
            settings.weights_key,
            settings.weights_prefix,
            by_order=settings.weights.startswith("package:"),
            names_in_files=find_names_in_files(network) if settings.arch.startswith(TRANSFORMERS) else None,
        )
    if settings.precision == "float32":
        network.float()
    network.eval().requires_grad_(False)
    chosen = settings.preprocessing
    if architecture.stated and (said := architecture.stated.describe_difference(chosen.fit, chosen.crop_share)):
        log.info("  model.preprocessing: %s", said)
    return TargetModel(
        arch=architecture.name,
        network=network,
        digest=digest_tensors(network.state_dict()),
        code=f"{architecture.code} {digest_code(network)}",
        geometry=Geometry(
            size_px=chosen.size_px or architecture.size_px,
            fit=chosen.fit,
            crop_share=chosen.crop_share,
            interpolation=chosen.interpolation or architecture.interpolation,
        ),
        mean=chosen.mean or architecture.mean,
        std=chosen.std or architecture.std,
        options=settings.options,
        settings=settings,
        seed=seed,
    )
