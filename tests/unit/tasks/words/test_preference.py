"""Preference of a filter for a word: against loops over pairs of pictures, sklearn, and planted preferences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from lavise.tasks.masks.detection import MIN_AUROC
from lavise.tasks.words import preference
from lavise.tasks.words.confidence import state_confidence
from lavise.tasks.words.preference import (
    LEAST_IMAGES,
    Contrast,
    Preferences,
    Ranked,
    Support,
    bound_below,
    choose_words,
    contrast,
    contrast_turned,
    estimate_error,
    estimate_label_error,
    find_preferences,
    split_halves,
)
from tests.unit.tasks.helpers import AnyArray, write_store

KINDS = ("category", "class", "hypernym")


def make_peaks(num: int, filters: int, seed: int = 0, ties: bool = False) -> AnyArray:
    rng = np.random.default_rng(seed)
    peaks = rng.gamma(1.0, 2.0, size=(num, filters))
    return (np.minimum(np.round(peaks), 3) if ties else peaks).astype(np.float16)


def make_presence(num: int, words: int, seed: int = 1) -> AnyArray:
    rng = np.random.default_rng(seed)
    return np.rint(rng.random((num, words)) ** 3 * 1024) / 1024


def auroc_by_loops(peaks: AnyArray, p: AnyArray) -> float:
    wins = pairs = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            if i != j:
                weight = p[i] * (1 - p[j])
                pairs += weight
                wins += weight * (float(peaks[i] > peaks[j]) + 0.5 * float(peaks[i] == peaks[j]))
    return wins / pairs if pairs else 0.5


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_vs_loops(ties: bool) -> None:
    peaks, presence = make_peaks(23, 4, ties=ties), make_presence(23, 3)
    found = contrast(Ranked.of(peaks), presence)
    for u in range(4):
        for w in range(3):
            assert found.auroc[u, w] == pytest.approx(auroc_by_loops(peaks[:, u], presence[:, w]), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_labels_give_the_usual_auroc(ties: bool) -> None:
    peaks = make_peaks(60, 5, ties=ties)
    labels = np.random.default_rng(2).random((60, 4)) < 0.3
    found = contrast(Ranked.of(peaks), labels.astype(np.float64)).auroc
    expected = [[roc_auc_score(labels[:, w], peaks[:, u]) for w in range(4)] for u in range(5)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_words_on_no_or_all_pictures_are_no_contrast() -> None:
    peaks = make_peaks(10, 2)
    found = contrast(Ranked.of(peaks), np.stack([np.zeros(10), np.ones(10)], axis=1))
    assert (found.auroc == 0.5).all()
    assert (found.z == 0).all()
    assert np.isinf(found.chance).all()


def test_a_constant_filter_prefers_nothing() -> None:
    found = contrast(Ranked.of(np.full((12, 1), 6, np.float16)), make_presence(12, 2))
    np.testing.assert_allclose(found.auroc, 0.5, atol=1e-12)
    assert (found.z == 0).all()


def test_sums_are_exact_in_any_order() -> None:
    """The same pictures in another order, words in other blocks: the same bits."""
    peaks, presence = make_peaks(301, 6, ties=True), make_presence(301, 9)
    whole = contrast(Ranked.of(peaks), presence)
    order = np.random.default_rng(4).permutation(301)
    shuffled = contrast(Ranked.of(peaks[order]), presence[order])
    parts = np.concatenate([contrast(Ranked.of(peaks), presence[:, [w]]).auroc for w in range(9)], axis=1)
    assert (whole.auroc == shuffled.auroc).all()
    assert (whole.auroc == parts).all()


def test_chance_vs_permutations() -> None:
    peaks, presence = make_peaks(40, 1, ties=True), make_presence(40, 1)
    rng = np.random.default_rng(5)
    drawn = [contrast(Ranked.of(peaks[rng.permutation(40)]), presence).auroc[0, 0] for _ in range(4000)]
    found = contrast(Ranked.of(peaks), presence)
    assert np.std(drawn) == pytest.approx(found.chance[0, 0], rel=0.05)
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.01)


def test_error_by_hand() -> None:
    """Hanley and McNeil with A = 0.8, 10 against 20: Q1 = .8 / 1.2, Q2 = 1.28 / 1.8."""
    variance = (0.16 + 9 * (0.8 / 1.2 - 0.64) + 19 * (1.28 / 1.8 - 0.64)) / 200
    found = estimate_error(np.array(0.8), np.array(10.0), np.array(20.0))
    assert float(found) == pytest.approx(np.sqrt(variance))


def test_certain_labels_have_no_error() -> None:
    presence = np.array([[1.0, 0.5], [0.0, 0.5], [1.0, 0.5], [0.0, 0.5]])
    found = estimate_label_error(presence)
    assert found[0] == 0
    assert found[1] == pytest.approx(np.sqrt(2 * 1.0 / 12) / 2)


def make_contrast(auroc: list[list[float]], error: float = 0.02) -> Contrast:
    values = np.asarray(auroc, np.float64)
    return Contrast(values, np.full(values.shape, error), np.full(values.shape, error), (values - 0.5) / error)


ENOUGH = np.full(3, LEAST_IMAGES)


def support(filters: int, words: int, regions: list[list[float]] | None = None, shown: bool = True) -> Support:
    given = np.zeros((filters, words)) if regions is None else np.array(regions)
    return Support(given, np.full((filters, words), shown))


def test_words_that_top_pictures_do_not_show_come_last() -> None:
    """A filter that dislikes one background is higher on every other; its pictures tell which one it likes."""
    found = make_contrast([[0.9, 0.8, 0.7]])
    shown = Support(np.zeros((1, 3)), np.array([[False, False, True]]))
    assert choose_words(found, ENOUGH, ENOUGH, shown, ("class",) * 3).tolist() == [2]
    assert choose_words(found, ENOUGH, ENOUGH, support(1, 3, shown=False), ("class",) * 3).tolist() == [0]


def test_the_highest_bound_leads() -> None:
    found = make_contrast([[0.6, 0.9, 0.7], [0.8, 0.6, 0.95]])
    word = choose_words(found, ENOUGH, ENOUGH, support(2, 3), ("category", "class", "class"))
    assert word.tolist() == [1, 2]


def test_names_come_before_what_they_are_a_kind_of() -> None:
    found = make_contrast([[0.6, 0.9, 0.905]])
    assert choose_words(found, ENOUGH, ENOUGH, support(1, 3), KINDS).tolist() == [1]
    # Only where they cannot be told apart.
    assert choose_words(make_contrast([[0.6, 0.8, 0.905]]), ENOUGH, ENOUGH, support(1, 3), KINDS).tolist() == [2]


def test_own_regions_decide_between_equals_then_frequency() -> None:
    found = make_contrast([[0.9, 0.9, 0.9]])
    kinds = ("class",) * 3
    assert choose_words(found, ENOUGH, ENOUGH, support(1, 3, [[0.1, 0.5, 0.2]]), kinds).tolist() == [1]
    assert choose_words(found, ENOUGH, ENOUGH, support(1, 3, [[0.1, 0.45, 0.5]]), kinds).tolist() == [1]


def test_words_on_too_few_pictures_are_not_chosen() -> None:
    found = make_contrast([[0.6, 0.99, 0.7]])
    few = np.array([9.0, 0.5, 9.0])
    assert choose_words(found, few, ENOUGH, support(1, 3), ("class",) * 3).tolist() == [2]
    assert choose_words(found, np.zeros(3), np.zeros(3), support(1, 3), ("class",) * 3).tolist() == [-1]


def test_caution_is_with_rare_words() -> None:
    """Of many rare words one is high by luck; a common one that is a little lower goes before it."""
    rng = np.random.default_rng(6)
    peaks = make_peaks(200, 1)
    presence = np.zeros((200, 40))
    presence[np.argsort(-peaks[:, 0].astype(np.float32))[:90], 0] = 1
    presence[rng.permutation(90)[:20], 0] = 0
    for word in range(1, 40):
        presence[rng.permutation(200)[:3], word] = 1
    found = contrast(Ranked.of(peaks), presence)
    assert bound_below(found)[0].argmax() == 0


def test_halves_are_halves_and_hang_on_the_seed() -> None:
    first = split_halves(11, 3)
    assert first.sum() == 5
    assert (split_halves(11, 3) == first).all()
    assert (split_halves(11, 4) != first).any()


def plant(num: int = 240, seed: int = 0) -> tuple[AnyArray, AnyArray]:
    """Filters 0 to 2 prefer words 0 to 2; filters 3 to 40 are noise."""
    rng = np.random.default_rng(seed)
    presence = (rng.random((num, 6)) < 0.2).astype(np.float64)
    peaks = rng.gamma(1.0, 1.0, size=(num, 41))
    for u in range(3):
        peaks[:, u] += 4 * presence[:, u]
    return peaks.astype(np.float16), presence


def prefer(
    peaks: AnyArray, presence: AnyArray, supports: tuple[Support, Support], kinds: tuple[str, ...], seed: int
) -> Preferences:
    first = split_halves(len(peaks), seed)
    halves = tuple(contrast(Ranked.of(peaks[half]), presence[half]) for half in (first, ~first))
    return find_preferences((halves[0], halves[1]), presence, supports, kinds, seed)


@pytest.mark.parametrize("rank_entries", [1, 240 * 5, 1 << 20])
def test_filters_a_few_at_a_time_are_all_filters_at_once(
    tmp_path: Path, rank_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, of all pictures and of some."""
    monkeypatch.setattr(preference, "_RANK_ENTRIES", rank_entries)
    peaks, presence = plant()
    store = write_store(tmp_path, peaks[:, :, None, None], shard_images=50)
    some = split_halves(len(peaks), 0)
    with store.turn_peaks() as turned:
        for own in (None, some, np.flatnonzero(some)):
            chosen = slice(None) if own is None else own
            expected = contrast(Ranked.of(peaks[chosen]), presence[chosen])
            found = contrast_turned(turned, presence[chosen], own)
            for name, value in vars(expected).items():
                np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_planted_preferences_are_found_and_noise_is_not() -> None:
    peaks, presence = plant()
    nothing = support(41, 6)
    found = prefer(peaks, presence, (nothing, nothing), ("class",) * 6, 0)
    assert found.word[:3].tolist() == [0, 1, 2]
    assert (found.auroc[:3] > 0.95).all()
    assert found.is_same[:3].all()
    assert (found.p_value[:3] < 1e-10).all()
    assert (found.auroc[3:] < MIN_AUROC).all()
    # p is valid although the word was chosen: of 38 filters of noise about 5 % are below 0.05.
    below = np.mean([_noise_p(seed) < 0.05 for seed in range(20)])
    assert below < 0.06


def _noise_p(seed: int) -> AnyArray:
    peaks, presence = plant(seed=seed + 10)
    nothing = support(41, 6)
    return prefer(peaks, presence, (nothing, nothing), ("class",) * 6, seed).p_value[3:]


def test_what_is_stated_comes_from_the_other_half() -> None:
    """Peaks that follow a word on one half of the pictures only do not count there."""
    peaks, presence = plant()
    first = split_halves(len(peaks), 0)
    trick = np.random.default_rng(3).gamma(1.0, 1.0, size=len(peaks))
    trick[first] += 9 * presence[first, 4]
    peaks[:, 40] = trick.astype(np.float16)
    nothing = support(41, 6)
    found = prefer(peaks, presence, (nothing, nothing), ("class",) * 6, 0)
    on_second = contrast(Ranked.of(peaks[~first]), presence[~first]).auroc[40]
    assert found.auroc[40] <= max(on_second.max(), 0.65)


def test_no_words_at_all() -> None:
    peaks, _ = plant()
    found = prefer(peaks, np.zeros((len(peaks), 0)), (support(41, 0),) * 2, (), 0)
    assert (found.word == -1).all()
    assert (found.p_value == 1).all()


def test_confidence_is_the_product_of_both_answers() -> None:
    found = state_confidence(np.array([MIN_AUROC, 0.85, 0.85]), np.array([0.02, 0.05, 0.05]), np.array([1.0, 1.0, 0.5]))
    np.testing.assert_allclose(found, [0.5, ndtr(2), ndtr(2) / 2])
