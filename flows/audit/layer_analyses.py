"""What is found out about a layer besides words: where groups of pictures differ, which classes lean on which filters,
and what happens when filters are taken away."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet

from lavise.configs.groups import CsvGroups, Groups
from lavise.configs.roles import Role
from lavise.configs.schema import BiasSettings
from lavise.flows.audit.layer_context import Context, LayerResult, Subject, find_head, find_thresholds, load_thresholds
from lavise.flows.shared.inputs import Inputs
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset, require_file
from lavise.storage.datasets.groups import Grouping, make_grouping
from lavise.storage.models.class_names import ClassNames, load_class_names
from lavise.storage.models.classifier_head import count_classes
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.tasks.classifier import ablation, attribution
from lavise.tasks.engine.stage import Request
from lavise.tasks.group_bias import analysis
from lavise.tasks.words import explain


class LayerFindings:
    """Runs these stages on a layer that has been explained."""

    def __init__(self, context: Context, subject: Subject, result: LayerResult) -> None:
        self._context, self._subject, self.result = context, subject, result
        self._config, self._runner = context.config, context.runner

    def run(self) -> None:
        """Whatever the settings ask for."""
        if self._config.bias.groups is not None:
            self.result.keep(self._compare_groups())
        if self._config.classes.enabled:
            self.result.keep(self._measure_contributions())
        if self._config.causes.enabled:
            self.result.keep(self._measure_causes())

    @property
    def _layer(self) -> str:
        return self.result.layer.name

    def _title(self, stage: str) -> str:
        return self._subject.name(f"{stage} {self._layer}")

    def _data(self, role: Role) -> Dataset:
        return self._subject.inputs.of(role)

    @cached_property
    def _words(self) -> list[list[str]]:
        """Of each filter, the words that are believed; none where it is unexplained."""
        rows = parquet.read_table(self.result.of(explain.STAGE).path(file_names.FILTERS)).to_pylist()
        return [list(r["words"]) if r["explained"] else [] for r in sorted(rows, key=lambda r: r["filter"])]

    @cached_property
    def _class_names(self) -> ClassNames | None:
        model = self._subject.model
        num_classes = count_classes(model.network, model.geometry.size_px)
        return load_class_names(self._config.model, num_classes) if num_classes else None

    def _describe_network(self) -> dict[str, Any]:
        """What the network's answers depend on besides its weights."""
        model, classes = self._subject.model, self._class_names
        return {
            "arch": model.arch,
            "code": model.code,
            "checkpoint": model.digest,
            "layer": self._layer,
            "preprocessing": model.describe_preprocessing(),
            "classes": digest_of(classes.names) if classes else None,
            "batch_size": self._config.extract.batch_size,
            "seed": self._config.seed,
            **self._context.arithmetic,
        }

    # ------------------------------------------------------------ stages

    def _compare_groups(self) -> Handle:
        config, settings = self._config, self._config.bias
        role = Role(settings.images)
        activations, data = self.result.activations[role], self._data(role)
        thresholds = find_thresholds(self._context, self._subject, self.result, role)
        keys = ActivationStore(activations.folder).keys
        assert settings.groups is not None
        groups = make_grouping(settings.groups, "bias.groups", data, keys)
        strata = None
        if settings.stratify_by is not None:
            strata = make_grouping(settings.stratify_by, "bias.stratify_by", data, keys)
        request = Request(
            {
                **settings.model_dump(mode="json", exclude={"groups", "stratify_by"}),
                "groups": _describe_grouping(groups),
                "strata": _describe_grouping(strata) if strata else None,
                "words": digest_of(self._words),
                "layer": self._layer,
                "seed": config.seed,
            },
            {"activations": activations.digest, "thresholds": thresholds.digest},
        )
        return self._runner.run_one(
            analysis.STAGE,
            self._title("bias"),
            request,
            lambda folder: analysis.analyse_bias(
                self._layer,
                ActivationStore(activations.folder),
                load_thresholds(thresholds),
                groups,
                strata,
                self._words,
                settings,
                config.seed,
                folder,
                self._context.progress,
            ),
        )

    def _measure_contributions(self) -> Handle:
        config, settings = self._config, self._config.classes
        records = self._data(Role.TARGET).records[: settings.max_images]
        request = Request(
            {**settings.model_dump(mode="json"), "words": digest_of(self._words), **self._describe_network()},
            {"pictures": self._subject.inputs.picture_digests[Role.TARGET]},
        )
        return self._runner.run_one(
            attribution.STAGE,
            self._title("classes"),
            request,
            lambda folder: attribution.measure_contributions(
                self._subject.model,
                self._layer,
                records,
                *find_head(self._subject, self.result),
                self._class_names,
                self._words,
                settings,
                config.extract.batch_size,
                config.seed,
                self._context.device,
                folder,
                self._context.progress,
            ),
        )

    def _measure_causes(self) -> Handle:
        config, settings, data = self._config, self._config.causes, self._data(Role.EVALUATION)
        records = data.records[: settings.max_images]
        activations = self.result.activations[Role.EVALUATION]
        request = Request(
            {**settings.model_dump(mode="json"), "words": digest_of(self._words), **self._describe_network()},
            {"data": self._subject.inputs.digests[Role.EVALUATION], "activations": activations.digest},
        )

        def compute(folder: Path) -> dict[str, Any]:
            means = ActivationStore(activations.folder).read_means()
            return ablation.measure_causes(
                self._subject.model,
                self._layer,
                records,
                data.concepts,
                find_head(self._subject, self.result)[0],
                self._class_names,
                self._words,
                means.mean(axis=0, dtype=np.float64).astype(np.float32),
                settings,
                config.extract.batch_size,
                config.seed,
                self._context.device,
                folder,
                self._context.progress,
            )

        return self._runner.run_one(ablation.STAGE, self._title("causes"), request, compute)


def check_group_files(settings: BiasSettings) -> None:
    """Before any data set is opened.

    Raises:
        UserError: a CSV file that is not there.
    """
    for field in ("groups", "stratify_by"):
        chosen: Groups | None = getattr(settings, field)
        if isinstance(chosen, CsvGroups):
            require_file(chosen.file, f"bias.{field}.file")


def check_groups(settings: BiasSettings, inputs: Inputs) -> None:
    """What can be wrong with the groups, before anything long is begun.

    Raises:
        UserError: of `make_grouping`.
    """
    data = inputs.of(Role(settings.images))
    keys = [r.key for r in data.records]
    for field in ("groups", "stratify_by"):
        chosen: Groups | None = getattr(settings, field)
        if chosen is not None:
            make_grouping(chosen, f"bias.{field}", data, keys)


def _describe_grouping(grouping: Grouping) -> dict[str, Any]:
    return {"title": grouping.title, "names": list(grouping.names), "of_image": digest_of(grouping.of_image.tolist())}
