"""The panel against scikit-learn, numpy and loops; resamples against data sets with pictures really repeated."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.storage.state.progress import no_progress
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.evaluation import panel, statement_scores
from lavise.tasks.evaluation.ground_truth import GroundTruth
from lavise.tasks.evaluation.layer_panel import draw_random_statements
from lavise.tasks.evaluation.panel import FIGURES, Statements, score_statements, score_word_sets, summarise_panel
from lavise.tasks.masks.annotated_shards import annotate_shards
from lavise.tasks.numerics import average_precision as precision_steps
from lavise.tasks.numerics.average_precision import average_precision
from lavise.tasks.numerics.bootstrap import ImageBootstrap, ImageWeights, draw_image_weights
from lavise.tasks.numerics.float16_bits import order_bits
from tests.unit.tasks.helpers import AnyArray, upsample_with_torch, write_store
from tests.unit.tasks.panel_scenes import CELLS, CONCEPTS, SIZE, Scene, make_scene, make_truth, merge_shards


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


def test_statements_vs_sklearn_and_numpy(scene: Scene) -> None:
    units, concepts = ALL_STATEMENTS
    order = np.random.default_rng(0).permutation(len(units))
    found = score_statements(scene.store, scene.agreement, units[order], concepts[order])
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
    found = score_statements(store, plain.agreement, np.array([0, 4]), np.array([1, 1]))
    for figure in ("skill_position", "skill_image"):
        assert found[figure] == pytest.approx([1, 0], abs=1e-12)


def test_no_statement_and_statements_of_other_filters(scene: Scene) -> None:
    empty = np.zeros(0, np.int64)
    assert all(len(v) == 0 for v in score_statements(scene.store, scene.agreement, empty, empty).values())
    with pytest.raises(ValueError, match=r"expected filter in 0\.\.4, found 5"):
        score_statements(scene.store, scene.agreement, np.array([5]), np.array([0]))
    with pytest.raises(ValueError, match=r"expected concept in 0\.\.3, found -1"):
        score_statements(scene.store, scene.agreement, np.array([0]), np.array([-1]))


def test_agreement_of_another_store_is_refused(scene: Scene, tmp_path: Path) -> None:
    other = write_store(tmp_path / "s", scene.maps[:3])
    with pytest.raises(ValueError, match="of other activations"):
        score_statements(other, scene.agreement, np.array([0]), np.array([0]))


def test_a_few_filters_in_memory_at_once_change_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score_statements(scene.store, scene.agreement, *ALL_STATEMENTS)
    for name in ("_STATEMENTS", "_IMAGES", "_OVERLAPS"):
        monkeypatch.setattr(statement_scores, name, 2)
    monkeypatch.setattr(precision_steps, "_PICTURES", 2)
    for figure, values in score_statements(scene.store, scene.agreement, *ALL_STATEMENTS).items():
        np.testing.assert_allclose(values, whole[figure], rtol=1e-12, atol=1e-12, err_msg=figure)


def test_first_word_that_is_a_category() -> None:
    statements = Statements(np.array([4, 2, 9]), np.array([[-1, 7, 3], [5, -1, 1], [-1, -1, -1]]))
    units, concepts = statements.take_first()
    assert (units.tolist(), concepts.tolist()) == ([4, 2], [7, 5])
    assert [len(a) for a in Statements(np.array([1]), np.zeros((1, 0), np.int64)).take_first()] == [0, 0]


def test_word_sets_vs_set_arithmetic() -> None:
    truth = make_truth()
    words = np.array([[2, -1, 0, 2], [-1, -1, -1, -1], [1, 1, 3, 0], [-1, 3, -1, 1]])
    statements = Statements(np.array([3, 0, 1, 4]), words)  # filter 2 is not judged
    pairs, found = score_word_sets(statements, truth, (1, 2, 4, 9))
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
    pairs, found = score_word_sets(Statements(np.arange(5), np.zeros((5, 0), np.int64)), truth, (1, 3))
    assert len(pairs) == len(truth.pairs)
    assert all((values == 0).all() for values in found.values())


def test_naming_everything_passes_recall_but_not_f1() -> None:
    truth = GroundTruth(
        Pairs(np.array([0, 0]), np.array([0, 1]), np.ones(2, np.float32)), np.eye(20, dtype=bool)[[3, 3]]
    )
    everything = Statements(np.array([0]), np.arange(20)[None])
    right = Statements(np.array([0]), np.array([[3, -1]]))
    found = score_word_sets(everything, truth, (20,))[1]
    assert found["recall@20"].tolist() == [1, 1]
    assert found["f1@20"] == pytest.approx([2 / 21] * 2)
    assert score_word_sets(right, truth, (20,))[1]["f1@20"].tolist() == [1, 1]


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
        single = score_statements(scene.store, scene.agreement, *statements.take_first())
        pairs, sets = score_word_sets(statements, truth, (1, 2))
        scored = int((~np.isnan(single["iou"])).sum())
        assert (row["num_filters"], row["num_judged"], row["num_pairs"]) == (len(statements.filter), scored, len(pairs))
        for figure, values in (single | sets).items():
            if scored or figure in sets:
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
    with ImageWeights(7, samples, seed) as held:
        _, means = panel._average_statements(scene.store, scene.agreement, ROWS, held, samples + 1, no_progress)
    for b in range(samples):
        drawn = np.repeat(np.arange(7), weights[:, b].astype(int)).tolist()
        repeated = make_scene(tmp_path / str(b), drawn)
        for name in ("explanation", "random"):
            single = score_statements(repeated.store, repeated.agreement, *ROWS[name].take_first())
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
    agreement = merge_shards(store, shards, thresholds)
    drawn = draw_random_statements(np.arange(200), 3, 1, 0)
    found = score_statements(store, agreement, *drawn.take_first())
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
        assert summary is not None
        values.append(summary["value"])
        centred.append((summary["low"], summary["high"]))
        bare.append(np.nanquantile(means[1:], [0.025, 0.975]))
    truth = np.mean(values)
    covered, covered_bare = (np.mean([low <= truth <= high for low, high in ends]) for ends in (centred, bare))
    assert covered >= 0.9
    assert covered_bare < covered
