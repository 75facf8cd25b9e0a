"""What came of an audit, in a few plain sentences: for the terminal, MLflow's description and the state of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SELDOM_RIGHT = 0.5
_BASELINES = {
    "random_words": "words drawn at random",
    "dealt_words": "the same words dealt to other filters",
    "random_network": "a network with random weights",
}


def list_sentences(found: Mapping[str, Any]) -> list[str]:
    """What is to be said of one layer, the verdict first.

    Args:
        found: of a layer in metrics.json; what an older audit did not measure is left out.
    """
    said = [_describe_explained(found), *describe_trust(found)]
    if found.get("advice"):
        said.append(str(found["advice"]))
    return said


def describe_trust(found: Mapping[str, Any]) -> list[str]:
    """How right the words are, and how far the network's own answers hold on these pictures."""
    return [*_describe_right(found.get("panel", {})), *_describe_answers(found)]


def summarise(by_layer: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for all layers: `bn2: 556 of 1,280 filters explained, 67 % right`."""
    lines = []
    for layer, found in by_layer.items():
        right = found.get("panel", {}).get("explained", {}).get("share_right")
        judged = "" if right is None else f", {right:.0%} of the first words right by the masks"
        lines.append(f"{layer}: {found['num_explained']:,} of {found['num_filters']:,} filters explained{judged}")
    return "; ".join(lines)


def list_headlines(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures that one looks at first; those that were not measured are not there."""
    explained, num, panel = found["num_explained"], found["num_filters"], found.get("panel", {})
    figures = {
        "num_filters": num,
        "num_explained": explained,
        "share_explained": explained / num if num else None,
        "num_words": found.get("num_distinct_first_words"),
        "share_right": panel.get("explained", {}).get("share_right"),
        "share_right_of_dealt_words": panel.get("dealt_words", {}).get("share_right"),
        "share_right_of_random_network": panel.get("random_network", {}).get("share_right"),
        "mean_confidence": found.get("mean_confidence"),
        "calibration_error": found.get("calibration_error"),
        "own_answers_right": found.get("causes", {}).get("accuracy"),
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def _describe_explained(found: Mapping[str, Any]) -> str:
    explained, num = found["num_explained"], found["num_filters"]
    share = f" ({explained / num:.0%})" if num else ""
    words = found.get("num_distinct_first_words")
    with_words = f", by {words:,} different first words" if words else ""
    return f"{explained:,} of {num:,} filters explained{share}{with_words}."


def _describe_right(panel: Mapping[str, Any]) -> list[str]:
    """How many of the words the masks bear out, beside what chance gives."""
    own = panel.get("explained", {})
    if own.get("share_right") is None:
        return ["How right the words are cannot be judged: no first word is a category that the masks have."] * bool(
            own
        )
    others = [
        f"{text} {panel[row]['share_right']:.0%}"
        for row, text in _BASELINES.items()
        if panel.get(row, {}).get("share_right") is not None
    ]
    beside = f"; {', '.join(others)}" if others else ""
    return [
        f"{own['share_right']:.0%} of the {own['num_judged']:,} first words that masks can judge are right{beside}."
    ]


def _describe_answers(found: Mapping[str, Any]) -> list[str]:
    """How far the network's own answers hold on these pictures, where that bears on what is said."""
    accuracy = found.get("causes", {}).get("accuracy")
    if accuracy is None or accuracy >= _SELDOM_RIGHT:
        return []
    return [
        f"The network's own answers are right on {accuracy:.0%} of the evaluation pictures that can be judged: what is "
        "said of classes and causes is about how it answers, not about what is there. Words of filters are judged by "
        "masks, whatever it answers."
    ]
