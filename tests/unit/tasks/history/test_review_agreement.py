"""Reviewers against confidence and against each other, held against scikit-learn and plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, cohen_kappa_score, roc_auc_score

from lavise.tasks.history.review_agreement import bootstrap_auroc, compare_reviewers, list_metrics, measure_review
from lavise.tasks.history.review_notes import VERDICTS, ReviewNote
from lavise.tasks.numerics.bootstrap import draw_weights
from lavise.tasks.numerics.random_streams import Stream, make_rng

RNG = np.random.default_rng(0)


def make_filters(num: int, layer: str = "tail", explained: float = 1.0) -> list[dict[str, Any]]:
    """With confidences of one digit, so that many are equal."""
    rng = np.random.default_rng(num)
    return [
        {"layer": layer, "filter": unit, "explained": bool(rng.random() < explained), "words": ["dog"], "guess": "cat",
         "confidence": round(float(rng.random()), 1)}
        for unit in range(num)
    ]  # fmt: skip


def make_notes(filters: list[dict[str, Any]], reviewers: tuple[str, ...], share: float = 1.0) -> list[ReviewNote]:
    """The surer a word, the likelier it fits."""
    rng = np.random.default_rng(len(reviewers))
    notes = []
    for row in filters:
        for name in reviewers:
            if rng.random() < share:
                verdict = VERDICTS[int(np.clip(rng.normal(2.2 - 2 * row["confidence"], 0.8), 0, 2))]
                notes.append(ReviewNote(row["layer"], row["filter"], "dog", verdict, "", name))
    return notes


def test_confidence_is_held_against_verdicts_as_scikit_learn_does() -> None:
    filters = make_filters(80)
    notes = make_notes(filters, ("ann", "bob"), share=0.7)
    found = measure_review(filters, notes, seed=0)["all"]
    confidence = np.array([filters[note.filter]["confidence"] for note in notes])
    for name, counted in (("fits", ("fits",)), ("fits_or_partly", ("fits", "partly"))):
        right = np.array([note.verdict in counted for note in notes])
        own = found["confidence"][name]
        assert own["num"] == len(notes)
        assert own["share_right"] == pytest.approx(right.mean())
        assert own["auroc"] == pytest.approx(roc_auc_score(right, confidence))
        assert own["auroc_low"] < own["auroc"] < own["auroc_high"]
        assert own["brier"] == pytest.approx(brier_score_loss(right, confidence))
    for verdict in VERDICTS:
        chosen = [note.verdict == verdict for note in notes]
        assert found["words"][f"num_{verdict}"] == sum(chosen)
        assert found["mean_confidence"][verdict] == pytest.approx(confidence[chosen].mean())
    assert found["num_reviewed"] == len({note.filter for note in notes}) < len(notes)


def test_the_interval_is_over_filters() -> None:
    """As scikit-learn says of each resample: statements on one filter are drawn together, and twice where it is."""
    confidence, right = np.round(RNG.random(40), 1), RNG.random(40) < 0.5
    filters = np.arange(40) % 15
    value, low, high = bootstrap_auroc(confidence, right, filters, seed=3, samples=300)
    weights = draw_weights(15, 300, make_rng(3, Stream.REVIEWED_FILTERS))[:, filters]
    drawn = [roc_auc_score(right, confidence, sample_weight=own) for own in weights]
    assert value == pytest.approx(roc_auc_score(right, confidence))
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


@pytest.mark.parametrize("right", [True, False])
def test_where_all_verdicts_are_the_same_there_is_no_auroc(right: bool) -> None:
    found = bootstrap_auroc(np.array([0.1, 0.9]), np.array([right, right]), np.array([0, 1]), seed=0)
    assert found == (None, None, None)


def test_two_verdicts_have_an_interval_of_the_resamples_that_hold_both() -> None:
    found = bootstrap_auroc(np.array([0.1, 0.9]), np.array([False, True]), np.array([0, 1]), seed=0)
    assert found == (1.0, 1.0, 1.0)


def test_kappa_is_scikit_learns_on_the_filters_of_both() -> None:
    filters = make_filters(60)
    notes = make_notes(filters, ("ann", "bob"), share=0.8)
    notes += [ReviewNote("tail", 5, "dog", "", "only a note", "cy")]
    said = {name: {n.filter: n.verdict for n in notes if n.reviewer == name and n.verdict} for name in ("ann", "bob")}
    shared = sorted(said["ann"].keys() & said["bob"].keys())
    one, other = ([said[name][u] for u in shared] for name in ("ann", "bob"))
    found = compare_reviewers(notes, "ann", "bob")
    assert found is not None
    assert found.num_filters == len(shared)
    assert found.agreed == pytest.approx(np.mean([a == b for a, b in zip(one, other, strict=True)]))
    assert found.kappa == pytest.approx(cohen_kappa_score(one, other))
    assert compare_reviewers(notes, "ann", "cy") is None


def test_reviewers_who_always_say_the_same_have_no_kappa() -> None:
    notes = [ReviewNote("tail", unit, "dog", "fits", "", name) for unit in range(3) for name in ("ann", "bob")]
    found = compare_reviewers(notes, "ann", "bob")
    assert found is not None
    assert (found.agreed, found.kappa) == (1.0, None)


def test_layers_guesses_and_notes_without_a_verdict_are_told_apart() -> None:
    filters = [*make_filters(30, explained=0.5), *make_filters(20, "body")]
    notes = make_notes(filters, ("",))
    notes = [n if n.filter else ReviewNote(n.layer, 0, "dog", "", "a note", "") for n in notes]
    found = measure_review(filters, notes, seed=0)
    tail, body, both = found["layers"]["tail"], found["layers"]["body"], found["all"]
    guessed = {row["filter"] for row in filters if not row["explained"]} - {0}
    assert tail["guesses"]["num_verdicts"] == len(guessed) > 0
    assert tail["confidence"]["fits"]["num"] == 29 - len(guessed)
    assert body["confidence"]["fits"]["num"] == 19
    assert (tail["num_filters"], body["num_filters"], both["num_filters"]) == (30, 20, 50)
    for name in ("num_verdicts", *(f"num_{v}" for v in VERDICTS)):
        assert both["words"][name] == tail["words"][name] + body["words"][name]
        assert both["guesses"][name] == tail["guesses"][name]
    assert sum(both["words"][f"share_{v}"] for v in VERDICTS) == pytest.approx(1)
    metrics = list_metrics(found)
    assert metrics["review/num_reviewed"] == 48
    assert metrics["review/body/auroc"] == body["confidence"]["fits"]["auroc"]
    assert "review/kappa" not in metrics


def test_notes_alone_are_no_verdicts() -> None:
    found = measure_review(make_filters(3), [ReviewNote("tail", 0, "dog", "", "a note", "")], seed=0)
    assert (found["all"]["num_reviewed"], found["all"]["words"]["share_fits"]) == (0, None)
    assert found["all"]["confidence"] == {"fits": None, "fits_or_partly": None}
    assert list_metrics(found) == {"review/num_reviewed": 0.0}
