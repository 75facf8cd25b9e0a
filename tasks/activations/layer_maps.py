"""The maps of a layer on some pictures, with what stages read beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, FloatArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.input_images import ImageSource
from lavise.storage.models.target_model import TargetModel
from lavise.storage.packed_list import PackedList
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.tasks.activations.thresholds import load_thresholds


@dataclass(frozen=True)
class MappedNetwork:
    """The network that activations are of, for methods that run it again.

    Attributes:
        layer: that they are of.
        batch_size: pictures in a forward pass, as when they were extracted.
    """

    model: TargetModel
    layer: str
    batch_size: int


@dataclass(frozen=True)
class MaskedForward:
    """What image masking needs: the network itself, and the pictures.

    Attributes:
        pictures: those of the store, in its order.
    """

    model: TargetModel
    layer: str
    pictures: Sequence[ImageSource]
    batch_size: int
    device: str


@dataclass(frozen=True)
class LayerMaps:
    """Maps and thresholds.

    Attributes:
        thresholds_C: T_u on these pictures.
        forward: the network itself, for image masking.
        saturated_C: filters that are at their clip at more positions than the threshold asks for; None where it was not
            looked at.
    """

    store: ActivationStore
    thresholds_C: FloatArray
    forward: MaskedForward | None = None
    saturated_C: BoolArray | None = None


def open_maps(
    activations: Handle, thresholds: Handle, network: MappedNetwork, pictures: Dataset, device: str
) -> LayerMaps:
    """Read what the stages made.

    Args:
        pictures: that the activations are of, and maybe others.
    """
    store = ActivationStore(activations.folder)
    records = PackedList(pictures.by_key[key] for key in store.keys)
    forward = MaskedForward(network.model, network.layer, records, network.batch_size, device)
    saturated = np.load(thresholds.path(file_names.SATURATED), allow_pickle=False)
    return LayerMaps(store, load_thresholds(thresholds), forward, saturated)
