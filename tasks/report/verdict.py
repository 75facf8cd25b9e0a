"""What came of an audit, in a few plain sentences: for the terminal, MLflow's description and the state of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SELDOM_RIGHT = 0.5
_MOSTLY_NOVEL = 0.5
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
    return [*_describe_right(found.get("panel", {})), *_describe_novel(found), *_describe_answers(found)]


def summarise(by_layer: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for all layers: `bn2: 556 of 1,280 filters explained, 67 % right`; nothing is said of how right words
    are where most of them are none that masks judge."""
    lines = []
    for layer, found in by_layer.items():
        right = found.get("panel", {}).get("explained", {}).get("share_right")
        is_judged = right is not None and found.get("share_novel", 0) <= _MOSTLY_NOVEL
        judged = f", {right:.0%} right of those that masks can judge" if is_judged else ""
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
        "share_novel": found.get("share_novel"),
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
    """What the masks bear out, beside what chance gives: of each filter its first word that is a category."""
    own = panel.get("explained", {})
    if own.get("share_right") is None:
        unknown = "How right the words are cannot be judged: none is a category that the masks have."
        return [unknown] if own and own.get("share_explained") != 0 else []  # of no word there is nothing to judge
    others = [
        f"{text} {panel[row]['share_right']:.0%}"
        for row, text in _BASELINES.items()
        if panel.get(row, {}).get("share_right") is not None
    ]
    beside = f"; {', '.join(others)}" if others else ""
    judged = f"{own['num_judged']:,} filters that masks can judge, each by its first word that is a category"
    return [f"{own['share_right']:.0%} of the {judged}, are named rightly{beside}."]


def _describe_novel(found: Mapping[str, Any]) -> list[str]:
    """That most words lie beyond what masks judge, where they do."""
    novel = found.get("share_novel", 0)
    right = found.get("panel", {}).get("explained", {}).get("share_right")
    if right is None or novel <= _MOSTLY_NOVEL:
        return []
    return [
        f"{novel:.0%} of the words found are none of these categories, and no mask judges them: look at the pictures. "
        "The share above is then of words further down."
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
