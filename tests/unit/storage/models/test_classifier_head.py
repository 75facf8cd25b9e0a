"""The classifier head of real networks with random weights: found by what it computes, not by its name."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import nn

from lavise.storage.models.classifier_head import (
    AnswerRule,
    LinearHead,
    count_classes,
    find_linear_head,
    to_class_logits,
)
from lavise.storage.models.layer_survey import find_layer
from lavise.storage.models.layers import ActivationTap, Layer

SIZE_PX = 32


@lru_cache
def create(name: str) -> nn.Module:
    torch.manual_seed(0)
    library, _, arch = name.partition(":")
    if library == "timm":
        import timm

        network: nn.Module = timm.create_model(arch, pretrained=False, num_classes=10)
    else:
        import torchvision.models as models

        network = models.get_model(arch, weights=None, num_classes=10)
    return network.eval()


def logits_of(network: nn.Module, layer: str, head: LinearHead, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(by the network, by the head from the pooled maps), on pictures that the search has not seen."""
    images = torch.rand((3, 3, SIZE_PX, SIZE_PX), generator=torch.Generator().manual_seed(seed)) * 4 - 2
    with torch.inference_mode(), ActivationTap(network, (find_layer(network, layer, SIZE_PX),)) as tap:
        expected = network(images)
        pooled = tap.maps[layer].mean(dim=(2, 3))
    return expected, pooled @ head.weight.T + head.bias


@pytest.mark.parametrize(
    ("arch", "layer"),
    [
        ("torchvision:resnet18", "layer4"),
        ("timm:tf_efficientnet_lite0", "bn2"),
    ],
)
def test_head_gives_the_networks_own_logits(arch: str, layer: str) -> None:
    network = create(arch)
    head, reason = find_linear_head(network, find_layer(network, layer, SIZE_PX), SIZE_PX)
    assert reason == ""
    assert head is not None
    assert head.weight.shape[0] == 10 == len(head.bias)
    expected, found = logits_of(network, layer, head, seed=5)
    assert expected.std() > 1e-4, "logits that are all alike show nothing"
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("arch", "layer", "head"),
    [
        ("torchvision:resnet18", "layer3", "fc"),
        ("timm:tf_efficientnet_lite0", "conv_head", "classifier"),
        ("torchvision:mobilenet_v3_small", "features", "classifier.3"),
    ],
)
def test_layer_that_does_not_feed_the_head(arch: str, layer: str, head: str) -> None:
    network = create(arch)
    found = find_linear_head(network, find_layer(network, layer, SIZE_PX), SIZE_PX)
    assert found == (None, f"layer {layer} does not feed the classifier head {head} directly")


def test_head_behind_a_convolution_is_not_linear_here() -> None:
    network = create("torchvision:squeezenet1_1")
    found = find_linear_head(network, find_layer(network, "features", SIZE_PX), SIZE_PX)
    assert found == (None, "the network does not end in a linear classifier")


def test_network_whose_output_is_no_table() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.fc(self.conv(images).mean(dim=(2, 3)))}

    assert find_linear_head(Pair(), CONV, 16) == (None, "the network's output is no table of class logits")


CONV = Layer("conv", "Conv2d", 4, 14, 14)


class Pooled(nn.Module):
    """A map, pooled, and a linear classifier, whose logits may be scaled."""

    def __init__(self, pool: str = "mean", scale: float = 1.0, bias: bool = True) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2, bias=bias)
        self.pool, self.scale = pool, scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        pooled = maps.mean(dim=(2, 3)) if self.pool == "mean" else maps.amax(dim=(2, 3))
        logits: torch.Tensor = self.fc(pooled) * self.scale
        return logits


def test_head_without_bias_has_zeros() -> None:
    network = Pooled(bias=False)
    head, reason = find_linear_head(network, CONV, 16)
    assert head is not None, reason
    assert torch.equal(head.bias, torch.zeros(2))
    assert torch.equal(head.weight, network.fc.weight)


def test_pooling_by_the_maximum_is_another_head() -> None:
    found = find_linear_head(Pooled(pool="max"), CONV, 16)
    assert found == (None, "layer conv does not feed the classifier head fc directly")


def test_linear_layer_whose_output_is_changed_is_not_the_head() -> None:
    found = find_linear_head(Pooled(scale=2.0), CONV, 16)
    assert found == (None, "the network does not end in a linear classifier")


def test_search_leaves_the_network_and_random_numbers_as_they_were() -> None:
    network = create("torchvision:resnet18")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = torch.random.get_rng_state()
    find_linear_head(network, find_layer(network, "layer4", SIZE_PX), SIZE_PX)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())


def test_number_of_classes_is_that_of_the_output() -> None:
    assert count_classes(create("torchvision:squeezenet1_1"), SIZE_PX) == 10
    assert count_classes(nn.Conv2d(3, 4, 3), SIZE_PX) == 0


def test_one_logit_is_two_classes() -> None:
    """The softmax of the two is the sigmoid of the one."""
    torch.manual_seed(0)
    network = Pooled()
    network.fc = nn.Linear(4, 1)
    head, reason = find_linear_head(network, CONV, 16)
    assert head is not None, reason
    images = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        one = network(images)
        found = to_class_logits(one)
        pooled = network.conv(images).mean(dim=(2, 3))
    assert found is not None
    torch.testing.assert_close(found.softmax(dim=1)[:, 1:], one.sigmoid())
    torch.testing.assert_close(pooled @ head.weight.T + head.bias, found)
    assert count_classes(network, 16) == 2
    sigmoid = AnswerRule("sigmoid")
    alone, _ = find_linear_head(network, CONV, 16, rule=sigmoid)
    assert alone is not None
    torch.testing.assert_close(pooled @ alone.weight.T + alone.bias, one)
    assert count_classes(network, 16, rule=sigmoid) == 1
    assert to_class_logits({"logits": one}) is None
    assert to_class_logits(torch.zeros(2, 3, 4, 4)) is None
