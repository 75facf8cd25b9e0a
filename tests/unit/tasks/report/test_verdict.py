"""What is said of an audit in a few sentences, from the figures of metrics.json."""

from __future__ import annotations

from typing import Any

from lavise.tasks.report.verdict import list_headlines, list_sentences, summarise


def make_layer(**changes: Any) -> dict[str, Any]:
    panel = {
        "explained": {"share_right": 0.67, "num_judged": 1482},
        "random_words": {"share_right": 0.05, "num_judged": 300},
        "dealt_words": {"share_right": None, "num_judged": 0},
        "random_network": {"share_right": 0.03, "num_judged": 9},
    }
    return {"num_filters": 2000, "num_explained": 1600, "num_distinct_first_words": 53, "panel": panel, **changes}


def test_how_many_and_how_right_beside_chance() -> None:
    assert list_sentences(make_layer()) == [
        "1,600 of 2,000 filters explained (80%), by 53 different first words.",
        "67% of the 1,482 filters that masks can judge, each by its first word that is a category, are named rightly; "
        "words drawn at random 5%, a network with random weights 3%.",
    ]


def test_what_cannot_be_judged_is_said() -> None:
    said = list_sentences(make_layer(panel={"explained": {"share_right": None, "num_judged": 0}}))
    assert said[1] == "How right the words are cannot be judged: none is a category that the masks have."


def test_of_no_word_nothing_is_said_to_be_right() -> None:
    none = {"share_right": None, "num_judged": 0, "share_explained": 0.0}
    said = list_sentences(make_layer(num_explained=0, num_distinct_first_words=0, panel={"explained": none}))
    assert said == ["0 of 2,000 filters explained (0%)."]


def test_older_audits_say_what_they_know() -> None:
    assert list_sentences({"num_filters": 0, "num_explained": 0}) == ["0 of 0 filters explained."]


def test_a_network_that_is_seldom_right_here() -> None:
    assert not any("own answers" in s for s in list_sentences(make_layer(causes={"accuracy": 0.5})))
    said = list_sentences(make_layer(causes={"accuracy": 0.24}))
    assert said[-1].startswith("The network's own answers are right on 24% of the evaluation pictures")


def test_advice_stands_last() -> None:
    assert list_sentences(make_layer(advice="Give more pictures."))[-1] == "Give more pictures."


def test_headlines_are_what_was_measured() -> None:
    found = list_headlines(make_layer(causes={"accuracy": 0.0}))
    assert found["share_explained"] == 0.8
    assert found["share_right"] == 0.67
    assert found["own_answers_right"] == 0.0
    assert "share_right_of_dealt_words" not in found
    assert "mean_confidence" not in found
    assert list_headlines({"num_filters": 0, "num_explained": 0}) == {"num_filters": 0.0, "num_explained": 0.0}


def test_one_line_for_all_layers() -> None:
    two = {"a": make_layer(), "b": {"num_filters": 8, "num_explained": 0}}
    assert summarise(two) == (
        "a: 1,600 of 2,000 filters explained, 67% right of those that masks can judge; b: 0 of 8 filters explained"
    )


def test_words_that_no_mask_judges_are_not_called_wrong() -> None:
    """On other pictures than the reference's, most words lie beyond its categories."""
    found = make_layer(share_novel=0.98)
    assert list_sentences(found)[2].startswith("98% of the words found are none of these categories, and no mask")
    assert summarise({"a": found}) == "a: 1,600 of 2,000 filters explained"
    assert not any("no mask judges" in s for s in list_sentences(make_layer(share_novel=0.3)))
