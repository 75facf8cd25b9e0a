"""The panel against scikit-learn, numpy and loops; resamples against data sets with pictures really repeated."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from configs.schema import EvaluateSettings
from storage.activations import ActivationStore
from storage.datasets.base import Annotation, Dataset, ImageRecord
from storage.geometry import Geometry
from storage.progress import no_progress
from tasks import panel
from tasks.agreement import MaskAgreement, measure_agreement_of_shard, merge_agreement
from tasks.evaluate import GroundTruth, ImageBootstrap
from tasks.panel import (
    FIGURES,
    JudgedLayer,
    Statements,
    average_precision,
    collect_rows,
    describe_panel,
    draw_image_weights,
    draw_random_statements,
    expect_precision,
    judge_layer,
    judge_statements,
    judge_word_sets,
    load_panel,
    repeat_frequent_statements,
    save_panel,
    share_right,
    sum_tied_shares,
    summarise_panel,
)
from tasks.region_features import Pairs
from tasks.statistics import annotate_shards, order_bits
from tests.unit.tasks.helpers import AnyArray, upsample_with_torch, write_picture, write_store

CONCEPTS = ("cat", "dog", "sky", "unicorn")
SIZE = 16
CELLS = 4
# Boxes of whole cells and parts of cells, in pictures of 16 x 16; "sky" is in every picture.
BOXES: tuple[tuple[str, tuple[float, float, float, float]], ...] = (
    ("cat", (0, 0, 8, 8)),
    ("dog", (4, 4, 9, 7)),
    ("cat", (5, 6, 2, 1)),
)


@dataclass(frozen=True)
class Scene:
    """Pictures, maps, and what the tests work out from them by themselves."""

    store: ActivationStore
    agreement: MaskAgreement
    maps: AnyArray
    coverage: AnyArray
    fine: AnyArray
    thresholds: AnyArray


def make_scene(folder: Path, chosen: list[int] | None = None) -> Scene:
    """Seven pictures, or those chosen (also repeatedly), with five filters: plain, clipped, dead, rare and constant."""
    maps = np.random.default_rng(0).normal(size=(7, 5, CELLS, CELLS)).astype(np.float16)
    maps[:, 1] = np.clip(maps[:, 1] * 3, 0, 1)
    maps[:, 2] = 0
    maps[:, 3] = np.maximum(maps[:, 3] - 1, 0)
    maps[:, 4] = 3.25
    thresholds = np.array([0.9, np.nextafter(np.float16(1), np.float16(0)), 0, 0.3, 3.25], np.float32)
    labels = [[0], [1], [0, 1], [], [2], [1], [0, 2]]
    records, coverage, fine = [], [], []
    for n, i in enumerate(range(7) if chosen is None else chosen):
        path = write_picture(folder / f"{n:03d}.png", SIZE, SIZE, seed=i)
        annotations = [Annotation(BOXES[b][0], boxes=(BOXES[b][1],)) for b in labels[i]]
        # Half a picture of sky, wherever it is.
        annotations.append(Annotation("sky", boxes=((0, i, SIZE, SIZE - i),)))
        records.append(ImageRecord(f"{n:03d}.png", path, tuple(annotations)))
        masks = np.zeros((len(CONCEPTS), SIZE, SIZE), bool)
        for annotation in annotations:
            masks[CONCEPTS.index(annotation.concept)] |= annotation.make_mask(SIZE, SIZE)
        fine.append(masks)
        coverage.append(masks.reshape(len(CONCEPTS), CELLS, 4, CELLS, 4).mean(axis=(2, 4)).reshape(len(CONCEPTS), -1))
    taken = maps if chosen is None else maps[chosen]
    store = write_store(folder / "s", taken, shard_images=3)
    shards = annotate_shards(store, Dataset("scene", tuple(records), CONCEPTS), Geometry(SIZE))
    agreement = merge_agreement([measure_agreement_of_shard(thresholds, s)[0] for s in shards], store.starts[:-1])
    return Scene(store, agreement, taken, np.array(coverage), np.array(fine), thresholds)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


ALL_STATEMENTS = np.array(list(itertools.product(range(5), range(4)))).T


def mark_by_hand(coverage_NP: AnyArray) -> AnyArray:
    marked = coverage_NP >= 0.5
    for n, cells in enumerate(coverage_NP):
        if cells.any() and not marked[n].any():
            marked[n, np.argmax(cells)] = True
    return marked


def pearson_by_hand(x: AnyArray, y: AnyArray) -> float:
    return 0.0 if x.std() == 0 or y.std() == 0 else float(np.corrcoef(x, y)[0, 1])


def figures_by_hand(scene: Scene, unit: int, concept: int) -> dict[str, float]:
    maps = scene.maps[:, unit].astype(np.float64)
    coverage, fine = scene.coverage[:, concept], scene.fine[:, concept]
    regions = np.array([upsample_with_torch(m, SIZE) > scene.thresholds[unit] for m in maps])
    present = coverage.any(axis=1)
    if not present.any():
        return dict.fromkeys(FIGURES, float("nan"))
    peaks, marked = maps.max(axis=(1, 2)), mark_by_hand(coverage)
    found = {
        "iou": (fine & regions).sum() / (fine | regions).sum(),
        "pearson_position": pearson_by_hand(maps.ravel(), coverage.ravel()),
        "pearson_image": pearson_by_hand(peaks, present.astype(float)),
        "auprc_position": average_precision_score(marked.ravel(), maps.ravel()),
        "auprc_image": average_precision_score(present, peaks),
    }
    found["lift"] = found["auprc_image"] / present.mean()
    return found


# ---------------------------------------------------------------- average precision


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_average_precision_vs_sklearn(data: st.DataObject) -> None:
    """Any scores, with ties, on any pictures, each repeated as often as its weight says."""
    num, cells = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    values = st.sampled_from([-3.0, -0.0, 0.0, 0.5, 1.0, 6.0, 60000.0])
    scores = np.array(data.draw(st.lists(values, min_size=num * cells, max_size=num * cells)), np.float16)
    marks = np.array(data.draw(st.lists(st.booleans(), min_size=num * cells, max_size=num * cells)))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num)))
    scores, marks = scores.reshape(num, cells), marks.reshape(num, cells)
    owners = np.flatnonzero(marks.any(axis=1))
    columns = np.stack([np.ones(num), weights], axis=1)
    found = average_precision(order_bits(scores), owners, marks[owners], columns)
    for column, times in zip(found, (np.ones(num, int), weights), strict=True):
        repeated_marks = np.repeat(marks, times, axis=0).ravel()
        if repeated_marks.any():
            expected = average_precision_score(repeated_marks, np.repeat(scores, times, axis=0).ravel())
            assert column == pytest.approx(expected, rel=1e-12)
        else:
            assert np.isnan(column)


def test_average_precision_of_many_steps_uses_the_sparse_table_and_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    scores, marks = rng.normal(size=(300, 4)).astype(np.float16), rng.random((300, 4)) < 0.5
    weights = draw_image_weights(300, 5, 0)
    owners = np.flatnonzero(marks.any(axis=1))
    dense = average_precision(order_bits(scores), owners, marks[owners], weights)
    monkeypatch.setattr(panel, "_DENSE_ENTRIES", 0)
    np.testing.assert_array_equal(average_precision(order_bits(scores), owners, marks[owners], weights), dense)
    for b in range(5):
        times = weights[:, b].astype(int)
        expected = average_precision_score(np.repeat(marks, times, 0).ravel(), np.repeat(scores, times, 0).ravel())
        assert dense[b] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scores", [[5, 4, 3, 2, 1, 0], [6, 6, 6, 2, 1, 1], [0, 0, 0, 0, 0, 0], [3, 2, 2, 0, 0, 0]])
@pytest.mark.parametrize("num_marked", [1, 2, 5, 6])
def test_expected_precision_vs_all_ways_of_dealing_marks(scores: list[int], num_marked: int) -> None:
    values = np.array(scores, np.float16)
    every = [
        average_precision_score(np.isin(np.arange(6), chosen), values)
        for chosen in itertools.combinations(range(6), num_marked)
    ]
    tied = np.array([sum_tied_shares(order_bits(values))])
    assert expect_precision(np.array([float(num_marked)]), 6, tied)[0] == pytest.approx(np.mean(every), rel=1e-12)


# ---------------------------------------------------------------- statements


def test_statements_vs_sklearn_and_numpy(scene: Scene) -> None:
    units, concepts = ALL_STATEMENTS
    order = np.random.default_rng(0).permutation(len(units))
    found = judge_statements(scene.store, scene.agreement, units[order], concepts[order])
    for n, (unit, concept) in enumerate(zip(units[order], concepts[order], strict=True)):
        for figure, expected in figures_by_hand(scene, unit, concept).items():
            assert found[figure][n] == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True), (figure, unit, concept)
    assert set(found) == set(FIGURES)
    assert np.isnan(found["skill_image"][concepts[order] == 3]).all()


def test_skill_of_a_perfect_and_a_blind_filter(tmp_path: Path) -> None:
    """A filter that is the mask itself has all of the skill; one that is constant has none."""
    plain = make_scene(tmp_path / "a")
    maps = plain.maps.copy()
    maps[:, 0] = mark_by_hand(plain.coverage[:, 1]).reshape(7, CELLS, CELLS)
    store = write_store(tmp_path / "b", maps)
    found = judge_statements(store, plain.agreement, np.array([0, 4]), np.array([1, 1]))
    for figure in ("skill_position", "skill_image"):
        assert found[figure] == pytest.approx([1, 0], abs=1e-12)


def test_no_statement_and_statements_of_other_filters(scene: Scene) -> None:
    empty = np.zeros(0, np.int64)
    assert all(len(v) == 0 for v in judge_statements(scene.store, scene.agreement, empty, empty).values())
    with pytest.raises(ValueError, match=r"expected filter in 0\.\.4, found 5"):
        judge_statements(scene.store, scene.agreement, np.array([5]), np.array([0]))
    with pytest.raises(ValueError, match=r"expected concept in 0\.\.3, found -1"):
        judge_statements(scene.store, scene.agreement, np.array([0]), np.array([-1]))


def test_agreement_of_another_store_is_refused(scene: Scene, tmp_path: Path) -> None:
    other = write_store(tmp_path / "s", scene.maps[:3])
    with pytest.raises(ValueError, match="of other activations"):
        judge_statements(other, scene.agreement, np.array([0]), np.array([0]))


def test_a_few_filters_in_memory_at_once_change_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = judge_statements(scene.store, scene.agreement, *ALL_STATEMENTS)
    monkeypatch.setattr(panel, "_MAP_BYTES", 1)
    monkeypatch.setattr(panel, "_STATEMENT_BLOCK", 3)
    for figure, values in judge_statements(scene.store, scene.agreement, *ALL_STATEMENTS).items():
        np.testing.assert_array_equal(values, whole[figure])


# ---------------------------------------------------------------- rows


def test_first_word_that_is_a_category() -> None:
    statements = Statements(np.array([4, 2, 9]), np.array([[-1, 7, 3], [5, -1, 1], [-1, -1, -1]]))
    units, concepts = statements.take_first()
    assert (units.tolist(), concepts.tolist()) == ([4, 2], [7, 5])
    assert [len(a) for a in Statements(np.array([1]), np.zeros((1, 0), np.int64)).take_first()] == [0, 0]


def test_random_statements() -> None:
    filters = np.arange(2000)
    drawn = draw_random_statements(filters, 10, 4, 0)
    assert drawn.words.shape == (2000, 4)
    assert all(len(set(row)) == 4 for row in drawn.words.tolist())
    shares = np.bincount(drawn.words[:, 0], minlength=10) / 2000
    np.testing.assert_allclose(shares, 0.1, atol=0.03)
    np.testing.assert_array_equal(drawn.words, draw_random_statements(filters, 10, 4, 0).words)
    assert (drawn.words != draw_random_statements(filters, 10, 4, 1).words).any()
    assert draw_random_statements(filters, 3, 5, 0).words.shape == (2000, 3)


def test_most_frequent_statements() -> None:
    found = repeat_frequent_statements(np.array([3, 8]), np.array([2, 7, 0, 7, 5]), 3)
    assert found.filter.tolist() == [3, 8]
    assert found.words.tolist() == [[1, 3, 4], [1, 3, 4]]


# ---------------------------------------------------------------- sets of words


def make_truth(seed: int = 0, num: int = 40, num_images: int = 7) -> GroundTruth:
    rng = np.random.default_rng(seed)
    member = rng.random((num, 4)) < 0.4
    member[:, 0] |= ~member.any(axis=1)
    pairs = Pairs(np.sort(rng.integers(0, 5, num)), rng.integers(0, num_images, num), np.ones(num, np.float32))
    return GroundTruth(pairs, member)


def test_word_sets_vs_set_arithmetic() -> None:
    truth = make_truth()
    words = np.array([[2, -1, 0, 2], [-1, -1, -1, -1], [1, 1, 3, 0], [-1, 3, -1, 1]])
    statements = Statements(np.array([3, 0, 1, 4]), words)  # filter 2 is not judged
    pairs, found = judge_word_sets(statements, truth, (1, 2, 4, 9))
    assert pairs.tolist() == np.flatnonzero(truth.pairs.filter != 2).tolist()
    for n, pair in enumerate(pairs):
        row = statements.filter.tolist().index(truth.pairs.filter[pair])
        true = set(np.flatnonzero(truth.member[pair]).tolist())
        for k in (1, 2, 4, 9):
            named = set(words[row, :k].tolist()) - {-1}
            recall = len(named & true) / len(true)
            precision = len(named & true) / len(named) if named else 0.0
            harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            figures = [found[f"{name}@{k}"][n] for name in ("recall", "precision", "f1")]
            assert figures == pytest.approx([recall, precision, harmonic], abs=1e-12)


def test_filters_without_any_word_name_nothing() -> None:
    truth = make_truth()
    pairs, found = judge_word_sets(Statements(np.arange(5), np.zeros((5, 0), np.int64)), truth, (1, 3))
    assert len(pairs) == len(truth.pairs)
    assert all((values == 0).all() for values in found.values())


def test_naming_everything_passes_recall_but_not_f1() -> None:
    truth = GroundTruth(
        Pairs(np.array([0, 0]), np.array([0, 1]), np.ones(2, np.float32)), np.eye(20, dtype=bool)[[3, 3]]
    )
    everything = Statements(np.array([0]), np.arange(20)[None])
    right = Statements(np.array([0]), np.array([[3, -1]]))
    found = judge_word_sets(everything, truth, (20,))[1]
    assert found["recall@20"].tolist() == [1, 1]
    assert found["f1@20"] == pytest.approx([2 / 21] * 2)
    assert judge_word_sets(right, truth, (20,))[1]["f1@20"].tolist() == [1, 1]


# ---------------------------------------------------------------- the table

ROWS = {
    "explanation": Statements(np.array([0, 1, 3, 4]), np.array([[0, 1], [-1, 2], [1, 0], [3, 3]])),
    "random": Statements(np.array([0, 1, 2, 3]), np.array([[2, 0], [1, 3], [0, 2], [1, 0]])),
    "silent": Statements(np.array([2]), np.array([[-1, -1]])),
}


def test_panel_values_are_means_of_judged_statements(scene: Scene) -> None:
    truth = make_truth()
    found = summarise_panel(scene.store, scene.agreement, ROWS, truth, (1, 2), 50, 0)
    for name, statements in ROWS.items():
        row = found["rows"][name]
        single = judge_statements(scene.store, scene.agreement, *statements.take_first())
        pairs, sets = judge_word_sets(statements, truth, (1, 2))
        judged = int((~np.isnan(single["iou"])).sum())
        assert (row["num_filters"], row["num_judged"], row["num_pairs"]) == (len(statements.filter), judged, len(pairs))
        for figure, values in (single | sets).items():
            if judged or figure in sets:
                summary = row["figures"][figure]
                assert summary["value"] == pytest.approx(np.nanmean(values), rel=1e-12)
                assert summary["low"] <= summary["value"] <= summary["high"]
            else:
                assert figure not in row["figures"]
    assert found["rows"]["explanation"]["num_statements"] == 4
    assert found["rows"]["explanation"]["num_judged"] == 3
    assert found["rows"]["silent"]["num_statements"] == 0
    json.dumps(found, allow_nan=False)


def test_resamples_vs_data_sets_with_pictures_really_repeated(scene: Scene, tmp_path: Path) -> None:
    """Each resample's means are those of a store and masks in which the drawn pictures stand as often as drawn."""
    samples, seed = 4, 5
    weights = draw_image_weights(7, samples, seed)
    unchanged = np.concatenate([np.ones((7, 1)), weights], axis=1)
    _, means = panel._average_statements(scene.store, scene.agreement, ROWS, unchanged, samples + 1, no_progress)
    for b in range(samples):
        drawn = np.repeat(np.arange(7), weights[:, b].astype(int)).tolist()
        repeated = make_scene(tmp_path / str(b), drawn)
        for name in ("explanation", "random"):
            single = judge_statements(repeated.store, repeated.agreement, *ROWS[name].take_first())
            for figure, values in single.items():
                # Chance in a resample is that of the data set's own ties.
                if not figure.startswith("skill"):
                    assert means[name][figure][b + 1] == pytest.approx(np.nanmean(values), rel=1e-9, abs=1e-9), figure


def test_draws_are_those_of_the_evaluation() -> None:
    weights = draw_image_weights(9, 30, 4)
    assert (weights.sum(axis=0) == 9).all()
    values = np.random.default_rng(0).random(9)
    means = ImageBootstrap(np.arange(9), 30, 4).sample_means(values)
    np.testing.assert_allclose(values @ weights / 9, means, rtol=1e-12)


def test_differences_are_paired(scene: Scene) -> None:
    """Two rows that say the same differ by nothing, in every resample; and all differences start from the first row."""
    rows = {"first": ROWS["explanation"], "same": ROWS["explanation"], "other": ROWS["random"]}
    found = summarise_panel(scene.store, scene.agreement, rows, make_truth(), (1,), 40, 0)
    assert {d["first"] for d in found["differences"]} == {"first"}
    for difference in found["differences"]:
        if difference["second"] == "same":
            assert (difference["value"], difference["low"], difference["high"]) == (0, 0, 0)
            assert not difference["supported"]
        else:
            figures = [found["rows"][name]["figures"][difference["figure"]]["value"] for name in ("first", "other")]
            assert difference["value"] == pytest.approx(figures[0] - figures[1], abs=1e-12)
    assert len(found["differences"]) == 2 * (len(FIGURES) + 3)


def test_fewer_resamples_for_the_costly_figures_is_said(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "POSITION_SAMPLES", 10)
    found = summarise_panel(scene.store, scene.agreement, ROWS, make_truth(), (1,), 40, 0)
    assert found["samples_by_figure"]["auprc_position"] == found["samples_by_figure"]["skill_position"] == 10
    assert found["samples_by_figure"]["iou"] == found["samples"] == 40
    # They are the first ten of the same draws.
    less = summarise_panel(scene.store, scene.agreement, ROWS, make_truth(), (1,), 10, 0)
    full = found["rows"]["random"]["figures"]["auprc_position"]
    assert full["value"] == less["rows"]["random"]["figures"]["auprc_position"]["value"]


def test_the_same_seed_gives_the_same_table(scene: Scene) -> None:
    first, again, other = (
        summarise_panel(scene.store, scene.agreement, ROWS, make_truth(), (1, 2), 30, seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_words_dealt_at_random_have_no_skill(tmp_path: Path) -> None:
    """Two hundred filters of noise: the interval of the mean skill by picture holds 0, though concepts are rare."""
    plain = make_scene(tmp_path / "a")
    maps = np.random.default_rng(11).normal(size=(7, 200, CELLS, CELLS)).astype(np.float16)
    records = [
        ImageRecord(f"{i:03d}.png", tmp_path / "a" / f"{i:03d}.png", (Annotation(CONCEPTS[i % 3]),)) for i in range(7)
    ]
    store = write_store(tmp_path / "noise", maps, keys=plain.store.keys)
    shards = annotate_shards(store, Dataset("noise", tuple(records), CONCEPTS), Geometry(SIZE))
    thresholds = np.full(200, 2, np.float32)
    agreement = merge_agreement([measure_agreement_of_shard(thresholds, s)[0] for s in shards], store.starts[:-1])
    drawn = draw_random_statements(np.arange(200), 3, 1, 0)
    found = judge_statements(store, agreement, *drawn.take_first())
    assert abs(found["skill_image"].mean()) < 3 * found["skill_image"].std() / np.sqrt(200)
    assert found["lift"].mean() > 1.2


def test_intervals_of_precision_cover_though_resamples_are_biased() -> None:
    """A picture drawn twice ties with itself, which lifts AUPRC: bare percentiles cover too seldom."""
    num_images, shares = 60, np.array([0.04, 0.1, 0.2])
    values, centred, bare = [], [], []
    for repeat in range(100):
        rng = np.random.default_rng([1, repeat])
        marks = rng.random((num_images, 3)) < shares
        scores = (rng.normal(size=(num_images, 3)) + marks).clip(0, 2).astype(np.float16)
        draws = draw_image_weights(num_images, 100, repeat)
        weights = np.concatenate([np.ones((num_images, 1)), draws], axis=1)
        figures = []
        for t in range(3):
            owners = np.flatnonzero(marks[:, t])
            ones = np.ones((len(owners), 1), bool)
            figures.append(average_precision(order_bits(scores[:, t])[:, None], owners, ones, weights))
        means = np.nanmean(figures, axis=0)
        summary = panel._summarise(means)
        values.append(summary["value"])
        centred.append((summary["low"], summary["high"]))
        bare.append(np.nanquantile(means[1:], [0.025, 0.975]))
    truth = np.mean(values)
    covered, covered_bare = (np.mean([low <= truth <= high for low, high in ends]) for ends in (centred, bare))
    assert covered >= 0.9
    assert covered_bare < covered


# ---------------------------------------------------------------- a layer and its baselines

SIMPLE = ("random_words", "dealt_words", "most_frequent_words")
OWN_WORDS = np.array([[0, 1], [-1, 2], [1, -1], [2, 0], [3, 1]])
COUNTS = np.array([2, 9, 4, 0])


def make_layer(scene: Scene, explained: list[bool], words: AnyArray = OWN_WORDS, seed: int = 0) -> JudgedLayer:
    """Filter u detects the concepts of odd u + t; no picture has the last concept."""
    right = np.add.outer(np.arange(5), np.arange(4)) % 2 == 1
    judged = np.array([True, True, True, False])
    statements = Statements(np.arange(5), words)
    return JudgedLayer(statements, np.array(explained), scene.store, scene.agreement, make_truth(seed), right, judged)


def judge(
    own: JudgedLayer, others: dict[str, JudgedLayer], as_rows: tuple[str, ...] = (), seed: int = 0
) -> dict[str, Any]:
    settings = EvaluateSettings(bootstrap_samples=100, panel_at=(1, 2), baselines=SIMPLE)
    rows = collect_rows(own.statements, own.explained, COUNTS, settings, seed)
    rows |= {name: others[name].statements for name in as_rows}
    return judge_layer(own, rows, others, settings, seed)


def test_rows_of_a_layer() -> None:
    statements = Statements(np.arange(5), OWN_WORDS)
    explained = np.array([True, False, True, True, False])
    rows = collect_rows(statements, explained, COUNTS, EvaluateSettings(), 3)
    # Shuffled labels and the random network are other audits.
    assert list(rows) == ["explained", "all_filters", *SIMPLE]
    assert rows["all_filters"] is statements
    for name in ("explained", *SIMPLE):
        assert rows[name].filter.tolist() == [0, 2, 3]
        assert rows[name].words.shape == (3, 2)
    np.testing.assert_array_equal(rows["explained"].words, OWN_WORDS[explained])
    assert sorted(rows["dealt_words"].words.tolist()) == sorted(OWN_WORDS[explained].tolist())
    assert rows["most_frequent_words"].words.tolist() == [[1, 2]] * 3
    assert all(len(set(row)) == 2 and set(row) <= {0, 1, 2, 3} for row in rows["random_words"].words.tolist())


def test_words_are_dealt_to_other_filters() -> None:
    words = np.arange(80).reshape(40, 2)
    statements = Statements(np.arange(40), words)
    dealt, again, other = (
        collect_rows(statements, np.ones(40, bool), np.zeros(80, np.int64), EvaluateSettings(), seed)[
            "dealt_words"
        ].words
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(dealt, again)
    assert not np.array_equal(dealt, other)
    assert (dealt[:, 0] != words[:, 0]).mean() > 0.8
    # All words of a filter go together.
    assert (dealt[:, 1] == dealt[:, 0] + 1).all()


def test_only_the_baselines_that_are_asked_for() -> None:
    statements = Statements(np.arange(5), OWN_WORDS)
    for chosen in ((), ("dealt_words",), ("shuffled_labels", "random_words")):
        settings = EvaluateSettings.model_validate({"baselines": chosen})
        rows = collect_rows(statements, np.ones(5, bool), COUNTS, settings, 0)
        assert set(rows) == {"explained", "all_filters", *(set(chosen) & set(SIMPLE))}


def test_baselines_speak_about_all_filters_where_none_is_explained(scene: Scene) -> None:
    own = make_layer(scene, [False] * 5)
    rows = collect_rows(own.statements, own.explained, COUNTS, EvaluateSettings(), 0)
    assert {name: len(row.filter) for name, row in rows.items()} == {
        "explained": 0,
        "all_filters": 5,
        **dict.fromkeys(SIMPLE, 5),
    }
    found = judge(own, {})
    explained = found["rows"]["explained"]
    assert (explained["num_judged"], explained["figures"], explained["share_right"]) == (0, {}, None)
    assert explained["share_explained"] == 0
    assert found["differences"] == []
    json.dumps(found, allow_nan=False)


def test_share_right_by_hand(scene: Scene) -> None:
    """Of first words that are categories: (0, 0) is wrong, (1, 2) right, (2, 1) right, (3, 2) right, (4, 3) unknown."""
    layer = make_layer(scene, [True] * 5)
    assert share_right(layer.statements, layer) == 3 / 4
    assert share_right(layer.take(np.array([True, True, False, False, False])), layer) == 1 / 2
    assert share_right(layer.take(np.array([False, False, False, False, True])), layer) is None
    assert share_right(Statements(np.array([2]), np.array([[-1, -1]])), layer) is None


def test_layer_and_its_baselines(scene: Scene, tmp_path: Path) -> None:
    """Shuffled labels speak about the layer's own filters; another network is judged on its own."""
    own = make_layer(scene, [True, False, True, True, False])
    shuffled = make_layer(scene, [False, False, True, False, False], OWN_WORDS[::-1])
    drawn = make_scene(tmp_path, [4, 1, 1, 6, 2, 0])
    network = make_layer(drawn, [True, False, False, False, True], OWN_WORDS[[4, 2, 0, 1, 3]], seed=1)
    network = replace(network, right=~network.right, truth=make_truth(1, num_images=6))
    others = {"shuffled_labels": shuffled, "random_network": network}
    found = judge(own, others, as_rows=("shuffled_labels",))
    assert list(found["rows"]) == ["explained", "all_filters", *SIMPLE, "shuffled_labels", "random_network"]
    settings = EvaluateSettings(bootstrap_samples=100, baselines=SIMPLE)
    rows = collect_rows(own.statements, own.explained, COUNTS, settings, 0)
    rows["shuffled_labels"] = shuffled.statements
    alone = summarise_panel(scene.store, scene.agreement, rows, own.truth, (1, 2), 100, 0)
    other = summarise_panel(
        drawn.store, drawn.agreement, {"random_network": network.statements}, network.truth, (1, 2), 100, 0
    )
    for name, row in (alone["rows"] | other["rows"]).items():
        shares = {k: found["rows"][name][k] for k in ("share_right", "share_explained") if k in found["rows"][name]}
        assert found["rows"][name] == row | shares
        assert row["num_judged"] > 0
    # Only what was judged on the same filters can be subtracted.
    assert found["differences"] == alone["differences"]
    assert {d["second"] for d in found["differences"]} == {"all_filters", *SIMPLE, "shuffled_labels"}
    explained = {name: row["share_explained"] for name, row in found["rows"].items() if "share_explained" in row}
    assert explained == {"explained": 0.6, "shuffled_labels": 0.2, "random_network": 0.4}
    right = {name: found["rows"][name]["share_right"] for name in found["rows"]}
    assert (right["explained"], right["all_filters"]) == (2 / 3, 3 / 4)
    assert right["shuffled_labels"] == share_right(shuffled.statements, own)
    # Its words are held against what its own filters detect.
    assert right["random_network"] == share_right(network.statements, network)
    assert right["random_network"] != share_right(network.statements, own)
    assert judge(own, others, as_rows=("shuffled_labels",)) == found
    assert judge(own, others, as_rows=("shuffled_labels",), seed=1) != found


def test_panel_comes_back_and_is_described_by_numbers(scene: Scene, tmp_path: Path) -> None:
    found = judge(make_layer(scene, [False] * 5), {})
    save_panel(found, tmp_path)
    assert load_panel(tmp_path) == json.loads(json.dumps(found)) == found
    flat = describe_panel(found)
    assert flat["all_filters/iou"] == found["rows"]["all_filters"]["figures"]["iou"]["value"]
    assert flat["all_filters/recall_at_2"] == found["rows"]["all_filters"]["figures"]["recall@2"]["value"]
    assert (flat["all_filters/share_right"], flat["explained/share_explained"]) == (3 / 4, 0)
    assert "explained/share_right" not in flat
    assert not [name for name in flat if "@" in name]
