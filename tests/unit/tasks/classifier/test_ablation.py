"""Ablations: files against networks run by hand, a planted cause, accuracy by hand, both ways of computing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from torch import nn

from lavise.configs.errors import UserError
from lavise.configs.schema import CauseSettings
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.models.target_model import TargetModel
from lavise.storage.state.artefacts import Handle
from lavise.tasks.classifier.ablation import CauseInputs, measure_causes
from lavise.tasks.classifier.ablation_runs import run_baseline
from lavise.tasks.classifier.ablation_tables import compute_p_value
from lavise.tasks.classifier.audited_classifier import AuditedClassifier
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import Given
from tests.unit.tasks.classifiers import (
    NUM_FILTERS,
    break_image,
    head_of,
    load_images,
    make_classifier,
    make_colours,
    make_plain,
    make_records,
    names,
)
from tests.unit.tasks.helpers import make_model, publish_maps

CONCEPTS = ("dog", "cat", "bus")
WORDS = [["dogs", "stuff"], ["dog"], ["cat", "dog"], [], ["stuff"], ["bus"], [], ["stuff", "dog"]]
CLASSES = names("dog", "tabby cat", "bus", "thing", "N/A")
Rows = list[dict[str, Any]]


def publish_means(root: Path, mean_C: Any) -> Handle:
    """Activations of one picture with these means, to seven digits: a large and a small cell of float16 each."""
    large = (2 * mean_C).astype(np.float16)
    return publish_maps(root, np.stack([large, 2 * mean_C - large], axis=1)[None, :, None])


def measure(
    model: TargetModel,
    layer: str,
    records: Sequence[ImageRecord],
    folder: Path,
    head: LinearHead | None = None,
    words: Sequence[Sequence[str]] = WORDS,
    class_names: ClassNames | None = CLASSES,
    concepts: Sequence[str] = CONCEPTS,
    mean: Any = None,
    batch_size: int = 4,
    seed: int = 0,
    **settings: Any,
) -> tuple[dict[str, Any], dict[str, Any], Rows, Rows]:
    """(facts, causes.json, rows of causes.parquet, rows of causes_filters.parquet)."""
    folder.mkdir(parents=True, exist_ok=True)
    mean_C = np.full(len(words), 0.5) if mean is None else np.asarray(mean)
    inputs = CauseInputs(
        network=AuditedClassifier(model, layer, head, "" if head else "not direct", class_names, batch_size),
        data=Given(Dataset("pictures", tuple(records), tuple(concepts)), "d" * 64),
        activations=publish_means(folder.parent / f"{folder.name} state", mean_C),
        words=words,
        settings=CauseSettings(**{"random_sets": 19, **settings}),
        computing=Computing(seed),
    )
    facts = dict(measure_causes(inputs, folder))
    tables = [parquet.read_table(folder / f"{n}.parquet").to_pylist() for n in ("causes", "causes_filters")]
    return facts, json.loads((folder / "causes.json").read_text("utf-8")), tables[0], tables[1]


def annotate(num: int) -> list[list[str]]:
    """Every second picture has a dog, every third a cat, the fifth a bus."""
    return [[c for c, has in (("dog", i % 2 == 0), ("cat", i % 3 == 0), ("bus", i == 5)) if has] for i in range(num)]


def assert_close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """The same rows, numbers up to a tolerance, also those in JSON text."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            a, b = found[key], expected[key]
            assert_close(*((json.loads(a), json.loads(b)) if key == "classes" else (a, b)), tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b, tolerance)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance)
    else:
        assert found == expected


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_linear_algebra_and_forward_passes_give_the_same(tmp_path: Path, fill: str) -> None:
    model, _, head = make_classifier()
    records = make_records(tmp_path / "p", 13, annotate(13))
    _, direct, words, filters = measure(model, "act", records, tmp_path / "a", head, fill=fill)
    _, by_passes, words_2, filters_2 = measure(model, "act", records, tmp_path / "b", None, fill=fill)
    assert (direct.pop("direct"), by_passes.pop("direct")) == (True, False)
    assert direct == by_passes
    assert_close(words, words_2)
    assert_close(filters, filters_2)
    assert any(r["changed"] > 0 for r in words)
    assert any(abs(r["own_logit"]) > 0.1 for r in filters)


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_middle_layer_vs_loops_over_pictures(tmp_path: Path, fill: str) -> None:
    """Every figure of a word, from a network that is run by hand one picture at a time."""
    model, network, _ = make_classifier()
    annotations = annotate(13)
    records = make_records(tmp_path / "p", 13, annotations)
    mean = np.linspace(-0.5, 0.5, 6)
    words = [["dog"], ["dog"], [], ["sky"], ["sky"], ["bus"]]
    _, summary, rows, singles = measure(model, "first", records, tmp_path / "o", None, words, mean=mean, fill=fill)

    def run(filters: list[int]) -> tuple[Any, Any]:
        maps = network.first(load_images(model, records)).detach()
        for u in filters:
            maps[:, u] = mean[u] if fill == "mean" else 0.0
        logits = torch.cat([network.after_first(m[None]) for m in maps]).numpy()
        return logits, logits.argmax(axis=1)

    before, given = run([])
    assert [r["word"] for r in rows] == ["dog", "sky", "bus"]
    right_name = {0: "dog", 1: "cat", 2: "bus"}
    for row in rows:
        after, now = run(row["filters"])
        concept = row["word"] if row["word"] in CONCEPTS else None
        own = [float(after[i, k] - before[i, k]) for i, k in enumerate(given)]
        assert row["category"] == concept
        assert row["own_logit"] == pytest.approx(np.mean(own), abs=1e-5)
        assert row["changed"] == pytest.approx(np.mean(now != given))
        for side in ("with", "without"):
            chosen = [i for i in range(13) if (concept in annotations[i]) == (side == "with")]
            answerable = [i for i in chosen if annotations[i]]
            if concept is None:
                assert [row[k] for k in row if k.endswith(side)] == [None] * 5
                continue
            assert row[f"num_{side}"] == len(chosen)
            assert row[f"own_logit_{side}"] == pytest.approx(np.mean([own[i] for i in chosen]), abs=1e-5)
            assert row[f"changed_{side}"] == pytest.approx(np.mean([now[i] != given[i] for i in chosen]))
            for when, predicted in (("before", given), ("after", now)):
                right = [right_name.get(int(predicted[i])) in annotations[i] for i in answerable]
                assert row[f"accuracy_{when}_{side}"] == pytest.approx(np.mean(right))
        listed = json.loads(row["classes"])
        assert listed == sorted(listed, key=lambda e: e[1])
        if concept:
            has = np.array([concept in a for a in annotations])
            change = (after - before)[has].mean(axis=0)
            other = (after - before)[~has].mean(axis=0)
            label = {"dog": 0, "tabby cat": 1, "bus": 2, "thing": 3, "class 4": 4}
            assert len(listed) == int((change < 0).sum())
            assert_close(listed, [[n, float(change[label[n]]), float(other[label[n]])] for n, _, _ in listed], 1e-5)
    judged_all = [i for i in range(13) if annotations[i]]
    right_all = [right_name.get(int(given[i])) in annotations[i] for i in judged_all]
    assert summary["accuracy"] == {"num_judged": len(judged_all), "before": pytest.approx(np.mean(right_all))}
    assert [r["filter"] for r in singles] == [0, 1, 3, 4, 5]
    for single in singles:
        after, now = run([single["filter"]])
        changes = np.array([after[i, k] - before[i, k] for i, k in enumerate(given)])
        assert single["own_logit"] == pytest.approx(changes.mean(), abs=1e-5)
        assert single["changed"] == pytest.approx(np.mean(now != given))
        by_class = {CLASSES.names[k][0] if k != 4 else "class 4": float(changes[given == k].mean()) for k in set(given)}
        expected = sorted(([n, v] for n, v in by_class.items() if v < 0), key=lambda e: e[1])
        assert_close(json.loads(single["classes"]), expected, 1e-5)


def make_planted(folder: Path) -> tuple[TargetModel, LinearHead, list[ImageRecord], list[list[str]]]:
    """128 filters. Filter 0 sees red and alone drives class `apple`; filter 1 sees red, too, and no class reads it;
    filter 2 lowers `apple`. All others are faint mixtures."""
    rng = np.random.default_rng(0)
    mixture, weight = rng.uniform(0, 0.1, (128, 3)), rng.uniform(-0.1, 0.1, (3, 128))
    mixture[:3] = [1, 0, 0]
    weight[:, :3] = np.array([[9, 0, -4], [0, 0, 0], [0, 0, 0]])
    model = make_colours(*(torch.tensor(a, dtype=torch.float32) for a in (mixture, weight, [0.0, 1, 0.5])))
    colours = [(255, 0, 0), (200, 30, 0), (0, 255, 0), (20, 200, 20), (0, 0, 255), (180, 0, 40)]
    records = make_plain(folder, colours, ["apple", "apple", "frog", "frog", "sky", "apple"])
    words = [["apples"], ["idle"], ["hindrance"], *([] for _ in range(125))]
    return model, head_of(model.network.head), records, words  # type: ignore[arg-type]


@pytest.mark.parametrize("is_direct", [True, False])
def test_planted_cause_is_found_and_what_is_not_read_is_not_used(tmp_path: Path, is_direct: bool) -> None:
    model, head, records, words = make_planted(tmp_path / "p")
    facts, summary, rows, singles = measure(
        *(model, "act", records, tmp_path / "out", head if is_direct else None, words),
        *(names("apple", "tree frog", "sky"), ("apple", "frog", "sky")),
        random_sets=199,
        max_passes=400,
        fill="zero",
    )
    assert summary["direct"] is is_direct
    found = {r["word"]: r for r in rows}
    cause, idle, hindrance = found["apples"], found["idle"], found["hindrance"]
    assert (cause["used"], idle["used"], hindrance["used"]) == (True, False, False)
    assert facts["num_used"] == 1
    assert (cause["category"], cause["num_with"], cause["num_without"]) == ("apple", 3, 3)
    assert (cause["changed_with"], cause["changed_without"]) == (1, 0)
    assert (cause["accuracy_before_with"], cause["accuracy_after_with"]) == (1, 0)
    assert json.loads(cause["classes"])[0][0] == "apple"
    # Red is 255, 200 and 180 of 255, and the weight is 9.
    assert cause["own_logit_with"] == pytest.approx(-9 * (255 + 200 + 180) / 3 / 255, rel=1e-5)
    assert (idle["own_logit"], idle["changed"], idle["p_value"]) == (0, 0, 1)
    assert json.loads(idle["classes"]) == []
    assert [r["own_logit"] for r in singles if r["filter"] == 1] == [0]
    assert hindrance["own_logit"] > 0
    assert hindrance["p_value"] == 1


def test_zero_fill_and_mean_fill_by_hand(tmp_path: Path) -> None:
    """Red pictures of 1.0 and 0.4: filter 0 pools to these, its mean is 0.7, the weight of class 0 is 2."""
    model = make_colours(torch.eye(3), torch.tensor([[2.0, 0, 0], [0, 1, 0]]), torch.tensor([0.0, 1.0]))
    records = make_plain(tmp_path / "p", [(255, 0, 0), (102, 0, 0)], ["red", "red"])
    head, words = head_of(model.network.head), [["red"], [], []]  # type: ignore[arg-type]
    given = (records, tmp_path / "o", head, words, names("red", "dark"), ("red",), [0.7, 0, 0])
    _, _, (zero,), _ = measure(model, "act", *given, fill="zero")
    _, _, (mean,), _ = measure(model, "act", *given, fill="mean")
    # Logits before: (2, 1), (0.8, 1): red, dark. Zero: (0, 1), (0, 1). Mean: (1.4, 1), (1.4, 1).
    assert (zero["own_logit"], zero["changed"]) == (pytest.approx((-2 + 0) / 2), 0.5)
    assert (mean["own_logit"], mean["changed"]) == (pytest.approx((-0.6 + 0) / 2), 0.5)
    assert (zero["accuracy_before_with"], zero["accuracy_after_with"], mean["accuracy_after_with"]) == (0.5, 0, 1)
    assert_close(json.loads(zero["classes"]), [["red", (-2 - 0.8) / 2, None]], 1e-6)
    # 1.4 - 2 and 1.4 - 0.8 are as far from 0: the mean logit stays.
    assert all(abs(change) < 1e-6 for _, change, _ in json.loads(mean["classes"]))


def test_accuracy_by_hand(tmp_path: Path) -> None:
    """Classes red, green, blue are `apple`, `tree frog` and nameless. Judged are pictures with an apple or a frog."""
    model = make_colours(torch.eye(3), torch.eye(3), torch.zeros(3))
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0), (0, 255, 0)]
    records = make_plain(tmp_path / "p", colours, ["apple", "apple", "apple", "sky", "frog"])
    head = head_of(model.network.head)  # type: ignore[arg-type]
    _, summary, (row,), _ = measure(
        *(model, "act", records, tmp_path / "o", head, [["apple"], [], []]),
        *(names("apple", "tree frog", "N/A"), ("apple", "frog", "sky")),
        fill="zero",
    )
    # Right before: the red apple and the green frog, of four judged.
    assert summary["accuracy"] == {"num_judged": 4, "before": 0.5}
    # Without filter 0 a red picture has the logits 0, 0, 0: the first class, still apple.
    assert (row["accuracy_before_with"], row["accuracy_after_with"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (row["accuracy_before_without"], row["accuracy_after_without"]) == (1, 1)
    assert row["changed"] == 0


@pytest.mark.parametrize(("class_names", "concepts"), [(None, ("apple",)), (names("apple", "x", "y"), ())])
def test_accuracy_is_null_where_nothing_can_be_judged(
    tmp_path: Path, class_names: ClassNames | None, concepts: tuple[str, ...]
) -> None:
    model = make_colours(torch.eye(3), torch.eye(3), torch.zeros(3))
    records = make_plain(tmp_path / "p", [(255, 0, 0)] * 2, ["apple"] * 2)
    _, summary, (row,), _ = measure(
        model, "act", records, tmp_path / "o", None, [["apple"], [], []], class_names, concepts
    )
    assert summary["accuracy"] is None
    assert all(row[f"accuracy_{w}_{s}"] is None for w in ("before", "after") for s in ("with", "without"))


def test_category_without_a_picture_is_tested_on_all(tmp_path: Path) -> None:
    model, _, head = make_classifier()
    records = make_records(tmp_path / "p", 6, [["cat"]] * 6)
    words = [["dog"], *([] for _ in range(NUM_FILTERS - 1))]
    _, _, (row,), _ = measure(model, "act", records, tmp_path / "a", head, words)
    _, _, (same,), _ = measure(model, "act", records, tmp_path / "b", head, words, concepts=("cat", "bus"))
    assert (row["category"], row["num_with"], row["num_without"]) == ("dog", 0, 6)
    assert (row["own_logit_with"], row["changed_with"], row["accuracy_before_with"]) == (None, None, None)
    assert row["own_logit_without"] == row["own_logit"]
    assert same["category"] is None
    for key in ("p_value", "random_own_logit", "random_changed", "own_logit", "classes"):
        assert row[key] == same[key]


def test_pictures_on_which_a_category_was_not_looked_for_are_neither_with_nor_without_it(tmp_path: Path) -> None:
    """The green picture of a frog is not known to be without an apple; figures over all pictures stay."""
    model, head, records, words = make_planted(tmp_path / "p")
    asked = [replace(r, looked_for=frozenset({"frog", "sky"})) if i == 2 else r for i, r in enumerate(records)]
    concepts = ("apple", "frog", "sky")
    rest = [r for i, r in enumerate(records) if i != 2]
    given, hidden, alone = (
        measure(
            *(model, "act", own, tmp_path / name, head, words, names("apple", "tree frog", "sky"), concepts),
            fill="zero",
        )
        for own, name in ((records, "a"), (asked, "b"), (rest, "c"))
    )
    plain, found, without = (next(r for r in rows if r["word"] == "apples") for _, _, rows, _ in (given, hidden, alone))
    assert (plain["num_without"], found["num_without"]) == (3, 2)
    for key, value in found.items():
        if key.endswith("_without") or key == "classes":
            assert_close({key: value}, {key: without[key]}, 1e-5)
        else:
            assert value == plain[key], key
    assert hidden[1] == given[1]


def test_random_sets_are_judged_on_the_same_pictures(tmp_path: Path) -> None:
    """Each filter of two is a random set of one: half the sets are the word's own filter, exactly as strong."""
    weight = torch.tensor([[4.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    model = make_colours(torch.eye(3), weight, torch.zeros(3))
    records = make_plain(tmp_path / "p", [(255, 51, 0), (51, 255, 0)], ["apple", "frog"])
    head, words = head_of(model.network.head), [["apple"], [], []]  # type: ignore[arg-type]
    _, _, (row,), _ = measure(
        *(model, "act", records, tmp_path / "o", head, words, names("apple", "frog", "N/A"), ("apple", "frog")),
        fill="zero",
        random_sets=400,
    )
    share = (row["p_value"] * 401 - 1) / 400
    assert share == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 400))
    # On the picture with the apple filter 0 takes 4 from its logit, filter 1 nothing.
    assert row["random_own_logit"] == pytest.approx(-4 * share, abs=1e-6)
    assert row["random_changed"] == pytest.approx(share)
    assert not row["used"]


def test_same_bytes_again_and_other_sets_with_another_seed(tmp_path: Path) -> None:
    records = make_records(tmp_path / "p", 9, annotate(9))
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        model, _, head = make_classifier()
        measure(model, "act", records, tmp_path / run, head, seed=seed)
    files = {run: [(tmp_path / run / n).read_bytes() for n in ("causes.json", "causes.parquet")] for run in "abc"}
    assert files["a"] == files["b"]
    assert files["a"][1] != files["c"][1]


@pytest.mark.parametrize("is_direct", [True, False])
def test_batch_size_does_not_matter(tmp_path: Path, is_direct: bool) -> None:
    model, _, head = make_classifier()
    records = make_records(tmp_path / "p", 9, annotate(9))
    results = [
        measure(model, "act", records, tmp_path / str(size), head if is_direct else None, batch_size=size)[2]
        for size in (1, 9)
    ]
    assert_close(results[0], results[1], 1e-5)


def test_broken_pictures_and_those_above_the_limit_are_left_out(tmp_path: Path) -> None:
    model, _, head = make_classifier()
    records = make_records(tmp_path / "p", 9, annotate(9))
    for run, chosen in (("direct", head), ("passes", None)):
        kept = [records[i] for i in (0, 2, 3, 4)]
        _, _, expected, _ = measure(model, "act", kept, tmp_path / f"{run}-kept", chosen)
        good = records[1].file.read_bytes()
        break_image(records[1])
        _, summary, found, _ = measure(model, "act", records, tmp_path / run, chosen, max_images=5)
        records[1].file.write_bytes(good)
        assert summary["num_images"] == 4
        assert summary["notes"][0] == "1 pictures could not be read"
        assert_close(found, expected, 1e-5)


def test_head_that_is_not_the_networks_own_is_not_used(tmp_path: Path) -> None:
    model, _, head = make_classifier()
    records = make_records(tmp_path / "p", 5, annotate(5))
    wrong = LinearHead(head.weight * 1.1, head.bias)
    _, summary, rows, _ = measure(model, "act", records, tmp_path / "a", wrong)
    _, _, expected, _ = measure(model, "act", records, tmp_path / "b", None)
    assert not summary["direct"]
    assert "did not give the network's own logits" in summary["notes"][0]
    assert rows == expected


def test_passes_that_are_left_out_are_noted(tmp_path: Path) -> None:
    model, _, _ = make_classifier()
    records = make_records(tmp_path / "p", 3, annotate(3))
    _, summary, rows, singles = measure(model, "act", records, tmp_path / "o", None, max_passes=24)
    # dog and stuff have 3 filters each and share their random sets: 1 + (1 + 19) + 1 passes, 2 are left.
    assert [r["word"] for r in rows] == ["dog", "stuff"]
    assert [r["filter"] for r in singles] == [1, 2]
    assert summary["notes"][:2] == [
        "3 of 5 words were left out (causes.max_passes)",
        "4 of 6 single filters were left out (causes.max_passes)",
    ]
    assert (summary["num_words"], summary["num_filters"], summary["num_random_sets"]) == (2, 2, 19)


@pytest.mark.parametrize("kind", ["no classifier", "all broken"])
def test_nothing_to_say_is_no_error(tmp_path: Path, kind: str) -> None:
    records = make_records(tmp_path / "p", 2)
    model, layer = make_classifier()[0], "act"
    if kind == "no classifier":
        model, layer = make_model(nn.Sequential(nn.Conv2d(3, NUM_FILTERS, 1))), "0"
    else:
        for record in records:
            break_image(record)
    facts, summary, rows, singles = measure(model, layer, records, tmp_path / "o")
    assert (facts["num_words"], facts["num_used"], rows, singles) == (0, 0, [], [])
    assert summary["accuracy"] is None
    assert summary["notes"] == [
        "the network's output is no table of class logits"
        if kind == "no classifier"
        else "there is no picture that can be read"
    ]


def test_no_words(tmp_path: Path) -> None:
    model, _, head = make_classifier()
    records = make_records(tmp_path / "p", 2, annotate(2))
    facts, _, rows, singles = measure(model, "act", records, tmp_path / "o", head, [[]] * NUM_FILTERS)
    assert (facts["num_words"], facts["num_filters"], rows, singles) == (0, 0, [], [])


def test_logits_that_are_not_finite(tmp_path: Path) -> None:
    model, network, _ = make_classifier()
    network.head.bias.data[1] = float("inf")
    with pytest.raises(UserError, match=r"^model\.weights: class logits are not finite on one of .* from 00\.png"):
        measure(model, "act", make_records(tmp_path / "p", 2), tmp_path / "o")


def test_means_have_to_fit_the_layer(tmp_path: Path) -> None:
    model, _, _ = make_classifier()
    with pytest.raises(ValueError, match="expected 8 filters, found 8 with words, 3 means"):
        measure(model, "act", make_records(tmp_path / "p", 2), tmp_path / "o", mean=[0, 0, 0])


def test_network_is_left_as_it_was(tmp_path: Path) -> None:
    model, network, _ = make_classifier()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    measure(model, "first", make_records(tmp_path / "p", 2, annotate(2)), tmp_path / "o", words=[["a"], *[[]] * 5])
    assert not any(m._forward_hooks for m in network.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_baseline_by_hand(tmp_path: Path) -> None:
    """Blue is nowhere: filter 2 is never active. Equal logits: the first class."""
    model = make_colours(torch.eye(3), torch.tensor([[1.0, 0, 0], [1, 0, 0]]), torch.zeros(2))
    found = run_baseline(model, "act", make_plain(tmp_path / "p", [(255, 0, 0), (0, 51, 0)]), 1, "cpu")
    assert not isinstance(found, str)
    np.testing.assert_allclose(found.pooled, [[1.0, 0.0, 0.0], [0.0, 0.2, 0.0]], atol=1e-6)
    np.testing.assert_allclose(found.logits, [[1.0, 1.0], [0.0, 0.0]], atol=1e-6)
    assert found.active.tolist() == [0, 1]
    assert found.predicted.tolist() == [0, 0]
    assert [a.tolist() for a in found.occurring] == [[0], [0, 0]]


@pytest.mark.parametrize(
    ("own", "random", "expected"),
    [
        (-2.0, [-1, -3, 0, 1], 2 / 5),
        (-1.0, [-1, -3, 0, 1], 3 / 5),  # as large counts
        (0.0, [1, 2, 3, 4], 1.0),  # changes nothing, though all random sets raise the logit
        (1.0, [2, 2, 2, 2], 1.0),
        (-9.0, [-1, -1, -1, -1], 1 / 5),
        (-9.0, [], 1.0),
    ],
)
def test_p_value_by_hand(own: float, random: list[float], expected: float) -> None:
    assert compute_p_value(own, np.array(random, dtype=np.float64)) == expected
