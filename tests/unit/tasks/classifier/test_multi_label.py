"""Classifiers whose classes are asked about by themselves: answers, contributions and ablations against plain loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from torch import nn

from lavise.configs.schema import CauseSettings, ClassSettings
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import (
    NO_LOGIT_SCALE,
    NO_LOGIT_SCALE_OF_ONE,
    SOFTMAX,
    AnswerRule,
    LinearHead,
    OutputRange,
)
from lavise.storage.models.target_model import TargetModel
from lavise.tasks.classifier.ablation import CauseInputs, measure_causes
from lavise.tasks.classifier.ablation_plan import AblationPlan
from lavise.tasks.classifier.ablation_runs import Baseline, ablate_pooled
from lavise.tasks.classifier.ablation_tables import compute_p_value
from lavise.tasks.classifier.ablation_truth import Truth, group_images
from lavise.tasks.classifier.answer_changes import AnswerAblations, AnswerSums, find_answers, find_given
from lavise.tasks.classifier.attribution import ContributionInputs, measure_contributions
from lavise.tasks.classifier.audited_classifier import AuditedClassifier
from lavise.tasks.engine.computing import Computing
from lavise.tasks.engine.stage_inputs import Given
from tests.unit.tasks.classifier.test_ablation import publish_means
from tests.unit.tasks.classifiers import (
    NUM_CLASSES,
    Classifier,
    head_of,
    load_images,
    make_classifier,
    make_colours,
    make_plain,
    make_records,
    names,
)

SIGMOID = AnswerRule("sigmoid")
CONCEPTS = ("dog", "cat", "bus")
CLASSES = names("dog", "tabby cat", "bus", "thing", "N/A")
LABELS = ["dog", "tabby cat", "bus", "thing", "class 4"]
Rows = list[dict[str, Any]]


def make_multi_label(records: list[ImageRecord]) -> tuple[TargetModel, Classifier, LinearHead]:
    """The small classifier, sure of itself; each class is an answer to about half of the pictures."""
    model, network, _ = make_classifier()
    with torch.no_grad():
        network.head.weight.data *= 10
        network.head.bias.data -= network(load_images(model, records)).quantile(0.45, dim=0)
    return model, network, head_of(network.head)


def attribute(
    model: TargetModel,
    layer: str,
    records: list[ImageRecord],
    folder: Path,
    head: LinearHead | None = None,
    class_names: ClassNames | None = None,
    rule: AnswerRule = SIGMOID,
    num_filters: int = 6,
    **settings: Any,
) -> tuple[dict[str, Any], Rows, dict[str, Any]]:
    """(classes.json, rows of classes.parquet, contributions.npz)."""
    folder.mkdir(parents=True)
    inputs = ContributionInputs(
        network=AuditedClassifier(model, layer, head, "" if head else "not direct", class_names, 4, rule),
        pictures=Given(Dataset("pictures", tuple(records)), "p" * 64),
        words=[[f"word{u}"] for u in range(num_filters)],
        settings=ClassSettings(**settings),
        computing=Computing(0),
    )
    measure_contributions(inputs, folder)
    with np.load(folder / "contributions.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    rows = parquet.read_table(folder / "classes.parquet").to_pylist()
    return json.loads((folder / "classes.json").read_text("utf-8")), rows, found


def ablate(
    model: TargetModel,
    layer: str,
    records: list[ImageRecord],
    folder: Path,
    words: list[list[str]],
    head: LinearHead | None = None,
    class_names: ClassNames | None = CLASSES,
    concepts: tuple[str, ...] = CONCEPTS,
    rule: AnswerRule = SIGMOID,
    mean: Any = None,
    **settings: Any,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Rows]]:
    """(facts, causes.json, rows of each table)."""
    folder.mkdir(parents=True)
    inputs = CauseInputs(
        network=AuditedClassifier(model, layer, head, "" if head else "not direct", class_names, 4, rule),
        data=Given(Dataset("pictures", tuple(records), concepts), "d" * 64),
        activations=publish_means(folder.parent / "state", np.full(len(words), 0.5) if mean is None else mean),
        words=words,
        settings=CauseSettings(**{"random_sets": 19, **settings}),
        computing=Computing(0),
    )
    facts = dict(measure_causes(inputs, folder))
    tables = {p.stem: parquet.read_table(p).to_pylist() for p in folder.glob("*.parquet")}
    return facts, json.loads((folder / "causes.json").read_text("utf-8")), tables


# ---------------------------------------------------------------- what classes lean on


@pytest.mark.parametrize(("threshold", "max_answers"), [(0.5, None), (0.9, None), (0.5, 2)])
def test_contributions_to_each_answer_vs_loops(tmp_path: Path, threshold: float, max_answers: int | None) -> None:
    records = make_records(tmp_path / "p", 14)
    model, network, _ = make_multi_label(records)
    rule = AnswerRule("sigmoid", threshold)
    summary, rows, arrays = attribute(model, "first", records, tmp_path / "o", rule=rule, max_answers=max_answers)
    expected: dict[int, list[list[float]]] = {}
    logits_of: dict[int, list[float]] = {}
    given, none = 0, 0
    for image in load_images(model, records):
        maps = network.first(image[None]).detach().requires_grad_(True)
        logits = network.after_first(maps)[0]
        answers = [k for k in range(NUM_CLASSES) if torch.sigmoid(logits[k]) > threshold]
        given, none = given + len(answers), none + (not answers)
        for k in sorted(answers, key=lambda k: -float(logits[k].detach()))[:max_answers]:
            (gradient,) = torch.autograd.grad(logits[k], maps, retain_graph=True)
            expected.setdefault(k, []).append((maps * gradient).sum(dim=(2, 3))[0].tolist())
            logits_of.setdefault(k, []).append(float(logits[k].detach()))
    looked_at = sum(len(v) for v in expected.values())
    assert given >= 14, "some picture has several answers"
    assert max_answers is None or looked_at < given
    assert (summary["num_answers"], summary["num_answers_left_out"]) == (given, given - looked_at)
    assert (summary["num_without_answer"], summary["num_images"]) == (none, 14)
    order = sorted(expected, key=lambda k: (-len(expected[k]), k))
    assert arrays["class"].tolist() == order
    assert [(c["class"], c["num_images"]) for c in summary["classes"]] == [(k, len(expected[k])) for k in order]
    for place, k in enumerate(order):
        assert summary["classes"][place]["mean_logit"] == pytest.approx(np.mean(logits_of[k]), rel=1e-4)
        np.testing.assert_allclose(arrays["contribution"][place], np.mean(expected[k], axis=0), rtol=1e-4, atol=1e-5)
    assert {r["class"] for r in rows} <= set(order)


def test_contributions_equal_the_weights_where_the_layer_feeds_the_head(tmp_path: Path) -> None:
    records = make_records(tmp_path / "p", 9)
    model, _, head = make_multi_label(records)
    summary, rows, _ = attribute(model, "act", records, tmp_path / "o", head, num_filters=8)
    assert summary["max_abs_difference"] <= 1e-5 * summary["max_abs_contribution"]
    wrong = LinearHead(head.weight * 1.1, head.bias)
    summary, _, _ = attribute(model, "act", records, tmp_path / "w", wrong, num_filters=8)
    assert summary["max_abs_difference"] == pytest.approx(0.1 * summary["max_abs_contribution"], rel=1e-3)
    assert all(r["weight"] is not None for r in rows)


def test_pictures_without_any_answer(tmp_path: Path) -> None:
    model = make_colours(torch.eye(3), torch.eye(3), torch.full((3,), -5.0))
    records = make_plain(tmp_path / "p", [(255, 0, 0), (0, 255, 0)])
    summary, rows, arrays = attribute(model, "act", records, tmp_path / "o", num_filters=3)
    assert (summary["classes"], rows, summary["num_without_answer"], summary["num_images"]) == ([], [], 2, 2)
    assert arrays["contribution"].shape == (0, 3)


# ---------------------------------------------------------------- what words cause


@pytest.mark.parametrize("layer", ["first", "act"])
@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_ablation_vs_loops_over_pictures(tmp_path: Path, layer: str, threshold: float) -> None:
    """Every figure, from a network that is run by hand: by forward passes (first) and by linear algebra (act)."""
    annotations = [
        [c for c, has in zip(CONCEPTS, (i % 2 == 0, i % 3 == 0, i == 5), strict=True) if has] for i in range(13)
    ]
    records = make_records(tmp_path / "p", 13, annotations)
    model, network, head = make_multi_label(records)
    num_filters = 6 if layer == "first" else 8
    mean = np.linspace(-0.5, 0.5, num_filters)
    words = [["dog"], ["dog"], [], ["sky"], ["sky"], ["bus"], [], []][:num_filters]
    _, summary, tables = ablate(
        *(model, layer, records, tmp_path / "o", words, head if layer == "act" else None),
        rule=AnswerRule("sigmoid", threshold),
        mean=mean,
    )
    assert summary["direct"] is (layer == "act")

    def run(filters: list[int]) -> Any:
        images = load_images(model, records)
        maps = network.first(images).detach()
        if layer == "act":
            maps = network.second(maps.relu()).relu().detach()
        for u in filters:
            maps[:, u] = float(mean[u])
        logits = network.after_first(maps) if layer == "first" else network.head(maps.mean(dim=(2, 3)))
        return logits.detach().numpy()

    def is_answer(logits: Any) -> Any:
        return 1 / (1 + np.exp(-logits)) > threshold

    named = {0: "dog", 1: "cat", 2: "bus"}
    before = run([])
    had = is_answer(before)
    pairs = [(i, k) for i in range(13) for k in range(NUM_CLASSES) if had[i, k]]
    assert len(pairs) > 13
    true = {(i, k) for k, c in named.items() for i in range(13) if c in annotations[i]}
    given = {(i, k) for i, k in pairs if k in named}
    assert (summary["num_answers"], summary["num_classes"]) == (len(pairs), 3)
    assert summary["num_without_answer"] == int((~had.any(axis=1)).sum())
    assert summary["precision"] == pytest.approx(len(given & true) / len(given))
    assert summary["recall"] == pytest.approx(len(given & true) / len(true))
    assert summary["accuracy"] is None
    assert [r["word"] for r in tables["causes"]] == ["dog", "sky", "bus"]
    lost_any = gained_any = 0
    for row in tables["causes"]:
        after = run(row["filters"])
        has = is_answer(after)
        lost, gained = had & ~has, has & ~had
        lost_any, gained_any = lost_any + int(lost.sum()), gained_any + int(gained.sum())
        assert (row["num_answers"], row["num_lost"], row["num_gained"]) == (len(pairs), lost.sum(), gained.sum())
        assert row["kept"] == pytest.approx(1 - lost.sum() / len(pairs))
        assert row["changed"] == pytest.approx((had != has).any(axis=1).mean())
        assert row["own_logit"] == pytest.approx(np.mean([after[p] - before[p] for p in pairs]), abs=1e-4)
        sigmoid = [1 / (1 + np.exp(-after[p])) - 1 / (1 + np.exp(-before[p])) for p in pairs]
        assert row["own_probability"] == pytest.approx(np.mean(sigmoid), abs=1e-5)
        now = {(i, k) for i in range(13) for k in named if has[i, k]}
        assert row["precision"] == pytest.approx(len(now & true) / len(now))
        assert row["recall"] == pytest.approx(len(now & true) / len(true))
        concept = row["word"] if row["word"] in CONCEPTS else None
        for side in ("with", "without"):
            chosen = [i for i in range(13) if (concept in annotations[i]) == (side == "with")]
            own = [p for p in pairs if p[0] in chosen]
            if concept is None:
                assert [row[f"{k}_{side}"] for k in ("num", "changed", "own_logit", "kept")] == [None] * 4
                continue
            assert row[f"num_{side}"] == len(chosen)
            assert row[f"changed_{side}"] == pytest.approx((had != has).any(axis=1)[chosen].mean())
            if not own:
                assert (row[f"own_logit_{side}"], row[f"kept_{side}"]) == (None, None)
                continue
            assert row[f"own_logit_{side}"] == pytest.approx(np.mean([after[p] - before[p] for p in own]), abs=1e-4)
            assert row[f"kept_{side}"] == pytest.approx(np.mean([not lost[p] for p in own]))
        of_word = [r for r in tables["causes_classes"] if r["word"] == row["word"]]
        assert [r["class"] for r in of_word] == [k for k in range(NUM_CLASSES) if had[:, k].any() or has[:, k].any()]
        for cell in of_word:
            k, mine = cell["class"], had[:, cell["class"]]
            assert cell["class_name"] == LABELS[k]
            assert (cell["num_answers"], cell["num_lost"]) == (mine.sum(), lost[:, k].sum())
            assert (cell["num_gained"], cell["logit"]) == (
                gained[:, k].sum(),
                pytest.approx((after - before)[:, k].mean(), abs=1e-4),
            )
            if mine.any():
                assert cell["kept"] == pytest.approx(has[mine, k].mean())
                assert cell["own_logit"] == pytest.approx((after - before)[mine, k].mean(), abs=1e-4)
            truth = [named.get(k) in a for a in annotations]
            for when, answers in (("before", mine), ("after", has[:, k])):
                right = int((answers & truth).sum())
                judged = k in named
                expected = (
                    right / answers.sum() if judged and answers.any() else None,
                    right / sum(truth) if judged else None,
                )
                assert (cell[f"precision_{when}"], cell[f"recall_{when}"]) == (
                    expected[0] and pytest.approx(expected[0]),
                    expected[1] and pytest.approx(expected[1]),
                ) or expected == (cell[f"precision_{when}"], cell[f"recall_{when}"])
        changes = [
            (
                records[i].key,
                [LABELS[k] for k in np.flatnonzero(lost[i])],
                [LABELS[k] for k in np.flatnonzero(gained[i])],
            )
            for i in range(13)
            if (lost | gained)[i].any()
        ]
        of_images = [r for r in tables["causes_pictures"] if r["word"] == row["word"]]
        assert [(r["picture"], r["lost"], r["gained"]) for r in of_images] == changes
        assert [r["num_lost"] for r in of_images] == [len(c[1]) for c in changes]
        per_class = {
            LABELS[k]: [int(lost[:, k].sum()), int(gained[:, k].sum()), int(had[:, k].sum())] for k in range(5)
        }
        listed = json.loads(row["answers"])
        assert {name: figures for name, *figures in listed} == {n: f for n, f in per_class.items() if f[0] or f[1]}
        assert [f[1] for f in listed] == sorted((f[1] for f in listed), reverse=True)
    assert lost_any, "nothing was lost, nothing was tested"
    assert gained_any
    for single in tables["causes_filters"]:
        after = run([single["filter"]])
        has = is_answer(after)
        assert single["kept"] == pytest.approx(np.mean([has[p] for p in pairs]))
        assert single["num_gained"] == (has & ~had).sum()
        assert single["own_logit"] == pytest.approx(np.mean([after[p] - before[p] for p in pairs]), abs=1e-4)
        by_class = {LABELS[k]: float((after - before)[had[:, k], k].mean()) for k in range(5) if had[:, k].any()}
        lowered = sorted(((n, v) for n, v in by_class.items() if v < 0), key=lambda e: e[1])
        found = json.loads(single["classes"])
        assert [n for n, _ in found] == [n for n, _ in lowered]
        np.testing.assert_allclose([v for _, v in found], [v for _, v in lowered], atol=1e-4)


def test_the_filter_of_one_patch_loses_that_answer_alone(tmp_path: Path) -> None:
    """128 filters: 0 sees red and drives `apple`, 1 sees blue and drives `sky`; purple pictures are both."""
    rng = np.random.default_rng(0)
    mixture, weight = rng.uniform(0, 0.05, (128, 3)), rng.uniform(-0.02, 0.02, (2, 128))
    mixture[:2], weight[:, :2] = [[1, 0, 0], [0, 0, 1]], [[20, 0], [0, 20]]
    model = make_colours(*(torch.tensor(a, dtype=torch.float32) for a in (mixture, weight, [-3.0, -3.0])))
    colours = [(255, 0, 0), (120, 0, 130), (0, 0, 255), (0, 200, 0), (130, 0, 120), (110, 0, 110)]
    both = (Annotation("apple"), Annotation("sky"))
    content = [both[:1], both, both[1:], (), both, both]
    records = [
        ImageRecord(r.key, r.path, annotations)
        for r, annotations in zip(make_plain(tmp_path / "p", colours), content, strict=True)
    ]
    words = [["apples"], ["sky"], ["idle"], *([] for _ in range(125))]
    facts, summary, tables = ablate(
        *(model, "act", records, tmp_path / "o", words, head_of(model.network.head)),  # type: ignore[arg-type]
        *(names("apple", "sky"), ("apple", "sky")),
        random_sets=199,
        fill="zero",
    )
    assert (summary["num_answers"], summary["num_without_answer"]) == (8, 1)
    assert (summary["precision"], summary["recall"]) == (1, 1)
    apples, idle, sky = (next(r for r in tables["causes"] if r["word"] == w) for w in ("apples", "idle", "sky"))
    assert (apples["used"], sky["used"], idle["used"], facts["num_used"]) == (True, True, False, 2)
    assert json.loads(apples["answers"]) == [["apple", 4, 0, 4]]
    assert json.loads(sky["answers"]) == [["sky", 4, 0, 4]]
    assert (apples["num_lost"], apples["num_gained"], apples["kept"], apples["kept_with"]) == (4, 0, 0.5, 3 / 7)
    assert (apples["recall"], apples["precision"]) == (0.5, 1)
    assert [(r["picture"], r["lost"], r["gained"]) for r in tables["causes_pictures"] if r["word"] == "apples"] == [
        (f"{i:02d}.png", ["apple"], []) for i in (0, 1, 4, 5)
    ]
    assert (idle["num_lost"], idle["num_gained"], idle["kept"]) == (0, 0, 1)


def test_p_value_is_that_of_the_random_sets(tmp_path: Path) -> None:
    """The only active filters are the three colours: a random set of one is one of them."""
    model = make_colours(torch.eye(3), torch.tensor([[9.0, 0, 0], [0, 9, 0]]), torch.tensor([-1.0, -1.0]))
    records = make_plain(tmp_path / "p", [(255, 0, 0), (255, 255, 0), (0, 255, 255)], ["a", "a", "b"])
    _, _, tables = ablate(
        *(model, "act", records, tmp_path / "o", [["a"], [], []], head_of(model.network.head)),  # type: ignore[arg-type]
        *(names("a", "b"), ("a", "b")),
        fill="zero",
        random_sets=99,
    )
    (row,) = tables["causes"]
    # On the first two pictures, three answers: filter 0 lowers two of them by 9, filter 1 one of them, filter 2 none.
    assert row["own_logit_with"] == pytest.approx(-6)
    shares = {0: -6.0, 1: -3.0, 2: 0.0}
    num_first = round((row["p_value"] * 100) - 1)
    assert 15 < num_first < 55
    assert row["p_value"] == compute_p_value(-6, np.array([-6.0] * num_first + [0.0] * (99 - num_first)))
    assert min(shares.values()) < row["random_own_logit"] < max(shares.values())


def test_no_answer_on_any_picture_is_said(tmp_path: Path) -> None:
    model = make_colours(torch.eye(3), torch.eye(3), torch.full((3,), -5.0))
    records = make_plain(tmp_path / "p", [(255, 0, 0)] * 2, ["apple"] * 2)
    facts, summary, tables = ablate(model, "act", records, tmp_path / "o", [["apple"], [], []], class_names=None)
    assert summary["notes"] == ["no class has a probability above 0.5 on any picture (model.head_threshold)"]
    assert (facts["num_words"], summary["num_images"], summary["num_without_answer"]) == (0, 2, 2)
    assert tables == {"causes": [], "causes_filters": [], "causes_classes": [], "causes_pictures": []}


def test_pictures_with_the_concept_but_without_answers(tmp_path: Path) -> None:
    """What the word is tested on gives nothing to test: p is 1, and no figure is made up."""
    model = make_colours(torch.eye(3), torch.eye(3) * 8, torch.full((3,), -4.0))
    records = make_plain(tmp_path / "p", [(0, 0, 0), (255, 0, 0)], ["apple", "sky"])
    _, _, tables = ablate(
        *(model, "act", records, tmp_path / "o", [["apple"], [], []]),
        class_names=names("apple", "b", "c"),
        concepts=("apple", "sky"),
    )
    (row,) = tables["causes"]
    assert (row["own_logit_with"], row["kept_with"], row["random_own_logit"], row["p_value"]) == (None, None, None, 1)
    assert row["used"] is False


class _Probabilities(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(images).sigmoid()
        return found


def with_sigmoid(model: TargetModel) -> TargetModel:
    return TargetModel(
        model.arch,
        _Probabilities(model.network).eval(),
        model.digest,
        model.code,
        model.geometry,
        model.mean,
        model.std,
    )


def test_probabilities_are_no_logits(tmp_path: Path) -> None:
    """All of them are above 0: every class would be an answer to every picture."""
    model = with_sigmoid(make_colours(torch.eye(3), torch.eye(3), torch.full((3,), -5.0)))
    records = make_plain(tmp_path / "p", [(255, 0, 0)] * 2, ["apple"] * 2)
    _, summary, _ = ablate(model, "network.act", records, tmp_path / "o", [["apple"], [], []])
    assert summary["notes"] == [NO_LOGIT_SCALE]
    classes, _, _ = attribute(model, "network.act", records, tmp_path / "c", num_filters=3)
    assert (classes["reason"], classes["num_images"]) == (NO_LOGIT_SCALE, 0)


def test_one_probability_is_no_logit_of_two_classes(tmp_path: Path) -> None:
    """As a logit it would say yes to the picture that the network says no to."""
    bare = make_colours(torch.eye(3), torch.tensor([[6.0, 0, 0]]), torch.tensor([-2.0]))
    model = with_sigmoid(bare)
    records = make_plain(tmp_path / "p", [(255, 0, 0), (0, 255, 0)], ["red", "green"])
    with torch.inference_mode():
        said = model.network(load_images(model, records))[:, 0]
    assert said[0] > 0.9
    assert said[1] < 0.2
    two, words = names("no", "yes"), [["red"], ["green"], []]
    facts, summary, tables = ablate(
        model, "network.act", records, tmp_path / "o", words, class_names=two, concepts=("red", "green"), rule=SOFTMAX
    )
    assert summary["notes"] == [NO_LOGIT_SCALE_OF_ONE]
    assert facts["num_words"] == 0
    assert tables["causes"] == []
    classes, rows, _ = attribute(
        model, "network.act", records, tmp_path / "c", class_names=two, rule=SOFTMAX, num_filters=3
    )
    assert (classes["reason"], classes["num_images"], classes["classes"], rows) == (NO_LOGIT_SCALE_OF_ONE, 0, [], [])
    # Without its sigmoid the same network is a classifier of two classes.
    classes, _, _ = attribute(bare, "act", records, tmp_path / "b", class_names=two, rule=SOFTMAX, num_filters=3)
    assert [(c["name"], c["num_images"]) for c in classes["classes"]] == [("no", 1), ("yes", 1)]
    _, summary, tables = ablate(
        bare, "act", records, tmp_path / "d", words, class_names=two, concepts=("red", "green"), rule=SOFTMAX
    )
    assert NO_LOGIT_SCALE_OF_ONE not in summary["notes"]
    assert tables["causes"]


@pytest.mark.parametrize(
    ("batches", "fault_softmax", "fault_sigmoid"),
    [
        ([[[0.0], [1.0]]], NO_LOGIT_SCALE_OF_ONE, NO_LOGIT_SCALE),
        ([[[0.5]], [[0.2]]], NO_LOGIT_SCALE_OF_ONE, NO_LOGIT_SCALE),
        ([[[0.5]], [[-0.01]]], None, None),
        ([[[0.5]], [[1.01]]], None, None),
        ([[[0.5, 0.5]]], None, NO_LOGIT_SCALE),  # a softmax inside: the highest is the same
        ([], None, None),
    ],
)
def test_outputs_of_a_probability(
    batches: list[list[list[float]]], fault_softmax: str | None, fault_sigmoid: str | None
) -> None:
    outputs = OutputRange()
    for batch in batches:
        outputs = outputs.include(torch.tensor(batch))
    assert SOFTMAX.find_scale_fault(outputs) == fault_softmax
    assert SIGMOID.find_scale_fault(outputs) == fault_sigmoid


def test_one_logit_is_one_class(tmp_path: Path) -> None:
    model = make_colours(torch.eye(3), torch.tensor([[6.0, 0, 0]]), torch.tensor([-2.0]))
    records = make_plain(tmp_path / "p", [(255, 0, 0), (0, 255, 0)], ["red", "green"])
    head = head_of(model.network.head)  # type: ignore[arg-type]
    summary, _, _ = attribute(model, "act", records, tmp_path / "c", head, names("red"), num_filters=3)
    (red,) = summary["classes"]
    assert red == {"class": 0, "name": "red", "num_images": 1, "mean_logit": pytest.approx(4), "examples": ["00.png"]}
    _, causes, tables = ablate(
        *(model, "act", records, tmp_path / "o", [["red"], [], []], head, names("red"), ("red", "green")), fill="zero"
    )
    assert causes["direct"]
    assert json.loads(tables["causes"][0]["answers"]) == [["red", 1, 0, 1]]
    assert tables["causes"][0]["own_logit_with"] == pytest.approx(-6)


def test_rule_of_answers() -> None:
    assert AnswerRule("sigmoid", 0.9).least_logit == pytest.approx(math.log(9))
    assert AnswerRule("sigmoid").least_logit == 0
    assert AnswerRule().describe() == {}
    assert AnswerRule("sigmoid", 0.3).describe() == {"head": "sigmoid", "head_threshold": 0.3}
    one = torch.tensor([[2.0]])
    assert AnswerRule("sigmoid").read_logits(one) is one
    assert AnswerRule().read_logits(one).tolist() == [[-1, 1]]  # type: ignore[union-attr]
    assert AnswerRule("sigmoid").read_logits({"out": one}) is None
    assert AnswerRule("sigmoid").read_logits(torch.zeros(1, 2, 3)) is None


# ---------------------------------------------------------------- many classes


@pytest.mark.parametrize("num_classes", [1, 63, 64, 65, 300])
def test_sums_of_many_answers_vs_loops(num_classes: int) -> None:
    """Half of all classes are answers to each picture; by the weights of the head, picture by picture."""
    rng = np.random.default_rng(num_classes)
    weight = rng.normal(size=(num_classes, 7)).astype(np.float32)
    pooled = rng.gamma(1, size=(9, 7)).astype(np.float32)
    logits = pooled @ weight.T
    logits -= np.quantile(logits, 0.5, axis=1, keepdims=True).astype(np.float32)
    baseline = Baseline(np.arange(9), logits, pooled, np.arange(7), SIGMOID)
    concepts = ("a", "b")
    truth = Truth(concepts, rng.random((9, 2)) < 0.5, rng.random((num_classes, 2)) < 0.5)
    answers = find_answers(baseline, truth)
    fill = pooled.mean(axis=0)
    groups = np.stack([np.arange(9) % 2 == 0, np.arange(9) % 2 == 1])
    head = LinearHead(torch.from_numpy(weight), torch.zeros(num_classes))
    for filters in (np.array([3]), np.array([0, 2, 5]), np.arange(7)):
        sums = [AnswerSums(groups, baseline, answers, detail) for detail in range(3)]
        (block,) = ablate_pooled(head, baseline, fill)
        given = find_given(answers, baseline, block.rows)
        for own in sums:
            own.add(given, block.ablate(filters))
        after = logits.astype(np.float64) + (fill - pooled).astype(np.float64)[:, filters] @ weight[:, filters].T
        assert np.abs(after).min() > 1e-5  # far from the threshold, where float32 could decide otherwise
        before_of, after_of = logits > 0, after > 0
        for group, chosen in enumerate(groups):
            change = (after - logits)[chosen][before_of[chosen]].sum()
            lost = (before_of & ~after_of)[chosen]
            gained = (after_of & ~before_of)[chosen]
            for own in sums:
                assert own.own[group] == pytest.approx(change, rel=1e-5, abs=1e-5)
                assert own.kept[group] == (before_of & after_of)[chosen].sum()
                assert own.gained[group] == gained.sum()
                assert own.changed[group] == (lost | gained).any(axis=1).sum()
        detailed = sums[2]
        assert detailed.lost_of_class.tolist() == (before_of & ~after_of).sum(axis=0).tolist()
        assert [(i.position, i.num_lost, i.num_gained) for i in detailed.images] == [
            (n, int((b & ~a).sum()), int((a & ~b).sum()))
            for n, (b, a) in enumerate(zip(before_of, after_of, strict=True))
            if (b != a).any()
        ]
        for image in detailed.images:
            lost_there = np.flatnonzero(before_of[image.position] & ~after_of[image.position]).tolist()
            assert image.lost == lost_there[:20]


def test_a_random_set_of_the_same_filters_has_the_very_same_effect() -> None:
    """Else a word whose filters are all that there are would be held to beat its random sets, or not, by rounding."""
    rng = np.random.default_rng(0)
    weight, pooled = rng.normal(size=(90, 6)).astype(np.float32), rng.gamma(1, size=(8, 6)).astype(np.float32)
    baseline = Baseline(np.arange(8), pooled @ weight.T, pooled, np.arange(6), SIGMOID)
    answers = find_answers(baseline, Truth((), np.zeros((8, 0), bool), np.zeros((90, 0), bool)))
    groups = np.ones((1, 8), dtype=bool)
    (block,) = ablate_pooled(LinearHead(torch.from_numpy(weight), torch.zeros(90)), baseline, pooled.mean(axis=0))
    given = find_given(answers, baseline, block.rows)
    found = [AnswerSums(groups, baseline, answers, detail) for detail in range(3)]
    for own in found:
        own.add(given, block.ablate(np.array([1, 2, 4])))
    assert found[0].own[0] == found[1].own[0] == found[2].own[0] != 0


def test_answers_on_pictures_where_a_category_was_not_looked_for_count_too() -> None:
    """A reference put together of two, of which one alone was looked at for dogs: against plain numpy."""
    rng = np.random.default_rng(0)
    num, chosen = 40, [0, 1]
    pooled = rng.random((num, 6)).astype(np.float32)
    weight = rng.normal(size=(5, 6)).astype(np.float32)
    logits = pooled @ weight.T
    has = np.zeros((num, 2), bool)
    has[:5, 0] = has[20:30, 1] = True
    known = np.ones((num, 2), bool)
    known[20:, 0] = False
    truth = Truth(("dog", "cat"), has, np.zeros((5, 2), bool), "en", known)
    baseline = Baseline(np.arange(num), logits, pooled, np.arange(6), AnswerRule("sigmoid"))
    plan = AblationPlan(("dog",), (np.array(chosen),), (), {2: (np.array([2, 3]),)}, 1, ())
    found = AnswerAblations(
        "layer",
        plan,
        [group_images("dog", truth)],
        truth,
        baseline,
        find_answers(baseline, truth),
        [str(n) for n in range(num)],
        None,
        [[] for _ in range(6)],
    )
    head = LinearHead(torch.from_numpy(weight), torch.zeros(5))
    (row,) = found.measure(ablate_pooled(head, baseline, np.zeros(6, np.float32))).words
    after = logits - pooled[:, chosen] @ weight[:, chosen].T
    given, kept = logits > 0, (logits > 0) & (after > 0)
    assert given[20:].any()
    assert (row.num_answers, row.num_lost) == (given.sum(), given.sum() - kept.sum())
    assert row.kept == pytest.approx(kept.sum() / given.sum())
    assert row.own_logit == pytest.approx((after - logits)[given].mean(), abs=1e-5)
    change = 1 / (1 + np.exp(-after)) - 1 / (1 + np.exp(-logits))
    assert row.own_probability == pytest.approx(change[given].mean(), abs=1e-5)
