"""Ground truth against brute force."""

from __future__ import annotations

import numpy as np

from lavise.tasks.activations.top_images import Pairs
from lavise.tasks.evaluation.ground_truth import find_ground_truth
from lavise.tasks.masks.overlaps import Overlaps


def test_ground_truth_vs_brute_force() -> None:
    rng = np.random.default_rng(1)
    num = 60
    region, mask = rng.integers(20, 100, num), rng.integers(20, 100, num)
    both = rng.integers(1, 20, num)
    overlaps = Overlaps(rng.integers(0, 5, num), rng.integers(0, 6, num), rng.integers(0, 4, num), both, region, mask)
    pairs = Pairs(np.repeat(np.arange(6), 3), np.tile([0, 2, 4], 6), np.ones(18, np.float32))
    truth = find_ground_truth(pairs, overlaps, 4, 0.12)
    expected = {}
    for u, i in zip(pairs.filter.tolist(), pairs.image.tolist(), strict=True):
        concepts = set()
        for n in range(num):
            if (overlaps.filter[n], overlaps.image[n]) == (u, i) and both[n] / (region[n] + mask[n] - both[n]) > 0.12:
                concepts.add(int(overlaps.concept[n]))
        if concepts:
            expected[u, i] = concepts
    keys = zip(truth.pairs.filter.tolist(), truth.pairs.image.tolist(), strict=True)
    found = {key: set(np.flatnonzero(row).tolist()) for key, row in zip(keys, truth.member, strict=True)}
    assert found == expected
    assert 0 < len(expected) < 18


def test_iou_must_be_above_the_minimum() -> None:
    one = np.ones(2, np.int64)
    overlaps = Overlaps(0 * one, 0 * one, np.array([0, 1]), np.array([4, 5]), 50 * one, np.array([54, 55]))
    pairs = Pairs(np.array([0]), np.array([0]), np.ones(1, np.float32))
    assert find_ground_truth(pairs, overlaps, 2, 0.04).member.tolist() == [[False, True]]
