"""Who names regions best: objectives and kinds of explainers, on regions of pictures that were not trained on.

    python -m benchmarks.explainers --root FOLDER [--seeds 5] [--vocabulary visual]

For each seed, from 0 on, twice: with all categories, and with 15 of them held out of training (each seed other ones).
R@5 is the share of evaluation regions whose category is among the five words named for them, out of the whole
vocabulary. Values are means over seeds with a 95 % t interval over seeds: it covers initialisation, the split for early
stopping and the categories drawn, not the choice of evaluation pictures, which are the same for all seeds.

Variants: learned (hinge as published, cosine, softmax; softmax with semantic soft targets; softmax ranked by CSLS, that
takes hubs down), head (ConSE), fused; and the most frequent categories.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch.nn import functional

from benchmarks.common import save_result
from lavise.configs.loading import load_config
from lavise.configs.registry import OBJECTIVES
from lavise.configs.roles import Role
from lavise.configs.schema import CocoReference, ExplainerSettings, TrainSettings
from lavise.flows.shared.extraction import extract_layers
from lavise.storage.activations import ActivationStore
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.readers.coco import load_coco_reference
from lavise.storage.models.class_names import load_class_names
from lavise.storage.models.classifier_head import find_linear_head
from lavise.storage.models.layer_survey import select_layers
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state import file_names
from lavise.storage.state.artefacts import ArtefactStore, Handle
from lavise.storage.words.visual_words import find_visual_words
from lavise.storage.words.word_vectors import WordVectors, build_vocabulary, digest_vectors, load_word_vectors
from lavise.tasks.activations.extract import ExtractionInputs
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage import StageRunner
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.explainer import naming, training
from lavise.tasks.explainer.class_head import measure_scale
from lavise.tasks.explainer.naming import AssemblyInputs, assemble_explainer, load_namer
from lavise.tasks.explainer.training import Objective, TrainingInputs, train_explainer
from lavise.tasks.masks.mask_inputs import MaskInputs
from lavise.tasks.masks.region_pooling import REGIONS, make_regions

AT = (1, 5, 10, 20)
NUM_HELD_OUT = 15
SOFT_TEMPERATURE = 0.05
SOFT_SHARE = 0.2
HUB_NEIGHBOURS = 10
FIRST_SEED = 0


@OBJECTIVES.register("soft_targets")
def find_soft_losses(objective: Objective, output_RE: torch.Tensor, word_R: torch.Tensor) -> torch.Tensor:
    """Softmax whose target gives a share of its mass to words that are close to the category's."""
    vocabulary_VE = objective.vocabulary_VE
    logits = (output_RE / objective.settings.temperature) @ vocabulary_VE.T
    close = functional.softmax(vocabulary_VE[word_R] @ vocabulary_VE.T / SOFT_TEMPERATURE, dim=1)
    soft = -(close * functional.log_softmax(logits, dim=1)).sum(dim=1)
    hard = functional.cross_entropy(logits, word_R, reduction="none")
    return (1 - SOFT_SHARE) * hard + SOFT_SHARE * soft


def correct_hubs(vectors_RE: torch.Tensor, words_VE: torch.Tensor, queries_QE: torch.Tensor) -> torch.Tensor:
    """CSLS scores [R, V] (Conneau et al., ICLR 2018): twice the cosine, less the mean cosine of the word with its
    nearest queries; the region's own mean is the same for all words and left out."""
    near = torch.topk(queries_QE @ words_VE.T, min(HUB_NEIGHBOURS, len(queries_QE)), dim=0).values.mean(dim=0)
    return 2 * vectors_RE @ words_VE.T - near


class Bench:
    """Everything that does not depend on the seed."""

    def __init__(self, root: Path, folder: Path, vocabulary: str) -> None:
        self.config = load_config("coco-mini", [f"reference.root={root}", f"words.vocabulary={vocabulary}"])
        assert isinstance(self.config.reference, CocoReference)
        reference = load_coco_reference(self.config.reference)
        self.concepts = reference.train.concepts
        self.counts = reference.train.count_images_with()
        model = load_target_model(self.config.model, self.config.seed)
        size = model.geometry.size_px
        layer = select_layers(model.survey, "auto")[0].name
        vectors = load_word_vectors(self.config.words)
        self.vectors: Given[Callable[[], WordVectors]] = Given(lambda: vectors, digest_vectors(self.config.words))
        size_words = self.config.words.vocabulary_size
        listed = find_visual_words(vectors)[:size_words] if vocabulary == "visual" else None
        self.vocabulary = build_vocabulary(vectors, size_words, self.concepts, listed)
        # This bench's artefacts are thrown away: its words need no digest of their own.
        self.words = Given(self.vocabulary, vocabulary)
        self.head, self.no_head = find_linear_head(model.network, model.find_layer(layer), size)
        self.classes = load_class_names(self.config.model, len(self.head.bias)) if self.head else None
        self.runner = StageRunner(ArtefactStore(folder))
        with StatisticsCluster(self.config.statistics) as cluster:

            def pool(name: str, data: Dataset) -> tuple[Handle, ActivationStore]:
                pictures = Given(data, data.digest_images())
                extraction = ExtractionInputs(model, (layer,), pictures, self.config.extract, "cpu")
                (activations,) = extract_layers(self.runner, f"extract {name}", extraction, role=Role.TRAIN)
                inputs = MaskInputs(activations, Given(data, data.compute_digest()), model.geometry, cluster)
                return self.runner.run_one(REGIONS, name, inputs, make_regions), ActivationStore(activations.folder)

            self.regions, store = pool("train", reference.train)
            judged, _ = pool("evaluation", reference.evaluation)
        self.scale = measure_scale([store.read_means()])
        self.features = torch.from_numpy(np.load(judged.path(file_names.REGION_FEATURES)))
        self.concept = np.load(judged.path(file_names.REGION_CONCEPTS))
        self.row = np.array(self.vocabulary.positions_of(self.concepts))

    def train(self, settings: TrainSettings, seed: int) -> Handle:
        inputs = TrainingInputs(self.regions, self.concepts, self.words, settings, Computing(seed))
        return self.runner.run_one(training.STAGE, f"{settings.objective} {seed}", inputs, train_explainer)

    def assemble(self, trained: Handle, kind: str) -> Handle:
        inputs = AssemblyInputs(
            trained=trained,
            settings=ExplainerSettings.model_validate({"kind": kind}),
            head=self.head,
            no_head=self.no_head,
            classes=self.classes,
            scale=self.scale,
            vectors=self.vectors,
            vocabulary=self.words,
        )
        return self.runner.run_one(naming.STAGE, kind, inputs, assemble_explainer)

    def measure(self, trained: Handle, kind: str, csls: bool = False) -> dict[str, dict[str, float]]:
        """R@k by group of categories."""
        namer = load_namer(self.assemble(trained, kind).folder, self.vocabulary, "cpu")
        if csls:
            with torch.inference_mode():
                vectors = namer.score(self.features)[1]
                words = torch.topk(correct_hubs(vectors, namer.matrix_VE, vectors), max(AT), dim=1).indices.numpy()
        else:
            words = namer.name(self.features, max(AT)).words.numpy()
        return self.count(words, namer.facts.supervised)

    def count(self, words_Rs: Any, supervised: tuple[str, ...]) -> dict[str, dict[str, float]]:
        hit = words_Rs == self.row[self.concept][:, None]
        known = np.isin(self.concept, [self.concepts.index(c) for c in supervised])
        groups = {"trained": known, "held_out": ~known}
        return {
            name: {str(k): float(hit[own, :k].any(axis=1).mean()) for k in AT}
            for name, own in groups.items()
            if own.any()
        }

    def run(self, seed: int, share: float, with_soft_targets: bool) -> dict[str, dict[str, dict[str, float]]]:
        found: dict[str, dict[str, dict[str, float]]] = {}
        base = self.config.train.model_copy(update={"supervised_share": share})
        for objective in ("hinge", "cosine", "softmax"):
            trained = self.train(base.model_copy(update={"objective": objective}), seed)
            found[f"learned, {objective}"] = self.measure(trained, "learned")
        found["learned, softmax, CSLS"] = self.measure(trained, "learned", csls=True)
        found["head (ConSE)"] = self.measure(trained, "head")
        found["fused"] = self.measure(trained, "fused")
        supervised = load_namer(trained.folder, self.vocabulary, "cpu").facts.supervised
        frequent = sorted(supervised, key=lambda c: (-self.counts[c], c))[: max(AT)]
        rows = np.tile(self.vocabulary.positions_of(frequent), (len(self.concept), 1))
        found["most frequent categories"] = self.count(rows, supervised)
        if with_soft_targets:
            soft = self.train(base.model_copy(update={"objective": "soft_targets"}), seed)
            found["learned, softmax, soft targets"] = self.measure(soft, "learned")
        return found


def summarise(values: list[float]) -> dict[str, float | None]:
    """Mean, and the ends of its 95 % t interval; None where there is one seed only."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"value": mean, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return {"value": mean, "low": mean - half, "high": mean + half}


def to_markdown(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    columns = list(next(iter(table.values())))
    lines = ["| explainer | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, cells in table.items():
        shown = [_show(c) for c in cells.values()]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _show(cell: Mapping[str, Any]) -> str:
    interval = "(one seed)" if cell["low"] is None else f"[{cell['low']:.3f}, {cell['high']:.3f}]"
    return f"{cell['value']:.3f} {interval}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="COCO folder: train2017, val2017, annotations")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--soft-seeds", type=int, default=5, help="seeds that soft targets are tried with; they are slow"
    )
    parser.add_argument("--vocabulary", choices=("frequent", "visual"), default="frequent")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.root, Path(folder), arguments.vocabulary)
        num = len(bench.concepts)
        runs = []
        for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
            soft = seed - FIRST_SEED < arguments.soft_seeds
            shares = {"all": 1.0, "held": (num - NUM_HELD_OUT) / num}
            runs.append({name: bench.run(seed, share, soft) for name, share in shares.items()})
            print("seed", seed, {k: v["held_out"]["5"] for k, v in runs[-1]["held"].items()}, flush=True)

    def collect(name: str, part: str, group: str, at: str) -> dict[str, float | None]:
        return summarise([r[part][name][group][at] for r in runs if name in r[part]])

    table = {
        name: {
            f"R@5, all {num} trained": collect(name, "all", "trained", "5"),
            f"R@5, {num - NUM_HELD_OUT} trained": collect(name, "held", "trained", "5"),
            f"R@5, {NUM_HELD_OUT} held out": collect(name, "held", "held_out", "5"),
            f"R@20, {NUM_HELD_OUT} held out": collect(name, "held", "held_out", "20"),
        }
        for name in runs[0]["all"]
    }
    name = "explainers" if arguments.vocabulary == "frequent" else f"explainers-{arguments.vocabulary}"
    save_result(name, {"num_words": len(bench.vocabulary.words), "table": table, "runs": runs})
    print(to_markdown(table))


if __name__ == "__main__":
    main()
