"""The bootstrap against explicit resampling."""

from __future__ import annotations

import numpy as np
import pytest

from lavise.tasks.numerics.bootstrap import ImageBootstrap, ImageWeights, draw_image_weights


def test_constant_values_have_an_interval_of_no_width() -> None:
    bootstrap = ImageBootstrap(np.array([3, 3, 8, 1, 8, 8]), 500, seed=0)
    summary = bootstrap.summarise(np.full(6, 0.25))
    assert summary == {"value": 0.25, "low": 0.25, "high": 0.25}


def test_pairs_of_a_picture_move_together() -> None:
    """Each resample's mean is that of the drawn pictures' pairs; values that cancel within a picture never vary."""
    image = np.repeat([5, 2, 9], 2)
    bootstrap = ImageBootstrap(image, 300, seed=1)
    np.testing.assert_allclose(bootstrap.sample_means(np.tile([1.0, -1.0], 3)), 0, atol=1e-15)
    # With one picture marked the mean is the share of the draws that hit it: thirds only.
    shares = bootstrap.sample_means((image == 9).astype(float))
    np.testing.assert_allclose(shares * 3, np.round(shares * 3), atol=1e-12)
    assert len(np.unique(np.round(shares, 6))) == 4


def test_sample_means_vs_explicit_resampling() -> None:
    """A picture drawn twice counts all of its pairs twice; unequal pictures weigh by their pairs."""
    rng = np.random.default_rng(0)
    image, values = rng.integers(0, 6, 40), rng.random(40)
    bootstrap = ImageBootstrap(image, 200, seed=5)
    counts = [bootstrap.sample_means((image == i).astype(float)) for i in range(6)]
    sizes = np.bincount(image)
    for b, mean in enumerate(bootstrap.sample_means(values)):
        # Draws of each picture, up to a common factor: share of pairs / pairs.
        draws = np.array([counts[i][b] / sizes[i] for i in range(6)])
        draws *= 6 / draws.sum()
        np.testing.assert_allclose(draws, np.round(draws), atol=1e-9)
        resample = np.concatenate([np.repeat(values[image == i], round(draws[i])) for i in range(6)])
        assert mean == pytest.approx(resample.mean())


def test_bootstrap_is_deterministic_and_depends_on_the_seed() -> None:
    image, values = np.arange(20) % 7, np.random.default_rng(0).random(20)
    same, again, other = (ImageBootstrap(image, 100, s).sample_means(values) for s in (3, 3, 4))
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other)


def test_interval_covers_about_what_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        summary = ImageBootstrap(np.arange(60), 300, seed=0).summarise(rng.normal(0.4, 1, 60))
        covered += summary["low"] <= 0.4 <= summary["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_bootstrap_of_one_picture_and_of_none() -> None:
    summary = ImageBootstrap(np.array([4, 4]), 100, 0).summarise(np.array([0.0, 1.0]))
    assert summary == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert ImageBootstrap(np.zeros(0, np.int64), 100, 0).sample_means(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("entries", [1, 9 * 40, 1 << 20])
@pytest.mark.parametrize("samples", [0, 1, 31, 32, 100])
def test_weightings_on_the_disk_are_those_drawn_at_once(samples: int, entries: int) -> None:
    expected = np.concatenate([np.ones((9, 1)), draw_image_weights(9, samples, 3)], axis=1)
    with ImageWeights(9, samples, 3, entries) as held:
        assert held.num == samples + 1
        blocks = held.list_blocks()
        assert {b.stop - b.start for b in blocks[:-1]} <= {max(entries // 9, 32)}
        found = np.concatenate([held.read(block) for block in blocks], axis=1)
        np.testing.assert_array_equal(found, expected)
        assert [block.stop for block in held.list_blocks(1)] == [1]
        for images in (slice(2, 5), np.array([0, 4, 8])):
            np.testing.assert_array_equal(
                held.read(held.list_blocks()[0], images), expected[images, : held.list_blocks()[0].stop]
            )
