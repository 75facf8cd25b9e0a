"""The test of the explainer: one that knows, one that guesses, and pictures whose regions go together."""

from __future__ import annotations

import numpy as np
import pytest

from lavise.tasks.explainer.permutation_test import compare_with_chance
from tests.unit.tasks.helpers import AnyArray


def make_regions(seed: int, num_images: int = 40, known: float = 0.0) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Predicted words [R, 3], labels and pictures; predictions and labels are alike within each picture."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(num_images), rng.integers(1, 12, num_images))
    true = rng.integers(0, 10, num_images)[image]
    words = np.array([rng.permutation(10)[:3] for _ in range(num_images)])[image]
    told = rng.random(len(image)) < known
    words[told, 0] = true[told]
    return words, true, image


def test_explainer_that_knows_is_told_from_chance() -> None:
    words, true, image = make_regions(0, known=0.5)
    found = compare_with_chance(words, true, image)
    hits = (words == true[:, None]).any(axis=1)
    assert found.hit_rate == pytest.approx(np.mean([hits[image == i].mean() for i in range(40)]))
    assert found.chance_rate == pytest.approx(0.3, abs=0.05)
    assert found.p_value == 1 / 2001
    assert compare_with_chance(words, true, image) == found


def test_each_region_a_picture_is_the_permutation_of_labels() -> None:
    """Of three regions whose labels differ, one order of six fits as well as the given one: itself."""
    found = compare_with_chance(np.array([[1], [2], [3]]), np.array([1, 2, 3]), np.arange(3), permutations=20_000)
    assert found.p_value == pytest.approx(1 / 6, abs=0.01)
    assert (found.hit_rate, found.chance_rate) == (1.0, pytest.approx(1 / 3, abs=0.01))


def test_the_same_words_everywhere_are_chance() -> None:
    """Also where pictures with many regions have more of the frequent labels."""
    image = np.repeat(np.arange(20), np.arange(1, 21))
    true = np.where(image > 12, 1, np.arange(len(image)) % 7)
    found = compare_with_chance(np.tile([1, 2], (len(image), 1)), true, image)
    assert found.p_value == 1.0
    assert found.chance_rate == pytest.approx(found.hit_rate)
    assert found.hit_rate > 0.3


def test_regions_of_a_picture_are_not_independent() -> None:
    """Labels that say nothing: p is uniform by pictures, but far too small if regions are taken for independent."""
    by_image, by_region = [], []
    for seed in range(150):
        words, true, image = make_regions(seed, 25)
        by_image.append(compare_with_chance(words, true, image, 199, seed).p_value)
        by_region.append(compare_with_chance(words, true, np.arange(len(true)), 199, seed).p_value)
    assert np.mean(np.array(by_image) <= 0.05) <= 0.09
    assert np.mean(np.array(by_image) <= 0.5) == pytest.approx(0.5, abs=0.13)
    assert np.mean(np.array(by_region) <= 0.05) > 0.12


def test_one_picture_or_none() -> None:
    assert compare_with_chance(np.array([[1], [2]]), np.array([1, 2]), np.zeros(2, np.int64)).p_value == 1.0
    with pytest.raises(ValueError, match="expected regions"):
        compare_with_chance(np.zeros((0, 5), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))


def test_a_word_predicted_twice_is_one_hit() -> None:
    words, true = np.array([[1, 1], [2, 2], [3, 4]]), np.array([1, 2, 3])
    single = compare_with_chance(np.array([[1, 0], [2, 0], [3, 4]]), true, np.arange(3))
    assert compare_with_chance(words, true, np.arange(3)) == single


def test_telling_of_which_data_set_a_picture_is_is_no_knowledge() -> None:
    """Words 0..4 on the pictures of one data set and 5..9 on those of the other, whatever they show."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(80), 2)
    kind = (image % 2 == 0).astype(np.int64)
    true = rng.integers(0, 5, len(image)) + 5 * kind
    told = rng.integers(0, 5, (len(image), 2)) + 5 * kind[:, None]
    assert compare_with_chance(told, true, image).p_value < 0.001
    assert compare_with_chance(told, true, image, kind_R=kind).p_value > 0.05
    right = np.stack([true, told[:, 0]], axis=1)
    assert compare_with_chance(right, true, image, kind_R=kind).p_value < 0.001
    # One kind is as none.
    assert compare_with_chance(told, true, image, kind_R=np.ones_like(kind)) == compare_with_chance(told, true, image)
