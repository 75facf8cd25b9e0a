"""Recall and the whole evaluation, against set arithmetic and loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lavise.configs.schema import EvaluateSettings
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.images.geometry import Geometry
from lavise.storage.words.word_vectors import PhraseMatch, Vocabulary
from lavise.tasks.activations.layer_maps import LayerMaps
from lavise.tasks.engine.cluster import StatisticsCluster
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import take_part
from lavise.tasks.evaluation.recall import (
    MOST_FREQUENT,
    RANDOM,
    Evaluation,
    MethodDifference,
    RecallSettings,
    compute_recall,
    evaluate_words,
    load_evaluation,
    save_evaluation,
    state_supported_order,
)
from lavise.tasks.explainer.naming import Namer
from lavise.tasks.explainer.network import Explainer, ExplainerFacts
from lavise.tasks.masks.overlaps import count_overlaps, load_overlaps
from lavise.tasks.numerics.bootstrap import Estimate
from tests.unit.tasks.activations.test_attention import feature_by_loops
from tests.unit.tasks.helpers import (
    AnyArray,
    encode_mask,
    make_vocabulary,
    upsample_with_torch,
    write_image,
    write_store,
)


def test_recall_vs_set_arithmetic() -> None:
    rng = np.random.default_rng(0)
    member = rng.random((30, 12)) < 0.3
    member[:, 0] |= ~member.any(axis=1)
    # Some words are no concept: -1, also several times.
    words = np.array([np.where(rng.random(8) < 0.3, -1, rng.permutation(12)[:8]) for _ in range(30)])
    found = compute_recall(words, member, (1, 3, 8, 20))
    for p in range(30):
        truth = set(np.flatnonzero(member[p]).tolist())
        for n, s in enumerate((1, 3, 8, 20)):
            assert found[p, n] == len(set(words[p, :s].tolist()) & truth) / len(truth)


def test_a_word_that_is_no_concept_never_counts() -> None:
    member = np.array([[True, False, True]])
    assert compute_recall(np.array([[-1, -1]]), member, (1, 2)).tolist() == [[0, 0]]


CONCEPTS = ("cat", "hot dog", "sky", "tree", "unicorn")
COUNTS = {"sky": 9, "cat": 4, "hot dog": 4, "tree": 1}
THRESHOLDS = np.array([0.3, 0, 0.1, 2, 0.8], np.float32)
SIZE = 16


class Scene:
    """Pictures with random masks, a store, and an explainer with random weights."""

    def __init__(self, folder: Path, cluster: StatisticsCluster, labelled: bool = True) -> None:
        rng = np.random.default_rng(0)
        self.masks: list[list[tuple[int, AnyArray]]] = []
        records = []
        for i in range(14):
            path = write_image(folder / "p" / f"{i:03d}.png", SIZE, SIZE, seed=i)
            concepts = rng.integers(0, 5, size=3).tolist() if labelled and i < 12 else []
            own = []
            for concept in concepts:
                mask = np.zeros((SIZE, SIZE), bool)
                top, left = rng.integers(0, 10, size=2)
                mask[top : top + rng.integers(3, 12), left : left + rng.integers(3, 12)] = True
                own.append((int(concept), mask))
            self.masks.append(own)
            records.append(ImageRecord(path.name, path, tuple(encode_mask(CONCEPTS[c], m) for c, m in own)))
        maps = rng.normal(size=(14, 5, 4, 4))
        maps[:, 1] = 0
        maps[:, 3] = np.clip(maps[:, 3] * 8, 0, 6)
        self.maps = maps.astype(np.float16)
        self.store = write_store(folder / "s", self.maps, shard_images=3)
        full = make_vocabulary(11, CONCEPTS[:4])
        self.vocabulary = Vocabulary(full.words, full.matrix, 11, (*full.matches, PhraseMatch("unicorn", "missing")))
        torch.manual_seed(2)
        self.explainer = Explainer(5, 6, 0.1).eval()
        self.facts = ExplainerFacts(5, 6, 0.1, "l2", "cosine", CONCEPTS[:4], (), {})
        dataset = Dataset("scene", tuple(records), CONCEPTS)
        count_overlaps(self.store, dataset, Geometry(SIZE), THRESHOLDS, cluster, folder)
        self.overlaps = load_overlaps(folder)

    def evaluate(self, settings: EvaluateSettings, seed: int = 0) -> Evaluation:
        return evaluate_words(
            LayerMaps(self.store, THRESHOLDS),
            self.overlaps,
            CONCEPTS,
            COUNTS,
            Namer(self.explainer, self.facts, None, self.vocabulary, "cpu"),
            take_part(settings, RecallSettings, top_images=6),
            Computing(seed),
        )

    def ground_truth(self, min_iou: float) -> dict[tuple[int, int], set[int]]:
        """G_{u,i} of the six top pictures of each filter, from masks and regions."""
        truth = {}
        for u in range(5):
            own = self.maps[:, u].astype(np.float64)
            areas = (own > float(THRESHOLDS[u])).sum(axis=(1, 2))
            ranked = sorted(range(14), key=lambda i: (-own[i].max(), -areas[i], -own[i].mean(), i))[:6]
            for i in ranked:
                region = upsample_with_torch(self.maps[i, u], SIZE) > THRESHOLDS[u]
                if own[i].max() <= THRESHOLDS[u]:
                    continue
                found = {c for c, m in self.masks[i] if (m & region).sum() / (m | region).sum() > min_iou}
                if found:
                    truth[u, i] = found
        return truth

    def words_of(self, unit: int, image: int, method: str, rows: list[int]) -> list[int]:
        """These rows of the vocabulary, nearest first."""
        feature = feature_by_loops(self.maps[image], unit, float(THRESHOLDS[unit]), method)
        with torch.inference_mode():
            v = self.explainer(torch.from_numpy(feature / np.linalg.norm(feature)).float()[None])[0].numpy()
        return sorted(rows, key=lambda r: -float(self.vocabulary.matrix[r] @ v))


@pytest.fixture
def scene(tmp_path: Path, cluster: StatisticsCluster) -> Scene:
    return Scene(tmp_path, cluster)


SETTINGS = EvaluateSettings(
    methods=("original", "activation_masking", "filter_attention"), recall_at=(1, 2, 20), bootstrap_samples=200
)


def test_evaluation_vs_loops(scene: Scene) -> None:
    found = scene.evaluate(SETTINGS)
    truth = scene.ground_truth(SETTINGS.min_iou)
    assert found["num_pairs"] == len(truth) > 10
    assert found["num_filters"] == len({u for u, _ in truth})
    assert found["num_images"] == len({i for _, i in truth})
    assert found["vocabularies"] == {"closed": 4, "open": 15}
    concept_of = {11 + n: n for n in range(4)}
    for name, rows in (("closed", [11, 12, 13, 14]), ("open", list(range(15)))):
        for method in SETTINGS.methods:
            for s in SETTINGS.recall_at:
                recalls = []
                for (u, i), concepts in truth.items():
                    words = {concept_of.get(r) for r in scene.words_of(u, i, method, rows)[:s]}
                    recalls.append(len(words & concepts) / len(concepts))
                cell = found["recall"][name][method][str(s)]
                assert cell["value"] == pytest.approx(np.mean(recalls))
                assert cell["low"] <= cell["value"] <= cell["high"]


def test_baselines_vs_loops(scene: Scene) -> None:
    found = scene.evaluate(SETTINGS)
    truth = scene.ground_truth(SETTINGS.min_iou)
    by_frequency = [2, 0, 1, 3, 4]
    for name, size in (("closed", 4), ("open", 15)):
        for s in SETTINGS.recall_at:
            expected = np.mean([len(set(by_frequency[:s]) & g) / len(g) for g in truth.values()])
            assert found["recall"][name][MOST_FREQUENT][str(s)]["value"] == pytest.approx(expected)
            share = min(s / size, 1)
            random = found["recall"][name][RANDOM][str(s)]
            assert list(random.values()) == pytest.approx([share] * 3)


def test_higher_minimum_iou_leaves_fewer_pairs(scene: Scene) -> None:
    strict = SETTINGS.model_copy(update={"min_iou": 0.3})
    found = scene.evaluate(strict)
    assert found["num_pairs"] == len(scene.ground_truth(0.3)) < scene.evaluate(SETTINGS)["num_pairs"]


def test_differences_are_paired_and_complete(scene: Scene) -> None:
    found = scene.evaluate(SETTINGS)
    names = [*SETTINGS.methods, MOST_FREQUENT]
    assert len(found["differences"]) == 2 * 3 * len(names) * (len(names) - 1) // 2
    for row in found["differences"]:
        by_method = found["recall"][row["vocabulary"]]
        values = [by_method[row[side]][str(row["at"])]["value"] for side in ("first", "second")]
        assert row["value"] == pytest.approx(values[0] - values[1])
        assert row["supported"] == (row["low"] > 0 or row["high"] < 0)


def test_evaluation_repeats_and_intervals_follow_the_seed(scene: Scene) -> None:
    first, again, other = (scene.evaluate(SETTINGS, seed) for seed in (0, 0, 1))
    assert first == again
    cells = [f["recall"]["open"][MOST_FREQUENT]["2"] for f in (first, other)]
    assert cells[0]["value"] == cells[1]["value"]
    assert cells[0] != cells[1]


def test_evaluation_without_labels_says_so(tmp_path: Path, cluster: StatisticsCluster) -> None:
    found = Scene(tmp_path, cluster, labelled=False).evaluate(SETTINGS)
    assert (found["num_pairs"], found["recall"], found["differences"]) == (0, {}, [])


def test_saved_evaluation_comes_back(tmp_path: Path, scene: Scene) -> None:
    found = scene.evaluate(SETTINGS)
    save_evaluation(found, tmp_path)
    assert load_evaluation(tmp_path) == json.loads(json.dumps(found)) == found


def test_sentences_only_where_the_interval_leaves_out_zero() -> None:
    given = [
        ("filter_attention", Estimate(value=-0.2, low=-0.3, high=-0.1)),
        ("activation_masking", Estimate(value=0.1, low=-0.1, high=0.3)),
        (MOST_FREQUENT, Estimate(value=0.1, low=0.05, high=0.3)),
    ]
    found = Evaluation(
        num_pairs=1,
        num_filters=1,
        num_images=1,
        vocabularies={},
        recall={},
        differences=[
            MethodDifference(
                **e,
                vocabulary="open",
                at=5,
                first="original",
                second=second,
                supported=e["low"] > 0 or e["high"] < 0,
            )
            for second, e in given
        ],
    )
    assert state_supported_order(found, ["original", "filter_attention", "activation_masking"]) == [
        "open vocabulary, recall@5: filter attention above original by 0.200 [0.100, 0.300]"
    ]
