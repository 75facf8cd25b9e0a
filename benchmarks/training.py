"""Training of the explainer at scale: the rule that was there first against today's, and what a wide softmax costs.

    python -m benchmarks.training [--share 0.02] [--epochs 2] [--device cuda --share 1 --epochs 30]

Regions are planted: a category's features are a linear map of its word vector, plus noise. At share 1 there are 117,000
pictures, about 860,000 regions of 512 features, of 80 categories; the vocabulary has 65,000 words of 300 numbers, or so
many as `--words` says. R@5 is over regions of 2,000 further pictures, with the bootstrap over pictures.

The first rule: 16 pictures a step, joined one by one on the CPU, and each step's loss read before the next. Today's has
as many pictures a step as at share 1, unless --max-steps says how many steps there are; with few steps in all, recall
is low for that reason alone. Seconds are of the wall and of the processor (all threads), of the explainer alone,
without its classifier of categories.
"""

from __future__ import annotations

import argparse
import copy
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.common import save_result
from lavise.configs.schema import TrainSettings
from lavise.storage.array_types import DoubleArray, FloatArray, IntArray
from lavise.tasks.engine.computing import Computing
from lavise.tasks.explainer.network import Explainer, deterministic, scale_features
from lavise.tasks.explainer.training import MAX_STEPS, Objective, fit
from lavise.tasks.explainer.training_sets import TrainingSet
from lavise.tasks.explainer.word_losses import Workspace, find_word_losses, find_word_losses_in_blocks
from lavise.tasks.numerics.bootstrap import ImageBootstrap

IMAGES, TEST_IMAGES, CHANNELS, CATEGORIES, DIMENSIONS = 117_000, 2_000, 512, 80, 300
REGIONS_PER_IMAGE = 7.35
NOISE = 6.0
ROWS = (128, 512, 2048)
FIRST_BATCH = 16


@dataclass(frozen=True)
class Planted:
    """What all sets are drawn from."""

    vocabulary_VE: FloatArray
    map_EC: FloatArray
    rows_K: IntArray

    @classmethod
    def make(cls, words: int) -> Planted:
        rng = np.random.default_rng(0)
        vocabulary = rng.normal(size=(words, DIMENSIONS)).astype(np.float32)
        vocabulary /= np.linalg.norm(vocabulary, axis=1, keepdims=True)
        return cls(
            vocabulary, rng.normal(size=(DIMENSIONS, CHANNELS)).astype(np.float32), rng.permutation(words)[:CATEGORIES]
        )

    def draw(self, num_images: int, seed: int, device: str) -> tuple[TrainingSet, IntArray]:
        """A set, and the picture of each region."""
        rng = np.random.default_rng(seed)
        count = 1 + rng.poisson(REGIONS_PER_IMAGE - 1, size=num_images)
        image = np.repeat(np.arange(num_images), count)
        share = 1 / np.arange(1, CATEGORIES + 1) ** 0.7  # as of COCO, some categories are far more frequent
        category = rng.choice(CATEGORIES, size=len(image), p=share / share.sum())
        features = torch.empty(len(image), CHANNELS, device=device)
        centres = self.vocabulary_VE[self.rows_K] @ self.map_EC
        for start in range(0, len(image), 1 << 16):
            own = centres[category[start : start + (1 << 16)]]
            seen = np.maximum(own + NOISE * rng.standard_normal(own.shape, dtype=np.float32), 0)
            features[start : start + len(own)] = scale_features(torch.from_numpy(seen).to(device), "l2")
        made = TrainingSet(
            features_RC=features,
            word_R=torch.from_numpy(self.rows_K[category]).to(device),
            weight_R=torch.from_numpy(np.repeat(1 / count, count).astype(np.float32)).to(device),
            first_I=torch.from_numpy(np.concatenate([[0], np.cumsum(count)])),
        )
        return made, image


class FirstObjective(Objective):
    """Objective with torch's own cross entropy."""

    def region_losses(self, output_RE: torch.Tensor, word_R: torch.Tensor) -> torch.Tensor:
        if self.settings.objective != "softmax":
            return super().region_losses(output_RE, word_R)
        logits_RV = (output_RE / self.settings.temperature) @ self.vocabulary_VE.T
        return functional.cross_entropy(logits_RV, word_R, reduction="none")


def fit_step_by_step(
    module: Explainer, objective: Objective, sets: tuple[TrainingSet, TrainingSet], settings: TrainSettings
) -> int:
    """The first rule; the number of epochs."""
    train, early = sets
    adam = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    shuffle = torch.Generator().manual_seed(0)

    def go_through(data: TrainingSet, order: list[int], learn: bool) -> float:
        total = weight = 0.0
        for start in range(0, len(order), settings.batch_images):
            images = order[start : start + settings.batch_images]
            parts = [torch.arange(int(data.first_I[i]), int(data.first_I[i + 1])) for i in images]
            chosen = torch.cat(parts).to(data.features_RC.device)
            weights = data.weight_R[chosen]
            loss = objective(module(data.features_RC[chosen]), data.word_R[chosen], weights)
            value = loss.item()
            if learn:
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
            own = float(weights.sum())
            total += value * own
            weight += own
        return total / weight

    best_state, best_loss = copy.deepcopy(module.state_dict()), float("inf")
    for _ in range(settings.max_epochs):
        module.train()
        go_through(train, torch.randperm(train.num_images, generator=shuffle).tolist(), learn=True)
        module.eval()
        with torch.inference_mode():
            loss = go_through(early, list(range(early.num_images)), learn=False)
        if loss < best_loss:
            best_state, best_loss = copy.deepcopy(module.state_dict()), loss
    module.load_state_dict(best_state)
    module.eval()
    return settings.max_epochs


def measure_training(arguments: argparse.Namespace) -> dict[str, Any]:
    planted, device = Planted.make(arguments.words), arguments.device
    num = max(round(IMAGES * arguments.share), 40)
    train, _ = planted.draw(num - num // 10, 1, device)
    early, _ = planted.draw(num // 10, 2, device)
    test, image = planted.draw(min(TEST_IMAGES, num), 3, device)
    matrix = torch.from_numpy(planted.vocabulary_VE).to(device)
    rows = torch.from_numpy(planted.rows_K).to(device)
    max_steps = arguments.max_steps or max(round(MAX_STEPS * arguments.share), 1)
    grown = max(FIRST_BATCH, -(-num // max_steps))
    found: dict[str, Any] = {
        "num_images": train.num_images,
        "num_regions": len(train.word_R),
        "words": len(matrix),
        "epochs": arguments.epochs,
        "step_images": {"first": FIRST_BATCH, "today": grown},
    }
    for objective in arguments.objectives:
        settings = TrainSettings(
            objective=objective, max_epochs=arguments.epochs, patience_epochs=arguments.epochs, batch_images=FIRST_BATCH
        )
        by_rule: dict[str, Any] = {}
        for rule in ("first", "today"):
            with deterministic(0):
                explainer = Explainer(CHANNELS, DIMENSIONS, settings.dropout).to(device)
                start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
                if rule == "first":
                    fit_step_by_step(explainer, FirstObjective(settings, matrix, rows), (train, early), settings)
                else:
                    rate = settings.learning_rate * math.sqrt(grown / FIRST_BATCH)
                    own = settings.model_copy(update={"batch_images": grown, "learning_rate": rate})
                    loss = Objective(own, matrix, rows, is_large=grown > FIRST_BATCH)
                    fit(explainer, explainer, loss, (train, early), own, Computing(0, device))
                seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
            hits = find_hits(explainer, test, matrix)
            by_rule[rule] = {
                "seconds": seconds,
                "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                "recall@5": dict(ImageBootstrap(image, 2000, 0).summarise(hits)),
            }
        ratios = {n: by_rule["first"][n] / by_rule["today"][n] for n in ("seconds", "processor_seconds")}
        found[objective] = {**by_rule, "ratio": ratios}
    return found


def find_hits(explainer: Explainer, test: TrainingSet, matrix: torch.Tensor) -> DoubleArray:
    """Whether each region's word is among the first five: float64 [R], 0 or 1."""
    with torch.inference_mode():
        parts = [
            ((explainer(part) @ matrix.T).topk(5).indices == word[:, None]).any(dim=1)
            for part, word in zip(test.features_RC.split(1024), test.word_R.split(1024), strict=True)
        ]
    hits: DoubleArray = torch.cat(parts).double().cpu().numpy()
    return hits


def measure_losses(how: str, rows: int, words: int, repeats: int) -> dict[str, float]:
    """Loss and gradient of one step, in a process of its own: processor seconds, and memory that it took in MiB."""
    torch.set_num_threads(1)
    drawn = torch.Generator().manual_seed(0)
    matrix = functional.normalize(torch.randn(words, DIMENSIONS, generator=drawn), dim=1)
    output = functional.normalize(torch.randn(rows, DIMENSIONS, generator=drawn), dim=1).requires_grad_()
    word, workspace = torch.randint(words, (rows,), generator=drawn), Workspace()
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "torch": lambda o: functional.cross_entropy(o @ matrix.T, word, reduction="none"),
        "lent": lambda o: find_word_losses(o, matrix, word, workspace),
        "blocks": lambda o: find_word_losses_in_blocks(o, matrix, word, workspace),
    }
    (output @ matrix[:8].T).sum().backward()  # libraries are loaded before memory is measured
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        ways[how](output / 0.05).mean().backward()
        seconds.append(time.process_time() - start)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    return {"processor_seconds": min(seconds[1:]), "memory_mib": taken / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.01, help="of 117,000 pictures")
    parser.add_argument("--words", type=int, default=65_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max-steps", type=int, default=None, help="of an epoch, for today's rule")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--objectives", nargs="+", default=["softmax", "hinge"], choices=("softmax", "hinge", "cosine"))
    parser.add_argument("--rows", nargs="*", type=int, default=list(ROWS), help="regions of a step, for the losses")
    arguments = parser.parse_args()
    losses: dict[str, Any] = {}
    for rows in arguments.rows:
        losses[str(rows)] = {}
        for how in ("torch", "lent", "blocks"):
            with get_context("spawn").Pool(1) as pool:
                losses[str(rows)][how] = pool.apply(measure_losses, (how, rows, arguments.words, 2))
    save_result("training", {"training": measure_training(arguments), "losses": losses, "device": arguments.device})


if __name__ == "__main__":
    main()
