"""What changed between two audits: filters are matched one to one by what they do, not by their index alone.

The similarity of an old and a new filter is Pearson's correlation of their activations over all positions of the same
pictures. The pairs are the assignment with the highest sum of correlations (Kuhn 1955, the Hungarian method). Words
play no part in the matching, so that a change of words is a finding and not an assumption.

Shape legend: N pictures, C old filters, D new filters, P pairs, B resamplings, H x W cells.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from threadpoolctl import threadpool_limits

from lavise.configs.errors import UserError
from lavise.configs.schema import DiffSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.array_types import BoolArray, DoubleArray, HalfArray, IntArray
from lavise.storage.images.geometry import area_weights
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.storage.state.files import write_json
from lavise.storage.table_rows import Int32, make_schema, write_rows
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.stage import Info, Stage
from lavise.tasks.engine.stage_inputs import HOW, Spread, StageInputs
from lavise.tasks.numerics.bootstrap import draw_weights
from lavise.tasks.numerics.correlation import correlate_spreads
from lavise.tasks.numerics.random_streams import Stream, make_rng

STAGE = Stage("diff", version=2, libraries=("scipy",))
TABLE_FILE, SUMMARY_FILE = "diff.parquet", "diff.json"
Status = Literal["same", "changed", "lost", "new"]
_MAX_TASKS = 16
_BLOCK_VALUES = 1 << 24
_BOOTSTRAP_BLOCK = 50
# Breaks ties between filters that do exactly the same in favour of the same index; far below any real difference.
_TIE = 1e-9
# Sums of the same numbers in another order differ in their last bits; what does the same has a correlation of just 1.


@dataclass(frozen=True)
class AuditedLayer:
    """One layer of one audit: what its filters did, and what was said of them.

    Attributes:
        name: of the layer.
        arch: of the network.
        activations: on the pictures that both audits are compared on.
        filters: rows of filters.parquet that belong to the layer, by filter.
    """

    name: str
    arch: str
    activations: Handle
    filters: Sequence[Mapping[str, Any]]

    def digest_words(self) -> str:
        """Of what was said of the filters."""
        return digest_of([self.arch, [[r["filter"], r["explained"], list(r["words"])] for r in self.filters]])


def _state_artefacts(which: str) -> Callable[[AuditedLayer], dict[str, str]]:
    return lambda layer: {f"{which}_activations": layer.activations.digest, f"{which}_words": layer.digest_words()}


@dataclass(frozen=True)
class DiffInputs(StageInputs):
    """Two audits of a layer to compare."""

    old: Annotated[AuditedLayer, Spread(lambda layer: {"old_layer": layer.name}, _state_artefacts("old"))]
    new: Annotated[AuditedLayer, Spread(lambda layer: {"new_layer": layer.name}, _state_artefacts("new"))]
    settings: DiffSettings
    seed: int
    cluster: Annotated[StatisticsCluster, HOW]


@dataclass(frozen=True)
class Block:
    """Some pictures that both stores hold: the unit of work."""

    old: Path
    new: Path
    old_images: tuple[int, ...]
    new_images: tuple[int, ...]


@dataclass(frozen=True)
class PairMoments:
    """Sums over the positions of some pictures, float64: enough for all correlations."""

    count: int
    old: DoubleArray
    new: DoubleArray
    old_squared: DoubleArray
    new_squared: DoubleArray
    product: DoubleArray
    old_range: DoubleArray
    new_range: DoubleArray


@dataclass(frozen=True)
class Match:
    """A row of the comparison; similarity is None where a filter has no counterpart."""

    status: Status
    old: int | None
    new: int | None
    similarity: float | None


# ---------------------------------------------------------------- correlation


def align_images(old: ActivationStore, new: ActivationStore) -> list[Block]:
    """Blocks of the pictures that both stores hold, in the old one's order.

    Raises:
        UserError: no picture is in both.
    """
    position = {key: i for i, key in enumerate(new.keys)}
    shared = [(i, position[key]) for i, key in enumerate(old.keys) if key in position]
    if not shared:
        raise UserError("diff: the two audits have no picture in common; compare audits of the same target pictures")
    size = -(-len(shared) // min(_MAX_TASKS, len(shared)))
    parts = [shared[start : start + size] for start in range(0, len(shared), size)]
    return [
        Block(old.folder, new.folder, tuple(i for i, _ in part), tuple(j for _, j in part)) for part in parts if part
    ]


def sum_moments(block: Block) -> PairMoments:
    """Sums over all positions of a block's pictures."""
    total: PairMoments | None = None
    with threadpool_limits(1):
        for old_PC, new_PD in _read_positions(block):
            part = PairMoments(
                count=len(old_PC),
                old=old_PC.sum(axis=0),
                new=new_PD.sum(axis=0),
                old_squared=np.square(old_PC).sum(axis=0),
                new_squared=np.square(new_PD).sum(axis=0),
                product=old_PC.T @ new_PD,
                old_range=np.stack([-old_PC.min(axis=0), old_PC.max(axis=0)]),
                new_range=np.stack([-new_PD.min(axis=0), new_PD.max(axis=0)]),
            )
            total = part if total is None else merge_moments([total, part])
    assert total is not None, "a block has at least one picture"
    return total


def merge_moments(parts: Sequence[PairMoments]) -> PairMoments:
    """In the order given, so that the bits do not depend on who was first."""
    first, *others = parts
    total = first
    product = first.product.copy()
    for part in others:
        product += part.product
        total = PairMoments(
            count=total.count + part.count,
            old=total.old + part.old,
            new=total.new + part.new,
            old_squared=total.old_squared + part.old_squared,
            new_squared=total.new_squared + part.new_squared,
            product=product,
            old_range=np.maximum(total.old_range, part.old_range),
            new_range=np.maximum(total.new_range, part.new_range),
        )
    return total


def correlate(moments: PairMoments) -> DoubleArray:
    """Pearson's correlation of every old with every new filter: [C, D] in -1..1.

    A constant filter has no correlation: 0 with one that varies, and 1 with another constant one, since both say the
    same, which is nothing.
    """
    n = moments.count
    spread_old = _spread(n, moments.old, moments.old_squared, moments.old_range)
    spread_new = _spread(n, moments.new, moments.new_squared, moments.new_range)
    return correlate_spreads(
        n * moments.product - np.outer(moments.old, moments.new), spread_old[:, None], spread_new[None, :]
    )


def _spread(n: int, total: DoubleArray, squared: DoubleArray, extremes: DoubleArray) -> DoubleArray:
    return np.where(_is_constant(extremes), 0.0, np.sqrt(np.clip(n * squared - np.square(total), 0, None)))


def _is_constant(extremes: DoubleArray) -> BoolArray:
    return np.asarray(extremes[0] == -extremes[1])


def _read_positions(block: Block) -> Iterator[tuple[DoubleArray, DoubleArray]]:
    """Activations by position, [n·H·W, C] and [n·H·W, D], a bounded number of pictures at a time."""
    old, new = ActivationStore(block.old), ActivationStore(block.new)
    height, width = (min(old.shape[i], new.shape[i]) for i in (2, 3))
    step = max(_BLOCK_VALUES // (height * width * max(old.shape[1], new.shape[1])), 1)
    for start in range(0, len(block.old_images), step):
        chosen = slice(start, start + step)
        old_maps = old.read_images(block.old_images[chosen])
        new_maps = new.read_images(block.new_images[chosen])
        yield _to_positions(old_maps, height, width), _to_positions(new_maps, height, width)


def _to_positions(maps_NCHW: HalfArray, height: int, width: int) -> DoubleArray:
    """[N, C, H, W] -> [N·h·w, C]; the finer of two grids is averaged down to the coarser one by area."""
    maps = maps_NCHW.astype(np.float64)
    if maps.shape[2:] != (height, width):
        rows = area_weights(maps.shape[2], 0, maps.shape[2], height).astype(np.float64)
        columns = area_weights(maps.shape[3], 0, maps.shape[3], width).astype(np.float64)
        # Less one of its own cells, so that a constant map stays constant to the bit: the weights are rounded.
        corner = maps[:, :, :1, :1]
        maps = rows @ (maps - corner) @ columns.T + corner
    return np.ascontiguousarray(maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1]))


# ---------------------------------------------------------------- matching


def assign_filters(correlation_CD: DoubleArray, slots: bool) -> list[tuple[int, int]]:
    """Pairs of an old and a new filter, one to one, with the highest sum of correlations: min(C, D) of them.

    Args:
        slots: whether index u means the same place in both networks (same architecture and number of filters).
    """
    from scipy.optimize import linear_sum_assignment

    scores = correlation_CD + _TIE * np.eye(*correlation_CD.shape) if slots else correlation_CD
    return [(int(u), int(v)) for u, v in zip(*linear_sum_assignment(scores, maximize=True), strict=True)]


def match_filters(
    correlation_CD: DoubleArray,
    assigned: Sequence[tuple[int, int]],
    low: Mapping[tuple[int, int], float],
    slots: bool,
    settings: DiffSettings,
) -> list[Match]:
    """One row for each old and each new filter.

    same: assigned, with a correlation of at least `same_at`. changed: assigned to another index, with at least
    `related_at` at the lower end of the interval (the best of many unrelated filters is above it by chance); or what
    now stands at the index where another filter stood. lost and new: the rest.

    Args:
        low: lower end of the interval of each assigned pair.
        slots: whether index u means the same place in both networks (same architecture and number of filters).
    """
    matches, taken_old, taken_new = [], set(), set()

    def take(status: Status, u: int, v: int) -> None:
        matches.append(Match(status, u, v, float(correlation_CD[u, v])))
        taken_old.add(u)
        taken_new.add(v)

    for u, v in assigned:
        if correlation_CD[u, v] >= settings.same_at:
            take("same", u, v)
        elif low[u, v] >= settings.related_at:
            take("changed", u, v)
    for u in range(len(correlation_CD) if slots else 0):
        if u not in taken_old and u not in taken_new:
            take("changed", u, u)
    matches += [Match("lost", u, None, None) for u in range(correlation_CD.shape[0]) if u not in taken_old]
    matches += [Match("new", None, v, None) for v in range(correlation_CD.shape[1]) if v not in taken_new]
    last = max(correlation_CD.shape)
    return sorted(matches, key=lambda m: (last if m.new is None else m.new, last if m.old is None else m.old))


# ---------------------------------------------------------------- intervals


def sum_per_image(pairs: tuple[IntArray, IntArray], block: Block) -> DoubleArray:
    """Σx, Σy, Σx², Σy², Σxy of each pair on each picture of a block: [5, n, P]."""
    cells = _count_cells(block)
    parts = []
    for old, new in _read_positions(block):
        x = old[:, pairs[0]].reshape(-1, cells, len(pairs[0]))
        y = new[:, pairs[1]].reshape(-1, cells, len(pairs[1]))
        parts.append(np.stack([x.sum(1), y.sum(1), np.square(x).sum(1), np.square(y).sum(1), (x * y).sum(1)]))
    return np.concatenate(parts, axis=1)


def _count_cells(block: Block) -> int:
    old, new = ActivationStore(block.old).shape, ActivationStore(block.new).shape
    return min(old[2], new[2]) * min(old[3], new[3])


def bootstrap_similarity(
    sums_5NP: DoubleArray, constant_2P: BoolArray, cells: int, num_samples: int, seed: int
) -> tuple[DoubleArray, DoubleArray]:
    """95 % percentile interval of each pair's correlation, resampling pictures: two arrays [P].

    Args:
        constant_2P: which old and which new filters never vary; rounding must not give them a spread.
        cells: positions per picture.
    """
    num_images, num_pairs = sums_5NP.shape[1:]
    generator = make_rng(seed, Stream.COMPARED_IMAGES)
    found = np.empty((num_samples, num_pairs))
    n = num_images * cells
    with threadpool_limits(1):
        for start in range(0, num_samples, _BOOTSTRAP_BLOCK):
            size = min(_BOOTSTRAP_BLOCK, num_samples - start)
            weights_BN = draw_weights(num_images, size, generator)
            x, y, xx, yy, xy = (weights_BN @ sums for sums in sums_5NP)
            spread_x = np.where(constant_2P[0], 0.0, np.sqrt(np.clip(n * xx - x * x, 0, None)))
            spread_y = np.where(constant_2P[1], 0.0, np.sqrt(np.clip(n * yy - y * y, 0, None)))
            found[start : start + size] = correlate_spreads(n * xy - x * y, spread_x, spread_y)
    return np.quantile(found, 0.025, axis=0), np.quantile(found, 0.975, axis=0)


# ---------------------------------------------------------------- the comparison


@dataclass(frozen=True)
class DiffRow:
    """A filter of either audit (diff.parquet); what the other has not is None."""

    layer: str
    status: str
    old_filter: Int32 | None
    new_filter: Int32 | None
    similarity: float | None
    similarity_low: float | None
    similarity_high: float | None
    certain: bool
    old_explained: bool | None
    new_explained: bool | None
    old_words: Sequence[str]
    new_words: Sequence[str]
    words_shared: float | None


SCHEMA = make_schema(DiffRow)


class DiffCounts(TypedDict):
    """Numbers of one layer; shares of kept, changed and lost are of the old filters, of new ones of the new filters.

    The words of a network are the first words of its explained filters.
    """

    num_old: int
    num_new: int
    num_same: int
    num_changed: int
    num_lost: int
    num_new_filters: int
    num_moved: int
    num_uncertain: int
    share_kept: float
    share_changed: float
    share_lost: float
    share_new: float
    mean_similarity: float
    words_gained: list[str]
    words_lost: list[str]


class DiffSummary(DiffCounts):
    """diff.json of one layer, with the pictures that it was compared on and the name that it had before."""

    num_images: int
    old_layer: str


def compare_layer(inputs: DiffInputs, folder: Path) -> Info:
    """Compare a layer of two audits; write diff.parquet and diff.json.

    Returns:
        the summary: numbers and shares of filters by status, words gained and lost.

    Raises:
        UserError: the audits have no picture in common.
    """
    old, new, settings, cluster = inputs.old, inputs.new, inputs.settings, inputs.cluster
    old_store, new_store = ActivationStore(old.activations.folder), ActivationStore(new.activations.folder)
    blocks = align_images(old_store, new_store)
    moments = merge_moments(cluster.map("correlations", sum_moments, blocks))
    slots = old.arch == new.arch and old.name == new.name and old_store.shape[1] == new_store.shape[1]
    correlation = correlate(moments)
    assigned = assign_filters(correlation, slots)
    pairs = sorted({*assigned, *((u, u) for u in range(old_store.shape[1] if slots else 0))})
    indices = (np.array([u for u, _ in pairs]), np.array([v for _, v in pairs]))
    parts = cluster.map("similarities", partial(sum_per_image, indices), blocks)
    constant = np.stack([_is_constant(moments.old_range)[indices[0]], _is_constant(moments.new_range)[indices[1]]])
    sums, cells = np.concatenate(parts, axis=1), _count_cells(blocks[0])
    low, high = bootstrap_similarity(sums, constant, cells, settings.bootstrap_samples, inputs.seed)
    # The two ways of summing round differently; an interval holds its own estimate.
    low, high = np.minimum(low, correlation[indices]), np.maximum(high, correlation[indices])
    intervals = {pair: (float(a), float(b)) for pair, a, b in zip(pairs, low, high, strict=True)}
    matches = match_filters(correlation, assigned, {p: a for p, (a, _) in intervals.items()}, slots, settings)
    rows = [_make_row(new.name, m, old.filters, new.filters, intervals, settings) for m in matches]
    summary = DiffSummary(
        **summarise(rows, old.filters, new.filters),
        num_images=sum(len(b.old_images) for b in blocks),
        old_layer=old.name,
    )
    write_rows(DiffRow, rows, folder / TABLE_FILE)
    write_json(folder / SUMMARY_FILE, summary)
    return dict(summary)


def load_diff(folder: Path) -> tuple[pa.Table, DiffSummary]:
    """Table and summary of one layer."""
    return parquet.read_table(folder / TABLE_FILE), json.loads((folder / SUMMARY_FILE).read_text("utf-8"))


def _make_row(
    layer: str,
    match: Match,
    old_filters: Sequence[Mapping[str, Any]],
    new_filters: Sequence[Mapping[str, Any]],
    intervals: Mapping[tuple[int, int], tuple[float, float]],
    settings: DiffSettings,
) -> DiffRow:
    old = old_filters[match.old] if match.old is not None else None
    new = new_filters[match.new] if match.new is not None else None
    low, high = None, None
    if match.old is not None and match.new is not None:
        low, high = intervals[match.old, match.new]
    old_words = list(old["words"]) if old and old["explained"] else []
    new_words = list(new["words"]) if new and new["explained"] else []
    union = set(old_words) | set(new_words)
    certain = low is None or high is None or not low < settings.same_at <= high
    return DiffRow(
        layer=layer,
        status=match.status,
        old_filter=match.old,
        new_filter=match.new,
        similarity=match.similarity,
        similarity_low=low,
        similarity_high=high,
        certain=certain,
        old_explained=bool(old and old["explained"]) if old else None,
        new_explained=bool(new and new["explained"]) if new else None,
        old_words=old_words,
        new_words=new_words,
        words_shared=len(set(old_words) & set(new_words)) / len(union) if union and old and new else None,
    )


def summarise(
    rows: Sequence[DiffRow], old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]
) -> DiffCounts:
    """Numbers of one layer.

    Args:
        old, new: rows of filters.parquet.
    """
    count = {s: sum(r.status == s for r in rows) for s in ("same", "changed", "lost", "new")}
    similarities = [r.similarity for r in rows if r.similarity is not None]
    old_words = {f["words"][0] for f in old if f["explained"]}
    new_words = {f["words"][0] for f in new if f["explained"]}
    moved = sum(r.status == "same" and r.old_filter != r.new_filter for r in rows)
    return {
        "num_old": len(old),
        "num_new": len(new),
        "num_same": count["same"],
        "num_changed": count["changed"],
        "num_lost": count["lost"],
        "num_new_filters": count["new"],
        "num_moved": moved,
        "num_uncertain": sum(not r.certain for r in rows),
        "share_kept": count["same"] / len(old),
        "share_changed": count["changed"] / len(old),
        "share_lost": count["lost"] / len(old),
        "share_new": count["new"] / len(new),
        "mean_similarity": float(np.mean(similarities)) if similarities else 0.0,
        "words_gained": sorted(new_words - old_words),
        "words_lost": sorted(old_words - new_words),
    }
