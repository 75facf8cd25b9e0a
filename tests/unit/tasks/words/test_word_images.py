"""Pictures for and against a word, against loops over single pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavise.tasks.activations.top_images import select_top_images
from lavise.tasks.words import word_images
from lavise.tasks.words.word_images import MOST_SILENT, ImagesOfWord, ToldWords, find_word_images
from tests.unit.tasks.helpers import write_store

NUM, FILTERS, WORDS = 40, 6, 3


@pytest.mark.parametrize("entries", [1 << 22, 2 * NUM], ids=["at once", "two filters at a time"])
def test_vs_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setattr(word_images, "_PEAK_ENTRIES", entries)
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.normal(size=(NUM, FILTERS, 2, 3)), 0).round(1)
    maps[:, 5] = 0
    store = write_store(tmp_path, maps, shard_images=7)
    peaks = store.read_peaks().astype(np.float64)
    thresholds = np.array([1.5, 1, 2, 0.5, 1, 1], np.float32)
    pairs = select_top_images(store, thresholds, 8)
    told = ToldWords(np.rint(1024 * rng.random((NUM, WORDS))) / 1024, np.array([3, 7, 9]))
    words_Ps = rng.integers(0, 12, size=(len(pairs), 4))
    word_C, of_whole_C = np.array([7, -1, 3, 5, 9, 7]), np.array([True, False, True, False, True, True])
    found = find_word_images(store, thresholds, pairs, words_Ps, word_C, told, of_whole_C)
    assert found[1] == ImagesOfWord()
    own = np.flatnonzero(pairs.filter == 3)
    assert found[3] == ImagesOfWord([5 in words_Ps[p] for p in own])
    assert any(found[3].has_word)
    for unit, column in ((0, 1), (2, 0), (4, 2), (5, 1)):
        probability = told.probability_NW[:, column]
        top = [int(pairs.image[p]) for p in np.flatnonzero(pairs.filter == unit)]
        having = [n for n in range(NUM) if probability[n] >= 0.5]
        silent = [n for n in having if not peaks[n, unit] > thresholds[unit]]
        silent.sort(key=lambda n: (peaks[n, unit], -probability[n], n))
        expected = silent[:MOST_SILENT]
        assert found[unit].has_word == [n in having for n in top]
        assert (found[unit].num_with_word, found[unit].num_above) == (len(having), len(having) - len(silent))
        assert found[unit].silent == expected
        assert found[unit].silent_peaks == [peaks[n, unit] for n in expected]
    assert len(found[5].silent) == MOST_SILENT
    assert 0 < (found[0].num_above or 0) < (found[0].num_with_word or 0)


def test_only_top_pictures_where_whole_ones_were_not_asked_about(tmp_path: Path) -> None:
    store = write_store(tmp_path, np.random.default_rng(1).random((5, 2, 2, 2)))
    thresholds = np.zeros(2, np.float32)
    pairs = select_top_images(store, thresholds, 3)
    words_Ps = np.array([[1, 2], [2, 3], [4, 1], [0, 0], [9, 9], [8, 8]])
    found = find_word_images(store, thresholds, pairs, words_Ps, np.array([1, 7]), None, np.zeros(2, bool))
    assert found == [ImagesOfWord([True, False, True]), ImagesOfWord([False] * 3)]
