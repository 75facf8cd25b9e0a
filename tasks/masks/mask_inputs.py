"""What the statistics of masks and filters' regions are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lavise.storage.datasets.base import Dataset
from lavise.storage.images.geometry import Geometry
from lavise.storage.state.artefacts import Handle
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage_inputs import HOW, Given, StageInputs, Unstated


@dataclass(frozen=True)
class MaskInputs(StageInputs):
    """Activations of pictures with masks.

    Attributes:
        geometry: from a picture to the network's input.
    """

    activations: Handle
    data: Given[Dataset]
    geometry: Annotated[Geometry, Unstated("the activations state it, with the preprocessing")]
    cluster: Annotated[StatisticsCluster, HOW]


@dataclass(frozen=True)
class MaskedRegionInputs(MaskInputs):
    """The same with T_u on these pictures, above which a filter has its region."""

    thresholds: Handle
