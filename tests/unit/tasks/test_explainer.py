"""The explainer: its published form, its normalisations, scaling, storing, and determinism."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tasks.explainer import (
    Explainer,
    ExplainerFacts,
    deterministic,
    load_explainer,
    save_explainer,
    scale_features,
)

FACTS = ExplainerFacts(5, 3, 0.1, "l2", "hinge", ("cat", "hot dog"), ("<b>",), {"best_epoch": 2})


def make_explainer(seed: int = 0) -> Explainer:
    torch.manual_seed(seed)
    explainer = Explainer(5, 3, 0.1)
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
