"""Streams of random numbers: whatever draws from an audit's seed has a number of its own, so that no two draw alike.

numpy makes the same generator of `[seed, 11]` and `[seed, 11, 0, 0]`: a stream that is split further must not share its
number with one that is not.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np


@unique
class Stream(IntEnum):
    """What is drawn. The bare seed splits a data set into its parts (storage.datasets.base)."""

    SUPERVISED_CATEGORIES = 1
    EARLY_STOPPING_IMAGES = 2
    BOOTSTRAP_IMAGES = 3
    SHUFFLED_LABELS = 4
    RANDOM_WORDS = 5
    SHUFFLED_CLASS_NAMES = 6
    EXPLAINER_TEST = 7
    DISTILLED_WINDOWS = 8
    DEALT_WORDS = 9
    CALIBRATION_FOLDS = 11
    ATTRIBUTION_BOOTSTRAP = 21
    ABLATION_SETS = 22
    PREFERENCE_HALVES = 31
    GROUP_PERMUTATIONS = 33
    COMPARED_IMAGES = 34
    REVIEWED_FILTERS = 35


def make_rng(seed: int, stream: Stream, *parts: int) -> np.random.Generator:
    """The generator of a stream, or of a part of it."""
    return np.random.default_rng([seed, int(stream), *parts])
