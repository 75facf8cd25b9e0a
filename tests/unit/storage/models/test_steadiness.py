"""Networks whose maps are not those of a picture alone are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lavise.configs.errors import UserError
from lavise.storage.models.layer_survey import find_layer
from lavise.storage.models.steadiness import check_steadiness
from tests.unit.storage.models.networks import Small, num_hooks


class Drops(nn.Module):
    """Dropout that is on whether the network trains or not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.dropout(self.conv(functional.dropout(images, 0.1, training=True)).mean(dim=(2, 3)), 0.1)


def check(network: nn.Module, name: str) -> None:
    check_steadiness(network.eval(), [find_layer(network, name, 16)], 16)


def test_network_that_draws_at_random_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.arch: the maps of layer conv are not the same when one picture is"):
        check(Drops(), "conv")


def test_network_that_normalises_by_its_batch_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    with pytest.raises(UserError, match=r"^model\.arch: the maps of layer 2 depend on the other pictures of the batch"):
        check(network, "2")
    check(network, "0")


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.Dropout(0.5)])
def test_other_normalisations_are_steady(norm: nn.Module) -> None:
    check(nn.Sequential(nn.Conv2d(3, 4, 3), norm), "1")


def test_network_is_left_clean() -> None:
    network = Small()
    check(network, "block")
    assert num_hooks(network) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_left_to_extraction(value: float) -> None:
    """There they are a fault of the checkpoint, which stops no other one of a re-audit."""
    network = Small().eval()
    network.first.weight.data.fill_(value)
    check(network, "block")
