"""The bias analysis on data with known answers: random groups, planted differences, confounded ones.

    python -m benchmarks.bias [--scenes 600] [--draws 200] [--state FOLDER] [--set section.key=value ...]

Scenes as in the demo, through EfficientNet-Lite0; their labels are read for planting only. Words of a filter are the
concepts that its top pictures have more often than others.

`null`: groups drawn at random; any discovery is a false one.
`planted channels`: a channel of known rates among the real filters; its difference is a multiple of the least
difference that the analysis states, and should be found as often as it says.
`planted concepts`: groups drawn so that a concept's share differs, by so much that its best filter should differ by
such a multiple.
`confounded`: channels that depend on a third column, as the groups do, and channels that depend on the group itself.
`confounded concept`: groups drawn by two concepts; the filters of the first are looked at with it held fixed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from benchmarks.common import save_result
from lavise.configs.loading import load_config
from lavise.configs.roles import Role
from lavise.configs.schema import BiasSettings, Config
from lavise.flows.shared.extraction import extract_layers
from lavise.flows.shared.inputs import open_target
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, IntArray
from lavise.storage.datasets.groups import Grouping
from lavise.storage.models.layer_survey import select_layers
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.environment import choose_device
from lavise.storage.state.progress import no_progress
from lavise.tasks.activations.extract import ExtractionInputs
from lavise.tasks.activations.thresholds import compute_thresholds
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import StageRunner
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.group_bias.contrasts import (
    compare_filters,
    compare_words,
    count_scores,
    decide_contrasts,
    index_words,
    make_contrasts,
)
from lavise.tasks.inputs import scenes
from lavise.tasks.numerics.group_tests import least_difference, reached_level

TOP_IMAGES = 25
WORDS = 2
SIZES = (0.5, 1.0, 1.5)
SHARES = (0.1, 0.25, 0.5)
CHANNELS = 20
PLANTED_CONCEPTS = 3


@dataclass(frozen=True)
class Scenes:
    """Real filters on labelled pictures.

    Attributes:
        qualified: bool [N, C].
        presence: bool [N, K].
        concepts: names [K].
        words: of each filter.
    """

    qualified: BoolArray
    presence: BoolArray
    concepts: Sequence[str]
    words: Sequence[Sequence[str]]


def measure_scenes(config: Config, root: Path) -> Scenes:
    """Draw the scenes, show them to the network, and find what qualifies."""
    runner, device = StageRunner(ArtefactStore(root)), choose_device(config.device)
    data = open_target(config, runner, no_progress)
    labelled = scenes.load_scenes(runner.find(scenes.STAGE, Role.TARGET).handles[0], Role.TARGET)
    model = load_target_model(config.model, config.seed)
    layer = select_layers(model.survey, config.model.layers)[0]
    pictures = Given(data, data.digest_images())
    inputs = ExtractionInputs(model, (layer.name,), pictures, config.extract, device)
    handle = extract_layers(runner, "extract", inputs, role=Role.TARGET)[0]
    store = ActivationStore(handle.folder)
    with StatisticsCluster(config.statistics) as cluster:
        thresholds = compute_thresholds(store, config.statistics.quantile, cluster)
    peaks = store.read_peaks()
    concepts = [c for c, count in labelled.count_images_with().items() if count >= 2]
    concepts_of = {r.key: {a.concept for a in r.annotations} for r in labelled.records}
    presence = np.array([[c in concepts_of[key] for c in concepts] for key in store.keys])
    top = np.argsort(-peaks.astype(np.float32), axis=0, kind="stable")[:TOP_IMAGES]
    excess = presence[top].mean(axis=0) - presence.mean(axis=0)
    words = [[concepts[k] for k in np.argsort(-row, kind="stable")[:WORDS]] for row in excess]
    return Scenes(peaks > thresholds.value, presence, concepts, words)


def halve(num: int, rng: np.random.Generator) -> BoolArray:
    """Half of the pictures, at random."""
    return np.asarray(rng.permutation(num) < num // 2)


def compare(
    qualified: BoolArray, in_a: BoolArray, stratum: IntArray | None, rate: float
) -> tuple[BoolArray, list[str], DoubleArray]:
    """Found, verdict and difference of each filter."""
    strata = None if stratum is None else Grouping("strata", ("no", "yes"), stratum)
    contrasts = make_contrasts(Grouping("groups", ("a", "b"), np.where(in_a, 0, 1)), strata, 2)
    comparison = compare_filters(qualified, contrasts[0], strata is not None)
    decided = decide_contrasts([comparison], rate, strata is not None)[0]
    return decided.found, decided.verdict, comparison.difference.value


def run_null(data: Scenes, settings: BiasSettings, draws: int, seed: int) -> dict[str, Any]:
    """Share of draws with any discovery."""
    words, member_CW = index_words(data.words)
    scores, num_filters = count_scores(data.qualified, member_CW), member_CW.sum(axis=0)
    any_filter, any_word = 0, 0
    for draw in range(draws):
        rng = np.random.default_rng([seed, 1, draw])
        groups = Grouping("random", ("a", "b"), np.where(halve(len(scores), rng), 0, 1))
        contrast = make_contrasts(groups, None, settings.min_images)[0]
        by_filter = compare_filters(data.qualified, contrast, False)
        by_word = compare_words(scores, num_filters, contrast, False, settings.permutations, (seed, draw))
        any_filter += bool(decide_contrasts([by_filter], settings.false_discovery_rate, False)[0].found.any())
        any_word += bool(decide_contrasts([by_word], settings.false_discovery_rate, False)[0].found.any())
    return {
        "num_filters": data.qualified.shape[1],
        "num_words": len(words),
        "filters": describe_share(any_filter, draws),
        "words": describe_share(any_word, draws),
    }


def run_planted_channels(data: Scenes, settings: BiasSettings, draws: int, seed: int) -> list[dict[str, Any]]:
    """One channel of known rates at a time."""
    num, num_filters = data.qualified.shape
    half = num // 2
    level = reached_level(settings.false_discovery_rate, 1, num_filters + 1)
    rows = []
    for share in SHARES:
        least = float(least_difference(np.array([share]), half, num - half, level, settings.power)[0])
        for size in SIZES:
            a, b = share + size * least * (num - half) / num, share - size * least * half / num
            if not (b >= 0 and a <= 1):
                continue
            found = 0
            for draw in range(draws):
                rng = np.random.default_rng([seed, 2, int(share * 100), int(size * 10), draw])
                in_a = halve(num, rng)
                channel = rng.random(num) < np.where(in_a, a, b)
                found += bool(compare(_add(data, [channel]), in_a, None, settings.false_discovery_rate)[0][-1])
            rows.append({"share": share, "least": least, "size": size, "found": describe_share(found, draws)})
    return rows


def run_planted_concepts(data: Scenes, settings: BiasSettings, draws: int, seed: int) -> list[dict[str, Any]]:
    """Groups drawn by a concept; its best filter is looked at.

    Pictures are drawn with replacement, first whether they have the concept, so that a filter has known rates.
    Concepts that are too rare for the multiple are left out.
    """
    num, num_filters = data.qualified.shape
    half = num // 2
    level = reached_level(settings.false_discovery_rate, 1, num_filters)
    rows: list[dict[str, Any]] = []
    for concept in _most_frequent(data):
        has = data.presence[:, concept]
        answer = data.qualified[has].mean(axis=0) - data.qualified[~has].mean(axis=0)
        unit = int(np.argmax(answer))
        pooled = data.qualified[:, unit].mean()
        least = float(least_difference(np.array([pooled]), half, half, level, settings.power)[0])
        apart = {size: size * least / answer[unit] for size in SIZES}
        fitting = [size for size in SIZES if apart[size] / 2 <= min(has.mean(), 1 - has.mean())]
        if 1.0 not in fitting:
            continue
        for size in fitting:
            found, values = 0, []
            in_a = np.arange(2 * half) < half
            share = has.mean() + np.where(in_a, apart[size], -apart[size]) / 2
            for draw in range(draws):
                rng = np.random.default_rng([seed, 3, concept, int(size * 10), draw])
                rows_with, rows_without = (rng.choice(np.flatnonzero(part), 2 * half) for part in (has, ~has))
                drawn = np.where(rng.random(2 * half) < share, rows_with, rows_without)
                one, _, value = compare(data.qualified[drawn], in_a, None, settings.false_discovery_rate)
                found += bool(one[unit] and value[unit] > 0)
                values.append(float(value[unit]))
            rows.append(
                {
                    "concept": data.concepts[concept],
                    "concept_difference": apart[size],
                    "filter": unit,
                    "share": float(pooled),
                    "least": least,
                    "size": size,
                    "mean_difference": float(np.mean(values)),
                    "found": describe_share(found, draws),
                }
            )
        if len({row["concept"] for row in rows}) == PLANTED_CONCEPTS:
            break
    return rows


def run_confounded(data: Scenes, settings: BiasSettings, draws: int, seed: int) -> dict[str, Any]:
    """Half of the channels depend on the stratum (.6, .1), half on the group (.5, .2); 4 in 5 pictures of the stratum
    `yes` are in group a, 1 in 5 of the others."""
    num = len(data.qualified)
    verdicts: dict[str, Counter[str]] = {"confounded": Counter(), "direct": Counter(), "real": Counter()}
    for draw in range(draws):
        rng = np.random.default_rng([seed, 4, draw])
        stratum = halve(num, rng)
        in_a = rng.random(num) < np.where(stratum, 0.8, 0.2)
        confounded = [rng.random(num) < np.where(stratum, 0.6, 0.1) for _ in range(CHANNELS)]
        direct = [rng.random(num) < np.where(in_a, 0.5, 0.2) for _ in range(CHANNELS)]
        joined = _add(data, [*confounded, *direct])
        _, verdict, _ = compare(joined, in_a, stratum.astype(np.int64), settings.false_discovery_rate)
        real = data.qualified.shape[1]
        verdicts["real"].update(verdict[:real])
        verdicts["confounded"].update(verdict[real : real + CHANNELS])
        verdicts["direct"].update(verdict[real + CHANNELS :])
    return {kind: _describe_verdicts(counts) for kind, counts in verdicts.items()}


def run_confounded_concept(data: Scenes, settings: BiasSettings, draws: int, seed: int) -> dict[str, Any]:
    """Groups drawn by two concepts: 9 in 10 pictures of either are in group a, 3 in 10 of the others. The first is held
    fixed. Looked at: the five filters that answer best to each, and little to the other."""
    first, second = _most_frequent(data)[:2]
    answers = [
        data.qualified[data.presence[:, c]].mean(axis=0) - data.qualified[~data.presence[:, c]].mean(axis=0)
        for c in (first, second)
    ]
    units = [np.argsort(-(own - np.abs(rest)), kind="stable")[:5] for own, rest in (answers, answers[::-1])]
    verdicts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for draw in range(draws):
        rng = np.random.default_rng([seed, 5, draw])
        either = data.presence[:, first] | data.presence[:, second]
        in_a = rng.random(len(either)) < np.where(either, 0.9, 0.3)
        stratum = data.presence[:, first].astype(np.int64)
        _, verdict, _ = compare(data.qualified, in_a, stratum, settings.false_discovery_rate)
        for counts, own in zip(verdicts, units, strict=True):
            counts.update(verdict[u] for u in own)
    kinds = ("held fixed", "not held fixed")
    return {
        kind: {"concept": data.concepts[c], "filters": own.tolist(), **_describe_verdicts(counts)}
        for kind, c, own, counts in zip(kinds, (first, second), units, verdicts, strict=True)
    }


def describe_share(count: int, draws: int) -> dict[str, float]:
    """A share of the draws, with its exact 95 % interval."""
    low, high = stats.binomtest(count, draws).proportion_ci()
    return {"share": count / draws, "low": float(low), "high": float(high)}


def _add(data: Scenes, channels: Sequence[BoolArray]) -> BoolArray:
    return np.concatenate([data.qualified, np.stack(channels, axis=1)], axis=1)


def _most_frequent(data: Scenes) -> list[int]:
    """Concepts by falling number of pictures."""
    return [int(k) for k in np.argsort(-data.presence.sum(axis=0), kind="stable")]


def _describe_verdicts(counts: Counter[str]) -> dict[str, Any]:
    num_found = counts.total() - counts["same"]
    shares = {v: counts[v] / num_found for v in ("differs", "vanishes", "reverses", "undecided")} if num_found else {}
    return {"num": counts.total(), "found": num_found / counts.total(), "of_found": shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=600)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--state", type=Path, help="folder to keep the artefacts in; a temporary one unless given")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="section.key=value")
    arguments = parser.parse_args()
    config = load_config("demo", [f"target.scenes={arguments.scenes}", *arguments.overrides])
    seconds, results = {}, {}
    with tempfile.TemporaryDirectory() as temporary, threadpool_limits(1):
        start = time.perf_counter()
        data = measure_scenes(config, arguments.state or Path(temporary))
        seconds["scenes"] = time.perf_counter() - start
        for name, run in (
            ("null", run_null),
            ("planted channels", run_planted_channels),
            ("planted concepts", run_planted_concepts),
            ("confounded", run_confounded),
            ("confounded concept", run_confounded_concept),
        ):
            start = time.perf_counter()
            results[name] = run(data, config.bias, arguments.draws, config.seed)
            seconds[name] = time.perf_counter() - start
    content = {"num_images": len(data.qualified), "draws": arguments.draws, "power": config.bias.power}
    save_result("bias", {**content, **results, "seconds": seconds, "config": config.model_dump(mode="json")})


if __name__ == "__main__":
    main()
