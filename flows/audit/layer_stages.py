"""The stages of one layer: what each reads, and the baselines that its words stand beside."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.configs.registry import RANKINGS, TRANSFERS
from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.audit.layer_context import Context, LayerResult, Subject, find_naming_head, find_thresholds
from lavise.storage.activations import ActivationStore
from lavise.storage.models.class_names import load_class_names
from lavise.storage.models.classifier_head import NO_SHARES
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.tasks.activations.attention import describe_unfit_maps
from lavise.tasks.activations.layer_maps import MappedNetwork
from lavise.tasks.engine.stage import Info, Read, Stage
from lavise.tasks.engine.stage_inputs import take_part
from lavise.tasks.evaluation import layer_panel, recall
from lavise.tasks.evaluation.panel_layer import LayerArtefacts
from lavise.tasks.explainer import naming, training, transfer, validation
from lavise.tasks.explainer.class_head import measure_scale, shuffle_names
from lavise.tasks.masks import agreement, detection, overlaps, region_pooling
from lavise.tasks.masks.mask_inputs import MaskedRegionInputs, MaskInputs
from lavise.tasks.words import explain, naming_check
from lavise.tasks.words.word_truth import WHAT_HELPS, find_worst_p_value

log = logging.getLogger("lavise")
_SCALE_IMAGES = 1024  # whose means are in memory at a time


def check_transfer(config: Config) -> None:
    """What can be wrong with the transfer, before anything long is begun.

    Raises:
        UserError: it needs the words of the classifier head, which a multi-label one has not.
    """
    method = config.transfer.method
    if config.model.head == "sigmoid" and method != "none" and TRANSFERS.get(method).needs_head:
        others = [n for n in TRANSFERS.list_names() if n == "none" or not TRANSFERS.get(n).needs_head]
        raise UserError(f"transfer.method: found {method!r}, but {NO_SHARES}; allowed here: {', '.join(others)}")


class LayerAudit:
    """Runs the stages of one layer of one subject, in the order of the data."""

    def __init__(self, context: Context, subject: Subject, result: LayerResult) -> None:
        self._context, self._subject, self.result = context, subject, result
        self._config = context.config

    def measure(self) -> None:
        """Everything that knows no words: thresholds, regions, and what is where on the evaluation pictures."""
        for role in (Role.TRAIN, Role.EVALUATION):
            self.result.regions[role] = self._pool_regions(role)
        for role in (Role.EVALUATION, Role.TARGET):
            self._find_thresholds(role)
        self._measure_masks()

    def explain(self) -> None:
        """The explainer and the words of every filter."""
        explainer = self._assemble(self._train())
        self.result.explainer = self._transfer(Role.TARGET, explainer)
        tuned = self._transfer(Role.EVALUATION, explainer)
        self.result.keep(self._validate(tuned))
        if RANKINGS.get(self._config.explain.ranking).needs_precision:  # only the ranking by preference asks
            self.result.keep(self._measure_naming(tuned))
        self.result.keep(self._explain())
        self._tuned = tuned

    def evaluate(self) -> None:
        """Recall of every method."""
        self.result.keep(self._evaluate(self._tuned))

    def with_labels_shuffled(self) -> LayerResult:
        """The same layer with an explainer that was taught at random."""
        subject = replace(self._subject, title="shuffled labels", shuffled=True)
        twin = LayerAudit(self._context, subject, replace(self.result, made=dict(self.result.made)))
        twin.explain()
        return twin.result

    def measure_panel(self, baselines: Mapping[str, LayerResult]) -> None:
        """The panel, with baselines that were audited themselves."""
        self.result.keep(self._measure_panel(baselines))

    # ------------------------------------------------------------ stages

    @property
    def _layer(self) -> str:
        return self.result.layer.name

    @property
    def _network(self) -> MappedNetwork:
        return MappedNetwork(self._subject.model, self._layer, self._config.extract.batch_size)

    def _run(self, stage: Stage, inputs: Read, compute: Callable[[Read, Path], Info], title: str = "") -> Handle:
        """An artefact of this layer.

        Args:
            title: the stage's name unless given.
        """
        title = self._subject.name(f"{title or stage.name} {self._layer}")
        return self._context.runner.run_one(stage, title, inputs, compute)

    def _pool_regions(self, role: Role) -> Handle:
        inputs = MaskInputs(
            activations=self.result.activations[role],
            data=self._subject.inputs.data(role),
            geometry=self._subject.model.geometry,
            cluster=self._context.cluster,
        )
        title = "regions" if role == Role.TRAIN else f"regions {role}"
        return self._run(region_pooling.REGIONS, inputs, region_pooling.make_regions, title)

    def _find_thresholds(self, role: Role) -> Handle:
        handle = find_thresholds(self._context, self._subject, self.result, role)
        warning = describe_unfit_maps(self._config.explain.method, handle.info)
        if warning and role == Role.TARGET and not self._subject.title:
            log.warning("  layer %s has %s", self._layer, warning)
        return handle

    def _measure_masks(self) -> None:
        """What is where on the evaluation pictures: masks and regions that overlap, and concepts that are detected."""
        result = self.result
        inputs = MaskedRegionInputs(
            activations=result.activations[Role.EVALUATION],
            data=self._subject.inputs.data(Role.EVALUATION),
            geometry=self._subject.model.geometry,
            cluster=self._context.cluster,
            thresholds=result.thresholds[Role.EVALUATION],
        )
        result.keep(self._run(overlaps.OVERLAPS, inputs, overlaps.make_overlaps))
        measured = result.keep(self._run(agreement.AGREEMENT, inputs, agreement.make_agreement))
        detected = detection.DetectionInputs(inputs.activations, measured)
        result.keep(self._run(detection.DETECTION, detected, detection.make_detection))

    def _train(self) -> Handle:
        inputs = training.TrainingInputs(
            regions=self.result.regions[Role.TRAIN],
            concepts=self._subject.inputs.train.concepts,
            vocabulary=self._context.vocabulary,
            settings=self._config.train,
            computing=self._context.computing,
            shuffled_labels=self._subject.shuffled,
        )
        return self._run(training.STAGE, inputs, training.train_explainer)

    def _assemble(self, trained: Handle) -> Handle:
        config, layer = self._config, self._layer
        head, no_head = find_naming_head(self._context, self._subject, self.result)
        classes = load_class_names(config.model, len(head.bias)) if head else None
        if classes and self._subject.shuffled:
            classes = shuffle_names(classes, config.seed)
        inputs = naming.AssemblyInputs(
            trained=trained,
            settings=config.explainer,
            head=head,
            no_head=no_head,
            classes=classes,
            scale=measure_scale(
                ActivationStore(self.result.activations[Role.TRAIN].folder).iterate_means(_SCALE_IMAGES)
            ),
            vectors=self._context.vectors,
            vocabulary=self._context.vocabulary,
        )
        handle = self._run(naming.STAGE, inputs, naming.assemble_explainer)
        if config.explainer.kind == "fused" and not handle.info["num_classes"] and not self._subject.title:
            reason = json.loads(handle.path(file_names.EXPLAINER_FACTS).read_text("utf-8"))["no_head"]
            log.info("  layer %s: named without the classifier head: %s", layer, reason)
        return handle

    def _transfer(self, role: Role, explainer: Handle) -> Handle:
        method = self._config.transfer.method
        if method == "none":
            return explainer
        inputs = transfer.TransferInputs(
            method=method,
            explainer=explainer,
            activations=self.result.activations[role],
            regions=self.result.regions[Role.TRAIN],
            vocabulary=self._context.vocabulary.value,
            training=self._config.train,
            computing=self._context.computing,
            shuffled_labels=self._subject.shuffled,
        )
        return self._run(transfer.STAGE, inputs, transfer.transfer_explainer, f"transfer {role}")

    def _validate(self, explainer: Handle) -> Handle:
        inputs = validation.ValidationInputs(
            regions=self.result.regions[Role.EVALUATION],
            concepts=self._subject.inputs.evaluation.concepts,
            explainer=explainer,
            vocabulary=self._context.vocabulary,
            recall_at=self._config.evaluate.recall_at,
            bootstrap_samples=self._config.evaluate.bootstrap_samples,
            computing=self._context.computing,
            activations=self.result.activations[Role.EVALUATION],
            pictures=self._subject.inputs.evaluation,
        )
        return self._run(validation.STAGE, inputs, validation.validate_explainer)

    def _measure_naming(self, explainer: Handle) -> Handle:
        """How far the explainer's words can be believed."""
        activations, data = self.result.activations, self._subject.inputs.data
        inputs = naming_check.NamingInputs(
            train=activations[Role.TRAIN],
            train_data=data(Role.TRAIN),
            evaluation=activations[Role.EVALUATION],
            evaluation_data=data(Role.EVALUATION),
            thresholds=self.result.thresholds[Role.EVALUATION],
            explainer=explainer,
            vocabulary=self._context.vocabulary,
            network=self._network,
            rule=take_part(self._config.explain, naming_check.NamingRule),
            computing=self._context.computing,
        )
        return self._run(naming_check.STAGE, inputs, naming_check.check_naming)

    def _explain(self) -> Handle:
        result, inputs = self.result, self._subject.inputs
        validated = result.of(validation.STAGE)
        read = explain.ExplainInputs(
            network=self._network,
            activations=result.activations[Role.TARGET],
            thresholds=result.thresholds[Role.TARGET],
            pictures=inputs.target,
            explainer=result.final_explainer,
            vocabulary=self._context.vocabulary,
            detection=result.of(detection.DETECTION),
            validation=validated,
            concepts=inputs.evaluation.concepts,
            naming=result.find(naming_check.STAGE),
            settings=self._config.explain,
            computing=self._context.computing,
        )
        handle = self._run(explain.STAGE, read, explain.explain_layer)
        if not validated.info["is_valid"] and not self._subject.title:
            log.warning(
                "  layer %s: that the explainer names held-out regions better than chance is not shown (p = %.3f; "
                "needed: %g at most), so that no filter is explained; %s",
                *(self._layer, find_worst_p_value(validated), validation.MAX_P_VALUE, WHAT_HELPS),
            )
        return handle

    def _evaluate(self, explainer: Handle) -> Handle:
        result, inputs, config = self.result, self._subject.inputs, self._config
        read = recall.RecallInputs(
            activations=result.activations[Role.EVALUATION],
            thresholds=result.thresholds[Role.EVALUATION],
            overlaps=result.of(overlaps.OVERLAPS),
            explainer=explainer,
            vocabulary=self._context.vocabulary,
            pictures=inputs.evaluation,
            network=self._network,
            concepts=inputs.evaluation.concepts,
            concept_counts=inputs.train.count_images_with(),
            settings=take_part(config.evaluate, recall.RecallSettings, top_images=config.explain.top_images),
            computing=self._context.computing,
        )
        return self._run(recall.STAGE, read, recall.measure_recall)

    def _measure_panel(self, baselines: Mapping[str, LayerResult]) -> Handle:
        config, inputs, settings = self._config, self._subject.inputs, self._config.evaluate
        read = layer_panel.PanelInputs(
            own=_collect_artefacts(self.result),
            audited={n: _collect_artefacts(result) for n, result in baselines.items() if n in settings.baselines},
            concepts=inputs.evaluation.concepts,
            concept_counts=inputs.train.count_images_with(),
            num_words=config.explain.num_words,
            settings=take_part(
                settings,
                layer_panel.PanelSettings,
                at=settings.panel_at,
                baselines=tuple(sorted(settings.baselines)),
                top_images=config.explain.top_images,
            ),
            seed=config.seed,
            language=config.words.language,
            progress=self._context.progress,
        )
        return self._run(layer_panel.STAGE, read, layer_panel.make_panel)


def _collect_artefacts(result: LayerResult) -> LayerArtefacts:
    """What a layer's words are judged by."""
    return LayerArtefacts(
        explained=result.of(explain.STAGE),
        activations=result.activations[Role.EVALUATION],
        thresholds=result.thresholds[Role.EVALUATION],
        agreement=result.of(agreement.AGREEMENT),
        overlaps=result.of(overlaps.OVERLAPS),
        detection=result.of(detection.DETECTION),
    )
