"""The explainer: its published form, its normalisations, scaling, storing, and determinism."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lavise.storage.models.class_names import ClassNames
from lavise.storage.models.classifier_head import LinearHead
from lavise.storage.words.word_vectors import WordVectors
from lavise.tasks.explainer.class_head import build_head
from lavise.tasks.explainer.network import (
    Adapter,
    Explainer,
    ExplainerFacts,
    deterministic,
    load_attached_head,
    load_explainer,
    save_explainer,
    scale_features,
)
from tests.unit.tasks.helpers import make_vocabulary

FACTS = ExplainerFacts(5, 3, 0.1, "l2", "hinge", ("cat", "hot dog"), ("<b>",), {"best_epoch": 2})


def make_explainer(seed: int = 0, num_categories: int = 0) -> Explainer:
    torch.manual_seed(seed)
    explainer = Explainer(5, 3, 0.1, num_categories)
    for norm in (explainer.norm1, explainer.norm2):
        assert isinstance(norm.running_mean, torch.Tensor)
        assert isinstance(norm.running_var, torch.Tensor)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return explainer


def test_layers_are_the_published_ones_in_order() -> None:
    layers = list(Explainer(5, 3, 0.1).children())
    assert [type(m) for m in layers] == [nn.BatchNorm1d, nn.Dropout, nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.Linear]
    first, second = layers[2], layers[5]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert (first.in_features, first.out_features) == (5, 5)
    assert (second.in_features, second.out_features) == (5, 3)
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == [0.1, 0.1]


def test_forward_vs_the_formula_by_hand() -> None:
    explainer = make_explainer().eval()
    features = torch.randn(4, 5)

    def array(tensor: torch.Tensor | None) -> np.ndarray:
        assert tensor is not None
        return tensor.detach().double().numpy()

    def normalise(norm: nn.BatchNorm1d, x: np.ndarray) -> np.ndarray:
        centred = (x - array(norm.running_mean)) / np.sqrt(array(norm.running_var) + norm.eps)
        return np.asarray(centred * array(norm.weight) + array(norm.bias))

    def line(linear: nn.Linear, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ array(linear.weight).T + array(linear.bias))

    hidden = np.maximum(line(explainer.linear1, normalise(explainer.norm1, features.double().numpy())), 0)
    out = line(explainer.linear2, normalise(explainer.norm2, hidden))
    expected = out / np.linalg.norm(out, axis=1, keepdims=True)
    with torch.inference_mode():
        np.testing.assert_allclose(explainer(features).numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(explainer.hidden(features).numpy(), hidden, atol=1e-6)


def test_running_statistics_follow_the_data_in_training_only() -> None:
    """The normalisations are not frozen (a defect of the public code)."""
    explainer = Explainer(5, 3, 0.0)
    features = torch.randn(64, 5) * 3 + 7
    explainer.train()
    for _ in range(200):
        explainer(features)
    mean, variance = explainer.norm1.running_mean, explainer.norm1.running_var
    assert isinstance(mean, torch.Tensor)
    assert isinstance(variance, torch.Tensor)
    torch.testing.assert_close(mean, features.mean(dim=0))
    torch.testing.assert_close(variance, features.var(dim=0))
    before = {k: v.clone() for k, v in explainer.state_dict().items()}
    explainer.eval()
    explainer(features * 5)
    assert all(torch.equal(v, before[k]) for k, v in explainer.state_dict().items())
    assert all(p.requires_grad for p in explainer.parameters())


def test_outputs_have_length_one() -> None:
    with torch.inference_mode():
        lengths = make_explainer().eval()(torch.randn(50, 5) * 100).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(50))


def test_l2_scaling_vs_loops_and_zero_rows_stay() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-0.001, 0.0], [1e4, -1e4]])
    expected = []
    for row in rows.tolist():
        length = sum(v * v for v in row) ** 0.5
        expected.append([v / length if length else 0.0 for v in row])
    torch.testing.assert_close(scale_features(rows, "l2"), torch.tensor(expected))


def test_raw_scaling_changes_nothing() -> None:
    rows = torch.randn(3, 4)
    assert torch.equal(scale_features(rows, "raw"), rows)


def make_adapter(shape: tuple[int, ...]) -> Adapter:
    generator = torch.Generator().manual_seed(3)
    return Adapter(torch.randn(shape, generator=generator), torch.randn(5, generator=generator))


@pytest.mark.parametrize("shape", [(5,), (5, 5)])
def test_adapter_vs_loops_and_all_learned_parts_see_through_it(shape: tuple[int, ...]) -> None:
    explainer = make_explainer(num_categories=2).eval()
    adapter, features = make_adapter(shape), torch.randn(4, 5)
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for r in range(4):
        for j in range(5):
            if len(shape) == 1:
                expected[r, j] = float(features[r, j]) * float(adapter.weight[j]) + float(adapter.bias[j])
            else:
                products = (float(features[r, i]) * float(adapter.weight[i, j]) for i in range(5))
                expected[r, j] = sum(products) + float(adapter.bias[j])
    with torch.inference_mode():
        parts = (explainer.hidden, explainer.forward, explainer.category_logits)
        plain = [part(expected.float()) for part in parts]
        assert torch.equal(explainer.adapt(features), features)
        explainer.adapter = adapter
        torch.testing.assert_close(explainer.adapt(features).double(), expected, atol=1e-5, rtol=1e-5)
        for part, other in zip(parts, plain, strict=True):
            torch.testing.assert_close(part(features), other, atol=1e-5, rtol=1e-4)


def test_category_logits_by_hand() -> None:
    explainer = make_explainer(num_categories=2).eval()
    assert explainer.categories is not None
    feature = torch.randn(1, 5)
    with torch.inference_mode():
        found = explainer.category_logits(feature)[0].tolist()
    for value, weight, bias in zip(
        found, explainer.categories.weight.tolist(), explainer.categories.bias.tolist(), strict=True
    ):
        assert value == pytest.approx(20 * sum(w * x for w, x in zip(weight, feature[0].tolist(), strict=True)) + bias)


@pytest.mark.parametrize("shape", [(5,), (5, 5), None])
@pytest.mark.parametrize("num_categories", [0, 2])
@pytest.mark.parametrize("with_head", [False, True])
def test_adapter_categories_and_head_come_back_to_the_bit(
    tmp_path: Path, shape: tuple[int, ...] | None, num_categories: int, with_head: bool
) -> None:
    explainer = make_explainer(num_categories=num_categories)
    explainer.adapter = make_adapter(shape) if shape else None
    head, facts = None, FACTS
    if with_head:
        vocabulary = make_vocabulary(4, ("cat",), 3)
        vectors = WordVectors(vocabulary.words, vocabulary.matrix)
        classes = ClassNames((("word1",), ("cat", "word2")), "settings")
        head, head_facts = build_head(LinearHead(torch.randn(2, 5), torch.randn(2)), classes, vectors, vocabulary, 2.5)
        facts = replace(FACTS, kind="fused", open_share=0.25, head=head_facts, uses_learned=True)
    save_explainer(explainer, facts, tmp_path, head)
    names = set(load_file(tmp_path / "explainer.safetensors"))
    assert ({"adapter.weight", "adapter.bias"} <= names) == (shape is not None)
    back, found = load_explainer(tmp_path, "cpu")
    assert found == facts
    assert set(back.state_dict()) == set(explainer.state_dict())
    assert all(torch.equal(v, explainer.state_dict()[k]) for k, v in back.state_dict().items())
    own = load_attached_head(tmp_path, "cpu")
    assert (own is None) == (head is None)
    if own is not None and head is not None:
        assert own.scale == 2.5
        assert all(torch.equal(v, head.state_dict()[k]) for k, v in own.state_dict().items())


def test_file_from_before_kinds_heads_and_adapters(tmp_path: Path) -> None:
    explainer = make_explainer().eval()
    save_file(explainer.state_dict(), tmp_path / "explainer.safetensors")
    new = ("kind", "open_share", "head", "no_head", "uses_learned")
    old = {k: v for k, v in asdict(FACTS).items() if k not in new}
    (tmp_path / "explainer.json").write_text(json.dumps(old), "utf-8")
    back, facts = load_explainer(tmp_path, "cpu")
    assert facts == FACTS
    assert (facts.kind, facts.head, facts.uses_learned) == ("learned", None, False)
    assert (back.adapter, back.categories) == (None, None)
    assert load_attached_head(tmp_path, "cpu") is None
    features = torch.randn(3, 5)
    with torch.inference_mode():
        assert torch.equal(back(features), explainer(features))


def test_saved_explainer_comes_back_to_the_bit(tmp_path: Path) -> None:
    explainer = make_explainer()
    save_explainer(explainer, FACTS, tmp_path)
    back, facts = load_explainer(tmp_path, "cpu")
    assert facts == FACTS
    assert not back.training
    assert set(back.state_dict()) == set(explainer.state_dict())
    assert all(torch.equal(v, explainer.state_dict()[k]) for k, v in back.state_dict().items())


def test_deterministic_seeds_and_puts_everything_back() -> None:
    torch.manual_seed(1)
    expected = [torch.rand(3) for _ in range(2)]
    torch.manual_seed(1)
    first = torch.rand(3)
    inside = []
    for seed in (5, 5, 6):
        with deterministic(seed):
            assert torch.are_deterministic_algorithms_enabled()
            inside.append(torch.rand(4))
    after = torch.rand(3)
    assert torch.equal(first, expected[0])
    assert torch.equal(after, expected[1])
    assert torch.equal(inside[0], inside[1])
    assert not torch.equal(inside[0], inside[2])
    assert not torch.are_deterministic_algorithms_enabled()


def test_deterministic_puts_everything_back_after_an_error() -> None:
    def fail() -> None:
        with deterministic(0):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not torch.are_deterministic_algorithms_enabled()
