"""The audit: which stage reads what. Orchestration, tracking and progress are passed in."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import pyarrow.parquet as parquet

from lavise.configs.errors import UserError
from lavise.configs.loading import describe_identity, make_absolute
from lavise.configs.policy import Policy
from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.audit.layer_analyses import check_analyses, run_analyses
from lavise.flows.audit.layer_context import Context, LayerResult, Subject
from lavise.flows.audit.layer_stages import LayerAudit, check_transfer
from lavise.flows.audit.results import EndedAudit, Occasion
from lavise.flows.audit.run_folder import write_run_folder
from lavise.flows.past_audits.compare import Comparison, TargetImages, compare_audits
from lavise.flows.past_audits.gate import GATE_TAG, record_verdict
from lavise.flows.shared.extraction import extract_layers, open_workers
from lavise.flows.shared.inputs import Inputs, check_bands, describe_sources, open_inputs, take_images
from lavise.flows.shared.results import RunResult
from lavise.flows.shared.room import (
    check_room,
    choose_some,
    describe_lack,
    look_into,
    measure_network,
    measure_part,
    reckon_room,
)
from lavise.storage.activations import INDEX_FILE, find_filter
from lavise.storage.images.images import num_decoded
from lavise.storage.models.layers import Layer
from lavise.storage.models.target_model import TargetModel, load_target_model
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.state.digest import digest_of, short
from lavise.storage.state.environment import choose_device, describe_environment, find_state_root
from lavise.storage.state.housekeeping import hold_state
from lavise.storage.state.memory import freed_memory_kept
from lavise.storage.state.progress import Progress
from lavise.storage.state.text import one_line
from lavise.storage.tracking import Run, Tracker
from lavise.storage.tracking_addresses import without_credentials
from lavise.storage.words.word_vectors import Vocabulary, digest_vectors, load_word_vectors
from lavise.tasks.activations.extract import ExtractionInputs, find_compression
from lavise.tasks.activations.extraction_probe import measure_stored_shares
from lavise.tasks.activations.forward import check_precision
from lavise.tasks.analyses.analysis import list_analyses
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import Executor, StageRunner, end_after, flatten, run_inline
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.evaluation import layer_panel, recall
from lavise.tasks.explainer import validation
from lavise.tasks.history.filter_matching import AuditedLayer
from lavise.tasks.inputs import vocabulary
from lavise.tasks.inputs.word_notes import SkippedWords, describe_skipped_words, list_word_notes
from lavise.tasks.masks.overlaps import OVERLAPS
from lavise.tasks.report import page
from lavise.tasks.report.report_inputs import ReportedLayer, ReportInputs, ShownImages
from lavise.tasks.report.summary import describe_audit
from lavise.tasks.words import explain

log = logging.getLogger("lavise")


def run_audit(
    config: Config,
    tracker: Tracker,
    progress: Progress,
    execute: Executor = run_inline,
    occasion: Occasion | None = None,
) -> RunResult:
    """Explain every filter of the target layers.

    Raises:
        UserError: a mistake in settings or inputs. Where it is found before the first long stage, no run is left;
            later the run is marked FAILED. What was finished is kept.
    """
    occasion = occasion or Occasion()
    config = without_credentials(make_absolute(config))  # from here on it is written down
    root = find_state_root(config.storage.root)
    device = choose_device(config.device)
    check_precision(config.extract.precision, device)
    store = ArtefactStore(occasion.artefacts or root)
    tags = {"lavise.config": config.name, "lavise.config_digest": digest_identity(config), **occasion.tags}
    name = f"{config.name} {occasion.checkpoint_name}" if occasion.checkpoint_name else config.name
    with freed_memory_kept(), hold_state(root, exclusive=False):
        checked = _check_settings(config)
        run = tracker.start(occasion.run_name or name, tags)
        runner = StageRunner(store, tracker, run, progress, execute)
        audit: _Audit | None = None
        try:
            watch = run.watch_system() if config.tracking.system_metrics else nullcontext()
            with (
                watch,
                StatisticsCluster(config.statistics, progress) as cluster,
                open_workers(config, cluster, progress) as workers,
            ):
                audit = _Audit(config, device, runner, cluster, workers, progress, occasion, checked)
                ended = audit.run()
            result = write_run_folder(ended, root, run, tracker)
            if occasion.policy:
                is_missing = occasion.comparison_expected and ended.comparison is None
                result = replace(result, gate=_apply_policy(occasion.policy, result, run, name, is_missing))
            run.end()
        except UserError as err:
            if audit is None or not audit.is_begun:
                _discard(tracker, run, err)
            else:
                end_after(run, err)
            raise
        except BaseException as err:
            end_after(run, err)
            raise
    return result


def _discard(tracker: Tracker, run: Run, error: UserError) -> None:
    """Nothing was begun, so that no run says that it failed."""
    try:
        end_after(run, error)
        tracker.discard(run.run_id)
    except Exception as lost:  # noqa: BLE001 - whatever the tracker raises, the first error is the one to show
        log.warning("  the run could not be deleted: %s", one_line(lost)[:200])


def _apply_policy(policy: Policy, result: RunResult, run: Run, name: str, is_missing: bool) -> str:
    """The outcome: `passed`, `failed`, or `invalid` where the policy cannot be applied; the audit itself stays whole.

    Args:
        is_missing: the comparison with the predecessor could not be made, so that rules on it were not looked at.
    """
    try:
        folder, compared_with = result.run_dir, result.predecessor
        return record_verdict(policy, folder, result.run_id, name, compared_with, run, is_missing=is_missing).outcome
    except UserError as err:
        log.error("the policy %s cannot be applied: %s", policy.name, err)
        run.set_tags({GATE_TAG: "invalid"})
        return "invalid"


def digest_identity(config: Config) -> str:
    """Of the settings that make two audits comparable, whatever their checkpoints are."""
    return digest_of(describe_identity(make_absolute(config)))


class _Checked(NamedTuple):
    """What was found while the settings were checked: the network, its layers, and the digest of the word vectors."""

    model: TargetModel
    layers: list[Layer]
    vectors: str


def _check_settings(config: Config) -> _Checked:
    """What can be wrong without a look at the pictures; nothing is tracked yet.

    Raises:
        UserError: a mistake in the settings, the checkpoint or the word vectors.
    """
    vectors = digest_vectors(config.words)
    check_analyses(config)
    check_transfer(config)
    find_filter(config.extract.compression)
    model = load_target_model(config.model, config.seed)
    check_bands(config, model.channels)
    return _Checked(model, model.select_layers(config.model.layers), vectors)


@dataclass
class _Audit:
    """The stages of one audit, in the order of the data.

    Attributes:
        workers: who extracts; None: this process.
        is_begun: the inputs are what they should be, and the long stages have begun.
    """

    config: Config
    device: str
    runner: StageRunner
    cluster: StatisticsCluster
    workers: StatisticsCluster | None
    progress: Progress
    occasion: Occasion
    checked: _Checked
    is_begun: bool = False

    def run(self) -> EndedAudit:
        config, run, runner, decoded_before = self.config, self.runner.parent, self.runner, num_decoded()
        run.log_params({k: v for k, v in flatten(config.model_dump(mode="json")).items() if v is not None})
        environment = describe_environment(self.device)
        run.set_tags(_environment_tags(environment))
        model, layers, vectors = self.checked
        run.set_tags({"lavise.checkpoint": model.digest, "lavise.arch": model.arch})
        inputs = open_inputs(config, runner, self.progress)
        check_analyses(config, inputs)
        subjects = self._list_subjects(model, inputs)
        self._check_room(subjects, layers)
        self.is_begun = True
        notes = inputs.collect_notes()
        for facts in inputs.describe(describe_sources(config, runner)):
            run.log_dataset(facts)
        results = self.explain_layers(subjects, layers, vectors)
        comparison = self._compare(model, inputs, results)
        words = runner.find(vocabulary.STAGE).handles[0]
        known = vocabulary.load_vocabulary(words)
        page = self.write_report(model, inputs, results, comparison, known)
        return EndedAudit(
            config=config,
            occasion=self.occasion,
            outcomes=runner.outcomes,
            vocabulary=words,
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
                "pictures": inputs.image_digests,
                "vectors": vectors,
            },
            skipped={**describe_skipped(results[0], inputs, known), **({"notes": notes} if notes else {})},
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
                activations=r.activations[Role.TARGET],
                filters=parquet.read_table(r.of(explain.STAGE).path(file_names.FILTERS)).to_pylist(),
            )
            for r in results
        ]
        pictures = TargetImages(inputs.image_digests[Role.TARGET], lambda: inputs.target)
        runner, cluster = self.runner, self.cluster
        try:
            return compare_audits(old, new, pictures, self.config, runner, cluster, self.device, self.progress)
        except Exception as err:  # noqa: BLE001 - the audit is worth having without, whatever is wrong with the old one
            log.warning("  not compared with run %s: %s", old.run_id, err)
            runner.parent.set_tags({"lavise.diff_error": str(err)})
            return None

    def explain_layers(self, subjects: list[Subject], layers: list[Layer], vectors: str) -> list[LayerResult]:
        subject, baselines = subjects[0], {}
        words, config = self._make_vocabulary(subject.inputs, vectors), self.config
        context = Context(config, self.device, self.runner, self.cluster, self.progress, words, vectors)
        while len(subjects) > 1:  # a network that was looked at is not kept
            baselines["random_network"] = self._audit_random_network(context, subjects.pop(), layers)
        results = []
        for position, result in enumerate(self._extract(subject, layers)):
            audit = LayerAudit(context, subject, result)
            audit.measure()
            audit.explain()
            audit.evaluate()
            compared = {name: found[position] for name, found in baselines.items()}
            if "shuffled_labels" in config.evaluate.baselines:
                compared["shuffled_labels"] = audit.with_labels_shuffled()
            audit.measure_panel(compared)
            run_analyses(context, subject, result)
            results.append(result)
        return results

    def _extract(self, subject: Subject, layers: Sequence[Layer]) -> list[LayerResult]:
        stores = {}
        for role in Role:
            inputs, title = self._declare_extraction(subject, layers, role), subject.name(f"extract {role}")
            stores[role] = extract_layers(
                *(self.runner, title, inputs), role=role, subject=subject.title, workers=self.workers
            )
        return [
            LayerResult(layer, {role: handles[position] for role, handles in stores.items()})
            for position, layer in enumerate(layers)
        ]

    def _declare_extraction(self, subject: Subject, layers: Sequence[Layer], role: Role) -> ExtractionInputs:
        return ExtractionInputs(
            model=subject.model,
            layers=tuple(layer.name for layer in layers),
            pictures=subject.inputs.pictures(role),
            settings=self.config.extract,
            device=self.device,
            progress=self.progress,
        )

    def _check_room(self, subjects: Sequence[Subject], layers: Sequence[Layer]) -> None:
        """That the disk has room for all that is to be written.

        Raises:
            NoRoomError: it has not.
        """
        store = self.runner.store
        declared = {(s.title, role): self._declare_extraction(s, layers, role) for s in subjects for role in Role}
        parts = {s.title: {role: measure_part(s.inputs.of(role)) for role in Role} for s in subjects}
        model, compression = subjects[0].model, find_compression(self.config.extract, self.device)
        room = reckon_room(self.config, layers, parts, measure_network(model), look_into(store, declared))
        if compression != "none" and describe_lack(room, store.root):
            some = choose_some([record for role in Role for record in subjects[0].inputs.of(role).records])
            room = room.with_shares(measure_stored_shares(some, model, layers, self.device, compression))
        check_room(room, store.root)

    def _list_subjects(self, model: TargetModel, inputs: Inputs) -> list[Subject]:
        """The audit itself, and where it is asked for, the same architecture with random weights, which is shown at
        most so many pictures of each part."""
        subject = Subject(model, inputs)
        if "random_network" not in self.config.evaluate.baselines:
            return [subject]
        settings = self.config.model.model_copy(update={"weights": "random"})
        network = load_target_model(settings, self.config.seed)
        # Where the audited network is itself random, its twin must be another one.
        if network.digest == model.digest:
            network = load_target_model(settings, self.config.seed + 1)
        shown = take_images(inputs, self.config.evaluate.baseline_images, self.progress)
        return [subject, Subject(network, shown, "random network")]

    def _audit_random_network(self, context: Context, subject: Subject, layers: Sequence[Layer]) -> list[LayerResult]:
        results = self._extract(subject, layers)
        for result in results:
            audit = LayerAudit(context, subject, result)
            audit.measure()
            audit.explain()
        return results

    def _make_vocabulary(self, inputs: Inputs, vectors: str) -> Given[Vocabulary]:
        words = self.config.words
        read = vocabulary.VocabularyInputs(
            words, inputs.train.concepts, Given(lambda: load_word_vectors(words), vectors)
        )
        handle = self.runner.run_one(vocabulary.STAGE, "vocabulary", read, vocabulary.make_vocabulary)
        made = vocabulary.load_vocabulary(handle)
        for label, text in list_word_notes(made, by_order=words.vocabulary_file is None).items():
            log.warning("  %s: %s", label.lower(), text)
        return Given(made, handle.digest)

    def write_report(
        self,
        model: TargetModel,
        inputs: Inputs,
        results: list[LayerResult],
        comparison: Comparison | None,
        words: Vocabulary,
    ) -> Handle:
        shown = {
            a.name: ShownImages(role, inputs.pictures(role))
            for a in list_analyses()
            if a.is_wanted(self.config) and (role := a.shows_images(self.config)) is not None
        }
        weights = f"weights {self._name_weights()} (sha256 {short(model.digest)})"
        read = ReportInputs(
            settings=self.config.report,
            facts={
                **describe_audit(
                    self.config, f"{model.arch}, {weights}", inputs.train, inputs.evaluation, inputs.target
                ),
                **list_word_notes(words, by_order=self.config.words.vocabulary_file is None),
            },
            preprocessing=model.describe_preprocessing(),
            geometry=model.geometry,
            pictures=inputs.pictures(Role.TARGET),
            shown=shown,
            layers=[_report_layer(result) for result in results],
            diff=Given(comparison.to_report_part(self.config.diff), comparison.digest) if comparison else None,
            progress=self.progress,
        )
        return self.runner.run_one(page.STAGE, "report", read, page.make_report)

    def _name_weights(self) -> str:
        """Without the folder: the same checkpoint from another place gives the same page."""
        weights = self.config.model.weights
        return self.occasion.checkpoint_name or (weights if weights.startswith("package:") else Path(weights).name)


def _report_layer(result: LayerResult) -> ReportedLayer:
    layer = result.layer
    return ReportedLayer(
        layer=layer.name,
        shape=(layer.channels, layer.height, layer.width),
        explained=result.of(explain.STAGE),
        evaluated=result.of(recall.STAGE),
        panel=result.of(layer_panel.STAGE),
        validated=result.of(validation.STAGE),
        activations=result.activations[Role.TARGET],
        thresholds=result.thresholds[Role.TARGET],
        explainer=result.final_explainer,
        analyses=result.find_analyses(),
    )


class SkippedMasks(TypedDict):
    """Masks that were left out, by reason."""

    train: dict[str, int]
    evaluation: dict[str, int]


class Skipped(SkippedWords):
    """Pictures that could not be read, by part and name, with the reason; masks; files that were left out while the
    data were read, by data set and reason; pictures that are nearly of one shade, which were not left out; categories
    and rows of vectors."""

    pictures: dict[Role, dict[str, str]]
    masks: SkippedMasks
    files: dict[str, dict[str, int]]
    nearly_of_one_shade: dict[Role, list[str]]


def describe_skipped(result: LayerResult, inputs: Inputs, words: Vocabulary) -> Skipped:
    """See `Skipped`; the same for every layer."""
    index = {role: json.loads(h.path(INDEX_FILE).read_text("utf-8")) for role, h in result.activations.items()}
    return {
        "pictures": {role: own["broken"] for role, own in index.items()},
        "masks": {
            "train": result.regions[Role.TRAIN].info["skipped"],
            "evaluation": result.of(OVERLAPS).info["skipped"],
        },
        "files": {"reference": dict(inputs.train.left_out), "target": dict(inputs.target.left_out)},
        "nearly_of_one_shade": {role: own.get("flat", []) for role, own in index.items()},
        **describe_skipped_words(words),
    }


def _environment_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    git = environment["git"]
    tags = {"lavise.device": str(environment["device"]), "lavise.version": str(environment["packages"]["lavise"])}
    if git:
        tags["mlflow.source.git.commit"] = git["commit"]
        tags["lavise.git_dirty"] = str(git["dirty"]).lower()
    return tags
