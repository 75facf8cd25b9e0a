"""Comparing two audits: what is found and what is not, honest intervals, the same bits."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from lavise.configs.schema import DiffSettings
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.history.filter_matching import (
    SUMMARY_FILE,
    TABLE_FILE,
    AuditedLayer,
    align_images,
    assign_filters,
    bootstrap_similarity,
    sum_per_image,
    summarise,
)
from lavise.tasks.numerics.random_streams import Stream, make_rng
from tests.unit.tasks.helpers import AnyArray, make_diff_row, write_store
from tests.unit.tasks.history.compared_layers import (
    HALF,
    compare,
    compare_maps,
    correlate_with_numpy,
    make_filters,
    make_layer,
    make_maps,
    number_of,
)

# ---------------------------------------------------------------- correlation


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
