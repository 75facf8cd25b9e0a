"""Checkpoints of known networks are recognised by their tensors, whatever their head."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision.models as models

from lavise.storage.models.checkpoint_files import NoNetworkError
from lavise.storage.models.recognised_networks import RecognisedNetwork, recognise_network

PATH = Path("model.pth")


def describe(found: list[RecognisedNetwork]) -> list[tuple[str, str, str, int | None]]:
    return [(fit.arch, fit.key, fit.prefix, fit.num_classes) for fit in found]


def test_a_head_of_another_size_below_prefixes() -> None:
    state = models.resnet18(num_classes=7).state_dict()
    content = {"arch": "resnet18", "epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    found = recognise_network(content, PATH)
    places = [(arch, "state_dict", "module.", 7) for arch in ("torchvision:resnet18", "timm:resnet18")]
    assert describe(found) == places
    assert found[0].num_parameters == sum(value.numel() for value in state.values())


def test_what_a_script_of_timm_notes() -> None:
    network = timm.create_model("mobilenetv3_small_100", num_classes=5)
    content = {"state_dict": network.state_dict(), "arch": "mobilenetv3_small_100"}
    assert describe(recognise_network(content, PATH)) == [("timm:mobilenetv3_small_100", "state_dict", "", 5)]


def test_raw_weights_and_their_average_are_both_told() -> None:
    state = models.resnet18(num_classes=2).state_dict()
    found = recognise_network({"arch": "resnet18", "model": state, "model_ema": dict(state)}, PATH)
    assert [fit.key for fit in found if fit.arch == "torchvision:resnet18"] == ["model", "model_ema"]


def test_a_body_of_another_width_does_not_fit() -> None:
    state = models.resnet18().state_dict()
    state["layer4.0.conv1.weight"] = torch.zeros(640, 256, 3, 3)
    assert recognise_network(state, PATH, ["torchvision:resnet18", "timm:resnet18"]) == []


def test_further_parts_make_it_another_network() -> None:
    state = models.resnet18().state_dict()
    state["layer4.0.attention.weight"] = torch.zeros(2, 2)
    assert recognise_network(state, PATH, ["torchvision:resnet18", "timm:resnet18"]) == []


@pytest.mark.parametrize("arch", ["torchvision:inception_v3", "torchvision:squeezenet1_1", "timm:vit_tiny_patch16_224"])
def test_heads_of_all_kinds(arch: str) -> None:
    library, _, name = arch.partition(":")
    options = {"init_weights": False} if name == "inception_v3" else {}
    network = models.get_model(name, num_classes=4, **options) if library == "torchvision" else timm.create_model(name)
    expected = 4 if library == "torchvision" else 1000
    assert describe(recognise_network(network.state_dict(), PATH, [arch])) == [(arch, "", "", expected)]


def test_no_network_at_all() -> None:
    with pytest.raises(NoNetworkError):
        recognise_network({"epoch": 3}, PATH)
