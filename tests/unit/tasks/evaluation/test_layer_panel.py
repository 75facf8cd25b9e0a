"""The panel of a layer and its baselines, and of single filters, by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from lavise.configs.schema import EvaluateSettings
from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.engine.stage_inputs import take_part
from lavise.tasks.evaluation.ground_truth import GroundTruth
from lavise.tasks.evaluation.layer_panel import (
    FILTER_SCORES_FILE,
    PanelSettings,
    ScoredFilter,
    collect_rows,
    describe_panel,
    draw_random_statements,
    load_panel,
    measure_panel,
    repeat_frequent_statements,
    save_panel,
    score_filters,
    share_right,
)
from lavise.tasks.evaluation.panel import Panel, Statements, summarise_panel
from lavise.tasks.evaluation.panel_layer import PanelLayer
from tests.unit.tasks.helpers import AnyArray
from tests.unit.tasks.panel_scenes import Scene, make_scene, make_truth


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


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


SIMPLE = ("random_words", "dealt_words", "most_frequent_words")
OWN_WORDS = np.array([[0, 1], [-1, 2], [1, -1], [2, 0], [3, 1]])
COUNTS = np.array([2, 9, 4, 0])


def make_layer(scene: Scene, explained: list[bool], words: AnyArray = OWN_WORDS, seed: int = 0) -> PanelLayer:
    """Filter u detects the concepts of odd u + t; no picture has the last concept."""
    right = np.add.outer(np.arange(5), np.arange(4)) % 2 == 1
    scored = np.array([True, True, True, False])
    statements = Statements(np.arange(5), words)
    return PanelLayer(statements, np.array(explained), scene.store, scene.agreement, make_truth(seed), right, scored)


def settings_of(**changed: Any) -> PanelSettings:
    chosen = EvaluateSettings(**changed)
    return take_part(chosen, PanelSettings, at=chosen.panel_at, top_images=6)


def score(own: PanelLayer, others: dict[str, PanelLayer], as_rows: tuple[str, ...] = (), seed: int = 0) -> Panel:
    settings = settings_of(bootstrap_samples=100, panel_at=(1, 2), baselines=SIMPLE)
    rows = collect_rows(own.statements, own.explained, COUNTS, settings, seed)
    rows |= {name: others[name].statements for name in as_rows}
    return measure_panel(own, rows, others, settings, seed)


def test_rows_of_a_layer() -> None:
    statements = Statements(np.arange(5), OWN_WORDS)
    explained = np.array([True, False, True, True, False])
    rows = collect_rows(statements, explained, COUNTS, settings_of(), 3)
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
        collect_rows(statements, np.ones(40, bool), np.zeros(80, np.int64), settings_of(), seed)["dealt_words"].words
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
        settings = take_part(EvaluateSettings(), PanelSettings, at=(1, 2), baselines=chosen, top_images=6)
        rows = collect_rows(statements, np.ones(5, bool), COUNTS, settings, 0)
        assert set(rows) == {"explained", "all_filters", *(set(chosen) & set(SIMPLE))}


def test_baselines_speak_about_all_filters_where_none_is_explained(scene: Scene) -> None:
    own = make_layer(scene, [False] * 5)
    rows = collect_rows(own.statements, own.explained, COUNTS, settings_of(), 0)
    assert {name: len(row.filter) for name, row in rows.items()} == {
        "explained": 0,
        "all_filters": 5,
        **dict.fromkeys(SIMPLE, 5),
    }
    found = score(own, {})
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
    found = score(own, others, as_rows=("shuffled_labels",))
    assert list(found["rows"]) == ["explained", "all_filters", *SIMPLE, "shuffled_labels", "random_network"]
    settings = settings_of(bootstrap_samples=100, baselines=SIMPLE)
    rows = collect_rows(own.statements, own.explained, COUNTS, settings, 0)
    rows["shuffled_labels"] = shuffled.statements
    alone = summarise_panel(scene.store, scene.agreement, rows, own.truth, (1, 2), 100, 0)
    other = summarise_panel(
        drawn.store, drawn.agreement, {"random_network": network.statements}, network.truth, (1, 2), 100, 0
    )
    for name, row in (alone["rows"] | other["rows"]).items():
        described = dict(found["rows"][name])
        assert {k: v for k, v in described.items() if k not in ("share_right", "share_explained")} == row
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
    assert score(own, others, as_rows=("shuffled_labels",)) == found
    assert score(own, others, as_rows=("shuffled_labels",), seed=1) != found


def test_panel_comes_back_and_is_described_by_numbers(scene: Scene, tmp_path: Path) -> None:
    found = score(make_layer(scene, [False] * 5), {})
    scored = [ScoredFilter(filter=3, num_pairs=2, recall=0.5, f1=0.25)]
    save_panel(found, scored, tmp_path)
    assert parquet.read_table(tmp_path / FILTER_SCORES_FILE).to_pylist() == [asdict(row) for row in scored]
    assert load_panel(tmp_path) == json.loads(json.dumps(found)) == found
    flat = describe_panel(found)
    assert flat["all_filters/iou"] == found["rows"]["all_filters"]["figures"]["iou"]["value"]
    assert flat["all_filters/recall_at_2"] == found["rows"]["all_filters"]["figures"]["recall@2"]["value"]
    assert (flat["all_filters/share_right"], flat["explained/share_explained"]) == (3 / 4, 0)
    assert "explained/share_right" not in flat
    assert not [name for name in flat if "@" in name]


def test_recall_and_f1_of_filters_by_hand(scene: Scene) -> None:
    """Filter 0 names {0, 1} on G = {0} and {2, 3}; filter 2 names {1}, its second word is no category, on {1, 2}."""
    member = np.array([[1, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0]], bool)
    pairs = Pairs(np.array([0, 0, 2]), np.array([0, 1, 4]), np.ones(3, np.float32))
    layer = replace(make_layer(scene, [True] * 5), truth=GroundTruth(pairs, member))
    assert [asdict(row) for row in score_filters(layer, (1, 2))] == [
        {"filter": 0, "num_pairs": 2, "recall": 0.5, "f1": pytest.approx(1 / 3)},
        {"filter": 2, "num_pairs": 1, "recall": 0.5, "f1": pytest.approx(2 / 3)},
    ]
    nothing = GroundTruth(Pairs(*(np.zeros(0, np.int64),) * 2, np.zeros(0, np.float32)), np.zeros((0, 4), bool))
    assert score_filters(replace(layer, truth=nothing), (1, 2)) == []
