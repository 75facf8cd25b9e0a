"""The parts of an audit's data."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What pictures are there for: the explainer learns on TRAIN, is judged on EVALUATION, and speaks about TARGET."""

    TRAIN = "train"
    EVALUATION = "evaluation"
    TARGET = "target"
