"""Planted filters at full scale: are channels that are known by construction named as what they are?

    python -m benchmarks.planted [--root FOLDER] [--set section.key=value ...]

Without a folder: scenes as in the demo, more of them. With one: a COCO folder (train2017, val2017, annotations), whose
evaluation part is the target as well. The labels of the target are read for planting only. The explainer is taught on
the original channels; thresholds, top pictures, words, evidence, detection and the panel are made with the planted
channels among the others.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch

from benchmarks import planted_filters
from benchmarks.common import save_result
from benchmarks.planted_filters import JudgedGroup, PlanSizes, PlantedFilter
from lavise.configs.drawn_pictures import Drawn
from lavise.configs.loading import load_config
from lavise.configs.registry import RANKINGS
from lavise.configs.roles import Role
from lavise.configs.schema import Config
from lavise.flows.audit.layer_context import Context, LayerResult, Subject, find_thresholds
from lavise.flows.audit.layer_stages import LayerAudit
from lavise.flows.shared.extraction import extract_layers
from lavise.flows.shared.inputs import open_inputs, open_labelled_target
from lavise.storage.datasets.base import Dataset
from lavise.storage.models.layer_survey import select_layers
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.state.environment import choose_device
from lavise.storage.state.progress import Progress, no_progress
from lavise.storage.words.word_vectors import digest_vectors, load_word_vectors
from lavise.tasks.activations.extract import ExtractionInputs
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import StageRunner
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.evaluation import layer_panel
from lavise.tasks.explainer.naming import load_namer
from lavise.tasks.inputs import vocabulary
from lavise.tasks.masks.detection import DETECTION, load_detection
from lavise.tasks.words import explain

SCENES = (
    "reference.evaluation_scenes=400",
    "target.scenes=1200",
    "explain.top_images=25",
)
GOAL = 0.95
MIN_IMAGES = 8


@dataclass(frozen=True)
class PlantedResult:
    """An audit with planted filters.

    Attributes:
        filters: rows of filters.parquet: those of the layer's own filters, then those of the planted ones.
        detected: of planted filters with a concept, the share that detects it on the evaluation part, by sort.
        known: of each category, the share of its regions on the evaluation part that the explainer gives its name
            among the words of a picture, with the mask itself as attention: what cannot be named there cannot be
            named for a planted filter.
    """

    plan: tuple[PlantedFilter, ...]
    filters: Sequence[Mapping[str, Any]]
    groups: tuple[JudgedGroup, ...]
    detected: Mapping[str, float]
    known: Mapping[str, float]
    result: LayerResult

    @property
    def planted_rows(self) -> Sequence[Mapping[str, Any]]:
        """Rows of the planted filters, in the plan's order."""
        return self.filters[len(self.filters) - len(self.plan) :]

    def group(self, name: str) -> JudgedGroup:
        return next(g for g in self.groups if g.name == name)


class PlantedAudit(LayerAudit):
    """An audit of a layer whose explainer never sees the planted filters."""

    def teach(self) -> None:
        """The explainer, on the stores as they are."""
        for role in (Role.TRAIN, Role.EVALUATION):
            self.result.regions[role] = self._pool_regions(role)
        explainer = self._assemble(self._train())
        self.result.explainer = self._transfer(Role.TARGET, explainer)
        self._tuned = self._transfer(Role.EVALUATION, explainer)
        self.result.keep(self._validate(self._tuned))

    def name_masks(self) -> dict[str, float]:
        """Of each category, the share of the evaluation part's regions whose words have its name."""
        context, regions = self._context, self.result.regions[Role.EVALUATION]
        vocabulary = context.vocabulary.value
        concepts = self._subject.inputs.evaluation.concepts
        namer = load_namer(self.result.final_explainer.folder, vocabulary, context.device)
        features = torch.from_numpy(np.load(regions.path(file_names.REGION_FEATURES), allow_pickle=False)).to(
            context.device
        )
        number_R = np.load(regions.path(file_names.REGION_CONCEPTS), allow_pickle=False)
        named = namer.name(features, self._config.explain.words_per_image).words.cpu().numpy()
        hits: dict[str, list[bool]] = {}
        for words, number in zip(named, number_R, strict=True):
            place = planted_filters.find_named([vocabulary.words[w] for w in words], [concepts[number]])[0]
            hits.setdefault(concepts[number], []).append(place >= 0)
        return {concept: sum(found) / len(found) for concept, found in sorted(hits.items())}

    def audit_planted(self, stores: Mapping[Role, Handle]) -> None:
        """Everything from the statistics on, with the planted filters among the others."""
        self.result.activations |= stores
        for role in stores:
            self.result.thresholds.pop(role, None)
            find_thresholds(self._context, self._subject, self.result, role)
        self._measure_masks()
        if RANKINGS.get(self._config.explain.ranking).needs_precision:
            self.result.keep(self._measure_naming(self._tuned))
        self.result.keep(self._explain())
        self.measure_panel({})


def run_planted(
    config: Config, root: Path, sizes: PlanSizes | None = None, progress: Progress = no_progress
) -> PlantedResult:
    """Audit the first layer of `config` with planted filters; the state is kept in `root`.

    Args:
        sizes: of the plan.
    """
    runner, device = StageRunner(ArtefactStore(root)), choose_device(config.device)
    model = load_target_model(config.model, config.seed)
    layer = select_layers(model.survey, config.model.layers)[0]
    inputs = open_inputs(config, runner, progress)
    labelled = {
        Role.EVALUATION: inputs.evaluation,
        Role.TARGET: _open_labelled_target(config, runner, inputs.evaluation),
    }
    plan = planted_filters.plan_filters(
        labelled[Role.TARGET], max(MIN_IMAGES, config.explain.min_images), config.seed, sizes
    )
    activations = {
        role: extract_layers(
            runner,
            f"extract {role}",
            ExtractionInputs(model, (layer.name,), inputs.pictures(role), config.extract, device, progress),
            role=role,
        )[0]
        for role in Role
    }
    categories, vectors = inputs.train.concepts, digest_vectors(config.words)
    given = Given(lambda: load_word_vectors(config.words), vectors)
    read = vocabulary.VocabularyInputs(config.words, categories, given)
    made = runner.run_one(vocabulary.STAGE, "vocabulary", read, vocabulary.make_vocabulary)
    words = Given(vocabulary.load_vocabulary(made), made.digest)
    with StatisticsCluster(config.statistics, progress) as cluster:
        context = Context(config, device, runner, cluster, progress, words, vectors)
        audit = PlantedAudit(context, Subject(model, inputs), LayerResult(layer, dict(activations)))
        audit.teach()
        known = audit.name_masks()
        stores = {}
        for number, (role, data) in enumerate(labelled.items()):
            planting = planted_filters.PlantingInputs(
                activations=activations[role],
                data=Given(data, data.compute_digest()),
                geometry=model.geometry,
                plan=plan,
                seed=config.seed + number,
            )
            stores[role] = runner.run_one(
                planted_filters.STAGE, f"plant {role}", planting, planted_filters.make_planted
            )
        audit.audit_planted(stores)
    filters = parquet.read_table(audit.result.of(explain.STAGE).path(file_names.FILTERS)).to_pylist()
    right_QK = load_detection(audit.result.of(DETECTION).folder).right[len(filters) - len(plan) :]
    groups = planted_filters.judge_planted(filters[len(filters) - len(plan) :], plan)
    detected = planted_filters.judge_detection(right_QK, plan, inputs.evaluation.concepts)
    return PlantedResult(plan, filters, groups, detected, known, audit.result)


def _open_labelled_target(config: Config, runner: StageRunner, evaluation: Dataset) -> Dataset:
    """The target's pictures with their masks, for planting alone."""
    return open_labelled_target(config, runner, no_progress) if isinstance(config.target, Drawn) else evaluation


def describe(found: PlantedResult) -> dict[str, Any]:
    """The table, the goals, and every planted filter that was not named as what it is."""
    own = found.filters[: len(found.filters) - len(found.plan)]
    named, silent = found.group("concept, noise 0").named_at, found.group("noise").unexplained
    return {
        "num_own": len(own),
        "own_explained": sum(bool(f["explained"]) for f in own) / len(own),
        "num_planted": len(found.plan),
        "groups": [asdict(g) for g in found.groups],
        "detected": dict(found.detected),
        "panel": found.result.of(layer_panel.STAGE).info,
        "goals": {
            "clean concepts named": {"share": named, "goal": GOAL},
            "noise unexplained": {"share": silent, "goal": GOAL},
        },
        "missed": [
            {
                **asdict(p),
                "known": [found.known.get(c) for c in p.concepts],
                "words": f["words"][:5],
                "reason": f["reason"],
                "meanings": len(f["meanings"]),
            }
            for p, f in zip(found.plan, found.planted_rows, strict=True)
            if _is_missed(p, f)
        ],
    }


def _is_missed(plan: PlantedFilter, row: Mapping[str, Any]) -> bool:
    if not plan.concepts:
        return bool(row["explained"])
    return plan.noise == 0 and min(planted_filters.find_named(row["words"], plan.concepts)) < 0


def print_table(found: PlantedResult) -> None:
    """One line for each sort of planted filter."""
    print(f"{'planted':24}{'num':>5}{'first':>8}{'in 5':>8}{'both in 5':>11}{'unexpl.':>9}{'split':>8}{'rightly':>9}")
    for g in found.groups:
        numbers = (g.named_at[1], g.named_at[5], g.both_named_at[5], g.unexplained, g.several_meanings)
        one, five, both, silent, split = (f"{value:.1%}" for value in numbers)
        rightly = "" if g.split_rightly is None else f"{g.split_rightly:.1%}"
        print(f"{g.name:24}{g.num:5}{one:>8}{five:>8}{both:>11}{silent:>9}{split:>8}{rightly:>9}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="COCO folder: train2017, val2017, annotations")
    parser.add_argument("--state", type=Path, help="folder to keep the artefacts in; a temporary one unless given")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    quiet = ("evaluate.baselines=[random_words, most_frequent_words]", "evaluate.bootstrap_samples=200")
    if arguments.root:
        target = arguments.root / "val2017"
        name, own = "coco-mini", [f"reference.root={arguments.root}", f"target.root={target}"]
    else:
        name, own = "demo", list(SCENES)
    config = load_config(name, [*own, *quiet, *arguments.overrides])
    with tempfile.TemporaryDirectory() as temporary:
        found = run_planted(config, arguments.state or Path(temporary))
        print_table(found)
        save_result("planted", {"config": config.model_dump(mode="json"), **describe(found)})


if __name__ == "__main__":
    main()
