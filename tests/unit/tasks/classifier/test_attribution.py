"""Classes and their filters: files against loops over single pictures, the linear head, intervals, edges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from torch import nn

from lavise.configs.errors import UserError
from lavise.configs.schema import ClassSettings
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.models.target_model import TargetModel
from lavise.tasks.classifier.attribution import STAGE, ContributionInputs, measure_contributions, rank_filters
from lavise.tasks.classifier.audited_classifier import AuditedClassifier
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import Given
from lavise.tasks.numerics.bootstrap import bootstrap_means
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
from tests.unit.tasks.helpers import make_model

WORDS = [[f"word{u}", "shared"] for u in range(NUM_FILTERS)]


def measure(
    model: TargetModel,
    layer: str,
    records: Sequence[ImageRecord],
    folder: Path,
    head: LinearHead | None = None,
    class_names: ClassNames | None = None,
    words: Sequence[Sequence[str]] = WORDS,
    batch_size: int = 4,
    seed: int = 0,
    **settings: Any,
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """(facts, classes.json, rows of classes.parquet, contributions.npz)."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = ContributionInputs(
        network=AuditedClassifier(model, layer, head, "" if head else "not direct", class_names, batch_size),
        pictures=Given(Dataset("pictures", tuple(records)), "p" * 64),
        words=words,
        settings=ClassSettings(**settings),
        computing=Computing(seed),
    )
    facts = dict(measure_contributions(inputs, folder))
    with np.load(folder / "contributions.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    rows = parquet.read_table(folder / "classes.parquet").to_pylist()
    return facts, json.loads((folder / "classes.json").read_text("utf-8")), rows, found


def by_loops(model: TargetModel, network: Any, records: Sequence[ImageRecord]) -> dict[int, list[list[float]]]:
    """Class -> contributions of the filters of `first` to each of its pictures."""
    found: dict[int, list[list[float]]] = {}
    for image in load_images(model, records):
        maps = network.first(image[None]).detach().requires_grad_(True)
        logits = network.after_first(maps)[0]
        best = int(logits.argmax())
        (gradient,) = torch.autograd.grad(logits[best], maps)
        found.setdefault(best, []).append([float((maps[0, u] * gradient[0, u]).sum().detach()) for u in range(6)])
    return found


def test_middle_layer_vs_loops(tmp_path: Path) -> None:
    model, network, _ = make_classifier()
    records = make_records(tmp_path / "p", 14)
    expected = by_loops(model, network, records)
    assert len(expected) > 1, "one class would not show that they are kept apart"
    facts, summary, rows, arrays = measure(model, "first", records, tmp_path / "out", num_filters=4)
    assert facts["num_classes"] == len(expected)
    order = sorted(expected, key=lambda k: (-len(expected[k]), k))
    assert [(c["class"], c["num_images"]) for c in summary["classes"]] == [(k, len(expected[k])) for k in order]
    assert arrays["class"].tolist() == order
    with torch.inference_mode():
        logits = network(load_images(model, records)).numpy()
    for listed in summary["classes"]:
        mine = [i for i in range(len(records)) if logits[i].argmax() == listed["class"]]
        surest = sorted(mine, key=lambda i: -logits[i, listed["class"]])[:8]
        assert listed["examples"] == [records[i].key for i in surest]
    assert arrays["contribution"].dtype == np.float32
    assert (summary["direct"], summary["reason"], summary["max_abs_difference"]) == (False, "not direct", None)
    highest = max(abs(v) for pictures in expected.values() for p in pictures for v in p)
    assert summary["max_abs_contribution"] == pytest.approx(highest, rel=1e-4)
    for place, k in enumerate(order):
        mean = np.mean(expected[k], axis=0)
        np.testing.assert_allclose(arrays["contribution"][place], mean, rtol=1e-4, atol=1e-5)
        own = [r for r in rows if r["class"] == k]
        best = [u for u in sorted(range(6), key=lambda u: -mean[u]) if mean[u] > 0][:4]
        assert [(r["rank"], r["filter"], r["words"]) for r in own] == [(i + 1, u, WORDS[u]) for i, u in enumerate(best)]
        for row in own:
            assert row["contribution"] == pytest.approx(mean[row["filter"]], rel=1e-4)
            assert row["share"] == pytest.approx(mean[row["filter"]] / mean[mean > 0].sum(), rel=1e-4)
            assert (row["weight"], row["class_name"], row["layer"]) == (None, f"class {k}", "first")
            assert (row["low"] is None) == (row["num_images"] < 3)


def test_linear_head_by_hand(tmp_path: Path) -> None:
    """Filters red, green, blue, and red with another weight. A picture of colour c pools to c itself."""
    mixture = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    weight = torch.tensor([[2.0, -1, 0, 1], [0, 4, 0, 0]])
    model = make_colours(mixture, weight, torch.tensor([0.5, 0.0]))
    # Logits: (2 + 1) · 1 + 0.5 = 3.5 and 0; then 3 · 0.4 - 0.2 + 0.5 = 1.5 and 0.8; then -0.5 and 4.
    records = make_plain(tmp_path / "p", [(255, 0, 0), (102, 51, 0), (0, 255, 255)])
    head = head_of(model.network.head)  # type: ignore[arg-type]
    facts, summary, rows, arrays = measure(
        model, "act", records, tmp_path / "out", head, names("red, crimson", "green"), [["a"], [], ["c"], []]
    )
    assert summary["classes"] == [
        {
            "class": 0,
            "name": "red",
            "num_images": 2,
            "mean_logit": pytest.approx(2.5),
            "examples": ["00.png", "01.png"],
        },
        {"class": 1, "name": "green", "num_images": 1, "mean_logit": pytest.approx(4.0), "examples": ["02.png"]},
    ]
    # Class 0: red 2 · (1 + 0.4) / 2, green -1 · (0 + 0.2) / 2, red again 1 · 1.4 / 2.
    np.testing.assert_allclose(arrays["contribution"], [[1.4, -0.1, 0.0, 0.7], [0.0, 4.0, 0.0, 0.0]], atol=1e-6)
    shown = [(r["class_name"], r["rank"], r["filter"], r["words"], r["weight"]) for r in rows]
    assert shown == [("red", 1, 0, ["a"], 2), ("red", 2, 3, [], 1), ("green", 1, 1, [], 4)]
    np.testing.assert_allclose([r["contribution"] for r in rows], [1.4, 0.7, 4], rtol=1e-6)
    np.testing.assert_allclose([r["share"] for r in rows], [1.4 / 2.1, 0.7 / 2.1, 1], rtol=1e-6)
    assert summary["direct"]
    assert summary["max_abs_difference"] <= 1e-5 * summary["max_abs_contribution"]
    assert facts["max_abs_difference"] == summary["max_abs_difference"]


def test_wrong_weights_are_noticed(tmp_path: Path) -> None:
    model, _, head = make_classifier()
    records = make_records(tmp_path / "p", 3)
    wrong = LinearHead(head.weight * 1.1, head.bias)
    _, summary, _, _ = measure(model, "act", records, tmp_path / "out", wrong)
    assert summary["max_abs_difference"] == pytest.approx(0.1 * summary["max_abs_contribution"], rel=1e-3)


def test_same_bytes_again(tmp_path: Path) -> None:
    records = make_records(tmp_path / "p", 10)
    for run in ("a", "b"):
        model, _, head = make_classifier()
        measure(model, "act", records, tmp_path / run, head)
    for name in ("classes.json", "classes.parquet", "contributions.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("layer", ["first", "act"])
def test_batch_size_matters_below_a_millionth_only(tmp_path: Path, layer: str) -> None:
    """Not to the bit: convolutions sum in another order for another batch."""
    model, _, _ = make_classifier()
    records = make_records(tmp_path / "p", 9)
    _, _, rows, alone = measure(model, layer, records, tmp_path / "1", batch_size=1)
    _, _, rows_9, together = measure(model, layer, records, tmp_path / "9", batch_size=9)
    scale = np.abs(alone["contribution"]).max()
    np.testing.assert_allclose(together["contribution"], alone["contribution"], rtol=0, atol=1e-6 * scale)
    assert [(r["class"], r["filter"]) for r in rows] == [(r["class"], r["filter"]) for r in rows_9]


def test_broken_pictures_and_those_above_the_limit_are_left_out(tmp_path: Path) -> None:
    model, _, head = make_classifier()
    records = make_records(tmp_path / "p", 8)
    _, _, _, expected = measure(model, "act", [records[0], records[2]], tmp_path / "a", head)
    break_image(records[1])
    facts, summary, _, found = measure(model, "act", records, tmp_path / "b", head, max_images=3)
    assert (
        (summary["num_images"], summary["num_pictures_offered"])
        == (2, 3)
        == (
            facts["num_images"],
            facts["num_pictures_offered"],
        )
    )
    np.testing.assert_allclose(found["contribution"], expected["contribution"], rtol=1e-5, atol=1e-7)
    # Their places are those among all that were offered.
    assert sorted(key for c in summary["classes"] for key in c["examples"]) == [records[0].key, records[2].key]


@pytest.mark.parametrize("kind", ["no classifier", "all broken", "no records"])
def test_nothing_to_say_is_no_error(tmp_path: Path, kind: str) -> None:
    records = make_records(tmp_path / "p", 2 if kind != "no records" else 0)
    model = make_classifier()[0] if kind != "no classifier" else make_model(nn.Sequential(nn.Conv2d(3, NUM_FILTERS, 1)))
    if kind == "all broken":
        for record in records:
            break_image(record)
    layer = "0" if kind == "no classifier" else "act"
    facts, summary, rows, arrays = measure(model, layer, records, tmp_path / "out")
    reasons = {"no classifier": "the network's output is no table of class logits"}
    assert facts["num_classes"] == 0
    assert (summary["num_images"], summary["classes"], rows) == (0, [], [])
    assert summary["reason"] == reasons.get(kind, "there is no picture that can be read")
    assert arrays["contribution"].shape == (0, NUM_FILTERS)


def test_logits_that_are_not_finite(tmp_path: Path) -> None:
    model, network, _ = make_classifier()
    network.head.bias.data[1] = float("nan")
    with pytest.raises(
        UserError, match=r"^model\.weights: class logits.* not finite on one of the pictures from 00\.png"
    ):
        measure(model, "act", make_records(tmp_path / "p", 2), tmp_path / "out")


def test_class_that_leans_on_nothing(tmp_path: Path) -> None:
    """Black pictures: no filter is active, the bias alone decides."""
    model = make_colours(torch.eye(3), torch.eye(3), torch.tensor([0.0, 1.0, 0.0]))
    records = make_plain(tmp_path / "p", [(0, 0, 0)] * 3)
    _, summary, rows, arrays = measure(model, "act", records, tmp_path / "out", words=[[]] * 3)
    assert [c["class"] for c in summary["classes"]] == [1]
    assert rows == []
    assert summary["max_abs_contribution"] == 0
    np.testing.assert_array_equal(arrays["contribution"], np.zeros((1, 3)))


def test_interval_of_a_mean_is_that_of_the_normal_theory() -> None:
    """400 values: mean ± 1.96 · s / √n; and a column without spread has none."""
    values = np.random.default_rng(0).normal(3, 2, size=(400, 1)).astype(np.float32)
    (low, high), (same_low, same_high) = bootstrap_means(
        np.concatenate([values, np.full((400, 1), 2, np.float32)], axis=1), np.random.default_rng(1)
    )
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.05)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.05)
    assert (same_low, same_high) == (pytest.approx(2), pytest.approx(2))


def test_interval_of_three_pictures_by_enumeration() -> None:
    """All 27 resamples of (0, 0, 9): the mean is 9 with probability 1/27 = 3.7 %, 0 with 8/27."""
    ((low, high),) = bootstrap_means(np.array([[0], [0], [9]], np.float32), np.random.default_rng(0))
    assert (low, high) == (0, 9)


def test_ranks_equal_filters_by_number_and_leaves_out_what_lowers() -> None:
    own = np.array([[1, 2, 2, -3, 0]] * 2, np.float32)
    rows = rank_filters(own, 10, np.random.default_rng(0))
    assert [(r.rank, r.filter, r.share) for r in rows] == [(1, 1, 0.4), (2, 2, 0.4), (3, 0, 0.2)]
    assert all(r.low is None and r.high is None for r in rows)
    assert [r.filter for r in rank_filters(own, 1, np.random.default_rng(0))] == [1]


def test_stage() -> None:
    assert (STAGE.name, STAGE.uses_device) == ("classes", True)
