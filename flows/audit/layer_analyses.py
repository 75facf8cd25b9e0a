"""The analyses of a layer that has been explained: each kind reads the layer through one view, and none is named."""

from __future__ import annotations

from functools import cached_property

import pyarrow.parquet as parquet

from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.audit.layer_context import Context, LayerResult, Subject, find_head, find_thresholds
from lavise.flows.shared.inputs import Inputs
from lavise.storage.datasets.base import Dataset
from lavise.storage.models.class_names import ClassNames, load_class_names
from lavise.storage.models.classifier_head import LinearHead, count_classes
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.word_vectors import Vocabulary
from lavise.tasks.analyses.analysis import list_analyses
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import Stage
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.words import explain


def run_analyses(context: Context, subject: Subject, result: LayerResult) -> None:
    """Whatever the settings ask for."""
    view = LayerView(context, subject, result)
    for analysis in list_analyses():
        if analysis.is_wanted(context.config):
            title = subject.name(f"{analysis.name} {view.layer}")
            handle = context.runner.run_one(analysis.stage, title, analysis.inputs(view), analysis.compute)
            result.keep(handle)


def check_analyses(config: Config, inputs: Inputs | None = None) -> None:
    """What can be wrong with their settings or data, before anything long is begun.

    Args:
        inputs: None before the data sets are opened.

    Raises:
        UserError: of any analysis that is wanted.
    """
    for analysis in list_analyses():
        if analysis.is_wanted(config):
            if inputs is None:
                analysis.check_settings(config)
            else:
                analysis.check_data(config, inputs.of)


class LayerView:
    """A layer as analyses see it (tasks.analyses.analysis.ExplainedLayer)."""

    def __init__(self, context: Context, subject: Subject, result: LayerResult) -> None:
        self._context, self._subject, self._result = context, subject, result

    @property
    def config(self) -> Config:
        return self._context.config

    @property
    def layer(self) -> str:
        return self._result.layer.name

    @property
    def model(self) -> TargetModel:
        return self._subject.model

    @property
    def computing(self) -> Computing:
        return self._context.computing

    @cached_property
    def words(self) -> list[list[str]]:
        """Of each filter, the words that are believed; none where it is unexplained."""
        rows = parquet.read_table(self._result.of(explain.STAGE).path(file_names.FILTERS)).to_pylist()
        return [list(r["words"]) if r["explained"] else [] for r in sorted(rows, key=lambda r: r["filter"])]

    @cached_property
    def class_names(self) -> ClassNames | None:
        size_px, channels = self.model.geometry.size_px, self.model.channels
        num_classes = count_classes(self.model.network, size_px, channels, self._context.rule)
        return load_class_names(self.config.model, num_classes) if num_classes else None

    @property
    def head(self) -> tuple[LinearHead | None, str]:
        return find_head(self._subject, self._result, self._context.rule)

    def data(self, role: Role) -> Given[Dataset]:
        return self._subject.inputs.data(role)

    def pictures(self, role: Role) -> Given[Dataset]:
        return self._subject.inputs.pictures(role)

    def activations(self, role: Role) -> Handle:
        return self._result.activations[role]

    def thresholds(self, role: Role) -> Handle:
        return find_thresholds(self._context, self._subject, self._result, role)

    @property
    def vocabulary(self) -> Given[Vocabulary]:
        return self._context.vocabulary

    def made(self, stage: Stage) -> Handle | None:
        return self._result.find(stage)
