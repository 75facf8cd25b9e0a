"""The maps of a layer on some pictures, with what stages read beside them."""

from __future__ import annotations

from dataclasses import dataclass

from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, FloatArray
from lavise.tasks.activations.attention import MaskedForward


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
