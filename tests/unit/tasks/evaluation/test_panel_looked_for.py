"""The panel where not every concept was looked for on every picture: against data sets of the other pictures alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lavise.storage.state.progress import no_progress
from lavise.tasks.evaluation import panel
from lavise.tasks.evaluation.panel import FIGURES, score_statements, score_word_sets, summarise_panel
from lavise.tasks.masks.agreement import MaskAgreement
from lavise.tasks.numerics.bootstrap import ImageWeights, draw_image_weights
from tests.unit.tasks.evaluation.test_panel import ALL_STATEMENTS, ROWS, figures_by_hand
from tests.unit.tasks.helpers import AnyArray
from tests.unit.tasks.panel_scenes import Scene, make_scene, make_truth

# Cats on five pictures, dogs on all, sky on the other two and one more, unicorns on none.
KNOWN = np.array(
    [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0]], dtype=bool
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


def hide(agreement: MaskAgreement, known_NK: AnyArray) -> MaskAgreement:
    """The same labels, of which some are not known."""
    return replace(agreement, masks=replace(agreement.masks, looked_for=known_NK))


def take(scene: Scene, images: AnyArray) -> Scene:
    return replace(scene, maps=scene.maps[images], coverage=scene.coverage[images], fine=scene.fine[images])


def test_figures_by_hand_over_the_pictures_on_which_a_concept_was_looked_for(scene: Scene) -> None:
    found = score_statements(scene.store, hide(scene.agreement, KNOWN), *ALL_STATEMENTS)
    whole = score_statements(scene.store, scene.agreement, *ALL_STATEMENTS)
    changed = 0
    for n, (unit, concept) in enumerate(ALL_STATEMENTS.T):
        expected = figures_by_hand(take(scene, np.flatnonzero(KNOWN[:, concept])), unit, concept)
        for figure, value in expected.items():
            assert found[figure][n] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), (figure, unit, concept)
            changed += not np.isclose(found[figure][n], whole[figure][n], equal_nan=True)
    assert changed > 10


def test_all_figures_vs_a_data_set_of_these_pictures(scene: Scene, tmp_path: Path) -> None:
    found = score_statements(scene.store, hide(scene.agreement, KNOWN), *ALL_STATEMENTS)
    for concept in range(3):
        alone = make_scene(tmp_path / str(concept), np.flatnonzero(KNOWN[:, concept]).tolist())
        own = ALL_STATEMENTS[1] == concept
        expected = score_statements(alone.store, alone.agreement, *ALL_STATEMENTS[:, own])
        for figure in FIGURES:
            np.testing.assert_allclose(found[figure][own], expected[figure], rtol=1e-12, atol=1e-12, err_msg=figure)
    assert all(np.isnan(found[figure][ALL_STATEMENTS[1] == 3]).all() for figure in FIGURES)


def test_resamples_vs_data_sets_with_pictures_really_repeated(scene: Scene, tmp_path: Path) -> None:
    samples, concept = 3, 0
    weights = draw_image_weights(7, samples, 5)
    units = np.arange(5)
    rows = {"cats": panel.Statements(units, np.full((5, 1), concept))}
    known = hide(scene.agreement, KNOWN)
    with ImageWeights(7, samples, 5) as held:
        _, means = panel._average_statements(scene.store, known, rows, held, samples + 1, no_progress)
    for b in range(samples):
        drawn = np.repeat(np.arange(7), (weights[:, b] * KNOWN[:, concept]).astype(int)).tolist()
        repeated = make_scene(tmp_path / str(b), drawn)
        single = score_statements(repeated.store, repeated.agreement, units, np.full(5, concept))
        for figure, values in single.items():
            # Chance in a resample is that of the data set's own ties.
            if not figure.startswith("skill"):
                assert means["cats"][figure][b + 1] == pytest.approx(np.nanmean(values), rel=1e-9), figure


def test_what_is_known_of_all_changes_no_bit(scene: Scene) -> None:
    truth = make_truth()
    whole = summarise_panel(scene.store, scene.agreement, ROWS, truth, (1, 2), 20, 0)
    known = hide(scene.agreement, np.ones((7, 4), dtype=bool))
    assert summarise_panel(scene.store, known, ROWS, truth, (1, 2), 20, 0) == whole
    for first, second in zip(
        score_statements(scene.store, known, *ALL_STATEMENTS).values(),
        score_statements(scene.store, scene.agreement, *ALL_STATEMENTS).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)


def test_resamples_without_a_picture_of_a_concept_are_left_out(scene: Scene) -> None:
    """Sky was looked for on three of seven pictures only, so that a few resamples have none of them."""
    known = hide(scene.agreement, KNOWN)
    assert (draw_image_weights(7, 300, 1)[KNOWN[:, 2]].sum(axis=0) == 0).any()
    found = summarise_panel(scene.store, known, ROWS, make_truth(), (1, 2), 300, 1)
    assert found["rows"]["random"]["num_judged"] == 4
    for row in found["rows"].values():
        for summary in row["figures"].values():
            assert np.isfinite([summary["value"], summary["low"], summary["high"]]).all()


def test_words_that_were_not_looked_for_are_no_words_of_that_picture(scene: Scene) -> None:
    truth = make_truth(num=8)
    known = np.zeros((7, 4), dtype=bool)
    # What is annotated is known.
    for pair, image in enumerate(truth.pairs.image):
        known[image] |= truth.member[pair]
    statements = ROWS["random"]
    pairs, found = score_word_sets(statements, truth, (1, 2), known)
    _, whole = score_word_sets(statements, truth, (1, 2))
    for n, pair in enumerate(pairs):
        words = statements.words[statements.filter.tolist().index(truth.pairs.filter[pair])]
        true = set(np.flatnonzero(truth.member[pair]).tolist())
        for k in (1, 2):
            named = {t for t in set(words[:k].tolist()) - {-1} if known[truth.pairs.image[pair], t]}
            hits = len(named & true)
            assert found[f"recall@{k}"][n] == whole[f"recall@{k}"][n] == hits / len(true)
            assert found[f"precision@{k}"][n] == (hits / len(named) if named else 0)
            assert found[f"f1@{k}"][n] == pytest.approx(2 * hits / (len(true) + len(named)))
    assert (found["precision@2"] > whole["precision@2"]).any()
