"""Similar filters: held against numpy's correlation and loops; what is read at a time changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.storage.activations import ActivationStore
from lavise.tasks.report import similar_filters
from lavise.tasks.report.similar_filters import correlate_peaks, find_similar_filters
from tests.unit.tasks.helpers import AnyArray, write_store


def make_store(folder: Path, peaks_NC: AnyArray, shard_images: int = 4) -> ActivationStore:
    """Maps of one cell, whose peaks these are."""
    return write_store(folder, peaks_NC[:, :, None, None], shard_images)


def find_by_loops(peaks_NC: AnyArray, most: int) -> list[list[tuple[int, float]]]:
    found = []
    for own in range(peaks_NC.shape[1]):
        near = []
        for other in range(peaks_NC.shape[1]):
            both = peaks_NC[:, [own, other]]
            if other != own and (both.max(axis=0) > both.min(axis=0)).all():
                near.append((-round(float(np.corrcoef(both.T)[0, 1]), 3), other))
        found.append([(other, -value) for value, other in sorted(near) if value < 0][:most])
    return found


@pytest.mark.parametrize("offset", [0, 1000])
def test_against_loops(tmp_path: Path, offset: int) -> None:
    """Related filters, some with a large mean, two dead ones and one that is an exact copy."""
    rng = np.random.default_rng(0)
    hidden = rng.gamma(0.6, size=(61, 3))
    peaks = hidden @ rng.uniform(-1, 1, size=(3, 12)) + 0.4 * rng.normal(size=(61, 12))
    peaks[:, 4], peaks[:, 7], peaks[:, 9] = 0.3, 0, peaks[:, 2]
    held = (4 * peaks + offset).astype(np.float16)
    held[:, 4] = 0.3
    expected = find_by_loops(held.astype(np.float64), 5)
    found = find_similar_filters(make_store(tmp_path / "maps", held))
    assert [[other for other, _ in own] for own in found] == [[other for other, _ in own] for own in expected]
    for own, wanted in zip(found, expected, strict=True):
        assert [value for _, value in own] == pytest.approx([value for _, value in wanted], abs=1e-9)
    assert found[4] == []
    assert found[2][0] == (9, 1.0)
    assert max(len(own) for own in found) == 5


def test_equally_near_filters_come_by_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    peaks = np.repeat(rng.normal(size=(20, 1)), 8, axis=1)
    found = find_similar_filters(make_store(tmp_path / "maps", peaks))
    assert [other for other, _ in found[3]] == [0, 1, 2, 4, 5]


def test_blocks_of_pictures_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers, whose sums are exact in any order; no more than a block is taken at a time."""
    peaks = np.random.default_rng(2).integers(-40, 40, size=(50, 9)).astype(np.float16)
    store = make_store(tmp_path / "maps", peaks, shard_images=32)
    whole = correlate_peaks(store)
    monkeypatch.setattr(similar_filters, "_BLOCK_IMAGES", 7)
    sizes = [len(block) for block in similar_filters._read_blocks(store)]
    assert sizes == [7, 7, 7, 7, 4, 7, 7, 4]
    np.testing.assert_array_equal(correlate_peaks(store), whole)
    np.testing.assert_allclose(whole, np.corrcoef(peaks.astype(np.float64).T), atol=1e-12)


@pytest.mark.parametrize("num", [1, 2])
def test_too_few_pictures_say_nothing(tmp_path: Path, num: int) -> None:
    peaks = np.random.default_rng(3).normal(size=(num, 4))
    assert find_similar_filters(make_store(tmp_path / "maps", peaks)) == [[], [], [], []]
