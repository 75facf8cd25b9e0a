"""From filters to words: words of pairs, evidence and ranking, reasons, confidence, meanings, and the two tables."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from scipy.stats import binom

from lavise.configs.registry import ATTENTION, RANKINGS
from lavise.configs.schema import ExplainSettings
from lavise.storage.activations import ActivationStore
from lavise.storage.state import file_names
from lavise.storage.words.word_kinds import WORD_KINDS
from lavise.storage.words.word_vectors import PhraseMatch, Vocabulary
from lavise.tasks.activations.layer_maps import LayerMaps
from lavise.tasks.activations.top_images import Pairs, select_top_images
from lavise.tasks.engine.computing import Computing
from lavise.tasks.explainer.naming import Namer
from lavise.tasks.explainer.network import Explainer, ExplainerFacts
from lavise.tasks.numerics.reliability import Reliability
from lavise.tasks.words import explain as explain_module
from lavise.tasks.words import voted_words
from lavise.tasks.words.evidence import Evidence, count_votes, find_evidence
from lavise.tasks.words.explain import explain_filters, load_pairs, name_pairs
from lavise.tasks.words.ranking import NamedFilters, Ranking, WordTruth, find_least_confidence
from lavise.tasks.words.tables import EXPLANATIONS_SCHEMA, FILTERS_SCHEMA
from lavise.tasks.words.vote_calibration import BASE_RATE, LOGISTIC, Calibration, calibrate, make_features
from lavise.tasks.words.voted_words import calibrate_words
from lavise.tasks.words.word_rows import FoundWords
from tests.unit.tasks.activations.test_attention import feature_by_loops
from tests.unit.tasks.helpers import AnyArray, make_vocabulary, write_store

CATEGORIES = ("cat", "hot dog", "sky")
LAYER = "body.1"
CHANNELS = 6
THRESHOLDS = np.array([0.4, 0, 0.75, 5.9, 0.3, 2.2], np.float32)
NEVER = "never above its threshold"
NO_EVIDENCE = "its pictures name no word more often than those of other filters do"


def make_maps(num: int) -> AnyArray:
    """Filter 1 is dead, 2 constant, 3 clipped, 5 rarely above its threshold."""
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(num, CHANNELS, 4, 5))
    maps[:, 1] = 0
    maps[:, 2] = 0.75
    maps[:, 3] = np.clip(maps[:, 3] * 8, 0, 6)
    maps[:, 4, 0, 0] = np.linspace(3, 9, num)
    maps[:, 5] = np.minimum(maps[:, 5], 2)
    maps[:2, 5, 1, 1] = 2.5
    return maps


def make_namer(vocabulary: Vocabulary, how: str = "l2") -> Namer:
    torch.manual_seed(0)
    explainer = Explainer(CHANNELS, 6, 0.1).eval()
    facts = ExplainerFacts(CHANNELS, 6, 0.1, how, "cosine", ("cat", "hot dog"), ("sky",), {})
    return Namer(explainer, facts, None, vocabulary, "cpu")


def make_judgement(channels: int, invalid: str = "") -> WordTruth:
    """Every second filter detects every second category; no picture has the last one."""
    right = np.add.outer(np.arange(channels), np.arange(len(CATEGORIES))) % 2 == 0
    return WordTruth(CATEGORIES, right, np.array([True, True, False]), invalid)


# ---------------------------------------------------------------- words of pairs


@pytest.mark.parametrize("method", [m for m in ATTENTION.list_names() if m != "image_masking"])
@pytest.mark.parametrize("scaling", ["l2", "raw"])
def test_words_of_pairs_vs_loops(tmp_path: Path, method: str, scaling: str) -> None:
    store = write_store(tmp_path, make_maps(20), shard_images=5)
    vocabulary = make_vocabulary(25, CATEGORIES)
    namer = make_namer(vocabulary, scaling)
    pairs = select_top_images(store, THRESHOLDS, 20)
    closed = torch.tensor([27, 25, 26])
    found = name_pairs(
        LayerMaps(store, THRESHOLDS), pairs, method, namer, 4, Computing(), {"closed": closed, "open": None}
    )
    assert list(found) == ["closed", "open"]
    maps = store.read_images(range(20))
    for row, (u, i) in enumerate(zip(pairs.filter.tolist(), pairs.image.tolist(), strict=True)):
        feature = feature_by_loops(maps[i], u, float(THRESHOLDS[u]), method)
        length = np.linalg.norm(feature)
        scaled = feature / length if scaling == "l2" and length > 0 else feature
        with torch.inference_mode():
            vector = namer.explainer(torch.from_numpy(scaled).float()[None])[0].double().numpy()
        cosines = vocabulary.matrix.astype(np.float64) @ vector
        np.testing.assert_allclose(found["open"].vectors[row], vector, atol=1e-4)
        # Positions among the three candidates, in their order.
        for name, rows in (("open", list(range(28))), ("closed", [27, 25, 26])):
            words = found[name].words[row]
            best = sorted(cosines[rows], reverse=True)[: len(words)]
            np.testing.assert_allclose(cosines[rows][words], best, atol=1e-4)
            np.testing.assert_allclose(found[name].scores[row], best, atol=1e-4)
            assert len(set(words.tolist())) == len(words) == min(4, len(rows))
    assert len(pairs) > 60


def test_pairs_of_more_filters_than_the_explainer_reads(tmp_path: Path) -> None:
    """Added filters are explained by those that the explainer was trained on, as any other."""
    maps = make_maps(12)
    added = np.concatenate([maps, maps[:, :1] * 2, np.random.default_rng(1).normal(size=maps[:, :1].shape)], axis=1)
    thresholds = np.append(THRESHOLDS, [0.8, 0.1]).astype(np.float32)
    namer = make_namer(make_vocabulary(25, CATEGORIES))
    store = write_store(tmp_path / "b", added)
    pairs = select_top_images(store, thresholds, 6)
    found = name_pairs(LayerMaps(store, thresholds), pairs, "filter_attention", namer, 4, Computing())["open"]
    known = pairs.take(np.flatnonzero(pairs.filter < CHANNELS))
    plain = write_store(tmp_path / "a", maps)
    expected = name_pairs(LayerMaps(plain, THRESHOLDS), known, "filter_attention", namer, 4, Computing())["open"]
    np.testing.assert_array_equal(found.words[: len(known)], expected.words)
    # The double of filter 0 has its pictures and, as attention is a cosine, its words.
    double, first = (found.words[pairs.filter == u] for u in (CHANNELS, 0))
    np.testing.assert_array_equal(double, first)
    assert (pairs.filter == CHANNELS + 1).any()


def test_words_of_pairs_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, namer = write_store(tmp_path, make_maps(12)), make_namer(make_vocabulary(25, CATEGORIES))
    pairs = select_top_images(store, THRESHOLDS, 8)
    whole = name_pairs(LayerMaps(store, THRESHOLDS), pairs, "original", namer, 3, Computing())["open"]
    monkeypatch.setattr(explain_module, "_NAME_ROWS", 7)
    parts = name_pairs(LayerMaps(store, THRESHOLDS), pairs, "original", namer, 3, Computing())["open"]
    np.testing.assert_array_equal(parts.words, whole.words)
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-6)


def test_no_pairs_have_no_words(tmp_path: Path) -> None:
    store, namer = write_store(tmp_path, make_maps(3)), make_namer(make_vocabulary(25, CATEGORIES))
    nothing = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    found = name_pairs(LayerMaps(store, THRESHOLDS), nothing, "original", namer, 5, Computing())["open"]
    assert (found.words.shape, found.scores.shape, found.vectors.shape) == ((0, 5), (0, 5), (0, 6))


# ---------------------------------------------------------------- the tables, against loops


@dataclass(frozen=True)
class Scene:
    """Activations and who names them."""

    store: ActivationStore
    thresholds: AnyArray
    namer: Namer
    vocabulary: Vocabulary

    def explain(self, folder: Path, truth: WordTruth | None = None, seed: int = 0, **changes: Any) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        facts = explain_filters(
            LayerMaps(self.store, self.thresholds),
            self.namer,
            truth or make_judgement(len(self.thresholds)),
            ExplainSettings.model_validate(
                {
                    "ranking": "evidence",
                    "method": "original",
                    "top_images": 8,
                    "words_per_image": 4,
                    "num_words": 3,
                    **changes,
                }
            ),
            LAYER,
            folder,
            Computing(seed),
        )
        return dict(facts)


def make_noisy(folder: Path) -> Scene:
    """An explainer with random weights on noise."""
    vocabulary = make_vocabulary(25, CATEGORIES)
    return Scene(write_store(folder, make_maps(12), shard_images=5), THRESHOLDS, make_namer(vocabulary), vocabulary)


# Words of kind 0, of kind 1 and so on; a filter of each kind comes first, then those below.
KINDS = (
    ("cat", "cats", "kitten"),
    ("hot dog", "dogs", "sausage"),
    ("sky", "cloud", "blue"),
    ("tree", "leaf", "wood"),
    ("car", "wheel", "road"),
)
RARE, DEAD, NOISE, BOTH = range(5, 9)
PLANTED_THRESHOLDS = np.array([3, 3, 3, 3, 3, 3, 3, 3, 3], np.float32)


def make_identity(channels: int) -> Explainer:
    """An explainer that passes features on as they are."""
    explainer = Explainer(channels, channels, 0.1).eval()
    with torch.no_grad():
        for linear in (explainer.linear1, explainer.linear2):
            linear.weight.copy_(torch.eye(channels))
            linear.bias.zero_()
    return explainer


def make_planted(folder: Path, num_each: int = 20) -> Scene:
    """Filters that respond to one kind of picture each; and one rare, one dead, one of noise, one of two kinds.

    A picture is named by the kind of its strongest filter: the explainer passes features on as they are, and every
    kind has three words of its own near the axis of its filter.
    """
    channels, num_kinds = 9, len(KINDS)
    rng = np.random.default_rng(0)
    kind = np.arange(num_kinds * num_each) % num_kinds
    maps = rng.uniform(0, 0.1, size=(len(kind), channels, 2, 2))
    for i, k in enumerate(kind):
        maps[i, k, :, :] = 6 + rng.random((2, 2))
        # Loud for a filter, quiet for the mean over positions.
        maps[i, NOISE, 0, 0] = 3.1 + rng.random() / 2
        if k < 2:
            maps[i, BOTH, 0, 1] = 4 + rng.random()
    maps[:2, RARE, 1, 1] = 3.5
    maps[:, DEAD] = 0
    words = [w for own in KINDS for w in own]
    matrix = np.zeros((len(words) + 40, channels))
    for n, word in enumerate(words):
        matrix[n, next(k for k, own in enumerate(KINDS) if word in own)] = 1
    matrix[: len(words)] += rng.normal(scale=0.02, size=(len(words), channels))
    matrix[len(words) :] = rng.normal(size=(40, channels))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    matches = tuple(PhraseMatch(c, "exact", (c,)) for c in CATEGORIES)
    names = (*words, *(f"word{i}" for i in range(40)))
    vocabulary = Vocabulary(names, matrix.astype(np.float32), len(names), matches)
    facts = ExplainerFacts(channels, channels, 0.1, "l2", "cosine", ("cat", "hot dog"), ("sky",), {})
    store = write_store(folder, maps, shard_images=30)
    return Scene(store, PLANTED_THRESHOLDS, Namer(make_identity(channels), facts, None, vocabulary, "cpu"), vocabulary)


SCENES = {"noisy": make_noisy, "planted": make_planted}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_planted(tmp_path_factory.mktemp("planted"))


def read(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    tables = (parquet.read_table(folder / f"{n}.parquet") for n in ("filters", "explanations"))
    filters, words = (t.to_pylist() for t in tables)
    return filters, words


def test_tables_have_the_documented_columns(tmp_path: Path, planted: Scene) -> None:
    planted.explain(tmp_path)
    assert parquet.read_table(tmp_path / "filters.parquet").schema.equals(FILTERS_SCHEMA)
    assert parquet.read_table(tmp_path / "explanations.parquet").schema.equals(EXPLANATIONS_SCHEMA)
    promised = {"layer", "filter", "threshold", "explained", "reason", "confidence", "words", "meanings", "top_images"}
    promised |= {"guess", "guess_confidence", "saturated", "auroc", "concept_kind", "top_has_word"}
    promised |= {"num_with_word", "num_with_word_above", "silent_images", "silent_peaks"}
    assert promised <= set(FILTERS_SCHEMA.names)
    promised = {"layer", "filter", "rank", "word", "score", "votes", "weight", "share", "share_low", "share_high"}
    promised |= {"background", "p_value", "q_value", "significant", "confidence", "novel"}
    promised |= {"kind", "auroc", "auroc_low", "auroc_high"}
    assert promised == set(EXPLANATIONS_SCHEMA.names)
    assert FILTERS_SCHEMA.field("top_images").type == pa.list_(pa.string())


@dataclass
class Row:
    """A word of a filter, by loops."""

    word: int
    votes: int
    weight: float
    score: float
    images: int
    background: float = 0.0
    p: float = 1.0
    q: float = 1.0


def floor_by_loops(scene: Scene, images: Sequence[int], num: int) -> dict[int, float]:
    """Share of these pictures whose plain mean over positions each word is named for."""
    counts: dict[int, int] = defaultdict(int)
    for maps in scene.store.read_images(images).astype(np.float64):
        feature = maps.mean(axis=(1, 2))
        with torch.inference_mode():
            vector = scene.namer.explainer(torch.from_numpy(feature / np.linalg.norm(feature)).float()[None])[0]
        cosines = scene.vocabulary.matrix.astype(np.float64) @ vector.double().numpy()
        for word in np.argsort(-cosines)[:num].tolist():
            counts[word] += 1
    return {word: count / len(images) for word, count in counts.items()}


def rows_by_loops(scene: Scene, settings: ExplainSettings) -> dict[int, list[Row]]:
    """Votes, weights and the exact test of all words of all filters that are tested."""
    maps = scene.store.read_images(range(scene.store.shape[0])).astype(np.float64)
    matrix = scene.vocabulary.matrix.astype(np.float64)
    found: dict[int, list[Row]] = {}
    named: dict[int, int] = defaultdict(int)
    num_pairs, num_above = 0, {}
    for u, threshold in enumerate(scene.thresholds.tolist()):
        peaks, means = maps[:, u].max(axis=(1, 2)), maps[:, u].mean(axis=(1, 2))
        areas = (maps[:, u] > threshold).sum(axis=(1, 2))
        ranked = sorted(range(len(maps)), key=lambda i: (-peaks[i], -areas[i], -means[i], i))[: settings.top_images]
        top = [i for i in ranked if peaks[i] > threshold]
        num_above[u] = int((peaks > threshold).sum())
        votes: dict[int, int] = defaultdict(int)
        weights: dict[int, float] = defaultdict(float)
        scores: dict[int, list[float]] = defaultdict(list)
        positive = sum(max(peaks[i], 0) for i in top)
        for i in top:
            feature = feature_by_loops(maps[i], u, threshold, settings.method)
            with torch.inference_mode():
                scaled = torch.from_numpy(feature / np.linalg.norm(feature)).float()[None]
                cosines = matrix @ scene.namer.explainer(scaled)[0].double().numpy()
            for word in np.argsort(-cosines)[: settings.words_per_image].tolist():
                votes[word] += 1
                weights[word] += max(peaks[i], 0) / positive if positive else 1 / len(top)
                scores[word].append(cosines[word])
                named[word] += 1
        num_pairs += len(top)
        found[u] = [Row(w, votes[w], weights[w], float(np.mean(scores[w])), len(top)) for w in sorted(votes)]
    tested = {u: rows for u, rows in found.items() if num_above[u] >= settings.min_images}
    floor = floor_by_loops(scene, range(len(maps)), settings.words_per_image)
    every = []
    for rows in tested.values():
        for row in rows:
            elsewhere = named[row.word] - row.votes
            row.background = max((elsewhere or 0.5) / (num_pairs - row.images), floor.get(row.word, 0))
            row.p = float(binom.sf(row.votes - 1, row.images, row.background))
            every.append(row)
    # Benjamini and Hochberg, step up: the lowest level at which each is rejected.
    every.sort(key=lambda r: r.p)
    lowest = 1.0
    for rank in range(len(every), 0, -1):
        lowest = min(lowest, every[rank - 1].p * len(tested) * len(named) / rank)
        every[rank - 1].q = lowest
    return tested


def rank_by_loops(rows: list[Row], settings: ExplainSettings) -> list[Row]:
    def key(row: Row) -> tuple[Any, ...]:
        lacks_evidence = row.q > settings.false_discovery_rate
        if settings.ranking == "evidence":
            return (lacks_evidence, row.p, -row.votes, -row.score, row.word)
        leading = row.votes if settings.ranking == "frequency" else row.weight
        return (lacks_evidence, -leading, -row.score, row.word)

    return sorted(rows, key=key)[: settings.num_words]


@pytest.mark.parametrize("ranking", ["evidence", "frequency", "peak_weighted"])
@pytest.mark.parametrize(("name", "method"), [("noisy", "filter_attention"), ("planted", "original")])
def test_every_filter_vs_loops(tmp_path: Path, name: str, method: str, ranking: Any) -> None:
    scene = SCENES[name](tmp_path / "s")
    top_images, num_words = (8, 5) if name == "noisy" else (16, 7)
    settings = ExplainSettings(
        method=method, ranking=ranking, top_images=top_images, words_per_image=4, num_words=num_words
    )
    changes = {"method": method, "ranking": ranking, "top_images": top_images, "num_words": num_words}
    info = scene.explain(tmp_path / "e", **changes)
    filters, words = read(tmp_path / "e")
    expected = rows_by_loops(scene, settings)
    maps = scene.store.read_images(range(scene.store.shape[0])).astype(np.float64)
    num_pairs = 0
    for u, row in enumerate(filters):
        peaks, means = maps[:, u].max(axis=(1, 2)), maps[:, u].mean(axis=(1, 2))
        areas = (maps[:, u] > scene.thresholds[u]).sum(axis=(1, 2))
        ranked = sorted(range(len(maps)), key=lambda i: (-peaks[i], -areas[i], -means[i], i))[:top_images]
        top = [i for i in ranked if peaks[i] > scene.thresholds[u]]
        num_pairs += len(top)
        assert (row["filter"], row["layer"], row["num_images"]) == (u, LAYER, (peaks > scene.thresholds[u]).sum())
        assert row["top_images"] == [scene.store.keys[i] for i in top]
        assert row["top_peaks"] == list(peaks[top])
        assert (row["threshold"], row["peak"]) == (float(scene.thresholds[u]), peaks.max())
        own = [w for w in words if w["filter"] == u]
        best = rank_by_loops(expected.get(u, []), settings)
        assert [w["word"] for w in own] == [scene.vocabulary.words[r.word] for r in best]
        assert [w["rank"] for w in own] == list(range(1, len(best) + 1))
        assert [w["votes"] for w in own] == [r.votes for r in best]
        assert [w["significant"] for w in own] == [r.q <= settings.false_discovery_rate for r in best]
        for found, wanted in zip(own, best, strict=True):
            assert found["layer"] == LAYER
            assert (found["weight"], found["score"]) == pytest.approx((wanted.weight, wanted.score), abs=1e-4)
            values = [found[k] for k in ("share", "background", "p_value", "q_value")]
            rates = [wanted.votes / wanted.images, wanted.background, wanted.p, wanted.q]
            assert values == pytest.approx(rates, rel=1e-9, abs=1e-300)
            assert found["share_low"] <= found["share"] <= found["share_high"]
            # Forms of what was trained on are not novel.
            assert found["novel"] == (found["word"] not in {"cat", "cats", "hot dog", "dogs"})
        significant = [w["word"] for w in own if w["significant"]]
        assert row["words"] == significant
        assert row["explained"] == bool(significant) == (row["reason"] == "")
        assert bool(row["concept_kind"]) == row["explained"]
        if row["explained"]:
            votes = next(w["votes"] for w in own if w["word"] == significant[0])
            assert (len(row["top_has_word"]), sum(row["top_has_word"])) == (len(top), votes)
        assert (row["num_with_word"], row["silent_images"]) == (None, [])
    assert info["num_pairs"] == num_pairs
    assert info["num_filters"] == len(scene.thresholds) == len(filters)
    assert info["num_explained"] == sum(f["explained"] for f in filters)
    significant = [w for w in words if w["significant"]]
    assert info["num_words_found"] == len(significant)
    assert info["num_novel_words"] == sum(w["novel"] for w in significant)
    assert info["share_novel"] == (info["num_novel_words"] / len(significant) if significant else 0)
    explained = [f for f in filters if f["explained"]]
    assert info["kinds"] == {kind: sum(f["concept_kind"] == kind for f in explained) for kind in WORD_KINDS}
    assert info["num_distinct_first_words"] == len({f["words"][0] for f in explained})
    assert info["mean_confidence"] == pytest.approx(np.mean([f["confidence"] for f in explained]) if explained else 0)
    if name == "planted":
        assert info["num_explained"] >= 5


# ---------------------------------------------------------------- whole pictures


@pytest.mark.parametrize(("most", "expected"), [(5, [0, 2, 5, 8, 11]), (1, [0]), (12, range(12)), (99, range(12))])
def test_words_of_whole_pictures_vs_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, expected: Sequence[int]
) -> None:
    """Of no more pictures than so many, at even distances; no filter has a say."""
    monkeypatch.setattr(explain_module, "_WHOLE_IMAGES", most)
    scene = make_noisy(tmp_path)
    floor = explain_module._name_whole_images(LayerMaps(scene.store, scene.thresholds), scene.namer, 4, "cpu")
    assert floor.shape == (28,)
    shares = floor_by_loops(scene, list(expected), 4)
    np.testing.assert_allclose(floor, [shares.get(word, 0) for word in range(28)])
    never = LayerMaps(scene.store, np.full(CHANNELS, 1000, np.float32))
    np.testing.assert_array_equal(explain_module._name_whole_images(never, scene.namer, 4, "cpu"), floor)


def test_a_filter_without_preference_is_not_explained_by_what_whole_pictures_are_named(tmp_path: Path) -> None:
    """Its words are those of whole pictures, which filters that look at parts hardly ever name."""
    scene = make_whole(tmp_path / "s")
    scene.explain(tmp_path, method="filter_attention", top_images=20, num_words=25)
    filters, words = read(tmp_path)
    assert [f["explained"] for f in filters] == [True, True, True, True, False]
    assert filters[4]["reason"] == NO_EVIDENCE
    scenery = next(w for w in words if w["filter"] == 4 and w["word"] == "scenery")
    assert (scenery["votes"], scenery["background"], scenery["p_value"]) == (20, 1, 1)
    # Against the other filters alone it would have been a word of the filter.
    votes = count_votes(*words_of_filters(scene, "filter_attention", 20), 5)
    evidence = find_evidence(votes)
    row = (evidence.filter == 4) & (evidence.word == scene.vocabulary.words.index("scenery"))
    assert evidence.q_value[row] < 0.01


def words_of_filters(scene: Scene, method: str, top_images: int) -> tuple[AnyArray, AnyArray]:
    pairs = select_top_images(scene.store, scene.thresholds, top_images)
    return name_pairs(LayerMaps(scene.store, scene.thresholds), pairs, method, scene.namer, 4, Computing())[
        "open"
    ].words, pairs.filter


def make_whole(folder: Path) -> Scene:
    """Filters of one quarter of the picture each, and one that is loud everywhere."""
    rng = np.random.default_rng(3)
    maps = rng.uniform(0, 0.02, size=(40, 5, 2, 2))
    for quarter in range(4):
        maps[:, quarter, quarter // 2, quarter % 2] = 4 + rng.random(40)
    maps[:, 4] = 4 + rng.random((40, 2, 2))
    matrix = rng.normal(scale=0.02, size=(25, 5))
    for quarter in range(4):
        matrix[quarter * 6 : quarter * 6 + 6, [quarter, 4]] += (0.8, 0.6)
    matrix[24] = (0.2, 0.2, 0.2, 0.2, 0.9)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    names = (*(f"part {i}" for i in range(24)), "scenery")
    vocabulary = Vocabulary(names, matrix.astype(np.float32), 25, ())
    facts = ExplainerFacts(5, 5, 0.1, "l2", "cosine", ("cat",), (), {})
    store = write_store(folder, maps, shard_images=30)
    namer = Namer(make_identity(5), facts, None, vocabulary, "cpu")
    return Scene(store, np.full(5, 3, np.float32), namer, vocabulary)


# ---------------------------------------------------------------- ranking


def make_evidence(**columns: Any) -> Evidence:
    num = len(columns["word"])
    plain = {name: np.zeros(num) for name in ("score", "share", "share_low", "share_high", "p_value", "q_value")}
    whole = {"filter": np.zeros(num, np.int64), "votes": np.ones(num, np.int64), "images": np.full(num, 9)}
    given = {name: np.array(value) for name, value in columns.items()}
    return Evidence(**{**plain, **whole, "background": np.full(num, 0.1), **given}, num_hypotheses=num)


def rank(evidence: Evidence, weights: list[float], significant: list[bool], ranking: str) -> list[int]:
    leading = voted_words.LEADING[ranking]
    leading_S = leading(evidence, np.array(weights)) if leading else None
    order = voted_words._rank_rows(evidence, leading_S, np.array(significant))
    return evidence.word[order].tolist()


def test_rankings_differ_where_one_picture_outweighs_two() -> None:
    evidence = make_evidence(word=[3, 7], votes=[1, 2])
    assert rank(evidence, [0.9, 0.1], [True, True], "frequency") == [7, 3]
    assert rank(evidence, [0.9, 0.1], [True, True], "peak_weighted") == [3, 7]
    assert rank(evidence, [0.1, 0.9], [True, True], "evidence") == [3, 7]


@pytest.mark.parametrize("ranking", ["evidence", "frequency", "peak_weighted"])
def test_words_with_evidence_go_first_in_each_filter(ranking: str) -> None:
    evidence = make_evidence(filter=[0, 0, 0, 2, 2], word=[4, 5, 6, 4, 5], votes=[9, 8, 1, 7, 2])
    found = rank(evidence, [0.9, 0.8, 0.1, 0.7, 0.2], [False, True, True, False, True], ranking)
    assert found == [5, 6, 4, 5, 4]


def test_ties_go_by_mean_score_then_by_position() -> None:
    evidence = make_evidence(word=[4, 6, 9], score=[0.25, 0.5, 0.5])
    for ranking in ("frequency", "peak_weighted"):
        assert rank(evidence, [0.3, 0.3, 0.3], [True] * 3, ranking) == [6, 9, 4]


def weigh(words: AnyArray, peaks: list[float], evidence: Evidence) -> list[float]:
    pairs = Pairs(np.zeros(len(peaks), np.int64), np.arange(len(peaks)), np.array(peaks, np.float32))
    return voted_words._weigh_votes(words, pairs, evidence).tolist()


def test_peaks_below_one_are_not_dropped() -> None:
    """`int(weight)` of the public code lost them."""
    found = weigh(np.array([[1], [2], [2]]), [0.5, 0.3, 0.3], make_evidence(word=[2, 1]))
    assert found == pytest.approx([0.6 / 1.1, 0.5 / 1.1], rel=1e-6)


@pytest.mark.parametrize(("peaks", "expected"), [([-0.5, -0.25, -0.25], [1 / 3, 2 / 3]), ([3.0, -0.9, -0.9], [1, 0])])
def test_a_vote_never_weighs_less_than_nothing(peaks: list[float], expected: list[float]) -> None:
    """Peaks of signed layers may be negative: a picture that names a word still speaks for it."""
    assert weigh(np.array([[1], [2], [2]]), peaks, make_evidence(word=[1, 2])) == pytest.approx(expected)


# ---------------------------------------------------------------- explained or not, and why


def test_planted_filters_are_explained_by_their_words(tmp_path: Path, planted: Scene) -> None:
    info = planted.explain(tmp_path, top_images=16)
    filters, _ = read(tmp_path)
    for u, own in enumerate(KINDS):
        assert set(filters[u]["words"]) == set(own)
        assert (filters[u]["explained"], filters[u]["reason"]) == (True, "")
    assert info["num_explained"] == 6
    assert filters[BOTH]["explained"]


def test_reasons(tmp_path: Path, planted: Scene) -> None:
    planted.explain(tmp_path, top_images=16)
    filters, words = read(tmp_path)
    dead, rare, noise = (filters[u] for u in (DEAD, RARE, NOISE))
    assert dead["reason"] == NEVER
    assert (dead["num_images"], dead["top_images"]) == (0, [])
    assert rare["reason"] == "only 2 pictures above the threshold (explain.min_images is 5)"
    assert (rare["num_images"], len(rare["top_images"])) == (2, 2)
    assert noise["reason"] == NO_EVIDENCE
    assert (noise["num_images"], len(noise["top_images"])) == (100, 16)
    for row in (dead, rare, noise):
        assert (row["explained"], row["confidence"], row["words"], row["meanings"]) == (False, 0, [], [])
    # What could not be shown is there to be looked at; what was not tested is not.
    shown = [w for w in words if w["filter"] == NOISE]
    assert len(shown) == 3
    assert not any(w["significant"] for w in shown)
    assert not [w for w in words if w["filter"] in (DEAD, RARE)]


def test_nothing_is_explained_by_an_invalid_explainer(tmp_path: Path, planted: Scene) -> None:
    reason = "the explainer names held-out regions no better than chance (p = 0.400; needed: 0.01 at most)"
    info = planted.explain(tmp_path, make_judgement(9, reason), top_images=16)
    filters, words = read(tmp_path)
    assert [f["reason"] for f in filters[:5]] == [reason] * 5
    assert (filters[NOISE]["reason"], filters[DEAD]["reason"]) == (reason, NEVER)
    assert filters[RARE]["reason"].startswith("only 2 pictures")
    for row in filters:
        assert (row["explained"], row["confidence"], row["words"], row["meanings"]) == (False, 0, [], [])
    assert words
    assert not any(w["significant"] for w in words)
    assert (info["num_explained"], info["num_words_found"], info["mean_confidence"]) == (0, 0, 0)
    # The evidence itself is what it would have been.
    planted.explain(tmp_path / "valid", top_images=16, ranking="evidence")
    same = {(w["filter"], w["word"]): w["p_value"] for w in read(tmp_path / "valid")[1]}
    assert {(w["filter"], w["word"]): w["p_value"] for w in words} == same


def test_few_top_images_do_not_make_a_filter_rare(tmp_path: Path, planted: Scene) -> None:
    """What counts are pictures above the threshold, however few of them are looked at."""
    planted.explain(tmp_path, top_images=3, min_images=20)
    filters, _ = read(tmp_path)
    for u in range(5):
        assert (filters[u]["num_images"], len(filters[u]["top_images"])) == (20, 3)
        assert not filters[u]["reason"].startswith("only")
    planted.explain(tmp_path, min_images=21)
    assert {f["reason"] for f in read(tmp_path)[0][:5]} == {
        "only 20 pictures above the threshold (explain.min_images is 21)"
    }


def test_stricter_rate_leaves_fewer_words(tmp_path: Path, planted: Scene) -> None:
    loose, strict = (
        planted.explain(tmp_path, top_images=16, num_words=50, false_discovery_rate=rate) for rate in (0.5, 1e-9)
    )
    assert strict["num_words_found"] < loose["num_words_found"]
    filters, words = read(tmp_path)
    kept = {(w["filter"], w["word"]) for w in words if w["q_value"] <= 1e-9}
    assert {(f["filter"], w) for f in filters for w in f["words"]} == kept


def test_layer_of_dead_filters_gives_full_tables(tmp_path: Path, planted: Scene) -> None:
    scene = replace(planted, thresholds=np.full(9, 1000, np.float32))
    info = scene.explain(tmp_path)
    filters, words = read(tmp_path)
    assert [f["filter"] for f in filters] == list(range(9))
    assert {f["reason"] for f in filters} == {NEVER}
    assert words == []
    assert (info["num_pairs"], info["num_explained"], info["mean_confidence"], info["share_novel"]) == (0, 0, 0, 0)
    content = json.loads((tmp_path / file_names.CALIBRATION).read_text("utf-8"))
    assert content["statements"] == {"num_judged": 0, "num_right": 0}
    assert (tmp_path / file_names.RELIABILITY).read_bytes().startswith(b"\x89PNG")


def test_a_single_live_filter_has_nothing_to_be_compared_with(tmp_path: Path, planted: Scene) -> None:
    thresholds = np.full(9, 1000, np.float32)
    thresholds[0] = 3
    replace(planted, thresholds=thresholds).explain(tmp_path)
    filters, words = read(tmp_path)
    assert filters[0]["reason"] == NO_EVIDENCE
    assert {(w["background"], w["p_value"]) for w in words} == {(1, 1)}


def test_more_words_than_the_vocabulary_has(tmp_path: Path, planted: Scene) -> None:
    """Where every picture names every word, no word tells filters apart."""
    planted.explain(tmp_path, words_per_image=1000, num_words=1000)
    filters, words = read(tmp_path)
    assert not any(f["explained"] for f in filters)
    assert [sum(w["filter"] == u for w in words) for u in range(9)] == [55] * 5 + [0, 0, 55, 55]


def test_kept_pairs_come_back(tmp_path: Path, planted: Scene) -> None:
    planted.explain(tmp_path)
    expected, found = select_top_images(planted.store, planted.thresholds, 8), load_pairs(tmp_path)
    for name in ("filter", "image", "peak"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_explaining_repeats_to_the_byte(tmp_path: Path, planted: Scene) -> None:
    for name in ("a", "b"):
        planted.explain(tmp_path / name, top_images=16)
    contents = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert contents[0] == contents[1]
    assert {
        file_names.CALIBRATION,
        file_names.RELIABILITY,
        "pairs.npz",
        "filters.parquet",
        "explanations.parquet",
    } == set(contents[0])


# ---------------------------------------------------------------- confidence


def test_confidence_is_the_calibrations_word_on_the_evidence(tmp_path: Path, planted: Scene) -> None:
    planted.explain(tmp_path, top_images=16)
    filters, words = read(tmp_path)
    content = json.loads((tmp_path / file_names.CALIBRATION).read_text("utf-8"))
    calibration = Calibration.from_json(content["calibration"])
    for word in words:
        strength = min(-math.log10(max(word["p_value"], np.finfo(float).tiny)), 30)
        assert word["confidence"] == pytest.approx(calibration.predict(np.array([[math.sqrt(strength)]]))[0], rel=1e-9)
        assert 0 < word["confidence"] < 1
    for row in filters:
        first = next((w for w in words if w["filter"] == row["filter"] and w["rank"] == 1), None)
        assert row["confidence"] == (first["confidence"] if first and row["explained"] else 0)


def test_statements_that_can_be_judged_are_counted_by_hand(tmp_path: Path, planted: Scene) -> None:
    """By lemma; a category that is in no evaluation picture (sky) judges nothing."""
    truth = make_judgement(9)
    truth.right[BOTH] = False
    info = planted.explain(tmp_path, truth, num_words=4, top_images=16)
    concept_of = {"cat": 0, "cats": 0, "hot dog": 1}
    words = read(tmp_path)[1]
    rights = [truth.right[w["filter"], concept_of[w["word"]]] for w in words if w["word"] in concept_of]
    content = json.loads((tmp_path / file_names.CALIBRATION).read_text("utf-8"))
    assert content["statements"] == {"num_judged": len(rights), "num_right": sum(rights)}
    assert 0 < sum(rights) < len(rights) < 30
    # Too few to fit anything: every confidence is the base rate, and the file says so.
    assert content["calibration"]["kind"] == BASE_RATE
    assert "statements can be judged" in content["calibration"]["note"]
    base_rate = (sum(rights) + 1) / (len(rights) + 2)
    confidence = [w["confidence"] for w in words]
    assert confidence == pytest.approx([base_rate] * len(confidence))
    assert info["calibration_error"] == Reliability.from_json(content["reliability"]).expected_calibration_error
    assert (info["brier"], info["base_brier"]) == tuple(content["reliability"][k] for k in ("brier", "base_brier"))


@pytest.mark.parametrize("ranking", ["evidence", "frequency"])
def test_words_with_the_most_evidence_are_judged_however_words_are_ranked(
    tmp_path: Path, planted: Scene, ranking: str
) -> None:
    """As many of each filter as are printed."""
    planted.explain(tmp_path / "all", num_words=100, top_images=16)
    words = [w for w in read(tmp_path / "all")[1] if w["rank"] <= 2]
    judged = [w for w in words if w["word"] in ("cat", "cats", "hot dog")]
    planted.explain(tmp_path / "two", num_words=2, top_images=16, ranking=ranking)
    content = json.loads((tmp_path / "two" / file_names.CALIBRATION).read_text("utf-8"))
    assert content["statements"]["num_judged"] == len(judged) > 0


def test_calibration_is_fitted_to_what_can_be_judged() -> None:
    rng = np.random.default_rng(0)
    names = ("cat", "dog", "bird", "horse", "car", "boat", "tree", "chair", "hot dog", "zebra")
    forms = ("cats", "dogs", "bird", "horses", "cars", "boat", "trees", "chairs", "hotdog", "zebras")
    vocabulary = make_vocabulary(5, forms)
    num, channels = 900, 50
    word, unit = rng.integers(0, 15, num), np.sort(rng.integers(0, channels, num))
    share, p_value = rng.uniform(0.1, 1, num), 10 ** rng.uniform(-8, 0, num)
    evidence = make_evidence(filter=unit, word=word, share=share, p_value=p_value, background=rng.uniform(0.01, 1, num))
    # Five plain words, then the categories; no picture has a zebra.
    concept = np.array([-1] * 5 + [*range(9), -1])[word]
    judged = np.flatnonzero(concept >= 0)
    right = np.zeros((channels, len(names)), bool)
    strong = judged[p_value[judged] < 1e-4]
    right[unit[strong], concept[strong]] = True
    calibration, reliability, counts = calibrate_words(
        evidence, vocabulary, WordTruth(names, right, np.array([True] * 9 + [False])), 3
    )
    rights = np.array([right[unit[r], concept[r]] for r in judged])
    expected = calibrate(make_features(evidence.take(judged)), rights, concept[judged], 3)
    assert (calibration, reliability) == expected
    assert counts == {"num_judged": len(judged), "num_right": int(rights.sum())}
    assert calibration.kind == LOGISTIC
    # More evidence, more confidence.
    confidence = calibration.predict(make_features(evidence))
    assert confidence[p_value < 1e-6].mean() > confidence[p_value > 0.1].mean() + 0.3


def test_no_evidence_has_nothing_to_calibrate() -> None:
    nothing = make_evidence(**{n: np.zeros(0, np.int64) for n in ("filter", "word", "votes", "images")})
    calibration, reliability, counts = calibrate_words(nothing, make_vocabulary(5, CATEGORIES), make_judgement(3), 0)
    assert (calibration.kind, reliability.count, counts) == (BASE_RATE, 0, {"num_judged": 0, "num_right": 0})


# ---------------------------------------------------------------- meanings


def test_filter_of_two_kinds_has_two_meanings(tmp_path: Path, planted: Scene) -> None:
    info = planted.explain(
        tmp_path, top_images=25, num_words=10, words_per_image=3, min_confidence=0, false_discovery_rate=0.05
    )
    filters, _ = read(tmp_path)
    for row in filters[:5]:
        (only,) = row["meanings"]
        assert only["share"] == 1
        assert set(only["words"]) == set(row["words"])
        assert only["top_images"] == row["top_images"]
    both = filters[BOTH]
    assert len(both["meanings"]) == 2
    assert info["num_several_meanings"] == 1
    kinds: list[int] = []
    for meaning in both["meanings"]:
        pictures = {int(Path(name).stem) % 5 for name in meaning["top_images"]}
        assert len(pictures) == 1
        kinds += pictures
        assert set(meaning["words"]) == set(KINDS[kinds[-1]])
        assert meaning["share"] == len(meaning["top_images"]) / 25
        # The strongest first, as in the filter's own list.
        assert meaning["top_images"] == [name for name in both["top_images"] if int(Path(name).stem) % 5 == kinds[-1]]
    assert sorted(kinds) == [0, 1]
    assert both["meanings"][0]["share"] >= both["meanings"][1]["share"]
    assert {w for m in both["meanings"] for w in m["words"]} == set(both["words"])


def test_one_meaning_where_no_more_are_looked_for(tmp_path: Path, planted: Scene) -> None:
    info = planted.explain(tmp_path, top_images=25, num_words=10, max_meanings=1)
    (only,) = read(tmp_path)[0][BOTH]["meanings"]
    assert (only["share"], len(only["top_images"]), info["num_several_meanings"]) == (1, 25, 0)


def test_words_with_too_little_confidence_are_none(tmp_path: Path, planted: Scene) -> None:
    planted.explain(tmp_path, min_confidence=0)
    before, words = read(tmp_path)
    planted.explain(tmp_path, min_confidence=0.999)
    after, _ = read(tmp_path)
    assert any(row["explained"] for row in before)
    assert max(word["confidence"] for word in words) < 0.999
    reasons = {row["reason"] for row, old in zip(after, before, strict=True) if old["explained"]}
    assert reasons == {
        "words with its evidence are right too seldom where that can be judged (explain.min_confidence is 0.999)"
    }


def test_a_new_ranking_is_one_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the alphabet, which nobody should want."""
    monkeypatch.setattr(RANKINGS, "_entries", dict(RANKINGS._entries))

    def find(named: NamedFilters) -> FoundWords:
        words = named.vocabulary.words

        def leading(evidence: Evidence, weights_S: AnyArray) -> AnyArray:
            place = {w: i for i, w in enumerate(sorted(words))}
            return -np.array([place[words[w]] for w in evidence.word], np.float64)

        return voted_words.find_voted_words(named, leading)

    RANKINGS.register("alphabet")(Ranking(find, least_confidence=0.7))
    assert find_least_confidence(ExplainSettings(ranking="alphabet")) == 0.7
    assert find_least_confidence(ExplainSettings(ranking="alphabet", min_confidence=0)) == 0
    scene = SCENES["planted"](tmp_path / "s")
    scene.explain(tmp_path / "e", ranking="alphabet")
    _, rows = read(tmp_path / "e")
    by_filter: dict[tuple[int, bool], list[str]] = {}
    for row in rows:
        by_filter.setdefault((row["filter"], row["significant"]), []).append(row["word"])
    assert by_filter
    assert all(names == sorted(names) for names in by_filter.values())


@pytest.mark.parametrize(
    ("ranking", "least"), [("auroc", 0.3), ("evidence", 0.1), ("frequency", 0.1), ("peak_weighted", 0.1)]
)
def test_what_stands_for_no_least_confidence(ranking: str, least: float) -> None:
    assert find_least_confidence(ExplainSettings(ranking=ranking)) == least
    assert find_least_confidence(ExplainSettings(ranking=ranking, min_confidence=0.2)) == 0.2
