"""The audit: which stage reads what. Orchestration, tracking and progress are passed in."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch

from configs.errors import UserError
from configs.loading import describe_identity, make_absolute
from configs.policy import Policy
from configs.schema import Config
from flows.compare import AuditedLayer, Comparison, TargetPictures, compare_audits
from flows.extraction import extract_layers
from flows.gate import GATE_TAG, judge_and_record
from flows.inputs import Inputs, describe_sources, open_inputs
from flows.past_runs import PastRun
from flows.run_folder import RunResult, write_run_folder
from storage.activations import INDEX_FILE, ActivationStore
from storage.artefacts import ArtefactStore, Handle
from storage.checkpoints import TargetModel, load_target_model
from storage.digest import digest_of, short
from storage.environment import choose_device, describe_environment, find_state_root
from storage.housekeeping import hold_state
from storage.images import num_decoded
from storage.layers import Layer, select_layers
from storage.progress import Progress
from storage.tracking import Run, Tracker, without_credentials
from storage.word_vectors import Vocabulary, digest_vectors, find_vectors_file
from tasks import evaluate, explain, report, statistics, train, transfer, vocabulary
from tasks.cluster import StatisticsCluster
from tasks.explainer import load_explainer
from tasks.region_features import MaskedForward
from tasks.stage import Executor, Request, StageOutcome, StageRunner, end_after, flatten, run_inline

log = logging.getLogger("lavise")


@dataclass
class LayerResult:
    """Handles of all that one layer's audit made."""

    layer: Layer
    activations: dict[str, Handle]
    thresholds: dict[str, Handle] = field(default_factory=dict)
    regions: Handle | None = None
    overlaps: Handle | None = None
    explainer: Handle | None = None
    explained: Handle | None = None
    evaluated: Handle | None = None

    def done(self, name: str) -> Handle:
        handle = getattr(self, name)
        assert isinstance(handle, Handle), f"{name} has not run"
        return handle


@dataclass(frozen=True)
class Occasion:
    """What an audit is part of, besides its settings.

    Attributes:
        tags: of the audit's run, besides its own.
        checkpoint_name: for people, where the weights are a snapshot of a file with another name.
        predecessor: the audit to compare with.
        policy: the rules that the audit must pass.
        comparison_expected: there is an audit to compare with, even if its files are away; without the comparison no
            policy can be passed.
        artefacts: folder to keep artefacts in, where nothing that is there already may be used.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    checkpoint_name: str | None = None
    predecessor: PastRun | None = None
    policy: Policy | None = None
    artefacts: Path | None = None
    comparison_expected: bool = False


def run_audit(
    config: Config,
    tracker: Tracker,
    progress: Progress,
    execute: Executor = run_inline,
    occasion: Occasion | None = None,
) -> RunResult:
    """Explain every filter of the target layers.

    Raises:
        UserError: a mistake in settings or inputs; the run is then marked FAILED and what was finished is kept.
    """
    occasion = occasion or Occasion()
    config = without_credentials(make_absolute(config))  # from here on it is written down
    root = find_state_root(config.storage.root)
    device = choose_device(config.device)
    store = ArtefactStore(occasion.artefacts or root)
    tags = {"lavise.config": config.name, "lavise.config_digest": digest_identity(config), **occasion.tags}
    name = f"{config.name} {occasion.checkpoint_name}" if occasion.checkpoint_name else config.name
    with hold_state(root, exclusive=False):
        run = tracker.start(name, tags)
        runner = StageRunner(store, tracker, run, progress, execute)
        try:
            watch = run.watch_system() if config.tracking.system_metrics else nullcontext()
            with watch, StatisticsCluster(config.statistics, progress) as cluster:
                ended = _Audit(config, device, runner, cluster, progress, occasion).run()
            result = write_run_folder(ended, root, run, tracker)
            if occasion.policy:
                is_missing = occasion.comparison_expected and ended.comparison is None
                result = replace(result, gate=_apply_policy(occasion.policy, result, run, name, is_missing))
            run.end()
        except BaseException as err:
            end_after(run, err)
            raise
    return result


def _apply_policy(policy: Policy, result: RunResult, run: Run, name: str, is_missing: bool) -> str:
    """The outcome: `passed`, `failed`, or `invalid` where the policy cannot be applied; the audit itself stays whole.

    Args:
        is_missing: the comparison with the predecessor could not be made, so that rules on it were not looked at.
    """
    try:
        folder, compared_with = result.run_dir, result.predecessor
        return judge_and_record(policy, folder, result.run_id, name, compared_with, run, is_missing=is_missing).outcome
    except UserError as err:
        log.error("the policy %s cannot be applied: %s", policy.name, err)
        run.set_tags({GATE_TAG: "invalid"})
        return "invalid"


def digest_identity(config: Config) -> str:
    """Of the settings that make two audits comparable, whatever their checkpoints are."""
    return digest_of(describe_identity(make_absolute(config)))


@dataclass(frozen=True)
class EndedAudit:
    """All that an audit made, before it is written down for people."""

    config: Config
    occasion: Occasion
    outcomes: Mapping[str, StageOutcome]
    results: Sequence[LayerResult]
    comparison: Comparison | None
    page: Handle
    environment: Mapping[str, Any]
    inputs: Mapping[str, Any]
    skipped: Mapping[str, Any]
    images_decoded: int
    model: TargetModel


@dataclass
class _Audit:
    """The stages of one audit, in the order of the data."""

    config: Config
    device: str
    runner: StageRunner
    cluster: StatisticsCluster
    progress: Progress
    occasion: Occasion

    def run(self) -> EndedAudit:
        config, run, runner, decoded_before = self.config, self.runner.parent, self.runner, num_decoded()
        run.log_params({k: v for k, v in flatten(config.model_dump(mode="json")).items() if v is not None})
        environment = describe_environment(self.device)
        run.set_tags(_environment_tags(environment))
        # What can be wrong is looked at before anything long is begun.
        find_vectors_file(config.words)
        model = load_target_model(config.model, config.seed)
        run.set_tags({"lavise.checkpoint": model.digest, "lavise.arch": model.arch})
        layers = select_layers(model.network, model.geometry.size_px, config.model.layers)
        inputs = open_inputs(config, runner, self.progress)
        for facts in inputs.describe(describe_sources(config, runner)):
            run.log_dataset(facts)
        results = self.explain_layers(model, layers, inputs)
        comparison = self._compare(model, inputs, results)
        page = self.write_report(model, inputs, results, comparison)
        return EndedAudit(
            config=config,
            occasion=self.occasion,
            outcomes=runner.outcomes,
            results=results,
            comparison=comparison,
            page=page,
            environment=environment,
            inputs={
                "arch": model.arch,
                "checkpoint": model.digest,
                "checkpoint_name": self.occasion.checkpoint_name,
                "layers": [layer.name for layer in layers],
                "data": inputs.digests,
                "pictures": inputs.picture_digests,
                "vectors": digest_vectors(config.words),
            },
            skipped=describe_skipped(results[0]),
            images_decoded=num_decoded() - decoded_before,
            model=model,
        )

    def _compare(self, model: TargetModel, inputs: Inputs, results: Sequence[LayerResult]) -> Comparison | None:
        old = self.occasion.predecessor
        if old is None:
            return None
        new = [
            AuditedLayer(
                name=r.layer.name,
                arch=model.arch,
                activations=r.activations["target"],
                filters=parquet.read_table(r.done("explained").path("filters.parquet")).to_pylist(),
            )
            for r in results
        ]
        pictures = TargetPictures(inputs.picture_digests["target"], lambda: inputs.target)
        runner, cluster = self.runner, self.cluster
        try:
            return compare_audits(old, new, pictures, self.config, runner, cluster, self.device, self.progress)
        except Exception as err:  # noqa: BLE001 - the audit is worth having without, whatever is wrong with the old one
            log.warning("  not compared with run %s: %s", old.run_id, err)
            runner.parent.set_tags({"lavise.diff_error": str(err)})
            return None

    def explain_layers(self, model: TargetModel, layers: list[Layer], inputs: Inputs) -> list[LayerResult]:
        words, vocabulary_handle = self._make_vocabulary(inputs)
        names = [layer.name for layer in layers]
        stores = {}
        for role in ("train", "evaluation", "target"):
            title, data = f"extract {role}", getattr(inputs, role)
            pictures, settings = inputs.picture_digests[role], self.config.extract
            stores[role] = extract_layers(
                self.runner, title, model, names, data, pictures, settings, self.device, self.progress
            )
        results = []
        for position, layer in enumerate(layers):
            result = LayerResult(layer, {role: handles[position] for role, handles in stores.items()})
            self._explain_layer(model, inputs, words, vocabulary_handle, result)
            results.append(result)
        return results

    def _explain_layer(
        self, model: TargetModel, inputs: Inputs, words: Vocabulary, vocabulary_handle: Handle, result: LayerResult
    ) -> None:
        name = result.layer.name
        regions = result.regions = self._pool_regions(model, inputs, result)
        for role in ("evaluation", "target"):
            result.thresholds[role] = self._compute_thresholds(role, result)
        overlaps = result.overlaps = self._count_overlaps(model, inputs, result)
        explainer = self._train(inputs, words, vocabulary_handle, regions, name)
        result.explainer = self._transfer("target", explainer, result)
        result.explained = self._explain(model, inputs, words, vocabulary_handle, result)
        tuned = self._transfer("evaluation", explainer, result)
        result.evaluated = self._evaluate(model, inputs, words, vocabulary_handle, overlaps, tuned, result)

    def _make_vocabulary(self, inputs: Inputs) -> tuple[Vocabulary, Handle]:
        settings, categories = self.config.words, inputs.train.concepts
        handle = self.runner.run_one(
            vocabulary.STAGE,
            "vocabulary",
            Request(vocabulary.describe_vocabulary(settings, categories), {"vectors": digest_vectors(settings)}),
            lambda folder: vocabulary.make_vocabulary(settings, categories, folder),
        )
        return vocabulary.load_vocabulary(handle), handle

    def _pool_regions(self, model: TargetModel, inputs: Inputs, result: LayerResult) -> Handle:
        activations = result.activations["train"]
        return self.runner.run_one(
            statistics.REGIONS,
            f"regions {result.layer.name}",
            Request({}, {"activations": activations.digest, "data": inputs.digests["train"]}),
            lambda folder: statistics.pool_regions(
                ActivationStore(activations.folder), inputs.train, model.geometry, folder, self.cluster
            ),
        )

    def _compute_thresholds(self, role: str, result: LayerResult) -> Handle:
        activations, quantile = result.activations[role], self.config.statistics.quantile

        def compute(folder: Path) -> dict[str, Any]:
            found = statistics.compute_thresholds(ActivationStore(activations.folder), quantile, self.cluster)
            np.save(folder / "thresholds.npy", found.value)
            np.save(folder / "saturated.npy", found.saturated)
            np.save(folder / "histogram.npy", found.histogram)
            return {
                "num_filters": len(found.value),
                "num_saturated": int(found.saturated.sum()),
                "num_signed": found.count_signed(),
            }

        request = Request({"quantile": quantile}, {"activations": activations.digest})
        title = f"thresholds {role} {result.layer.name}"
        handle = self.runner.run_one(statistics.THRESHOLDS, title, request, compute)
        uses_attention = self.config.explain.method.startswith("filter_attention")
        if role == "target" and handle.info["num_signed"] and uses_attention:
            log.warning(
                "  layer %s has negative activations in %d of %d filters; filter attention is made for maps without "
                "(after the activation): explain.method=activation_masking is safer here",
                *(result.layer.name, handle.info["num_signed"], handle.info["num_filters"]),
            )
        return handle

    def _count_overlaps(self, model: TargetModel, inputs: Inputs, result: LayerResult) -> Handle:
        activations, thresholds = result.activations["evaluation"], result.thresholds["evaluation"]

        def compute(folder: Path) -> dict[str, Any]:
            found, skipped = statistics.count_overlaps(
                ActivationStore(activations.folder),
                inputs.evaluation,
                model.geometry,
                load_thresholds(thresholds),
                self.cluster,
            )
            statistics.save_overlaps(found, folder)
            return {"num_overlaps": len(found.image), "skipped": skipped}

        inputs_of = {
            "activations": activations.digest,
            "thresholds": thresholds.digest,
            "data": inputs.digests["evaluation"],
        }
        return self.runner.run_one(
            statistics.OVERLAPS, f"overlaps {result.layer.name}", Request({}, inputs_of), compute
        )

    def _train(
        self, inputs: Inputs, words: Vocabulary, vocabulary_handle: Handle, regions: Handle, layer: str
    ) -> Handle:
        config, concepts = self.config, inputs.train.concepts
        request = Request(
            {**config.train.model_dump(mode="json"), "seed": config.seed, **self._arithmetic()},
            {"regions": regions.digest, "vocabulary": vocabulary_handle.digest},
        )
        return self.runner.run_one(
            train.STAGE,
            f"train {layer}",
            request,
            lambda folder: train.train_explainer(
                regions, concepts, words, config.train, config.seed, self.device, folder, self.progress
            ),
        )

    def _transfer(self, role: str, explainer: Handle, result: LayerResult) -> Handle:
        method, activations = self.config.transfer.method, result.activations[role]
        if method == "none":
            return explainer
        return self.runner.run_one(
            transfer.STAGE,
            f"transfer {role} {result.layer.name}",
            Request(
                {"method": method, **self._arithmetic()},
                {"explainer": explainer.digest, "activations": activations.digest},
            ),
            lambda folder: transfer.renormalise_explainer(
                explainer, ActivationStore(activations.folder), self.device, folder, self.progress
            ),
        )

    def _explain(
        self, model: TargetModel, inputs: Inputs, words: Vocabulary, vocabulary_handle: Handle, result: LayerResult
    ) -> Handle:
        settings, layer = self.config.explain, result.layer.name
        activations, thresholds = result.activations["target"], result.thresholds["target"]
        explainer = result.done("explainer")

        def compute(folder: Path) -> dict[str, Any]:
            store = ActivationStore(activations.folder)
            network, facts = load_explainer(explainer.folder, self.device)
            forward = self._masked_forward(model, layer, inputs.target, store)
            values = load_thresholds(thresholds)
            return explain.explain_filters(
                store, values, network, facts, words, settings, layer, self.device, folder, forward, self.progress
            )

        request = Request(
            {**settings.model_dump(mode="json"), "layer": layer, **self._arithmetic()},
            {
                "activations": activations.digest,
                "thresholds": thresholds.digest,
                "explainer": explainer.digest,
                "vocabulary": vocabulary_handle.digest,
            },
        )
        return self.runner.run_one(explain.STAGE, f"explain {layer}", request, compute)

    def _evaluate(
        self,
        model: TargetModel,
        inputs: Inputs,
        words: Vocabulary,
        vocabulary_handle: Handle,
        overlaps: Handle,
        explainer: Handle,
        result: LayerResult,
    ) -> Handle:
        config, layer = self.config, result.layer.name
        activations, thresholds = result.activations["evaluation"], result.thresholds["evaluation"]
        counts = inputs.train.count_images_with()

        def compute(folder: Path) -> dict[str, Any]:
            store = ActivationStore(activations.folder)
            network, facts = load_explainer(explainer.folder, self.device)
            found = evaluate.evaluate_words(
                store,
                load_thresholds(thresholds),
                statistics.load_overlaps(overlaps.folder),
                inputs.evaluation.concepts,
                counts,
                network,
                facts,
                words,
                config.evaluate,
                config.explain.top_images,
                config.seed,
                self.device,
                self._masked_forward(model, layer, inputs.evaluation, store),
                self.progress,
            )
            evaluate.save_evaluation(found, folder)
            return {k: found[k] for k in ("num_pairs", "num_filters", "num_images", "recall")}

        request = Request(
            {
                **config.evaluate.model_dump(mode="json"),
                "top_images": config.explain.top_images,
                "seed": config.seed,
                "concept_counts": digest_of(dict(counts)),
                **self._arithmetic(),
            },
            {
                "activations": activations.digest,
                "thresholds": thresholds.digest,
                "overlaps": overlaps.digest,
                "explainer": explainer.digest,
                "vocabulary": vocabulary_handle.digest,
            },
        )
        return self.runner.run_one(evaluate.STAGE, f"evaluate {layer}", request, compute)

    def write_report(
        self, model: TargetModel, inputs: Inputs, results: list[LayerResult], comparison: Comparison | None
    ) -> Handle:
        settings = self.config.report
        parts = [
            report.LayerPart(
                layer=r.layer.name,
                shape=(r.layer.channels, r.layer.height, r.layer.width),
                explained=r.done("explained").folder,
                evaluated=r.done("evaluated").folder,
                activations=r.activations["target"].folder,
                thresholds=load_thresholds(r.thresholds["target"]),
                explainer=r.done("explainer").folder,
            )
            for r in results
        ]
        facts = {
            "Audit": self.config.name,
            "Target model": f"{model.arch}, weights {self._name_weights()} (sha256 {short(model.digest)})",
            "Reference": f"{inputs.train.name}: {len(inputs.train.records)} pictures to train, "
            f"{len(inputs.evaluation.records)} to evaluate, {len(inputs.train.concepts)} categories",
            "Target domain": f"{inputs.target.name}: {len(inputs.target.records)} pictures, no labels read",
            "Explanation": f"{self.config.explain.method.replace('_', ' ')}, "
            f"{self.config.explain.top_images} top pictures, {self.config.train.objective} objective, "
            f"transfer {self.config.transfer.method}, seed {self.config.seed}",
        }
        request = Request(
            {**settings.model_dump(mode="json"), "facts": facts, "preprocessing": model.describe_preprocessing()},
            {
                "templates": report.digest_templates(),
                "pictures": inputs.picture_digests["target"],
                **{f"explained {r.layer.name}": r.done("explained").digest for r in results},
                **{f"evaluated {r.layer.name}": r.done("evaluated").digest for r in results},
                **({"diff": comparison.digest} if comparison else {}),
            },
        )
        part = comparison.to_report_part(self.config.diff) if comparison else None
        return self.runner.run_one(
            report.STAGE,
            "report",
            request,
            lambda folder: report.write_report(
                parts, inputs.target, model.geometry, facts, settings, folder, part, self.progress
            ),
        )

    def _name_weights(self) -> str:
        """Without the folder: the same checkpoint from another place gives the same page."""
        weights = self.config.model.weights
        return self.occasion.checkpoint_name or (weights if weights.startswith("package:") else Path(weights).name)

    def _masked_forward(self, model: TargetModel, layer: str, data: Any, store: ActivationStore) -> MaskedForward:
        path_of: Callable[[str], Path] = {r.key: r.path for r in data.records}.__getitem__
        paths = [path_of(k) for k in store.keys]
        return MaskedForward(model, layer, paths, self.config.extract.batch_size, self.device)

    def _arithmetic(self) -> dict[str, str]:
        """What floating-point results depend on besides their inputs."""
        return {"device": self.device, "torch": torch.__version__}


def describe_skipped(result: LayerResult) -> dict[str, Any]:
    """Pictures that could not be read, by name, and masks that were left out, by reason; the same for every layer."""
    index = {role: h.path(INDEX_FILE).read_text("utf-8") for role, h in result.activations.items()}
    return {
        "pictures": {role: json.loads(text)["broken"] for role, text in index.items()},
        "masks": {
            "train": result.done("regions").info["skipped"],
            "evaluation": result.done("overlaps").info["skipped"],
        },
    }


def load_thresholds(handle: Handle) -> Any:
    """T_u of all filters: float32 [C]."""
    return np.load(handle.path("thresholds.npy"), allow_pickle=False)


def _environment_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    git = environment["git"]
    tags = {"lavise.device": str(environment["device"]), "lavise.version": str(environment["packages"]["lavise"])}
    if git:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["lavise.git_dirty"] = str(git["dirty"]).lower()
    return tags
