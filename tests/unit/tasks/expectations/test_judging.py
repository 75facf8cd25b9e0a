"""What becomes of an expected word: met, broken, or not to be told, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lavise.configs.expectations import ExpectSettings
from lavise.tasks.expectations.evidence import Evidence
from lavise.tasks.expectations.judging import JudgedWord, count_outcomes, join_layers, judge_layer
from lavise.tasks.masks.detection import Detection
from tests.unit.tasks.helpers import make_vocabulary

CATEGORIES = ("cat", "dog", "tree")
NUM_FILTERS = 4


def make_detection(images: Sequence[int], detectors: dict[tuple[int, int], float] | None = None) -> Detection:
    """Of the three categories.

    Args:
        images: evaluation pictures with each.
        detectors: (filter, category) -> AUROC, of those that detect it.
    """
    auroc = np.full((NUM_FILTERS, 3), 0.5, np.float32)
    p_value, right = np.full((NUM_FILTERS, 3), 0.5, np.float32), np.zeros((NUM_FILTERS, 3), bool)
    for where, value in (detectors or {}).items():
        auroc[where], p_value[where], right[where] = value, 1e-6, True
    return Detection(auroc, p_value, right, np.array(images))


def make_evidence(*filters: Sequence[str], guesses: dict[int, str] | None = None, **given: Any) -> Evidence:
    """Filters with their words; the confidence of a word is 0.9, 0.8, ... by its rank, less .01 for each filter."""
    rows = [
        {
            "filter": u,
            "explained": bool(words),
            "words": list(words),
            "confidence": 0.9,
            "guess": (guesses or {}).get(u),
        }
        for u, words in enumerate(filters)
    ]
    words = [
        {"filter": u, "word": word, "confidence": 0.9 - rank / 10 - u / 100, "auroc": 0.8, "background": 0.2}
        for u, own in enumerate(filters)
        for rank, word in enumerate(own)
    ]
    base = Evidence(
        layer="tail",
        filters=rows,
        words=words,
        vocabulary=make_vocabulary(3, CATEGORIES),
        detection=make_detection((20, 20, 20)),
        num_target=100,
    )
    return replace(base, **given)


def make_cause(word: str, used: bool, own_logit: float = -0.5) -> dict[str, Any]:
    return {"word": word, "used": used, "own_logit": own_logit, "random_own_logit": -0.1, "q_value": 0.01}


def judge(evidence: Evidence, **settings: Any) -> JudgedWord:
    (judged,), _ = judge_layer(evidence, ExpectSettings(**settings))
    return judged


# Where filters say it


def test_a_word_that_filters_say_is_met_or_broken() -> None:
    evidence = make_evidence(["cat"], ["dog", "tabby"], [], ["tree"])
    met, broken = judge(evidence, must="cat"), judge(evidence, must_not="cat")
    assert (met.outcome, broken.outcome) == ("met", "broken")
    assert (met.filters, met.says, met.confidence) == ([0, 1], ["cat", "tabby"], 0.9)
    assert met.why == "2 filters say it (cat, tabby); whether the answers rest on them was not measured, or not of all"


def test_filters_that_say_it_come_with_their_word_and_the_surest_first() -> None:
    evidence = make_evidence(["sky", "poodle"], ["dogs"])
    _, saying = judge_layer(evidence, ExpectSettings(must=("dog",)))
    assert [(own.filter, own.says, own.how, own.rank) for own in saying] == [
        (1, "dogs", "same", 1),
        (0, "poodle", "kind", 2),
    ]
    assert [own.confidence for own in saying] == pytest.approx([0.89, 0.8])
    assert judge(evidence, must="dog", relatives="forms").filters == [1]


def test_an_unexplained_filter_says_nothing() -> None:
    evidence = make_evidence(["cat"])
    evidence = replace(evidence, filters=[{**evidence.filters[0], "explained": False}])
    assert judge(evidence, must="cat").num_filters == 0


def test_classes_that_lean_on_such_filters() -> None:
    rows = [
        {"filter": u, "class_name": name, "contribution": value}
        for u, name, value in [(0, "tabby", 0.5), (1, "tabby", 0.2), (1, "lynx", 0.9), (0, "car", -0.1), (2, "boat", 1)]
    ]
    evidence = make_evidence(["cat"], ["cat"], ["tree"], classes=rows)
    judged = judge(evidence, must="cat")
    assert (judged.classes, judged.num_classes) == (["tabby", "lynx"], 2)
    _, saying = judge_layer(evidence, ExpectSettings(must=("cat",)))
    assert [(own.filter, own.classes) for own in saying] == [(0, ["tabby"]), (1, ["lynx", "tabby"])]


@pytest.mark.parametrize(
    ("causes", "used", "must", "must_not"),
    [
        ([make_cause("cat", True)], True, "met", "broken"),
        ([make_cause("cat", False), make_cause("tabby", True)], True, "met", "broken"),
        ([make_cause("cat", False), make_cause("tabby", False)], False, "broken", "met"),
        ([make_cause("cat", False)], None, "unclear", "unclear"),
        ([make_cause("tree", True)], None, "unclear", "unclear"),
        (None, None, "unclear", "unclear"),
    ],
)
def test_by_causes_a_word_matters_where_answers_rest_on_it(
    causes: list[dict[str, Any]] | None, used: bool | None, must: str, must_not: str
) -> None:
    evidence = make_evidence(["cat"], ["tabby"], causes=causes)
    judged = judge(evidence, must="cat", by="causes")
    assert (judged.used, judged.outcome) == (used, must)
    assert judge(evidence, must_not="cat", by="causes").outcome == must_not
    assert judge(evidence, must="cat").outcome == "met"


def test_the_effect_is_that_of_the_word_that_is_used_most() -> None:
    causes = [make_cause("cat", True, -0.2), make_cause("tabby", True, -0.7), make_cause("tree", True, -9)]
    causes[1]["own_logit_with"] = -0.9
    judged = judge(make_evidence(["cat"], ["tabby"], causes=causes), must="cat")
    assert (judged.own_logit, judged.random_own_logit, judged.q_value) == (-0.9, -0.1, 0.01)


# Where none does


def test_absence_counts_where_labelled_pictures_have_it() -> None:
    evidence = make_evidence(["cat"])
    assert judge(evidence, must="dog").outcome == "broken"
    judged = judge(evidence, must_not="dog")
    assert (judged.outcome, judged.num_evaluation, judged.in_vocabulary) == ("met", 20, True)
    assert judged.why == "no filter says it, though it is on 20 evaluation pictures by the labels"


def test_absence_counts_where_the_explainer_sees_it_on_the_target() -> None:
    words: list[dict[str, Any]] = [
        {"filter": 0, "word": "moon", "confidence": 0.1, "auroc": 0.6, "background": 0.3},
        # By votes, that of other filters' pictures: no share of the target.
        {"filter": 0, "word": "sun", "confidence": 0.1, "auroc": None, "background": 0.8},
    ]
    evidence = make_evidence(["cat"], words=words)
    assert judge(evidence, must="sun").num_target is None
    assert judge(evidence, must="sun").outcome == "unclear"
    judged = judge(evidence, must="moon")
    assert (judged.outcome, judged.num_target) == ("broken", 30)
    assert judge(evidence, must="moon", min_images=31).outcome == "unclear"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"is_valid": False}, "no better than chance"),
        ({"guesses": {0: "dogs"}}, "the best guess of 1 filter$"),
        ({"detection": make_detection((9, 9, 9))}, "too few pictures are known to have it .9 of the evaluation"),
        (
            {"detection": make_detection((9, 20, 9), {(2, 1): 0.875})},
            r"1 filter detects it \(the best: filter 2, AUROC 0.88",
        ),
        ({"vocabulary": None, "detection": None}, "what the pictures have is not at hand"),
    ],
)
def test_what_absence_may_not_mean(given: dict[str, Any], why: str) -> None:
    guesses = given.pop("guesses", None)
    evidence = make_evidence([], ["cat"], guesses=guesses, **given)
    for settings in ({"must": "dog"}, {"must_not": "dog"}):
        judged = judge(evidence, **settings)
        assert judged.outcome == "unclear"
        assert re.search(why, judged.why)


def test_a_word_that_nobody_could_say() -> None:
    judged = judge(make_evidence(["cat"]), must_not="watermark")
    assert (judged.outcome, judged.in_vocabulary) == ("unclear", False)
    assert judged.why.startswith("no word of the vocabulary says it")


def test_a_detector_by_chance_among_many_filters_is_none() -> None:
    """p = 0.04 of one among 1,000 filters; one by one it would count."""
    detection = make_detection((20, 20, 20))
    big = Detection(
        np.repeat(detection.auroc, 250, axis=0),
        np.repeat(detection.p_value, 250, axis=0),
        np.repeat(detection.right, 250, axis=0),
        detection.num_images,
    )
    big.p_value[7, 1], big.auroc[7, 1], big.right[7, 1] = 0.04, 0.8, True
    assert judge(make_evidence(["cat"], detection=big), must_not="dog").outcome == "met"
    big.p_value[7, 1] = 1e-6
    assert judge(make_evidence(["cat"], detection=big), must_not="dog").outcome == "unclear"


# All words


def test_outcomes_are_counted_and_layers_joined() -> None:
    settings = ExpectSettings(must=("cat", "dog"), must_not=("tree",))
    first, _ = judge_layer(make_evidence(["cat"], detection=make_detection((20, 5, 20))), settings)
    second, _ = judge_layer(make_evidence(["tree"], layer="body"), settings)
    assert count_outcomes(first) == {"num_words": 3, "num_met": 2, "num_broken": 0, "num_unclear": 1}
    assert count_outcomes(second) == {"num_words": 3, "num_met": 0, "num_broken": 3, "num_unclear": 0}
    joined = join_layers([*first, *second])
    assert [(row.word, row.outcome, row.layer) for row in joined] == [
        ("cat", "met", "tail"),
        ("dog", "unclear", "tail"),
        ("tree", "broken", "body"),
    ]


@pytest.mark.parametrize(
    "given", [{"must": ["a\nb\x07"]}, {"must": [" "]}, {"must": ["Cat"], "must_not": ["cat"]}, {"min_images": 0}]
)
def test_settings_that_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"allowed|leave it out|greater"):
        ExpectSettings(**given)
