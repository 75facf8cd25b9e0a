"""From filters to words: search, ranking, agreement, and the two tables."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from configs.schema import ExplainSettings, Method
from storage.activations import ActivationStore
from storage.word_vectors import Vocabulary
from tasks.explain import (
    EXPLANATIONS_SCHEMA,
    FILTERS_SCHEMA,
    embed_pairs,
    explain_filters,
    find_nearest_words,
    judge_agreement,
    load_pairs,
    rank_words,
    wilson_lower_bound,
)
from tasks.explainer import Explainer, ExplainerFacts
from tasks.region_features import Pairs, select_top_images
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, write_store
from tests.unit.tasks.test_region_features import feature_by_loops

CATEGORIES = ("cat", "hot dog", "sky")


# ---------------------------------------------------------------- search


@pytest.mark.parametrize(("num_pairs", "num_words", "num"), [(7, 40, 5), (1, 3, 3), (4, 3, 10), (0, 5, 2)])
def test_nearest_words_vs_full_sort(num_pairs: int, num_words: int, num: int) -> None:
    torch.manual_seed(0)
    vectors, words = torch.randn(num_pairs, 6), torch.randn(num_words, 6)
    found, scores = find_nearest_words(vectors, words, num)
    cosines = vectors.double().numpy() @ words.double().numpy().T
    order = np.argsort(-cosines, axis=1)[:, :num]
    assert found.shape == scores.shape == (num_pairs, min(num, num_words))
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, order, axis=1), rtol=1e-4, atol=1e-5)


def test_nearest_words_in_more_than_one_block() -> None:
    """So many words that only a few rows are searched at a time."""
    words = torch.nn.functional.normalize(torch.randn(1 << 21, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    vectors = words[[5, 77, 1234567] * 23]
    found, scores = find_nearest_words(vectors, words, 1)
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-6)
    torch.testing.assert_close(words[found[:, 0]], vectors, atol=1e-3, rtol=0)


# ---------------------------------------------------------------- ranking


def rank_by_loops(words: AnyArray, scores: AnyArray, peaks: AnyArray, ranking: str) -> list[tuple[Any, ...]]:
    votes: dict[int, int] = defaultdict(int)
    weights: dict[int, float] = defaultdict(float)
    cosines: dict[int, list[float]] = defaultdict(list)
    for row, picture in enumerate(words.tolist()):
        for column, word in enumerate(picture):
            votes[word] += 1
            weights[word] += float(peaks[row]) / float(peaks.sum(dtype=np.float64))
            cosines[word].append(float(scores[row, column]))
    mean = {w: sum(c) / len(c) for w, c in cosines.items()}
    leading: Any = votes if ranking == "frequency" else weights
    order = sorted(votes, key=lambda w: (-leading[w], -mean[w], w))
    return [(w, votes[w], weights[w], mean[w]) for w in order]


@pytest.mark.parametrize("ranking", ["frequency", "peak_weighted"])
def test_ranking_vs_loops(ranking: str) -> None:
    rng = np.random.default_rng(0)
    words = np.stack([rng.permutation(12)[:5] for _ in range(9)])
    scores = rng.random((9, 5)).astype(np.float32)
    peaks = (rng.random(9) * 0.4 + 0.01).astype(np.float32)
    found = rank_words(words, scores, peaks, ranking)
    expected = rank_by_loops(words, scores, peaks, ranking)
    assert [(w.word, w.votes) for w in found] == [e[:2] for e in expected]
    np.testing.assert_allclose([(w.weight, w.score) for w in found], [e[2:] for e in expected], rtol=1e-9)


def test_rankings_differ_where_one_picture_outweighs_two() -> None:
    words = np.array([[7], [7], [3]])
    scores, peaks = np.ones((3, 1), np.float32), np.array([1, 1, 9], np.float32)
    assert [w.word for w in rank_words(words, scores, peaks, "frequency")] == [7, 3]
    assert [w.word for w in rank_words(words, scores, peaks, "peak_weighted")] == [3, 7]


def test_peaks_below_one_are_not_dropped() -> None:
    """`int(weight)` of the public code lost them."""
    words, scores = np.array([[1], [2], [2]]), np.ones((3, 1), np.float32)
    found = rank_words(words, scores, np.array([0.5, 0.3, 0.3], np.float32), "peak_weighted")
    assert [w.word for w in found] == [2, 1]
    np.testing.assert_allclose([w.weight for w in found], [0.6 / 1.1, 0.5 / 1.1], rtol=1e-6)


def test_ties_go_by_mean_cosine_then_by_position() -> None:
    words = np.array([[9, 4, 6]])
    scores = np.array([[0.5, 0.25, 0.5]], np.float32)
    for ranking in ("frequency", "peak_weighted"):
        assert [w.word for w in rank_words(words, scores, np.ones(1, np.float32), ranking)] == [6, 9, 4]


@pytest.mark.parametrize("ranking", ["frequency", "peak_weighted"])
def test_no_pictures_no_words(ranking: str) -> None:
    nothing = np.zeros((0, 5), np.int64)
    assert rank_words(nothing, nothing.astype(np.float32), np.zeros(0, np.float32), ranking) == []


@pytest.mark.parametrize("peaks", [[-0.5, -0.25, -0.25], [3.0, -0.9, -0.9]])
def test_a_vote_never_weighs_less_than_nothing(peaks: list[float]) -> None:
    """Peaks of signed layers may be negative: a picture that names a word still speaks for it."""
    words = np.array([[1], [2], [2]])
    found = rank_words(words, np.ones((3, 1), np.float32), np.array(peaks, np.float32), "peak_weighted")
    assert min(w.weight for w in found) >= 0


# ---------------------------------------------------------------- agreement


@given(st.integers(1, 400), st.data())
def test_wilson_vs_scipy(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson").low
    assert wilson_lower_bound(successes, trials) == pytest.approx(expected, abs=1e-12)


def test_wilson_by_hand() -> None:
    # 25 of 25: n / (n + z²) = 25 / 28.8415
    assert wilson_lower_bound(25, 25) == pytest.approx(0.866808, abs=1e-6)


def test_agreement_reasons() -> None:
    assert judge_agreement(0, 0, 0.0, 5, 0).reason == "never above its threshold"
    few = judge_agreement(4, 4, 0.0, 5, 4)
    assert few.reason == "only 4 pictures above the threshold (explain.min_images is 5)"
    assert "do not agree" in judge_agreement(5, 25, 0.2, 5, 25).reason
    assert "do not agree" in judge_agreement(25, 25, 1.0, 5, 25).reason
    assert [a.confidence for a in (few, judge_agreement(5, 25, 0.2, 5, 25), judge_agreement(25, 25, 1.0, 5, 25))] == [
        0,
        0,
        0,
    ]


def test_confidence_by_hand() -> None:
    found = judge_agreement(20, 25, 0.1, 5, 25)
    low = binomtest(20, 25).proportion_ci(0.95, method="wilson").low
    assert found.reason == ""
    assert found.confidence == pytest.approx((low - 0.1) / 0.9, abs=1e-12)


def test_confidence_at_exactly_the_minimum_of_pictures() -> None:
    assert judge_agreement(5, 5, 0.0, 5, 5).reason == ""
    assert judge_agreement(1, 1, 0.0, 1, 1).confidence == pytest.approx(1 / (1 + 1.959963984540054**2))


# ---------------------------------------------------------------- all filters

LAYER = "body.1"
CHANNELS = 6
THRESHOLDS = np.array([0.4, 0, 0.75, 5.9, 0.3, 2.2], np.float32)


def make_parts(folder: Path, num: int = 12) -> tuple[ActivationStore, Explainer, ExplainerFacts, Vocabulary]:
    """Filter 1 is dead, 2 constant, 3 clipped, 5 rarely above its threshold."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(num, CHANNELS, 4, 5))
    maps[:, 1] = 0
    maps[:, 2] = 0.75
    maps[:, 3] = np.clip(maps[:, 3] * 8, 0, 6)
    maps[:, 4, 0, 0] = np.linspace(3, 9, num)
    maps[:, 5] = np.minimum(maps[:, 5], 2)
    maps[:2, 5, 1, 1] = 2.5
    torch.manual_seed(0)
    explainer = Explainer(CHANNELS, 6, 0.1).eval()
    facts = ExplainerFacts(CHANNELS, 6, 0.1, "l2", "cosine", ("cat", "hot dog"), ("sky",), {})
    return write_store(folder, maps, shard_images=5), explainer, facts, make_vocabulary(25, CATEGORIES)


@pytest.mark.parametrize("method", [m for m in get_args(Method) if m != "image_masking"])
@pytest.mark.parametrize("scaling", ["l2", "raw"])
def test_embedded_pairs_vs_loops(tmp_path: Path, method: str, scaling: str) -> None:
    store, explainer, facts, _ = make_parts(tmp_path, num=20)
    facts = ExplainerFacts(**{**vars(facts), "region_feature": scaling})
    pairs = select_top_images(store, THRESHOLDS, 20)
    found = embed_pairs(store, pairs, method, THRESHOLDS, explainer, facts, "cpu")
    maps = store.read_images(range(20))
    expected = []
    for u, i in zip(pairs.filter.tolist(), pairs.image.tolist(), strict=True):
        feature = feature_by_loops(maps[i], u, float(THRESHOLDS[u]), method)
        length = np.linalg.norm(feature)
        scaled = feature / length if scaling == "l2" and length > 0 else feature
        with torch.inference_mode():
            expected.append(explainer(torch.from_numpy(scaled).float()[None])[0].numpy())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert len(pairs) > 60


def test_no_pairs_are_embedded_as_nothing(tmp_path: Path) -> None:
    store, explainer, facts, _ = make_parts(tmp_path)
    nothing = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert embed_pairs(store, nothing, "original", THRESHOLDS, explainer, facts, "cpu").shape == (0, 6)


def explain(folder: Path, thresholds: AnyArray = THRESHOLDS, **changes: Any) -> tuple[dict[str, Any], ActivationStore]:
    store, explainer, facts, vocabulary = make_parts(folder / "s")
    settings = ExplainSettings(**{"top_images": 8, "words_per_image": 4, "num_words": 3, **changes})
    info = explain_filters(store, thresholds, explainer, facts, vocabulary, settings, LAYER, "cpu", folder)
    return info, store


def read(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    tables = (parquet.read_table(folder / f"{n}.parquet") for n in ("filters", "explanations"))
    filters, words = (t.to_pylist() for t in tables)
    return filters, words


def test_tables_have_the_documented_columns(tmp_path: Path) -> None:
    explain(tmp_path)
    assert parquet.read_table(tmp_path / "filters.parquet").schema.equals(FILTERS_SCHEMA)
    assert parquet.read_table(tmp_path / "explanations.parquet").schema.equals(EXPLANATIONS_SCHEMA)
    promised = {"layer", "filter", "threshold", "explained", "confidence", "top_images"}
    assert promised <= set(FILTERS_SCHEMA.names)
    assert {"layer", "filter", "rank", "word", "score", "votes", "novel"} <= set(EXPLANATIONS_SCHEMA.names)
    assert FILTERS_SCHEMA.field("top_images").type == pa.list_(pa.string())


@pytest.mark.parametrize("ranking", ["frequency", "peak_weighted"])
@pytest.mark.parametrize("method", ["original", "filter_attention"])
def test_every_filter_vs_loops(tmp_path: Path, method: Method, ranking: Any) -> None:
    info, store = explain(tmp_path, method=method, ranking=ranking)
    filters, words = read(tmp_path)
    _, explainer, _, vocabulary = make_parts(tmp_path / "again")
    maps = store.read_images(range(12))
    all_words: list[int] = []
    own_words: dict[int, Any] = {}
    for u in range(CHANNELS):
        peaks = maps[:, u].astype(np.float64).max(axis=(1, 2))
        means = maps[:, u].astype(np.float64).mean(axis=(1, 2))
        top = [i for i in sorted(range(12), key=lambda i: (-peaks[i], -means[i], i))[:8] if peaks[i] > THRESHOLDS[u]]
        rows, scores = [], []
        for i in top:
            feature = feature_by_loops(maps[i], u, float(THRESHOLDS[u]), method)
            with torch.inference_mode():
                v = explainer(torch.from_numpy(feature / np.linalg.norm(feature)).float()[None])[0].numpy()
            order = np.argsort(-(vocabulary.matrix @ v))[:4]
            rows.append(order)
            scores.append((vocabulary.matrix @ v)[order])
            all_words += order.tolist()
        own_words[u] = (top, peaks[top], rows, scores)
    num_pairs = sum(len(o[0]) for o in own_words.values())
    for u in range(CHANNELS):
        top, peaks, rows, scores = own_words[u]
        own = [w for w in words if w["filter"] == u]
        assert filters[u]["top_images"] == [store.keys[i] for i in top]
        assert filters[u]["top_peaks"] == list(peaks)
        num_above = sum(maps[i, u].astype(np.float32).max() > THRESHOLDS[u] for i in range(len(maps)))
        assert (filters[u]["filter"], filters[u]["layer"], filters[u]["num_images"]) == (u, LAYER, num_above)
        assert len(top) == min(num_above, 8)
        assert filters[u]["threshold"] == float(THRESHOLDS[u])
        assert filters[u]["peak"] == maps[:, u].astype(np.float64).max()
        ranked = rank_by_loops(np.array(rows), np.array(scores), peaks, ranking)[:3] if top else []
        assert [w["word"] for w in own] == filters[u]["words"] == [vocabulary.words[r[0]] for r in ranked]
        assert [w["rank"] for w in own] == list(range(1, len(ranked) + 1))
        assert [w["votes"] for w in own] == [r[1] for r in ranked]
        for row, expected in zip(own, ranked, strict=True):
            background = all_words.count(expected[0]) / num_pairs
            values = (row["weight"], row["score"], row["background"])
            assert values == pytest.approx((expected[2], expected[3], background), abs=1e-4)
            assert row["novel"] == (row["word"] not in {"cat", "hot dog", "hot", "dog"})
    assert info["num_pairs"] == num_pairs
    assert info["num_filters"] == CHANNELS == len(filters)
    assert info["num_explained"] == sum(f["explained"] for f in filters)
    assert info["num_novel_words"] == sum(w["novel"] for w in words)
    assert info["mean_confidence"] == pytest.approx(np.mean([f["confidence"] for f in filters]))


def test_confidence_in_the_table_is_that_of_the_first_word(tmp_path: Path) -> None:
    explain(tmp_path)
    filters, words = read(tmp_path)
    for row in filters:
        first = next((w for w in words if w["filter"] == row["filter"] and w["rank"] == 1), None)
        if first is None:
            assert row["confidence"] == 0
            continue
        expected = judge_agreement(first["votes"], len(row["top_images"]), first["background"], 5, row["num_images"])
        assert (row["confidence"], row["reason"]) == (pytest.approx(expected.confidence), expected.reason)
        assert row["explained"] == (row["reason"] == "")


def test_few_top_images_do_not_make_a_filter_rare() -> None:
    assert judge_agreement(3, 3, 0.0, 5, 300).reason == ""


def test_dead_and_rare_filters_are_unexplained_with_a_reason(tmp_path: Path) -> None:
    explain(tmp_path)
    filters, _ = read(tmp_path)
    for u in (1, 2):
        assert filters[u]["reason"] == "never above its threshold"
        assert (filters[u]["explained"], filters[u]["confidence"]) == (False, 0)
        assert (filters[u]["words"], filters[u]["top_images"], filters[u]["num_images"]) == ([], [], 0)
    assert filters[5]["reason"] == "only 2 pictures above the threshold (explain.min_images is 5)"
    assert (filters[5]["num_images"], len(filters[5]["words"])) == (2, 3)
    assert not filters[5]["explained"]


def test_layer_of_dead_filters_gives_full_tables(tmp_path: Path) -> None:
    info, _ = explain(tmp_path, thresholds=np.full(CHANNELS, 1000, np.float32))
    filters, words = read(tmp_path)
    assert [f["filter"] for f in filters] == list(range(CHANNELS))
    assert {f["reason"] for f in filters} == {"never above its threshold"}
    assert words == []
    assert (info["num_pairs"], info["num_explained"], info["mean_confidence"]) == (0, 0, 0)


def test_kept_pairs_come_back(tmp_path: Path) -> None:
    _, store = explain(tmp_path)
    expected, found = select_top_images(store, THRESHOLDS, 8), load_pairs(tmp_path)
    for name in ("filter", "image", "peak"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_more_words_than_the_vocabulary_has(tmp_path: Path) -> None:
    explain(tmp_path, words_per_image=1000, num_words=1000)
    filters, _ = read(tmp_path)
    assert {len(f["words"]) for f in filters} == {0, 28}
