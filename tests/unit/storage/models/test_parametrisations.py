"""Weights in parts, against those that torch's own modules compute with in evaluation mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from lavise.configs.errors import AmbiguousWeightsError, CheckpointError
from lavise.storage.models.checkpoint_files import read_checkpoint
from lavise.storage.models.parametrisations import compute_weights
from lavise.storage.models.state_dicts import load_weights


class Net(nn.Module):
    """Layers whose weights have all the shapes that matter: square, transposed, one row, one column."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.square = nn.Conv2d(6, 6, 3)
        self.up = nn.ConvTranspose2d(6, 6, 3)
        self.grouped = nn.Conv2d(6, 6, 3, groups=6)
        self.bn = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.grouped(self.up(self.square(self.conv(images).relu()).relu()).relu())
        out: torch.Tensor = self.head(self.bn(maps).mean((2, 3)))
        return out


Apply = Callable[[nn.Module], object]
NAMES = ("conv", "square", "up", "grouped", "head")


def with_old_weight_norm(module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(module)


def with_weight_norm_of_all(module: nn.Module) -> None:
    parametrizations.weight_norm(module, dim=None)  # type: ignore[arg-type]


APPLY: dict[str, Apply] = {
    "weight_norm, before torch 2.0": with_old_weight_norm,
    "weight_norm": parametrizations.weight_norm,
    "weight_norm of another dimension": lambda module: parametrizations.weight_norm(module, dim=1),
    "weight_norm of the whole": with_weight_norm_of_all,
    "spectral_norm, before torch 2.0": nn.utils.spectral_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "pruning": lambda module: prune.l1_unstructured(module, "weight", 0.4),
    "pruning twice": lambda module: (
        prune.random_unstructured(module, "weight", 0.3),
        prune.ln_structured(module, "weight", 0.2, n=2, dim=0),
    ),
    "pruned biases": lambda module: prune.random_unstructured(module, "bias", 0.3),
}


def make_trained(apply: Apply, dtype: torch.dtype = torch.float32) -> Net:
    """A network with parts, trained for some steps, in evaluation mode."""
    torch.manual_seed(4)
    network = Net()
    for name in NAMES:
        apply(network.get_submodule(name))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        network(torch.randn(4, 3, 12, 12)).square().mean().backward()
        optimizer.step()
    network.eval().to(dtype)
    network(torch.zeros(1, 3, 12, 12, dtype=dtype))  # what is computed by hooks is computed before a pass
    return network


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("apply", APPLY.values(), ids=list(APPLY))
def test_weights_are_those_that_torch_computes_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, apply: Apply, prefix: str
) -> None:
    trained = make_trained(apply)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in trained.state_dict().items()}}, path)
    network = Net().eval()
    before = torch.random.get_rng_state()
    with caplog.at_level("INFO", logger="lavise"):
        load_weights(network, read_checkpoint(path), path)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name in NAMES:
        for kind in ("weight", "bias"):
            assert torch.equal(getattr(network.get_submodule(name), kind), getattr(trained.get_submodule(name), kind))
    images = torch.randn(2, 3, 12, 12)
    with torch.inference_mode():
        assert torch.equal(network(images), trained(images))
    (line,) = [r.getMessage() for r in caplog.records if "computed from the parts" in r.getMessage()]
    assert "conv." in line


def test_parts_of_half_precision_are_taken_into_a_network_of_float32_first(tmp_path: Path) -> None:
    """As a network with parts would: the norm is that of float32."""
    half = make_trained(parametrizations.weight_norm).half().state_dict()
    expected = make_trained(parametrizations.weight_norm)
    expected.load_state_dict(half)
    network = Net()
    load_weights(network, half, tmp_path / "a.pth")
    assert torch.equal(network.square.weight, expected.square.weight)
    assert not torch.equal(network.square.weight, expected.half().square.weight.float())


def test_network_that_has_parts_itself_gets_them_as_they_are(tmp_path: Path) -> None:
    trained = make_trained(parametrizations.weight_norm)
    network = Net()
    for name in NAMES:
        parametrizations.weight_norm(network.get_submodule(name))
    load_weights(network, trained.state_dict(), tmp_path / "a.pth")
    assert torch.equal(
        network.state_dict()["conv.parametrizations.weight.original0"],
        trained.state_dict()["conv.parametrizations.weight.original0"],
    )


def test_pruned_network_and_its_average_are_asked_for(tmp_path: Path) -> None:
    """The one in parts is a network that fits, like the other."""
    content = {"model": make_trained(APPLY["pruning"]).state_dict(), "model_ema": Net().state_dict()}
    with pytest.raises(AmbiguousWeightsError, match="holds 2 networks that fit and differ: model, model_ema"):
        load_weights(Net(), content, tmp_path / "a.pth")
    load_weights(network := Net(), content, tmp_path / "a.pth", ["model"])
    assert int((network.square.weight == 0).sum()) == round(0.4 * 6 * 6 * 9)


def refusal(state: dict[str, torch.Tensor], path: Path) -> str:
    with pytest.raises(CheckpointError) as err:
        load_weights(Net(), state, path)
    return str(err.value)


def test_what_fits_two_dimensions_is_refused(tmp_path: Path) -> None:
    """The vectors of a network that was never run are no vectors of anything yet."""
    torch.manual_seed(0)
    network = Net()
    nn.utils.spectral_norm(network.square)
    assert refusal(network.state_dict(), tmp_path / "a.pth") == (
        f"model.weights: {tmp_path}/a.pth does not fit the architecture: 1 missing (square.weight); 3 unexpected "
        "(square.weight_orig, square.weight_u, square.weight_v); square.weight has vectors that fit 2 dimensions of "
        "(6, 6, 3, 3) alike; save it whole: torch.nn.utils.parametrize.remove_parametrizations, or "
        "torch.nn.utils.prune.remove"
    )


class Symmetric(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def test_parts_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    network = Net()
    parametrize.register_parametrization(network.square, "weight", Symmetric())
    said = refusal(network.state_dict(), tmp_path / "a.pth")
    assert "square.weight is in parts that are none of a known kind (original); save it whole: " in said
    network = Net()
    parametrizations.orthogonal(network.head)
    assert "(0.base, original)" in refusal(network.state_dict(), tmp_path / "a.pth")


def test_parts_of_shapes_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    state = make_trained(APPLY["pruning"]).state_dict()
    state["square.weight_mask"] = torch.ones(3, 3)
    assert "square.weight has a mask (3, 3) for (6, 6, 3, 3)" in refusal(state, tmp_path / "a.pth")
    state = make_trained(parametrizations.weight_norm).state_dict()
    state["square.parametrizations.weight.original0"] = torch.ones(5, 1, 1, 1)
    assert "magnitudes (5, 1, 1, 1) that do not tell one dimension" in refusal(state, tmp_path / "a.pth")
    state = make_trained(parametrizations.spectral_norm).state_dict()
    state["square.parametrizations.weight.0._u"] = torch.ones(7)
    assert "square.weight has vectors of 7 and 54 numbers for (6, 6, 3, 3)" in refusal(state, tmp_path / "a.pth")
    state["square.parametrizations.weight.0._u"] = torch.ones(6, 1)
    assert "square.weight has vectors of the shapes (6, 1) and (54,)" in refusal(state, tmp_path / "a.pth")


def test_names_that_only_look_like_those_of_parts_are_left_alone() -> None:
    state = {name: torch.ones(2, 2) for name in ("bias_u", "bias_v", "attn_mask", "weight", "weight_orig")}
    found = compute_weights(state, torch.float32)
    assert (dict(found.tensors), found.kinds, found.unclear) == (state, {}, {})


@pytest.mark.parametrize("apply", [nn.utils.spectral_norm, parametrizations.spectral_norm])
def test_dimension_is_told_after_large_steps(tmp_path: Path, apply: Apply) -> None:
    """With batch normalisation behind it a weight may turn far in a step, and the vectors are those of before."""
    torch.manual_seed(3)
    trained = nn.Sequential(nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 1, bias=False), nn.BatchNorm2d(24))
    apply(trained[1])
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        (trained(torch.randn(8, 3, 4, 4)) * torch.linspace(-1, 1, 24).view(1, 24, 1, 1)).exp().mean().backward()
        optimizer.step()
    trained.eval()(torch.zeros(1, 3, 4, 4))
    network = nn.Sequential(nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 1, bias=False), nn.BatchNorm2d(24))
    load_weights(network, trained.state_dict(), tmp_path / "a.pth")
    assert torch.equal(network.state_dict()["1.weight"], getattr(trained[1], "weight"))  # noqa: B009 - computed there
