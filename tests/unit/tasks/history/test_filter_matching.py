"""Comparing two audits: exact correlations, what is found and what is not, honest intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavise.configs.errors import UserError
from lavise.configs.schema import DiffSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.state.artefacts import Handle
from lavise.storage.state.digest import digest_of
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.history import filter_matching
from lavise.tasks.history.filter_matching import (
    SCHEMA,
    SUMMARY_FILE,
    TABLE_FILE,
    AuditedLayer,
    DiffInputs,
    Match,
    PairMoments,
    align_images,
    assign_filters,
    bootstrap_similarity,
    compare_layer,
    correlate,
    load_diff,
    match_filters,
    merge_moments,
    sum_moments,
    sum_per_image,
    summarise,
)
from lavise.tasks.numerics.random_streams import Stream, make_rng
from tests.unit.tasks.helpers import AnyArray, make_diff_row, write_store

SETTINGS = DiffSettings(bootstrap_samples=100)
# What a store holds of these numbers.
HALF = np.float16


def make_maps(num_images: int, num_filters: int, seed: int = 0, side: int = 5, active: float = 0.4) -> AnyArray:
    """Maps as a ReLU leaves them: above 0 at a share `active` of the positions."""
    rng = np.random.default_rng(seed)
    shape = (num_images, num_filters, side, side)
    return np.where(rng.random(shape) < active, rng.gamma(2, size=shape), 0).astype(HALF)


def make_filters(num_filters: int, words: Mapping[int, Sequence[str]] | None = None) -> list[dict[str, Any]]:
    """Rows of filters.parquet; a filter without words is unexplained."""
    found = dict.fromkeys(range(num_filters), ("thing",)) if words is None else words
    return [{"filter": u, "explained": u in found, "words": list(found.get(u, ()))} for u in range(num_filters)]


def make_layer(
    store: ActivationStore,
    words: Mapping[int, Sequence[str]] | None = None,
    name: str = "conv",
    arch: str = "timm:net",
) -> AuditedLayer:
    activations = Handle(
        stage="extract",
        version=1,
        digest=digest_of(store.folder),
        folder=store.folder,
        settings={},
        inputs={},
        files={},
        info={},
    )
    return AuditedLayer(name, arch, activations, make_filters(store.shape[1], words))


def compare(
    folder: Path,
    old: AuditedLayer,
    new: AuditedLayer,
    cluster: StatisticsCluster,
    settings: DiffSettings = SETTINGS,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    summary = dict(compare_layer(DiffInputs(old, new, settings, seed, cluster), folder))
    table, stored = load_diff(folder)
    assert dict(stored) == summary
    assert table.schema == SCHEMA
    return table.to_pylist(), summary


def compare_maps(
    root: Path, old: AnyArray, new: AnyArray, cluster: StatisticsCluster, settings: DiffSettings = SETTINGS
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    first, second = write_store(root / "old", old), write_store(root / "new", new)
    return compare(root / "diff", make_layer(first), make_layer(second), cluster, settings)


def by_position(maps: AnyArray) -> AnyArray:
    """[N, C, H, W] -> float64 [C, N·H·W]."""
    return maps.astype(HALF).astype(np.float64).transpose(1, 0, 2, 3).reshape(maps.shape[1], -1)


def correlate_with_numpy(old: AnyArray, new: AnyArray) -> AnyArray:
    both = np.corrcoef(by_position(old), by_position(new))
    found: AnyArray = both[: old.shape[1], old.shape[1] :]
    return found


def moments_of(old: ActivationStore, new: ActivationStore) -> PairMoments:
    return merge_moments([sum_moments(block) for block in align_images(old, new)])


def number_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {status: sum(r["status"] == status for r in rows) for status in ("same", "changed", "lost", "new")}


# ---------------------------------------------------------------- correlation


@pytest.mark.parametrize("offset", [0, 30])
def test_correlation_is_numpys_over_all_positions(tmp_path: Path, offset: float) -> None:
    """Shards of other sizes, the pictures in another order, and on either side a picture that the other lacks."""
    old = make_maps(37, 6).astype(np.float64) + offset
    new = 0.6 * old[:, [3, 1, 5, 0]] + make_maps(37, 4, seed=1)
    names = [f"{i:03d}.png" for i in range(37)]
    order = np.random.default_rng(2).permutation(37)
    order = order[order != 11]
    first = write_store(tmp_path / "old", old[:36], shard_images=5, keys=names[:36])
    second = write_store(tmp_path / "new", new[order], shard_images=16, keys=[names[i] for i in order])
    shared = [i for i in range(36) if i != 11]
    blocks = align_images(first, second)
    assert [first.keys[i] for b in blocks for i in b.old_images] == [names[i] for i in shared]
    assert [second.keys[i] for b in blocks for i in b.new_images] == [names[i] for i in shared]
    moments = moments_of(first, second)
    assert moments.count == 35 * 25
    np.testing.assert_allclose(correlate(moments), correlate_with_numpy(old[shared], new[shared]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_images", [1, 2, 16, 17, 33, 100])
def test_every_picture_is_in_one_block(tmp_path: Path, num_images: int) -> None:
    store = write_store(tmp_path / "maps", np.ones((num_images, 1, 1, 1)), shard_images=64)
    blocks = align_images(store, store)
    assert [i for b in blocks for i in b.old_images] == list(range(num_images))
    assert 1 <= len(blocks) <= 16
    assert all(b.old_images for b in blocks)


def test_reading_a_few_pictures_at_a_time_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = make_maps(40, 3), make_maps(40, 4, seed=1)
    first, second = write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)
    pairs = (np.array([0, 2]), np.array([3, 0]))
    (block, *_) = align_images(first, second)
    whole = sum_per_image(pairs, block)
    monkeypatch.setattr(filter_matching, "_BLOCK_VALUES", 2 * 4 * 25)
    assert len(list(filter_matching._read_positions(block))) == 2
    np.testing.assert_array_equal(sum_per_image(pairs, block), whole)
    np.testing.assert_allclose(correlate(moments_of(first, second)), correlate_with_numpy(old, new), rtol=0, atol=1e-12)


def test_constant_filter_has_no_correlation_but_with_another_one(tmp_path: Path) -> None:
    """Constants whose sums round, over several blocks; one that differs at a single position is none."""
    old = make_maps(33, 4).astype(np.float64)
    old[:, 1], old[:, 2] = 0.3, 0
    new = make_maps(33, 4, seed=1).astype(np.float64)
    new[:, 0], new[:, 3] = -7.7, 0.3
    new[:, 1] = 0.3
    new[32, 1, 4, 4] = np.nextafter(HALF(0.3), HALF(1))
    found = correlate(moments_of(write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)))
    assert found[1].tolist() == found[2].tolist() == [1, 0, 0, 1]
    assert found[0, [0, 3]].tolist() == found[3, [0, 3]].tolist() == [0, 0]
    assert found[0, 1] == pytest.approx(np.corrcoef(by_position(old)[0], by_position(new)[1])[0, 1], abs=1e-6)
    assert found[0, 1] != 0


def test_constant_filter_is_known_by_its_range_and_not_by_rounded_sums() -> None:
    """A thousand times 0.1: the sums round, and would leave a spread where there is none."""
    x, y = np.full(1000, 0.1), np.random.default_rng(0).normal(size=1000)
    values = np.stack([x, y], axis=1)
    total, squared = (np.array([sum(column.tolist()) for column in m.T]) for m in (values, values**2))
    assert 1000 * squared[0] > total[0] ** 2
    extremes = np.stack([-values.min(axis=0), values.max(axis=0)])
    moments = PairMoments(1000, total, total, squared, squared, values.T @ values, extremes, extremes)
    assert correlate(moments).tolist() == [[1, 0], [0, 1]]
    images = values.reshape(20, 50, 2)
    sums = np.stack([_sum_pair(images[..., u], images[..., v]) for u, v in ((0, 0), (0, 1), (1, 0))], axis=2)
    constant = np.array([[True, True, False], [True, False, True]])
    low, high = bootstrap_similarity(sums, constant, 50, 100, seed=0)
    assert low.tolist() == high.tolist() == [1, 0, 0]


def _sum_pair(x: AnyArray, y: AnyArray) -> AnyArray:
    return np.stack([values.cumsum(axis=1)[:, -1] for values in (x, y, x * x, y * y, x * y)])


def test_negated_filter_has_the_lowest_correlation(tmp_path: Path) -> None:
    """However the sums of numbers of all sizes round."""
    maps = make_maps(8, 40) * 10 ** np.random.default_rng(2).uniform(-4, 3, size=(8, 40, 5, 5))
    found = correlate(moments_of(write_store(tmp_path / "old", maps), write_store(tmp_path / "new", -maps)))
    assert np.diag(found) == pytest.approx(-1, abs=1e-12)
    assert found.min() >= -1


@pytest.mark.parametrize("seed", range(4))
def test_what_does_the_same_has_a_correlation_of_just_one(tmp_path: Path, seed: int) -> None:
    scale, offset = ((1, 0), (0.01, 3), (100, 0), (1, 50))[seed]
    maps = (np.random.default_rng(seed).normal(size=(37, 20, 5, 7)) * scale + offset).astype(HALF)
    first = write_store(tmp_path / "old", maps, shard_images=7)
    second = write_store(tmp_path / "new", maps, shard_images=64)
    assert np.diag(correlate(moments_of(first, second))).tolist() == [1.0] * 20


def mean_of_cells(map_hw: AnyArray, height: int, width: int) -> AnyArray:
    """Area mean by loops: each finer cell counts by its overlap with the coarser one."""
    found = np.zeros((height, width))
    h, w = map_hw.shape
    for i in range(height):
        for j in range(width):
            area = 0.0
            for y in range(h):
                for x in range(w):
                    tall = max(min((i + 1) / height, (y + 1) / h) - max(i / height, y / h), 0)
                    wide = max(min((j + 1) / width, (x + 1) / w) - max(j / width, x / w), 0)
                    found[i, j] += tall * wide * float(map_hw[y, x])
                    area += tall * wide
            found[i, j] /= area
    return found


@pytest.mark.parametrize(
    ("old_grid", "new_grid"), [((6, 8), (3, 4)), ((3, 4), (6, 8)), ((7, 5), (5, 3)), ((7, 3), (4, 5)), ((1, 1), (3, 2))]
)
def test_other_grids_are_compared_on_the_coarser_one(
    tmp_path: Path, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    old, new = (rng.normal(size=(6, 3, *grid)).astype(HALF) for grid in (old_grid, new_grid))
    grid = (min(old_grid[0], new_grid[0]), min(old_grid[1], new_grid[1]))
    coarse = [np.array([[mean_of_cells(c, *grid) for c in image] for image in maps]) for maps in (old, new)]
    first_CP, second_CP = (m.transpose(1, 0, 2, 3).reshape(3, -1) for m in coarse)
    expected = np.corrcoef(first_CP, second_CP)[:3, 3:]
    first, second = write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)
    moments = moments_of(first, second)
    assert moments.count == 6 * grid[0] * grid[1]
    # The weights of the mean are of single precision.
    np.testing.assert_allclose(correlate(moments), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("fine", "coarse"), [(5, 4), (10, 7), (14, 13), (14, 7)])
def test_constant_filter_stays_constant_on_a_coarser_grid(tmp_path: Path, fine: int, coarse: int) -> None:
    old, new = make_maps(5, 2, side=fine).astype(np.float64), make_maps(5, 2, seed=1, side=coarse).astype(np.float64)
    old[:, 1] = 0.3
    new[:, 1] = 0.7
    found = correlate(moments_of(write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)))
    assert (found[1, 1], found[0, 1], found[1, 0]) == (1, 0, 0)


def test_no_picture_in_common_is_the_users_mistake(tmp_path: Path, cluster: StatisticsCluster) -> None:
    first = write_store(tmp_path / "old", make_maps(3, 2))
    second = write_store(tmp_path / "new", make_maps(3, 2), keys=["a.png", "b.png", "c.png"])
    with pytest.raises(
        UserError,
        match=r"^diff: the two audits have no picture in common; compare audits of the same target pictures$",
    ):
        compare(tmp_path / "diff", make_layer(first), make_layer(second), cluster)
    assert list((tmp_path / "diff").iterdir()) == []


# ---------------------------------------------------------------- what is found


@pytest.mark.parametrize("same_at", [0.9, 1.0])
def test_nothing_is_found_in_a_layer_that_did_not_change(
    tmp_path: Path, cluster: StatisticsCluster, same_at: float
) -> None:
    """Also with filters that do the same as another one, that are dead, or constant."""
    maps = make_maps(20, 12).astype(np.float64)
    maps[:, [7, 2]] = maps[:, [4, 9]]
    maps[:, [5, 3, 11]] = 0
    maps[:, [0, 10]] = np.array([1.7, -0.3])[:, None, None]
    settings = DiffSettings(bootstrap_samples=100, same_at=same_at)
    rows, summary = compare_maps(tmp_path, maps, maps, cluster, settings)
    assert [(r["status"], r["old_filter"], r["new_filter"]) for r in rows] == [("same", u, u) for u in range(12)]
    assert {(r["similarity"], r["similarity_low"], r["similarity_high"], r["certain"]) for r in rows} == {
        (1.0, 1.0, 1.0, True)
    }
    assert summary == {
        "num_old": 12, "num_new": 12, "num_same": 12, "num_changed": 0, "num_lost": 0, "num_new_filters": 0,
        "num_moved": 0, "num_uncertain": 0, "share_kept": 1.0, "share_changed": 0.0, "share_lost": 0.0,
        "share_new": 0.0, "mean_similarity": 1.0, "words_gained": [], "words_lost": [], "num_images": 20,
        "old_layer": "conv",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_ties_keep_as_many_indices_as_they_can(seed: int) -> None:
    """Six filters that do one of three things each; equal ones, and equal sums, are told apart by the index."""
    before, now = np.random.default_rng(seed).integers(0, 3, size=(2, 6))
    correlation = np.equal.outer(before, now).astype(np.float64)
    found = assign_filters(correlation, slots=True)
    best = max(
        (sum(correlation[u, v] for u, v in enumerate(order)), sum(u == v for u, v in enumerate(order)))
        for order in permutations(range(6))
    )
    assert (sum(correlation[pair] for pair in found), sum(u == v for u, v in found)) == best


def test_permuted_layer_is_matched_whole(tmp_path: Path, cluster: StatisticsCluster) -> None:
    maps = make_maps(12, 9)
    order = np.array([0, 2, 1, 3, 8, 4, 5, 6, 7])
    rows, summary = compare_maps(tmp_path, maps, maps[:, order], cluster)
    assert [(r["old_filter"], r["new_filter"]) for r in rows] == [(int(u), v) for v, u in enumerate(order)]
    assert number_of(rows) == {"same": 9, "changed": 0, "lost": 0, "new": 0}
    assert (summary["num_moved"], summary["num_same"]) == (7, 9)


@pytest.mark.parametrize("permuted", [False, True])
def test_permuted_layer_of_another_architecture(tmp_path: Path, cluster: StatisticsCluster, permuted: bool) -> None:
    maps = make_maps(12, 9)
    order = np.random.default_rng(3).permutation(9) if permuted else np.arange(9)
    first, second = write_store(tmp_path / "old", maps), write_store(tmp_path / "new", 2 * maps[:, order] + 1)
    rows, summary = compare(tmp_path / "diff", make_layer(first), make_layer(second, arch="timm:other"), cluster)
    assert [(r["old_filter"], r["new_filter"]) for r in rows] == [(int(u), v) for v, u in enumerate(order)]
    assert summary["num_same"] == 9


@pytest.mark.parametrize(
    ("num_images", "active", "seed"), [(40, 0.4, 0), (40, 0.02, 1), (4, 0.4, 2), (4, 0.03, 3), (2, 0.08, 4)]
)
def test_changed_are_just_the_channels_that_were_initialised_anew(
    tmp_path: Path, cluster: StatisticsCluster, num_images: int, active: float, seed: int
) -> None:
    """Precision and recall of 1; also with few pictures, and with filters that are hardly ever above 0."""
    num_filters, truth = 40, {1, 5, 6, 17, 30, 31, 39}
    old = make_maps(num_images, num_filters, 2 * seed, side=7, active=active)
    new = old.copy()
    chosen = sorted(truth)
    new[:, chosen] = make_maps(num_images, num_filters, 2 * seed + 1, side=7, active=active)[:, chosen]
    # Some that were dead before and after stay what they were.
    old[:, [2, 20]] = new[:, [2, 20]] = 0
    rows, summary = compare_maps(tmp_path, old, new, cluster)
    changed = [r for r in rows if r["status"] == "changed"]
    assert {r["old_filter"] for r in changed} == {r["new_filter"] for r in changed} == truth
    assert [(r["old_filter"], r["new_filter"]) for r in rows if r["status"] == "same"] == [
        (u, u) for u in range(num_filters) if u not in truth
    ]
    assert number_of(rows) == {"same": 33, "changed": 7, "lost": 0, "new": 0}
    assert (summary["num_changed"], summary["num_moved"]) == (7, 0)
    assert summary["share_changed"] == pytest.approx(7 / 40)
    assert summary["share_kept"] == pytest.approx(33 / 40)


def test_small_drift_is_no_change_and_a_larger_one_is(tmp_path: Path, cluster: StatisticsCluster) -> None:
    old, noise = make_maps(12, 3).astype(np.float64), make_maps(12, 3, seed=1).astype(np.float64)
    new = old + np.array([0, 0.2, 1])[:, None, None] * noise
    rows, _ = compare_maps(tmp_path, old, new, cluster)
    expected = np.diag(correlate_with_numpy(old, new))
    assert [r["status"] for r in rows] == ["same", "same", "changed"]
    assert [r["similarity"] for r in rows] == pytest.approx(expected)
    assert expected[2] < 0.9 < expected[1] < 1


@pytest.mark.parametrize("swap", [False, True])
def test_other_numbers_of_filters(tmp_path: Path, cluster: StatisticsCluster, swap: bool) -> None:
    """Five filters stay, at other indices; there one is lost and three are new, or the other way round."""
    small, large = make_maps(12, 6), make_maps(12, 8, seed=1)
    large[:, [7, 2, 0, 5, 1]] = small[:, [0, 1, 2, 3, 4]]
    old, new = (large, small) if swap else (small, large)
    rows, summary = compare_maps(tmp_path, old, new, cluster)
    kept = {(0, 7), (1, 2), (2, 0), (3, 5), (4, 1)}
    found = {(r["old_filter"], r["new_filter"]) for r in rows if r["status"] == "same"}
    assert found == ({(v, u) for u, v in kept} if swap else kept)
    assert number_of(rows) == {"same": 5, "changed": 0, "lost": 3 if swap else 1, "new": 1 if swap else 3}
    alone = ({3, 4, 6}, {5}) if swap else ({5}, {3, 4, 6})
    assert {r["old_filter"] for r in rows if r["status"] == "lost"} == alone[0]
    assert {r["new_filter"] for r in rows if r["status"] == "new"} == alone[1]
    assert (summary["num_old"], summary["num_new"]) == ((8, 6) if swap else (6, 8))
    assert summary["share_lost"] == pytest.approx(3 / 8 if swap else 1 / 6)
    assert summary["share_new"] == pytest.approx(1 / 6 if swap else 3 / 8)
    single = [r for r in rows if r["status"] in ("lost", "new")]
    assert {(r["similarity"], r["similarity_low"], r["similarity_high"], r["certain"]) for r in single} == {
        (None, None, None, True)
    }


@pytest.mark.parametrize(("name", "arch"), [("conv", "timm:other"), ("conv2", "timm:net")])
def test_place_means_nothing_in_another_network_or_layer(
    tmp_path: Path, cluster: StatisticsCluster, name: str, arch: str
) -> None:
    old = make_maps(12, 6)
    new = old.copy()
    new[:, [1, 4]] = make_maps(12, 6, seed=1)[:, [1, 4]]
    first, second = write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)
    rows, summary = compare(tmp_path / "diff", make_layer(first), make_layer(second, name=name, arch=arch), cluster)
    assert number_of(rows) == {"same": 4, "changed": 0, "lost": 2, "new": 2}
    assert {r["layer"] for r in rows} == {name}
    assert summary["old_layer"] == "conv"


# ---------------------------------------------------------------- matching


def row_of(status: str, old: int | None, new: int | None, similarity: float | None = None) -> tuple[Any, ...]:
    return status, old, new, similarity


def match_all(correlation: AnyArray, low: Mapping[tuple[int, int], float], slots: bool) -> list[tuple[Any, ...]]:
    assigned = assign_filters(correlation, slots)
    full = {pair: float(correlation[pair]) for pair in assigned} | dict(low)
    found = match_filters(correlation, assigned, full, slots, SETTINGS)
    return [row_of(m.status, m.old, m.new, m.similarity) for m in found]


def test_thresholds_are_met_from_above() -> None:
    """0.9 is the same, just below it is changed; what counts for a match at another index is its interval's low end."""
    correlation = np.array([[0.1, 0.9, 0.0], [np.nextafter(0.9, 0), 0.1, 0.0], [0.0, 0.0, 0.0]])
    found = match_all(correlation, {(1, 0): 0.5}, slots=False)
    assert found == [
        row_of("changed", 1, 0, np.nextafter(0.9, 0)),
        row_of("same", 0, 1, 0.9),
        row_of("new", None, 2),
        row_of("lost", 2, None),
    ]
    found = match_all(correlation, {(1, 0): np.nextafter(0.5, 0)}, slots=False)
    assert [m[0] for m in found] == ["new", "same", "new", "lost", "lost"]


def test_what_stands_at_the_place_of_another_filter_is_changed() -> None:
    """The best assignment of two unrelated filters is crosswise; they are told apart by their place all the same."""
    correlation = np.array([[0.0, 0.3], [0.3, -0.1]])
    assert match_all(correlation, {}, slots=True) == [row_of("changed", 0, 0, 0.0), row_of("changed", 1, 1, -0.1)]
    assert [m[0] for m in match_all(correlation, {}, slots=False)] == ["new", "new", "lost", "lost"]


def test_filter_that_moved_leaves_its_place() -> None:
    """Old 0 is new 1; what stands at 0 now was nowhere, and what stood at 1 is gone."""
    correlation = np.array([[0.0, 0.95], [0.1, 0.0]])
    assert match_all(correlation, {}, slots=True) == [
        row_of("new", None, 0),
        row_of("same", 0, 1, 0.95),
        row_of("lost", 1, None),
    ]


@st.composite
def correlations(draw: st.DrawFn) -> tuple[AnyArray, AnyArray, bool]:
    """Correlations, lower ends of their intervals, and whether there are slots; with ties and values at the limits."""
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    value = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 0.9, 1.0]), st.floats(-1, 1, allow_subnormal=False))
    cells = draw(st.lists(value, min_size=rows * columns, max_size=rows * columns))
    below = draw(st.lists(st.floats(0, 1), min_size=rows * columns, max_size=rows * columns))
    correlation = np.array(cells).reshape(rows, columns)
    return correlation, correlation - np.array(below).reshape(rows, columns), rows == columns and draw(st.booleans())


@given(correlations())
def test_every_filter_has_just_one_row(found: tuple[AnyArray, AnyArray, bool]) -> None:
    correlation, low_CD, slots = found
    assigned = assign_filters(correlation, slots)
    assert len(assigned) == min(correlation.shape)
    low = {pair: float(low_CD[pair]) for pair in assigned}
    matches = match_filters(correlation, assigned, low, slots, SETTINGS)
    assert sorted(m.old for m in matches if m.old is not None) == list(range(correlation.shape[0]))
    assert sorted(m.new for m in matches if m.new is not None) == list(range(correlation.shape[1]))
    for m in matches:
        if m.old is None or m.new is None:
            assert (m.status, m.similarity) == ("new" if m.old is None else "lost", None)
            assert (m.old, m.new) != (None, None)
            continue
        assert m.similarity == correlation[m.old, m.new]
        is_same = (m.old, m.new) in assigned and correlation[m.old, m.new] >= 0.9
        assert m.status == ("same" if is_same else "changed")
        if m.status == "changed":
            assert low.get((m.old, m.new), -2.0) >= 0.5 or (slots and m.old == m.new)
    # With slots, nothing is left at an index whose old and new filter are both without a counterpart.
    lost, new = ({m.old if s == "lost" else m.new for m in matches if m.status == s} for s in ("lost", "new"))
    assert not (slots and lost & new)
    assert matches == sorted(matches, key=_order)


def _order(match: Match) -> tuple[int, int]:
    return 99 if match.new is None else match.new, 99 if match.old is None else match.old


@given(correlations())
def test_assignment_has_the_highest_sum(found: tuple[AnyArray, AnyArray, bool]) -> None:
    correlation, _, slots = found
    wide = correlation if correlation.shape[0] <= correlation.shape[1] else correlation.T
    best = max(
        sum(wide[u, v] for u, v in enumerate(columns)) for columns in permutations(range(wide.shape[1]), len(wide))
    )
    assigned = assign_filters(correlation, slots)
    assert sum(correlation[pair] for pair in assigned) == pytest.approx(best, abs=1e-7)


# ---------------------------------------------------------------- intervals


def resample_slowly(x: AnyArray, y: AnyArray, num_samples: int, seed: int) -> tuple[float, float]:
    """The same draws of pictures, one at a time; the correlation of their positions by numpy. x, y: [N, cells]."""
    generator = make_rng(seed, Stream.COMPARED_IMAGES)
    found = []
    for _ in range(num_samples):
        times = generator.multinomial(len(x), [1 / len(x)] * len(x))
        a, b = (np.repeat(values, times, axis=0).ravel() for values in (x, y))
        constant = (np.ptp(a) == 0, np.ptp(b) == 0)
        found.append(float(all(constant)) if any(constant) else float(np.corrcoef(a, b)[0, 1]))
    found.sort()
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


@pytest.mark.parametrize("seed", range(4))
def test_interval_is_that_of_a_slow_bootstrap(tmp_path: Path, seed: int) -> None:
    """Among the pairs: filters that are above 0 on one picture only, so that many resamplings never see them."""
    old = make_maps(7, 5, side=4).astype(np.float64)
    old[:, 3] = 0
    old[2, 3] = make_maps(1, 1, seed=5, side=4)[0, 0]
    old[:, 4] = 0.3
    new = 0.5 * old + make_maps(7, 5, seed=1, side=4)
    new[:, 3] = 0
    new[2, 3] = old[2, 3] + make_maps(1, 1, seed=6, side=4)[0, 0]
    new[:, 2] = 0.7
    first, second = write_store(tmp_path / "old", old), write_store(tmp_path / "new", new)
    pairs = (np.array([0, 1, 3, 4, 4, 2, 3]), np.array([0, 4, 3, 2, 0, 2, 1]))
    sums = np.concatenate([sum_per_image(pairs, b) for b in align_images(first, second)], axis=1)
    assert sums.shape == (5, 7, 7)
    constant = np.array([[u == 4 for u in pairs[0]], [v == 2 for v in pairs[1]]])
    low, high = bootstrap_similarity(sums, constant, 16, 120, seed)
    for number, (u, v) in enumerate(zip(*pairs, strict=True)):
        x, y = (m[:, c].astype(HALF).astype(np.float64).reshape(7, 16) for m, c in ((old, u), (new, v)))
        expected = resample_slowly(x, y, 120, seed)
        assert (low[number], high[number]) == pytest.approx(expected, abs=1e-9), (u, v)
    assert (low[3], high[3]) == (1, 1)
    assert (low[4], high[4], low[5], high[5]) == (0, 0, 0, 0)


@pytest.mark.parametrize("num_images", [1, 2, 15])
def test_interval_holds_its_estimate(tmp_path: Path, cluster: StatisticsCluster, num_images: int) -> None:
    """With a single picture every resampling is that picture, and only rounding is left between the two."""
    scale = 10 ** np.random.default_rng(2).uniform(-4, 3, size=(num_images, 24, 7, 7))
    old = make_maps(num_images, 24, side=7) * scale
    new = old + np.linspace(0, 2, 24)[:, None, None] * make_maps(num_images, 24, seed=1, side=7) * scale
    rows, _ = compare_maps(tmp_path, old, new, cluster)
    assert len([r for r in rows if r["similarity"] is not None]) > 12
    for row in rows:
        if row["similarity"] is not None:
            assert row["similarity_low"] <= row["similarity"] <= row["similarity_high"]
            if num_images == 1:
                assert row["similarity_low"] == pytest.approx(row["similarity_high"], abs=1e-12)
    if num_images == 15:
        wide = [r for r in rows if r["status"] == "changed"]
        assert all(r["similarity_low"] < r["similarity"] < r["similarity_high"] for r in wide)


def test_interval_is_over_pictures_and_not_over_positions(tmp_path: Path, cluster: StatisticsCluster) -> None:
    """Every picture ten times says no more than once."""
    old, noise = make_maps(10, 1).astype(np.float64), make_maps(10, 1, seed=1).astype(np.float64)
    once = compare_maps(tmp_path / "once", old, old + noise, cluster)[0][0]
    finer = [np.kron(m, np.ones((1, 1, 3, 3))) for m in (old, old + noise)]
    again = compare_maps(tmp_path / "again", finer[0], finer[1], cluster)[0][0]
    for name in ("similarity", "similarity_low", "similarity_high"):
        assert once[name] == pytest.approx(again[name], abs=1e-9)


def test_uncertain_is_what_could_as_well_be_the_other(tmp_path: Path, cluster: StatisticsCluster) -> None:
    old, noise = make_maps(10, 3).astype(np.float64), make_maps(10, 3, seed=1).astype(np.float64)
    new = old + np.array([0, 0.5, 0.5])[:, None, None] * noise
    rows, _ = compare_maps(tmp_path / "first", old, new, cluster)
    low, middle, high = (rows[1][k] for k in ("similarity_low", "similarity", "similarity_high"))
    assert low < middle < high
    for same_at, status, certain in (
        (low, "same", True),
        ((low + middle) / 2, "same", False),
        ((middle + high) / 2, "changed", False),
        (high, "changed", False),
        (high + 1e-6, "changed", True),
    ):
        settings = DiffSettings(bootstrap_samples=100, same_at=same_at, related_at=0)
        rows, summary = compare_maps(tmp_path / f"{same_at}", old, new, cluster, settings)
        assert (rows[1]["status"], rows[1]["certain"]) == (status, certain)
        assert rows[0]["certain"]
        assert summary["num_uncertain"] == sum(not r["certain"] for r in rows) >= (not certain)


# ---------------------------------------------------------------- the same bits


def changed_pair(root: Path) -> tuple[AuditedLayer, AuditedLayer]:
    """Two layers of 30 filters of which some drifted, some are new and some moved; 45 pictures."""
    old = make_maps(45, 30).astype(np.float64)
    new = old[:, np.random.default_rng(0).permutation(30)] + 0.3 * make_maps(45, 30, seed=1)
    new[:, ::6] = make_maps(45, 5, seed=2)
    first, second = write_store(root / "old", old, 16), write_store(root / "new", new, 9)
    return make_layer(first), make_layer(second)


def test_number_of_workers_changes_no_bit(
    tmp_path: Path, cluster: StatisticsCluster, process_cluster: StatisticsCluster
) -> None:
    """One worker, a thread of this process; and two processes, each with its own libraries."""
    old, new = changed_pair(tmp_path)
    rows, _ = compare(tmp_path / "one", old, new, cluster)
    assert len({r["status"] for r in rows}) >= 2
    compare(tmp_path / "two", old, new, process_cluster)
    for name in (TABLE_FILE, SUMMARY_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_only_the_draws_depend_on_the_seed(tmp_path: Path, cluster: StatisticsCluster) -> None:
    old, new = changed_pair(tmp_path)
    first, _ = compare(tmp_path / "a", old, new, cluster, seed=1)
    again, _ = compare(tmp_path / "b", old, new, cluster, seed=1)
    other, _ = compare(tmp_path / "c", old, new, cluster, seed=2)
    assert first == again
    assert [r["similarity"] for r in first] == [r["similarity"] for r in other]
    assert [r["similarity_low"] for r in first] != [r["similarity_low"] for r in other]


# ---------------------------------------------------------------- words and numbers


def test_words_of_a_pair(tmp_path: Path, cluster: StatisticsCluster) -> None:
    """The share of words in common; nothing to share where neither filter is explained, or there is only one."""
    old, new = make_maps(12, 6), make_maps(12, 7, seed=1)
    new[:, :5] = old[:, :5]
    before = {0: ["dog", "cat"], 1: ["tree", "leaf", "bush"], 2: ["sky"], 5: ["old"]}
    now = {0: ["cat", "dog"], 1: ["leaf", "grass"], 3: ["sea"], 5: ["new"]}
    first = make_layer(write_store(tmp_path / "old", old), before)
    second = make_layer(write_store(tmp_path / "new", new), now)
    # What a filter that is unexplained says is not said.
    first.filters[3]["words"].append("noise")
    rows, summary = compare(tmp_path / "diff", first, second, cluster)
    shared = {r["new_filter"]: r["words_shared"] for r in rows if r["status"] == "same"}
    assert shared == {0: 1.0, 1: 0.25, 2: 0.0, 3: 0.0, 4: None}
    assert [(r["old_words"], r["new_words"]) for r in rows[:5]] == [
        (before.get(u, []), now.get(u, [])) for u in range(5)
    ]
    assert [(r["old_explained"], r["new_explained"]) for r in rows[:5]] == [
        (True, True), (True, True), (True, False), (False, True), (False, False),
    ]  # fmt: skip
    alone = {(r["status"], r["old_filter"] or r["new_filter"]): r for r in rows[5:]}
    assert set(alone) == {("lost", 5), ("new", 5), ("new", 6)}
    lost, explained, unexplained = (alone[k] for k in (("lost", 5), ("new", 5), ("new", 6)))
    assert (lost["old_words"], lost["new_words"]) == (["old"], [])
    assert (lost["new_explained"], lost["words_shared"]) == (None, None)
    assert (explained["old_explained"], explained["new_words"], explained["words_shared"]) == (None, ["new"], None)
    assert unexplained["new_explained"] is False
    # By the first word of each filter: dog and tree and sky and old before; cat and leaf and sea and new now.
    assert summary["words_gained"] == ["cat", "leaf", "new", "sea"]
    assert summary["words_lost"] == ["dog", "old", "sky", "tree"]


def test_numbers_of_a_layer() -> None:
    rows = [
        make_diff_row("same", 0, 0, 1.0, True),
        make_diff_row("same", 2, 1, 0.95, False),
        make_diff_row("changed", 3, 2, 0.6, True),
        make_diff_row("changed", 1, 3, -0.25, False),
        make_diff_row("lost", 4, None, None, True),
        make_diff_row("new", None, 4, None, True),
        make_diff_row("new", None, 5, None, True),
    ]
    old = make_filters(5, {0: ["dog"], 1: ["cat"], 2: ["dog"]})
    new = make_filters(6, {0: ["cat"], 3: ["bird", "dog"], 5: ["ant"]})
    assert summarise(rows, old, new) == {
        "num_old": 5, "num_new": 6, "num_same": 2, "num_changed": 2, "num_lost": 1, "num_new_filters": 2,
        "num_moved": 1, "num_uncertain": 2, "share_kept": 0.4, "share_changed": 0.4, "share_lost": 0.2,
        "share_new": 2 / 6, "mean_similarity": pytest.approx(2.3 / 4), "words_gained": ["ant", "bird"],
        "words_lost": ["dog"],
    }  # fmt: skip


def test_numbers_of_layers_that_share_nothing() -> None:
    rows = [make_diff_row("lost", 0, None, None, True), make_diff_row("new", None, 0, None, True)]
    found = summarise(rows, make_filters(1, {}), make_filters(1, {}))
    assert (found["mean_similarity"], found["share_lost"], found["share_new"], found["share_kept"]) == (0, 1, 1, 0)
    assert (found["words_gained"], found["words_lost"]) == ([], [])
