"""Planted filters: channels known by construction, added to an activation store, to see whether they are named rightly.

What a filter of a trained network means nobody knows for certain. What a planted one means is known: a concept's mask,
smoothed and with noise; two concepts; noise alone; a constant. From the statistics on everything runs as it does for
the filters beside them (`benchmarks.planted`), but for the explainer, which is taught on the original channels alone.

Shape legend: N pictures, C filters of the store, Q planted ones, K concepts, H x W cells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from lavise.storage.activations import ActivationStore, ShardGrid, finish_store, read_shard_maps, write_shard
from lavise.storage.array_types import FloatArray, HalfArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.images.geometry import Geometry
from lavise.storage.state.artefacts import Handle
from lavise.storage.words.lemmas import find_category, index_categories
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import Given, StageInputs, Stated, Unstated
from lavise.tasks.masks.agreement import unite_masks
from lavise.tasks.masks.annotated_shards import annotate_shards

STAGE = Stage("planted", version=2)
NOISE_RATIOS = (0.0, 0.25, 0.5, 1.0, 2.0)
NOISES = ("white", "smooth", "bursts")
CONSTANTS = ("dead", "active")
MASK_SIGMA = 0.7
NOISE_SIGMA = 1.0
_MAX_SHARED = 0.05
_MAX_COUNT_RATIO = 2.0
_LARGEST = 60_000.0

Kind = Literal["concept", "mixture", "noise", "constant"]


@dataclass(frozen=True)
class PlantedFilter:
    """One channel that is known by construction.

    Attributes:
        concepts: what it answers to: one, two for a mixture, none for noise and constants.
        noise: standard deviation of the noise, before its sign is dropped, over that of the signal's positive cells.
        variant: of noise: `white` (each cell by itself), `smooth` (neighbouring cells alike), `bursts` (heavy tails
            and a gain of each picture). Of a constant: `dead` (0) or `active`. Empty for the others.
    """

    kind: Kind
    concepts: tuple[str, ...] = ()
    noise: float = 0.0
    variant: str = ""


@dataclass(frozen=True)
class PlanSizes:
    """How many filters to plant.

    Attributes:
        max_concepts: concepts, each with all ratios; drawn at random from those in enough pictures.
        max_mixtures: of two of these concepts that seldom share a picture and are about as frequent.
        num_noise, num_constants: of each variant.
        ratios: of noise to signal.
    """

    max_concepts: int = 40
    max_mixtures: int = 40
    num_noise: int = 30
    num_constants: int = 2
    ratios: tuple[float, ...] = NOISE_RATIOS


def plan_filters(
    dataset: Dataset, min_images: int, seed: int, sizes: PlanSizes | None = None
) -> tuple[PlantedFilter, ...]:
    """Which filters to plant: concepts times noise ratios, mixtures, noise, constants, in this order.

    Args:
        dataset: the pictures to be explained on, with their masks.
        min_images: pictures that a concept has to be in.
    """
    sizes = sizes or PlanSizes()
    counts = dataset.count_images_with()
    eligible = [c for c in dataset.concepts if counts[c] >= min_images]
    rng = np.random.default_rng([seed, 21])
    chosen = sorted(rng.permutation(len(eligible))[: sizes.max_concepts].tolist())
    concepts = [eligible[i] for i in chosen]
    return (
        *(PlantedFilter("concept", (c,), float(ratio)) for ratio in sizes.ratios for c in concepts),
        *(PlantedFilter("mixture", pair) for pair in find_separate_pairs(dataset, concepts, sizes.max_mixtures, seed)),
        *(PlantedFilter("noise", noise=1.0, variant=v) for v in NOISES for _ in range(sizes.num_noise)),
        *(PlantedFilter("constant", variant=v) for v in CONSTANTS for _ in range(sizes.num_constants)),
    )


def find_separate_pairs(
    dataset: Dataset, concepts: Sequence[str], max_pairs: int, seed: int
) -> tuple[tuple[str, str], ...]:
    """Pairs of concepts that share at most 5 % of the rarer one's pictures, neither twice as frequent as the other.

    Drawn at random, no concept in many more pairs than it has to be.
    """
    counts = dataset.count_images_with()
    shared: Counter[frozenset[str]] = Counter()
    for record in dataset.records:
        present = sorted({a.concept for a in record.annotations})
        shared.update(frozenset(pair) for pair in combinations(present, 2))
    pairs = []
    for first, second in combinations(concepts, 2):
        few, many = sorted((counts[first], counts[second]))
        if shared[frozenset((first, second))] <= _MAX_SHARED * few and many <= _MAX_COUNT_RATIO * few:
            pairs.append((first, second))
    order = np.random.default_rng([seed, 22]).permutation(len(pairs))
    used: Counter[str] = Counter()
    found: list[tuple[str, str]] = []
    for limit in range(1, len(concepts)):
        for pair in (pairs[i] for i in order):
            if len(found) < max_pairs and pair not in found and max(used[c] for c in pair) < limit:
                found.append(pair)
                used.update(pair)
    return tuple(found)


# ---------------------------------------------------------------- planting


@dataclass(frozen=True)
class Signal:
    """Where a concept is, as a filter would show it.

    Attributes:
        maps: position of the picture in the store -> float32 [H, W]; pictures without the concept are left out. The
            mean over the pictures of the highest value is 1.
        spread: standard deviation of the cells above 0.
    """

    maps: Mapping[int, FloatArray]
    spread: float


def find_signals(
    store: ActivationStore, dataset: Dataset, geometry: Geometry, concepts: Sequence[str]
) -> dict[str, Signal]:
    """The masks of the concepts, all of a concept in a picture united, shrunk by area to H x W and smoothed.

    A concept that no picture has is there with no maps and the mean spread of the others.
    """
    height, width = store.shape[2:]
    number_of = {c: i for i, c in enumerate(dataset.concepts)}
    wanted = {number_of[c]: c for c in concepts}
    smooth: dict[str, dict[int, FloatArray]] = {c: {} for c in concepts}
    records = [r for shard in annotate_shards(store, dataset, geometry) for r in shard.records]
    for position, record in enumerate(records):
        if not any(a.concept in smooth for a in record.annotations):
            continue
        for number, (coverage, _) in unite_masks(record, number_of, geometry, height, width)[0].items():
            if number in wanted:
                smooth[wanted[number]][position] = gaussian_filter(coverage, MASK_SIGMA)
    signals = {}
    for concept, maps in smooth.items():
        scale = float(np.mean([m.max() for m in maps.values()])) if maps else 1.0
        cells = np.concatenate([m[m > 0] for m in maps.values()]) if maps else np.zeros(0)
        scaled = {i: np.asarray(m / scale, np.float32) for i, m in maps.items()}
        signals[concept] = Signal(scaled, float(cells.std()) / scale if maps else np.nan)
    known = [s.spread for s in signals.values() if s.maps]
    usual = float(np.mean(known)) if known else 1.0
    return {c: s if s.maps else Signal({}, usual) for c, s in signals.items()}


def draw_maps(
    planted: PlantedFilter,
    signals: Mapping[str, Signal],
    images: range,
    height: int,
    width: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Activations of one planted filter on some pictures: float32 [n, H, W], none below 0; a signal peaks near 1."""
    shape = (len(images), height, width)
    if planted.kind == "constant":
        return np.full(shape, float(planted.variant == "active"), np.float32)
    if planted.kind == "noise":
        return _draw_noise(planted.variant, shape, rng)
    out = np.zeros(shape, np.float32)
    for concept in planted.concepts:
        maps = signals[concept].maps
        for row, image in enumerate(images):
            if image in maps:
                out[row] += maps[image]
    if planted.noise:
        spread = float(np.mean([signals[c].spread for c in planted.concepts]))
        out += np.abs(rng.normal(0, planted.noise * spread, shape)).astype(np.float32)
    return out


def _draw_noise(variant: str, shape: tuple[int, int, int], rng: np.random.Generator) -> FloatArray:
    if variant == "white":
        found = np.abs(rng.normal(size=shape))
    elif variant == "smooth":
        smooth = gaussian_filter(rng.normal(size=shape), (0, NOISE_SIGMA, NOISE_SIGMA))
        found = np.maximum(smooth / max(float(smooth.std()), 1e-12), 0)
    elif variant == "bursts":
        gain = rng.lognormal(0, 1, (shape[0], 1, 1))
        found = np.abs(rng.standard_t(3, size=shape)) * gain
    else:
        raise ValueError(f"unknown noise {variant!r}")
    return found.astype(np.float32)


def measure_activation(store: ActivationStore) -> float:
    """How large activations of the layer are: the median over filters of the mean peak of those with any."""
    means = np.abs(store.read_peaks().astype(np.float32)).mean(axis=0)
    return float(np.median(means[means > 0])) if (means > 0).any() else 1.0


def _describe_plan(plan: Sequence[PlantedFilter]) -> list[dict[str, Any]]:
    return [asdict(planted) for planted in plan]


@dataclass(frozen=True)
class PlantingInputs(StageInputs):
    """A store to plant filters in, and the masks of its pictures; see `plant_filters`."""

    activations: Handle
    data: Given[Dataset]
    geometry: Annotated[Geometry, Unstated("the activations state it, with the preprocessing")]
    plan: Annotated[Sequence[PlantedFilter], Stated(by=_describe_plan)]
    seed: int


def make_planted(inputs: PlantingInputs, folder: Path) -> Info:
    """Write the store of `plant_filters`."""
    given, data = ActivationStore(inputs.activations.folder), inputs.data.value
    store = plant_filters(given, data, inputs.geometry, inputs.plan, inputs.seed, folder)
    return {"num_images": store.shape[0], "num_planted": len(inputs.plan)}


def plant_filters(
    store: ActivationStore,
    dataset: Dataset,
    geometry: Geometry,
    plan: Sequence[PlantedFilter],
    seed: int,
    folder: Path,
) -> ActivationStore:
    """A finished store in `folder` with C + Q channels: those of `store`, then the planted ones in the plan's order.

    Args:
        dataset: has the masks of the store's pictures.
        seed: of the noise; another store needs another.

    Raises:
        ValueError: the store holds a picture that the data set does not know.
    """
    height, width = store.shape[2:]
    concepts = sorted({c for planted in plan for c in planted.concepts})
    signals = find_signals(store, dataset, geometry, concepts)
    size = measure_activation(store)
    for shard in range(store.num_shards):
        images = range(store.starts[shard], store.starts[shard + 1])
        maps_NCHW = read_shard_maps(store.shard_path(shard))
        added: HalfArray = np.zeros((len(images), len(plan), height, width), np.float16)
        for number, planted in enumerate(plan):
            rng = np.random.default_rng([seed, number, shard])
            found = draw_maps(planted, signals, images, height, width, rng) * size
            added[:, number] = np.minimum(found, _LARGEST).astype(np.float16)
        keys = store.keys[images.start : images.stop]
        broken = store.broken if shard == 0 else {}
        write_shard(folder, shard, np.concatenate([maps_NCHW, added], axis=1), keys, broken, {})
    finish_store(folder, ShardGrid(store.num_shards, 1))  # only the number of shards is read from the grid
    return ActivationStore(folder)


# ---------------------------------------------------------------- judging


@dataclass(frozen=True)
class JudgedGroup:
    """What became of planted filters of one sort; shares are of all of them, explained or not.

    Attributes:
        name: `concept, noise 0.25`, `mixture`, `noise, white`, `constant, dead` or similar.
        num: filters.
        unexplained: share.
        reasons: how many are unexplained for which reason.
        named_at: k -> share with the concept, or one of the two, among the first k words.
        both_named_at: k -> share with all their concepts among the first k words; as `named_at` but for mixtures.
        several_meanings: share with more than one meaning: wrong for a concept, right for a mixture.
        split_rightly: share with one meaning whose first word is one of the concepts and another for the other; None
            but for mixtures.
    """

    name: str
    num: int
    unexplained: float
    reasons: Mapping[str, int]
    named_at: Mapping[int, float]
    both_named_at: Mapping[int, float]
    several_meanings: float
    split_rightly: float | None


def judge_planted(
    filters: Sequence[Mapping[str, Any]], plan: Sequence[PlantedFilter], ks: Sequence[int] = (1, 5)
) -> tuple[JudgedGroup, ...]:
    """Whether planted filters were named as what they are, by sort.

    Args:
        filters: rows of filters.parquet of the planted filters, in the plan's order. A word is right if it is a form of
            the concept's whole name.

    Raises:
        ValueError: not a row for each planted filter.
    """
    if len(filters) != len(plan):
        raise ValueError(f"expected a row for each of {len(plan)} planted filters, found {len(filters)}")
    groups: dict[str, list[int]] = {}
    for number, planted in enumerate(plan):
        for name in _name_groups(planted):
            groups.setdefault(name, []).append(number)
    return tuple(
        _judge_group(name, [filters[i] for i in own], [plan[i] for i in own], ks) for name, own in groups.items()
    )


def _name_groups(planted: PlantedFilter) -> tuple[str, ...]:
    if planted.kind == "concept":
        return (f"concept, noise {planted.noise:g}",)
    if planted.kind == "mixture":
        return ("mixture",)
    return planted.kind, f"{planted.kind}, {planted.variant}"


def _judge_group(
    name: str, filters: Sequence[Mapping[str, Any]], plan: Sequence[PlantedFilter], ks: Sequence[int]
) -> JudgedGroup:
    num = len(plan)
    found = [find_named(f["words"], p.concepts) for f, p in zip(filters, plan, strict=True)]
    splits = [
        is_split_rightly([m["words"] for m in f["meanings"]], p.concepts) for f, p in zip(filters, plan, strict=True)
    ]
    return JudgedGroup(
        name=name,
        num=num,
        unexplained=sum(not f["explained"] for f in filters) / num,
        reasons=dict(Counter(str(f["reason"]) for f in filters if not f["explained"])),
        named_at={k: sum(any(0 <= p < k for p in places) for places in found) / num for k in ks},
        both_named_at={k: sum(bool(places) and all(0 <= p < k for p in places) for places in found) / num for k in ks},
        several_meanings=sum(len(f["meanings"]) > 1 for f in filters) / num,
        split_rightly=sum(splits) / num if plan[0].kind == "mixture" else None,
    )


def find_named(words: Sequence[str], concepts: Sequence[str]) -> list[int]:
    """The place of the first word that is a form of each concept's name; -1 where none is."""
    index = index_categories(list(concepts))
    categories = [find_category(word, index) for word in words]
    return [categories.index(k) if k in categories else -1 for k in range(len(concepts))]


def is_split_rightly(meanings: Sequence[Sequence[str]], concepts: Sequence[str]) -> bool:
    """Whether each concept is the first word of a meaning."""
    places = find_named([words[0] for words in meanings if words], concepts)
    return len(concepts) > 1 and min(places) >= 0


def judge_detection(right_QK: Any, plan: Sequence[PlantedFilter], concepts: Sequence[str]) -> dict[str, float]:
    """Share of the filters with a concept that detect it on the evaluation part (one of them, for a mixture), by sort.

    Args:
        right_QK: bool, rows of the planted filters (see tasks.masks.detection).
        concepts: the K concepts.
    """
    number_of = {c: i for i, c in enumerate(concepts)}
    found: dict[str, list[bool]] = {}
    for right_K, planted in zip(right_QK, plan, strict=True):
        if planted.concepts:
            detected = any(bool(right_K[number_of[c]]) for c in planted.concepts if c in number_of)
            found.setdefault(_name_groups(planted)[0], []).append(detected)
    return {name: sum(values) / len(values) for name, values in found.items()}
