from __future__ import annotations

import pytest
import torch
from torch import nn

from lavise.configs.errors import UserError
from lavise.storage.models.layers import (
    ActivationEdit,
    ActivationLeaf,
    ActivationTap,
    Layer,
    list_layers,
    select_layers,
)


class Small(nn.Module):
    """Two maps of different height and width, an in-place activation, and a head without maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(4, 6, (3, 1), stride=2, bias=False), nn.BatchNorm2d(6))
        self.unused = nn.Conv2d(3, 3, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.block(self.act(self.first(images)))
        out: torch.Tensor = self.head(self.pool(maps).flatten(1))
        return out


class Breaking(nn.Module):
    """Fails in the middle of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Linear(99, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(images))
        return out


def num_hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_list_layers_by_hand() -> None:
    # 12 x 12 pixels: the first keeps 12 x 12; kernel (3, 1) with stride 2 gives (12 - 3) // 2 + 1 = 5 rows and
    # (12 - 1) // 2 + 1 = 6 columns. Order of finishing: children before their container.
    assert list_layers(Small(), 12) == [
        Layer("first", "Conv2d", 4, 12, 12),
        Layer("act", "ReLU", 4, 12, 12),
        Layer("block.0", "Conv2d", 6, 5, 6),
        Layer("block.1", "BatchNorm2d", 6, 5, 6),
        Layer("block", "Sequential", 6, 5, 6),
    ]


def test_module_that_runs_twice_is_listed_once_at_its_last_place() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.a(self.b(self.a(images)))
            return out

    assert [(layer.name, layer.height) for layer in list_layers(Twice(), 10)] == [("b", 8), ("a", 6)]


def test_list_layers_of_a_torchvision_network() -> None:
    from torchvision.models import resnet18

    found = {layer.name: layer for layer in list_layers(resnet18(weights=None), 64)}
    assert found["layer4"] == Layer("layer4", "Sequential", 512, 2, 2)
    assert found["conv1"] == Layer("conv1", "Conv2d", 64, 32, 32)
    assert "avgpool" not in found
    assert list(found)[-1] == "layer4"


@pytest.mark.parametrize("training", [True, False])
def test_list_layers_leaves_the_network_as_it_was(training: bool) -> None:
    network = Small().train(training)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    list_layers(network, 12)
    assert num_hooks(network) == 0
    assert network.training is training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_list_layers_leaves_a_frozen_part_frozen() -> None:
    """A network in training with its normalisation frozen, as is common in fine-tuning."""
    network = Small().train()
    network.block.eval()
    list_layers(network, 12)
    assert network.first.training
    assert not network.block[1].training


def test_list_layers_leaves_a_failing_network_clean() -> None:
    network = Breaking().train()
    expected = r"^model\.preprocessing\.size_px: the network does not take a picture of 3 x 12 x 12 \(.*shapes cannot"
    with pytest.raises(UserError, match=expected):
        list_layers(network, 12)
    assert num_hooks(network) == 0
    assert network.training


def test_auto_is_the_last_map() -> None:
    assert [layer.name for layer in select_layers(Small(), 12, "auto")] == ["block"]


def test_select_layers_keeps_the_asked_order() -> None:
    assert [layer.name for layer in select_layers(Small(), 12, ("block.0", "first"))] == ["block.0", "first"]


def test_unknown_layer_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError,
        match=r"^model\.layers: found 'blok'; allowed: block, .*first, act.* or one of the others of 5; "
        r"`lavise layers MODEL` lists them all$",
    ):
        select_layers(Small(), 12, ("first", "blok"))


@pytest.mark.parametrize("name", ["head", "pool", "unused", ""])
def test_module_without_a_map_is_no_layer(name: str) -> None:
    with pytest.raises(UserError, match=rf"model\.layers: found '{name}'; allowed: "):
        select_layers(Small(), 12, (name,))


def test_unknown_name_that_is_not_in_a_list_is_refused_too() -> None:
    with pytest.raises(UserError, match=r"model\.layers: found 'nope'"):
        select_layers(Small(), 12, "nope")


def test_network_without_maps() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(UserError, match=r"model\.layers: the network has no module whose output is a map .*a CNN"):
        select_layers(network, 8, "auto")


def test_tap_reads_what_the_module_gave() -> None:
    network = Small().eval()
    images = torch.randn(2, 3, 12, 12)
    first = network.first(images)
    assert (first < 0).any()
    with ActivationTap(network, ("first", "block.0")) as tap, torch.inference_mode():
        network(images)
        # The in-place ReLU that follows must not have changed what was read.
        torch.testing.assert_close(tap.maps["first"], first.detach())
        torch.testing.assert_close(tap.maps["block.0"], network.block[0](first.relu()).detach())
        assert list(tap.maps) == ["first", "block.0"]


def test_tap_keeps_the_last_forward_pass_without_gradients() -> None:
    network = Small().eval()
    with ActivationTap(network, ("first",)) as tap:
        network(torch.zeros(1, 3, 12, 12))
        images = torch.ones(3, 3, 12, 12)
        network(images)
        torch.testing.assert_close(tap.maps["first"], network.first(images).detach())
        assert not tap.maps["first"].requires_grad


def test_tap_leaves_the_network_clean() -> None:
    network = Small()
    tap = ActivationTap(network, ("first", "block"))
    with tap:
        assert num_hooks(network) == 2
        network(torch.zeros(2, 3, 12, 12))
    assert num_hooks(network) == 0
    assert tap.maps == {}


def test_tap_leaves_the_network_clean_after_an_exception() -> None:
    network = Breaking()
    tap = ActivationTap(network, ("first", "second"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), tap:
        network(torch.zeros(1, 3, 12, 12))
    assert num_hooks(network) == 0
    assert tap.maps == {}


def test_tap_leaves_the_network_clean_when_a_name_is_unknown() -> None:
    network = Small()
    with pytest.raises(KeyError, match="nope"), ActivationTap(network, ("first", "nope")):
        pass
    assert num_hooks(network) == 0


def rest_of_small(network: Small, first: torch.Tensor) -> torch.Tensor:
    """What follows the first module, with no in-place operation."""
    out: torch.Tensor = network.head(network.block(first.relu()).mean(dim=(2, 3)))
    return out


def test_edit_replaces_channels_for_all_that_follows() -> None:
    network = Small().eval().requires_grad_(False)
    images = torch.randn(2, 3, 12, 12)
    maps = network.first(images)
    expected = maps.clone()
    expected[:, 1], expected[:, 3] = 0.75, 2.0
    with ActivationEdit(network, "first") as edit, torch.inference_mode():
        torch.testing.assert_close(network(images), rest_of_small(network, maps), msg="nothing was asked for yet")
        edit.replace(torch.tensor([1, 3]), torch.tensor([0.75, 2.0]))
        torch.testing.assert_close(network(images), rest_of_small(network, expected))
        edit.replace(torch.tensor([], dtype=torch.int64), torch.tensor([]))
        torch.testing.assert_close(network(images), rest_of_small(network, maps), msg="the last request counts alone")
    torch.testing.assert_close(network(images), rest_of_small(network, maps))
    assert num_hooks(network) == 0


def test_edit_leaves_a_tensor_that_others_read_as_it_is() -> None:
    class Shared(nn.Module):
        """The module hands out its input, which is added again."""

        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.same(images) + images

    network, images = Shared(), torch.ones(1, 2, 3, 3)
    with ActivationEdit(network, "same") as edit:
        edit.replace(torch.tensor([0]), torch.tensor([5.0]))
        assert network(images)[0, :, 0, 0].tolist() == [6, 2]
    assert torch.equal(images, torch.ones(1, 2, 3, 3))


def test_edit_wants_a_value_for_each_channel() -> None:
    with ActivationEdit(Small(), "first") as edit, pytest.raises(ValueError, match=r"channels \[S\] and values \[S\]"):
        edit.replace(torch.tensor([0, 1]), torch.tensor([1.0]))


def test_leaf_has_the_gradient_of_what_follows() -> None:
    """The in-place ReLU that follows neither breaks it nor changes what is read."""
    network = Small().eval().requires_grad_(False)
    images = torch.randn(2, 3, 12, 12)
    by_hand = network.first(images).requires_grad_(True)
    (expected,) = torch.autograd.grad(rest_of_small(network, by_hand)[:, 1].sum(), by_hand)
    with ActivationLeaf(network, "first") as leaf:
        assert leaf.maps is None
        out = network(images)
        assert leaf.maps is not None
        (found,) = torch.autograd.grad(out[:, 1].sum(), leaf.maps)
        torch.testing.assert_close(leaf.maps.detach(), by_hand.detach())
    assert (by_hand < 0).any()
    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected)
    assert (num_hooks(network), leaf.maps) == (0, None)


@pytest.mark.parametrize("kind", [ActivationEdit, ActivationLeaf])
def test_edit_and_leaf_leave_the_network_clean_after_an_exception(kind: type) -> None:
    network = Breaking()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), kind(network, "first"):
        network(torch.zeros(1, 3, 12, 12))
    assert num_hooks(network) == 0
    with pytest.raises(KeyError, match="nope"), kind(network, "nope"):
        pass
    assert num_hooks(network) == 0
