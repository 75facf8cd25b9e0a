"""The stages of one layer: what each reads, and the baselines that its words stand beside."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lavise.configs.registry import ATTENTION, OBJECTIVES, RANKINGS, TRANSFERS
from lavise.configs.roles import Role
from lavise.flows.audit.layer_context import Context, LayerResult, Subject, find_head, find_thresholds
from lavise.flows.audit.layer_judgement import find_worst_p_value, load_judged_layer, load_judgement
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset
from lavise.storage.models.class_names import load_class_names
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of, digest_tensors
from lavise.tasks.activations.attention import MaskedForward, describe_unfit_maps
from lavise.tasks.activations.layer_maps import LayerMaps
from lavise.tasks.activations.thresholds import load_thresholds
from lavise.tasks.engine.stage import Request
from lavise.tasks.evaluation import layer_panel, recall
from lavise.tasks.explainer import naming, training, transfer, validation
from lavise.tasks.explainer.class_head import measure_scale, shuffle_names
from lavise.tasks.explainer.naming import load_namer
from lavise.tasks.masks import agreement, region_pooling
from lavise.tasks.masks.detection import DETECTION, detect_concepts, save_detection
from lavise.tasks.masks.overlaps import OVERLAPS, count_overlaps, load_overlaps, save_overlaps
from lavise.tasks.words import explain, naming_check

log = logging.getLogger("lavise")


class LayerAudit:
    """Runs the stages of one layer of one subject, in the order of the data."""

    def __init__(self, context: Context, subject: Subject, result: LayerResult) -> None:
        self._context, self._subject, self.result = context, subject, result
        self._config, self._runner = context.config, context.runner

    def measure(self) -> None:
        """Everything that knows no words: thresholds, regions, and what is where on the evaluation pictures."""
        for role in (Role.TRAIN, Role.EVALUATION):
            self.result.regions[role] = self._pool_regions(role)
        for role in (Role.EVALUATION, Role.TARGET):
            self._find_thresholds(role)
        self.result.keep(self._count_overlaps())
        self.result.keep(self._measure_agreement())
        self.result.keep(self._detect_concepts())

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

    def judge(self, baselines: Mapping[str, LayerResult]) -> None:
        """The panel, with baselines that were audited themselves."""
        self.result.keep(self._judge(baselines))

    # ------------------------------------------------------------ stages

    @property
    def _layer(self) -> str:
        return self.result.layer.name

    def _title(self, stage: str) -> str:
        return self._subject.name(f"{stage} {self._layer}")

    def _data(self, role: Role) -> Dataset:
        return self._subject.inputs.of(role)

    def _pool_regions(self, role: Role) -> Handle:
        activations, inputs = self.result.activations[role], self._subject.inputs
        return self._runner.run_one(
            region_pooling.REGIONS,
            self._title("regions" if role == Role.TRAIN else f"regions {role}"),
            Request({}, {"activations": activations.digest, "data": inputs.digests[role]}),
            lambda folder: region_pooling.pool_regions(
                ActivationStore(activations.folder),
                self._data(role),
                self._subject.model.geometry,
                folder,
                self._context.cluster,
            ),
        )

    def _find_thresholds(self, role: Role) -> Handle:
        handle = find_thresholds(self._context, self._subject, self.result, role)
        warning = describe_unfit_maps(self._config.explain.method, handle.info)
        if warning and role == Role.TARGET and not self._subject.title:
            log.warning("  layer %s has %s", self._layer, warning)
        return handle

    def _request_on_evaluation(self) -> Request:
        """Of statistics on the evaluation part's masks and regions."""
        return Request(
            {},
            {
                "activations": self.result.activations[Role.EVALUATION].digest,
                "thresholds": self.result.thresholds[Role.EVALUATION].digest,
                "data": self._subject.inputs.digests[Role.EVALUATION],
            },
        )

    def _count_overlaps(self) -> Handle:
        activations, thresholds = self.result.activations[Role.EVALUATION], self.result.thresholds[Role.EVALUATION]

        def compute(folder: Path) -> dict[str, Any]:
            found, skipped = count_overlaps(
                ActivationStore(activations.folder),
                self._data(Role.EVALUATION),
                self._subject.model.geometry,
                load_thresholds(thresholds),
                self._context.cluster,
            )
            save_overlaps(found, folder)
            return {"num_overlaps": len(found.image), "skipped": skipped}

        request = self._request_on_evaluation()
        return self._runner.run_one(OVERLAPS, self._title("overlaps"), request, compute)

    def _measure_agreement(self) -> Handle:
        activations, thresholds = self.result.activations[Role.EVALUATION], self.result.thresholds[Role.EVALUATION]

        def compute(folder: Path) -> dict[str, Any]:
            found, skipped = agreement.measure_agreement(
                ActivationStore(activations.folder),
                self._data(Role.EVALUATION),
                self._subject.model.geometry,
                load_thresholds(thresholds),
                self._context.cluster,
            )
            agreement.save_agreement(found, folder)
            return {"num_masks": len(found.masks.image), "num_concepts": found.num_concepts, "skipped": skipped}

        request = self._request_on_evaluation()
        return self._runner.run_one(agreement.AGREEMENT, self._title("agreement"), request, compute)

    def _detect_concepts(self) -> Handle:
        activations, measured = self.result.activations[Role.EVALUATION], self.result.of(agreement.AGREEMENT)

        def compute(folder: Path) -> dict[str, Any]:
            masks = agreement.load_agreement(measured.folder).masks
            found = detect_concepts(ActivationStore(activations.folder), masks)
            save_detection(found, folder)
            return {"num_right": int(found.right.sum()), "num_concepts": int((found.num_images > 0).sum())}

        request = Request({}, {"activations": activations.digest, "agreement": measured.digest})
        return self._runner.run_one(DETECTION, self._title("detect"), request, compute)

    def _train(self) -> Handle:
        config, concepts = self._config, self._subject.inputs.train.concepts
        regions, shuffled = self.result.regions[Role.TRAIN], self._subject.shuffled
        request = Request(
            {
                **config.train.model_dump(mode="json"),
                **OBJECTIVES.describe_code(config.train.objective),
                "seed": config.seed,
                **({"shuffled_labels": True} if shuffled else {}),
                **self._context.arithmetic,
            },
            {"regions": regions.digest, "vocabulary": self._context.vocabulary.digest},
        )
        return self._runner.run_one(
            training.STAGE,
            self._title("train"),
            request,
            lambda folder: training.train_explainer(
                regions,
                concepts,
                self._context.words,
                config.train,
                config.seed,
                self._context.device,
                folder,
                self._context.progress,
                shuffled,
            ),
        )

    def _assemble(self, trained: Handle) -> Handle:
        config, layer = self._config, self._layer
        head, no_head = find_head(self._subject, self.result)
        classes = load_class_names(config.model, len(head.bias)) if head else None
        if classes and self._subject.shuffled:
            classes = shuffle_names(classes, config.seed)
        means = ActivationStore(self.result.activations[Role.TRAIN].folder).read_means()
        request = Request(
            {
                **config.explainer.model_dump(mode="json"),
                "no_head": no_head,
                "classes": digest_of(classes.names) if classes else None,
                "head": digest_tensors(vars(head)) if head else None,
                "scale": measure_scale(means),
            },
            {
                "trained": trained.digest,
                "vocabulary": self._context.vocabulary.digest,
                "vectors": self._context.vectors_digest,
            },
        )
        handle = self._runner.run_one(
            naming.STAGE,
            self._title("explainer"),
            request,
            lambda folder: naming.assemble_explainer(
                trained,
                config.explainer,
                head,
                no_head,
                classes,
                measure_scale(means),
                self._context.vectors,
                self._context.words,
                folder,
            ),
        )
        if config.explainer.kind == "fused" and not handle.info["num_classes"] and not self._subject.title:
            reason = json.loads(handle.path(file_names.EXPLAINER_FACTS).read_text("utf-8"))["no_head"]
            log.info("  layer %s: named without the classifier head: %s", layer, reason)
        return handle

    def _transfer(self, role: Role, explainer: Handle) -> Handle:
        method, activations = self._config.transfer.method, self.result.activations[role]
        shuffled = self._subject.shuffled
        if method == "none":
            return explainer
        return self._runner.run_one(
            transfer.STAGE,
            self._title(f"transfer {role}"),
            Request(
                {
                    "method": method,
                    "seed": self._config.seed,
                    **transfer.describe_training(method, self._config.train),
                    **TRANSFERS.describe_code(method),
                    **self._context.arithmetic,
                },
                {
                    "explainer": explainer.digest,
                    "activations": activations.digest,
                    "regions": self.result.regions[Role.TRAIN].digest,
                },
            ),
            lambda folder: transfer.transfer_explainer(
                method,
                explainer,
                ActivationStore(activations.folder),
                self.result.regions[Role.TRAIN],
                self._context.words,
                self._config.train,
                self._config.seed,
                self._context.device,
                folder,
                self._context.progress,
                shuffled,
            ),
        )

    def _validate(self, explainer: Handle) -> Handle:
        config, regions = self._config, self.result.regions[Role.EVALUATION]
        concepts = self._subject.inputs.evaluation.concepts
        settings = config.evaluate
        request = Request(
            {
                "recall_at": list(settings.recall_at),
                "bootstrap_samples": settings.bootstrap_samples,
                "seed": config.seed,
                **self._context.arithmetic,
            },
            {
                "regions": regions.digest,
                "explainer": explainer.digest,
                "vocabulary": self._context.vocabulary.digest,
            },
        )
        return self._runner.run_one(
            validation.STAGE,
            self._title("validate"),
            request,
            lambda folder: validation.validate_explainer(
                regions,
                concepts,
                load_namer(explainer.folder, self._context.words, self._context.device),
                self._context.words,
                settings,
                config.seed,
                self._context.device,
                folder,
            ),
        )

    def _measure_naming(self, explainer: Handle) -> Handle:
        """How far the explainer's words can be believed."""
        settings, context, result = self._config.explain, self._context, self.result
        activations, thresholds = result.activations, result.thresholds[Role.EVALUATION]

        def compute(folder: Path) -> dict[str, Any]:
            store = ActivationStore(activations[Role.EVALUATION].folder)
            return naming_check.measure_naming(
                (store, self._data(Role.EVALUATION)),
                (ActivationStore(activations[Role.TRAIN].folder), self._data(Role.TRAIN)),
                load_thresholds(thresholds),
                load_namer(explainer.folder, context.words, context.device),
                context.words,
                settings,
                folder,
                context.computing,
                self._masked_forward(self._data(Role.EVALUATION), store),
            )

        request = Request(
            {
                "method": settings.method,
                **ATTENTION.describe_code(settings.method),
                "top_images": settings.top_images,
                "min_share": settings.min_share,
                "seed": self._config.seed,
                **context.arithmetic,
            },
            {
                **{role: activations[role].digest for role in (Role.TRAIN, Role.EVALUATION)},
                **{f"{role} data": self._subject.inputs.digests[role] for role in (Role.TRAIN, Role.EVALUATION)},
                "thresholds": thresholds.digest,
                "explainer": explainer.digest,
                "vocabulary": context.vocabulary.digest,
            },
        )
        return self._runner.run_one(naming_check.STAGE, self._title("precision"), request, compute)

    def _explain(self) -> Handle:
        settings, context = self._config.explain, self._context
        activations, thresholds = self.result.activations[Role.TARGET], self.result.thresholds[Role.TARGET]
        explainer, naming = self.result.final_explainer, self.result.find(naming_check.STAGE)
        detection, validated = self.result.of(DETECTION), self.result.of(validation.STAGE)

        def compute(folder: Path) -> dict[str, Any]:
            store = ActivationStore(activations.folder)
            return explain.explain_filters(
                LayerMaps(
                    store,
                    load_thresholds(thresholds),
                    self._masked_forward(self._data(Role.TARGET), store),
                    np.load(thresholds.path(file_names.SATURATED), allow_pickle=False),
                ),
                load_namer(explainer.folder, context.words, context.device),
                context.words,
                load_judgement(detection, validated, self._subject.inputs.evaluation),
                settings,
                self._layer,
                folder,
                context.computing,
                naming_check.load_naming(naming.folder) if naming else None,
            )

        request = Request(
            {
                **settings.model_dump(mode="json"),
                **ATTENTION.describe_code(settings.method),
                **RANKINGS.describe_code(settings.ranking),
                "layer": self._layer,
                "seed": self._config.seed,
                "concepts": digest_of(list(self._subject.inputs.evaluation.concepts)),
                **context.arithmetic,
            },
            {
                "activations": activations.digest,
                "thresholds": thresholds.digest,
                "explainer": explainer.digest,
                "detection": detection.digest,
                "validation": validated.digest,
                "vocabulary": context.vocabulary.digest,
                **({"naming": naming.digest} if naming else {}),
            },
        )
        handle = self._runner.run_one(explain.STAGE, self._title("explain"), request, compute)
        if not validated.info["is_valid"] and not self._subject.title:
            log.warning(
                "  layer %s: the explainer names held-out regions no better than chance (p = %.3f), so that no filter "
                "is explained; look at train.* and at the reference data set",
                *(self._layer, find_worst_p_value(validated)),
            )
        return handle

    def _evaluate(self, explainer: Handle) -> Handle:
        config, context = self._config, self._context
        activations, thresholds = self.result.activations[Role.EVALUATION], self.result.thresholds[Role.EVALUATION]
        overlaps, counts = self.result.of(OVERLAPS), self._subject.inputs.train.count_images_with()
        settings = config.evaluate.model_dump(mode="json", exclude={"panel_at", "baselines", "baseline_images"})

        def compute(folder: Path) -> dict[str, Any]:
            store = ActivationStore(activations.folder)
            found = recall.evaluate_words(
                LayerMaps(store, load_thresholds(thresholds), self._masked_forward(self._data(Role.EVALUATION), store)),
                load_overlaps(overlaps.folder),
                self._subject.inputs.evaluation.concepts,
                counts,
                load_namer(explainer.folder, context.words, context.device),
                context.words,
                config.evaluate,
                config.explain.top_images,
                context.computing,
            )
            recall.save_evaluation(found, folder)
            return {k: found[k] for k in ("num_pairs", "num_filters", "num_images", "recall")}

        request = Request(
            {
                **settings,
                **ATTENTION.describe_code(*config.evaluate.methods),
                "top_images": config.explain.top_images,
                "seed": config.seed,
                "concept_counts": digest_of(dict(counts)),
                **context.arithmetic,
            },
            {
                "activations": activations.digest,
                "thresholds": thresholds.digest,
                "overlaps": overlaps.digest,
                "explainer": explainer.digest,
                "vocabulary": context.vocabulary.digest,
            },
        )
        return self._runner.run_one(recall.STAGE, self._title("evaluate"), request, compute)

    def _judge(self, baselines: Mapping[str, LayerResult]) -> Handle:
        settings, config = self._config.evaluate, self._config
        concepts = self._subject.inputs.evaluation.concepts
        counts = self._subject.inputs.train.count_images_with()
        audited = {name: result for name, result in baselines.items() if name in settings.baselines}

        def compute(folder: Path) -> dict[str, Any]:
            own = load_judged_layer(self.result, concepts, config)
            rows = layer_panel.collect_rows(
                own.statements, own.explained, np.array([counts.get(c, 0) for c in concepts]), settings, config.seed
            )
            others: dict[str, layer_panel.JudgedLayer] = {}
            for name, result in audited.items():
                other = load_judged_layer(result, concepts, config)
                if result.activations[Role.EVALUATION].digest == self.result.activations[Role.EVALUATION].digest:
                    rows[name] = other.statements
                others[name] = other
            found = layer_panel.judge_layer(own, rows, others, settings, config.seed, self._context.progress)
            layer_panel.save_panel(found, layer_panel.judge_filters(own, settings.panel_at), folder)
            return layer_panel.describe_panel(found)

        request = Request(
            {
                "at": list(settings.panel_at),
                "baselines": sorted(settings.baselines),
                "bootstrap_samples": settings.bootstrap_samples,
                "min_iou": settings.min_iou,
                "top_images": config.explain.top_images,
                "seed": config.seed,
                "concept_counts": digest_of(dict(counts)),
            },
            {
                "activations": self.result.activations[Role.EVALUATION].digest,
                "agreement": self.result.of(agreement.AGREEMENT).digest,
                "overlaps": self.result.of(OVERLAPS).digest,
                "explained": self.result.of(explain.STAGE).digest,
                "detection": self.result.of(DETECTION).digest,
                **{f"{n} explained": r.of(explain.STAGE).digest for n, r in audited.items()},
                **{f"{n} agreement": r.of(agreement.AGREEMENT).digest for n, r in audited.items()},
            },
        )
        return self._runner.run_one(layer_panel.STAGE, self._title("panel"), request, compute)

    def _masked_forward(self, data: Dataset, store: ActivationStore) -> MaskedForward:
        path_of: Callable[[str], Path] = {r.key: r.path for r in data.records}.__getitem__
        paths = [path_of(k) for k in store.keys]
        batch_size = self._config.extract.batch_size
        return MaskedForward(self._subject.model, self._layer, paths, batch_size, self._context.device)
