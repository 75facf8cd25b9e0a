"""What the report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Annotated, Any

from lavise.configs.schema import ReportSettings
from lavise.storage.datasets.base import Dataset
from lavise.storage.images.geometry import Geometry
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.storage.state.progress import Progress, no_progress
from lavise.tasks.activations.thresholds import load_thresholds
from lavise.tasks.engine.stage_inputs import HOW, Given, Spread, StageInputs, Unstated
from lavise.tasks.report.filter_entries import DiffPart, LayerPart


@dataclass(frozen=True)
class ReportedLayer:
    """What the stages made of a layer.

    Attributes:
        shape: (C, H, W) of its maps.
        explained, evaluated, panel, validated: what is stated: whatever else there is follows from these.
        activations, thresholds: of the target.
        analyses: by their names.
    """

    layer: str
    shape: tuple[int, int, int]
    explained: Handle
    evaluated: Handle
    panel: Handle
    validated: Handle
    activations: Handle
    thresholds: Handle
    explainer: Handle
    analyses: Mapping[str, Handle]

    def state(self) -> dict[str, str]:
        """Digests by name and layer."""
        stated = {"explained": self.explained, "evaluated": self.evaluated, "panel": self.panel}
        stated |= {"validated": self.validated, **self.analyses}
        return {f"{name} {self.layer}": handle.digest for name, handle in stated.items()}

    def open(self) -> LayerPart:
        """Where its files are."""
        return LayerPart(
            layer=self.layer,
            shape=self.shape,
            explained=self.explained.folder,
            evaluated=self.evaluated.folder,
            panel=self.panel.folder,
            validated=self.validated.folder,
            activations=self.activations.folder,
            thresholds=load_thresholds(self.thresholds),
            explainer=self.explainer.folder,
            histogram=self.thresholds.folder,
            advice=str(self.explained.info.get("advice", "")),
            analyses={name: handle.folder for name, handle in self.analyses.items()},
        )


@dataclass(frozen=True)
class ShownImages:
    """The data set, by role, whose pictures the section of an analysis shows."""

    role: str
    pictures: Given[Dataset]


def digest_templates() -> str:
    """Of the page's own files: another layout is another report."""
    folder = resources.files("lavise.tasks.report") / "templates"
    return digest_of({f.name: f.read_text("utf-8") for f in folder.iterdir() if f.is_file()})


def _state_layers(layers: Sequence[ReportedLayer]) -> dict[str, str]:
    return {name: digest for layer in layers for name, digest in layer.state().items()}


def _state_shown(shown: Mapping[str, ShownImages]) -> dict[str, str]:
    return {f"{analysis} pictures": own.pictures.digest for analysis, own in shown.items()}


def _state_templates(digest: str) -> dict[str, str]:
    return {"templates": digest}


@dataclass(frozen=True)
class ReportInputs(StageInputs):
    """What the report is made from.

    Attributes:
        facts: lines of the heading, label -> text.
        preprocessing: from a picture to the network's input.
        pictures: of the target.
        shown: pictures besides, by the name of the analysis whose section shows them.
        diff: the comparison with an earlier audit, where there is one.
    """

    settings: ReportSettings
    facts: Mapping[str, str]
    preprocessing: Mapping[str, Any]
    geometry: Annotated[Geometry, Unstated("it is part of the preprocessing")]
    pictures: Given[Dataset]
    shown: Annotated[Mapping[str, ShownImages], Spread(inputs=_state_shown)]
    layers: Annotated[Sequence[ReportedLayer], Spread(inputs=_state_layers)]
    diff: Given[DiffPart] | None
    progress: Annotated[Progress, HOW] = no_progress
    templates: Annotated[str, Spread(inputs=_state_templates)] = field(default_factory=digest_templates)
