"""Detection of concepts against loops and scipy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from lavise.storage.activations import ActivationStore
from lavise.tasks.masks.agreement import ConceptMasks
from lavise.tasks.masks.detection import detect_concepts
from tests.unit.tasks.helpers import AnyArray, write_store

NUM_IMAGES, CELLS = 30, 12


def make_masks(presence_NK: AnyArray, seed: int = 0) -> ConceptMasks:
    """Masks over some of the 12 cells, coverage from barely above 0 to 1."""
    rng = np.random.default_rng(seed)
    image, concept = np.nonzero(presence_NK)
    coverage = rng.random((len(image), CELLS)).astype(np.float32) * (rng.random((len(image), CELLS)) < 0.3)
    coverage[np.arange(len(image)), rng.integers(0, CELLS, len(image))] = 0.01
    return ConceptMasks(image, concept, coverage, np.ones(len(image), np.int64), presence_NK)


def make_presence(shares: list[float], num: int = NUM_IMAGES, seed: int = 0) -> AnyArray:
    """bool [N, K]: each concept in the share of the pictures."""
    rng = np.random.default_rng(seed)
    columns = [rng.permutation(np.arange(num) < round(share * num)) for share in shares]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("shard_images", [7, 100])
def test_detection_vs_loops(tmp_path: Path, shard_images: int) -> None:
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(NUM_IMAGES, 9, 3, 4)).astype(np.float16)
    maps[:, 7] = np.clip(maps[:, 7], 0, 1)
    maps[:, 8] = 2
    presence = make_presence([0.1, 0.3, 0.5, 0.9])
    masks = make_masks(presence)
    for row in np.flatnonzero(masks.concept == 1):
        maps[masks.image[row], :4].reshape(4, -1)[:, masks.coverage[row] > 0] += 3
    found = detect_concepts(write_store(tmp_path / "s", maps, shard_images), masks)
    assert found.num_images.tolist() == [3, 9, 15, 27]
    for u in range(9):
        for t in range(4):
            # In half precision scipy's ranks would be rounded.
            values = maps[:, u].reshape(NUM_IMAGES, -1).max(axis=1).astype(np.float64)
            for row in np.flatnonzero(masks.concept == t):
                values[masks.image[row]] = max(
                    maps[masks.image[row], u].ravel()[c] for c in range(CELLS) if masks.coverage[row, c] > 0
                )
            area = roc_auc_score(presence[:, t], values)
            p = stats.mannwhitneyu(values[presence[:, t]], values[~presence[:, t]], alternative="greater").pvalue
            assert found.auroc[u, t] == pytest.approx(area, abs=1e-6)
            assert found.p_value[u, t] == pytest.approx(p, abs=1e-6)
            assert found.right[u, t] == (area >= 0.75 and p <= 0.05)
    assert found.right[:4, 1].all()


def test_a_filter_that_responds_beside_the_concept_is_wrong(tmp_path: Path) -> None:
    """Both filters fire on pictures with the concept only; one on its mask, the other next to it."""
    presence = make_presence([0.4])
    coverage = np.zeros((12, CELLS), np.float32)
    coverage[:, 0] = 1
    masks = replace(make_masks(presence), coverage=coverage)
    maps = np.random.default_rng(2).random((NUM_IMAGES, 2, 3, 4))
    maps[presence[:, 0], 0, 0, 0] += 2
    maps[presence[:, 0], 1, 2, 2] += 2
    found = detect_concepts(write_store(tmp_path / "s", maps), masks)
    assert found.right.tolist() == [[True], [False]]
    assert found.auroc[0, 0] == 1.0


def test_concepts_that_cannot_be_judged(tmp_path: Path) -> None:
    presence = make_presence([0.0, 1.0, 0.5])
    found = detect_concepts(write_store(tmp_path / "s", np.ones((NUM_IMAGES, 2, 3, 4))), make_masks(presence))
    assert np.isnan(found.auroc[:, :2]).all()
    assert np.isnan(found.p_value[:, :2]).all()
    assert found.auroc[:, 2].tolist() == [0.5, 0.5]
    assert not found.right.any()


def test_noise_is_seldom_right(tmp_path: Path) -> None:
    """Also where the mask is the whole picture, so that nothing is against the filter."""
    maps = np.random.default_rng(3).random((60, 400, 3, 4))
    presence = make_presence([0.05, 0.1, 0.2, 0.5, 0.9], 60)
    masks = make_masks(presence)
    store = write_store(tmp_path / "s", maps, 100)
    assert detect_concepts(store, masks).right.mean() < 0.01
    whole = detect_concepts(store, replace(masks, coverage=np.ones_like(masks.coverage)), min_auroc=0)
    assert whole.right.mean() == pytest.approx(0.05, abs=0.015)


def test_masks_of_another_store(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s", np.ones((NUM_IMAGES, 2, 4, 4)))
    with pytest.raises(ValueError, match="other activations"):
        detect_concepts(ActivationStore(store.folder), make_masks(make_presence([0.5])))


def test_a_concept_is_judged_where_it_was_looked_for(tmp_path: Path) -> None:
    """As on a store of these pictures alone; looked for on all, nothing changes."""
    rng = np.random.default_rng(2)
    maps = rng.normal(size=(NUM_IMAGES, 6, 3, 4)).astype(np.float16)
    presence = make_presence([0.2, 0.4, 0.5])
    looked_for = (rng.random(presence.shape) < 0.6) | presence
    looked_for[:, 1] = True
    looked_for[:, 2] = presence[:, 2]  # wherever it was looked for, it is
    masks = make_masks(presence)
    store = write_store(tmp_path / "s", maps, 7)
    plain = detect_concepts(store, masks)
    found = detect_concepts(store, replace(masks, looked_for=looked_for))
    assert np.isnan(found.auroc[:, 2]).all()
    assert not found.right[:, 2].any()
    assert found.num_images.tolist() == plain.num_images.tolist()
    np.testing.assert_array_equal(found.auroc[:, 1], plain.auroc[:, 1])
    kept = np.flatnonzero(looked_for[:, 0])
    rows = np.flatnonzero(np.isin(masks.image, kept))
    alone = ConceptMasks(
        np.searchsorted(kept, masks.image[rows]),
        masks.concept[rows],
        masks.coverage[rows],
        masks.pixels[rows],
        presence[kept],
    )
    expected = detect_concepts(write_store(tmp_path / "t", maps[kept], 7), alone)
    np.testing.assert_array_equal(found.auroc[:, 0], expected.auroc[:, 0])
    np.testing.assert_array_equal(found.p_value[:, 0], expected.p_value[:, 0])
    assert (found.auroc[:, 0] != plain.auroc[:, 0]).any()
