from __future__ import annotations

import pytest
import torch
from torch import nn

from lavise.storage.models.layers import (
    ActivationEdit,
    ActivationLeaf,
    ActivationTap,
    Layer,
)
from tests.unit.storage.models.networks import Breaking, Small, num_hooks


def plain(name: str) -> Layer:
    """Of a module that is called once and gives [N, C, H, W]."""
    return Layer(name, "", 1, 1, 1)


def test_tap_reads_what_the_module_gave() -> None:
    network = Small().eval()
    images = torch.randn(2, 3, 12, 12)
    first = network.first(images)
    assert (first < 0).any()
    with ActivationTap(network, (plain("first"), plain("block.0"))) as tap, torch.inference_mode():
        network(images)
        # The in-place ReLU that follows must not have changed what was read.
        torch.testing.assert_close(tap.maps["first"], first.detach())
        torch.testing.assert_close(tap.maps["block.0"], network.block[0](first.relu()).detach())
        assert list(tap.maps) == ["first", "block.0"]


def test_tap_keeps_the_last_forward_pass_without_gradients() -> None:
    network = Small().eval()
    with ActivationTap(network, (plain("first"),)) as tap:
        network(torch.zeros(1, 3, 12, 12))
        images = torch.ones(3, 3, 12, 12)
        network(images)
        torch.testing.assert_close(tap.maps["first"], network.first(images).detach())
        assert not tap.maps["first"].requires_grad


def test_tap_leaves_the_network_clean() -> None:
    network = Small()
    tap = ActivationTap(network, (plain("first"), plain("block")))
    with tap:
        assert num_hooks(network) == 3, "one for each layer, and one that counts passes"
        network(torch.zeros(2, 3, 12, 12))
    assert num_hooks(network) == 0
    assert tap.maps == {}


def test_tap_leaves_the_network_clean_after_an_exception() -> None:
    network = Breaking()
    tap = ActivationTap(network, (plain("first"), plain("second")))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), tap:
        network(torch.zeros(1, 3, 12, 12))
    assert num_hooks(network) == 0
    assert tap.maps == {}


def test_tap_leaves_the_network_clean_when_a_name_is_unknown() -> None:
    network = Small()
    with pytest.raises(KeyError, match="nope"), ActivationTap(network, (plain("first"), plain("nope"))):
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
    with ActivationEdit(network, plain("first")) as edit, torch.inference_mode():
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
    with ActivationEdit(network, plain("same")) as edit:
        edit.replace(torch.tensor([0]), torch.tensor([5.0]))
        assert network(images)[0, :, 0, 0].tolist() == [6, 2]
    assert torch.equal(images, torch.ones(1, 2, 3, 3))


def test_edit_wants_a_value_for_each_channel() -> None:
    expected = r"channels \[S\] and values \[S\]"
    with ActivationEdit(Small(), plain("first")) as edit, pytest.raises(ValueError, match=expected):
        edit.replace(torch.tensor([0, 1]), torch.tensor([1.0]))


def test_leaf_has_the_gradient_of_what_follows() -> None:
    """The in-place ReLU that follows neither breaks it nor changes what is read."""
    network = Small().eval().requires_grad_(False)
    images = torch.randn(2, 3, 12, 12)
    by_hand = network.first(images).requires_grad_(True)
    (expected,) = torch.autograd.grad(rest_of_small(network, by_hand)[:, 1].sum(), by_hand)
    with ActivationLeaf(network, plain("first")) as leaf:
        assert leaf.output is None
        out = network(images)
        assert leaf.output is not None
        (found,) = torch.autograd.grad(out[:, 1].sum(), leaf.output)
        torch.testing.assert_close(leaf.output.detach(), by_hand.detach())
    assert (by_hand < 0).any()
    assert found.abs().max() > 0
    torch.testing.assert_close(found, expected)
    assert (num_hooks(network), leaf.output) == (0, None)


@pytest.mark.parametrize("kind", [ActivationEdit, ActivationLeaf])
def test_edit_and_leaf_leave_the_network_clean_after_an_exception(kind: type) -> None:
    network = Breaking()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), kind(network, plain("first")):
        network(torch.zeros(1, 3, 12, 12))
    assert num_hooks(network) == 0
    with pytest.raises(KeyError, match="nope"), kind(network, plain("nope")):
        pass
    assert num_hooks(network) == 0
