"""What a forward pass shows of a network: maps however they lie, and nothing that is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lavise.configs.errors import CheckpointError, UserError
from lavise.storage.models.layer_survey import find_layer, select_layers, survey_layers
from lavise.storage.models.layers import ActivationEdit, ActivationLeaf, ActivationTap, Layer
from tests.unit.storage.models.networks import Breaking, ChannelsLast, Reused, Small, Tokens, num_hooks


def test_layers_by_hand() -> None:
    # 12 x 12 pixels: the first keeps 12 x 12; kernel (3, 1) with stride 2 gives (12 - 3) // 2 + 1 = 5 rows and
    # (12 - 1) // 2 + 1 = 6 columns. Order of finishing: children before their container.
    assert list(survey_layers(Small(), 12).layers) == [
        Layer("first", "Conv2d", 4, 12, 12),
        Layer("act", "ReLU", 4, 12, 12),
        Layer("block.0", "Conv2d", 6, 5, 6),
        Layer("block.1", "BatchNorm2d", 6, 5, 6),
        Layer("block", "Sequential", 6, 5, 6),
        Layer("pool", "AdaptiveAvgPool2d", 6, 1, 1),
    ]


def test_module_that_runs_twice_is_two_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.a(self.b(self.a(images)))
            return out

    layers = survey_layers(Twice(), 10).layers
    assert [(layer.name, layer.height) for layer in layers] == [("a:0", 8), ("b", 8), ("a:1", 6)]


def test_layers_of_a_torchvision_network() -> None:
    from torchvision.models import resnet18

    found = {layer.name: layer for layer in survey_layers(resnet18(weights=None), 64).layers}
    assert found["layer4"] == Layer("layer4", "Sequential", 512, 2, 2)
    assert found["conv1"] == Layer("conv1", "Conv2d", 64, 32, 32)
    assert list(found)[-2:] == ["layer4", "avgpool"]


@pytest.mark.parametrize("training", [True, False])
def test_survey_leaves_the_network_as_it_was(training: bool) -> None:
    network = Small().train(training)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    survey_layers(network, 12)
    assert num_hooks(network) == 0
    assert network.training is training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_survey_leaves_a_frozen_part_frozen() -> None:
    """A network in training with its normalisation frozen, as is common in fine-tuning."""
    network = Small().train()
    network.block.eval()
    survey_layers(network, 12)
    assert network.first.training
    assert not network.block[1].training


def test_survey_leaves_a_failing_network_clean() -> None:
    network = Breaking().train()
    expected = r"^model\.preprocessing\.size_px: the network does not take a picture of 3 x 12 x 12 \(.*shapes cannot"
    with pytest.raises(UserError, match=expected):
        survey_layers(network, 12)
    assert num_hooks(network) == 0
    assert network.training


def test_auto_is_the_last_map() -> None:
    assert [layer.name for layer in select_layers(survey_layers(Small(), 12), "auto")] == ["block"]


def test_select_layers_keeps_the_asked_order() -> None:
    survey = survey_layers(Small(), 12)
    assert [layer.name for layer in select_layers(survey, ("block.0", "first"))] == ["block.0", "first"]


def test_unknown_layer_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError,
        match=r"^model\.layers: found 'blok'; allowed: block, .*first, act, pool or one of the others of 6; "
        r"`lavise layers MODEL` lists them all$",
    ):
        select_layers(survey_layers(Small(), 12), ("first", "blok"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("head", "it gives one number per filter and no map: it is fully connected, or lies behind the pooling"),
        ("unused", "a forward pass does not call it"),
    ],
)
def test_module_without_a_map_is_refused_with_its_reason(name: str, reason: str) -> None:
    expected = rf"^model\.layers: {name!r} cannot be explained: {reason}; `lavise layers MODEL` lists the layers"
    with pytest.raises(UserError, match=expected):
        select_layers(survey_layers(Small(), 12), (name,))


def test_unknown_name_that_is_not_in_a_list_is_refused_too() -> None:
    with pytest.raises(UserError, match=r"model\.layers: found 'nope'"):
        select_layers(survey_layers(Small(), 12), "nope")


def test_network_without_maps() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    with pytest.raises(UserError, match=r"model\.layers: the network has no module whose output is a map .*a CNN"):
        select_layers(survey_layers(network, 8), "auto")


def names_of(network: nn.Module, size_px: int) -> list[str]:
    return [layer.name for layer in survey_layers(network, size_px).layers]


def test_channels_last_output_is_read_as_maps() -> None:
    torch.manual_seed(0)
    network, images = ChannelsLast().eval(), torch.randn(2, 3, 32, 32)
    layer = find_layer(network, "norm", 32)
    assert layer == Layer("norm", "LayerNorm", 8, 8, 8, "NHWC")
    with ActivationTap(network, (layer,)) as tap, torch.inference_mode():
        network(images)
        expected = network.norm(network.first(images).permute(0, 2, 3, 1))
        assert torch.equal(tap.maps["norm"], expected.permute(0, 3, 1, 2))


def test_filters_of_a_channels_last_output_are_edited() -> None:
    torch.manual_seed(0)
    network, images = ChannelsLast().eval(), torch.randn(2, 3, 32, 32)
    expected = network.norm(network.first(images).permute(0, 2, 3, 1)).detach().clone()
    expected[..., 5] = 7.0
    with ActivationEdit(network, find_layer(network, "norm", 32)) as edit, torch.inference_mode():
        edit.replace(torch.tensor([5]), torch.tensor([7.0]))
        torch.testing.assert_close(network(images), network.head(expected.mean(dim=(1, 2))))


def test_tokens_of_a_known_grid_are_maps() -> None:
    torch.manual_seed(0)
    network, images = Tokens().eval(), torch.randn(2, 3, 16, 16)
    (layer,) = select_layers(survey_layers(network, 16), "auto")
    assert layer == Layer("norm", "LayerNorm", 8, 4, 4, "NTC", 1)
    with ActivationTap(network, (layer, find_layer(network, "qkv", 16))) as tap, torch.inference_mode():
        network(images)
        tokens = network.patch(images).flatten(2).transpose(1, 2)
        torch.testing.assert_close(tap.maps["qkv"], network.qkv(tokens).transpose(1, 2).unflatten(2, (4, 4)))
        assert tap.maps["norm"].shape == (2, 8, 4, 4)


def test_attention_weights_and_heads_are_no_layers() -> None:
    survey = survey_layers(Tokens(), 16)
    assert [layer.name for layer in survey.layers] == ["patch", "qkv", "norm"]
    assert survey.refused["weights"] == "it gives attention weights: each row sums to 1"
    assert "height and width cannot be told" in survey.refused["heads:0"]


def test_edit_of_tokens_leaves_the_class_token() -> None:
    torch.manual_seed(0)
    network, images = Tokens().eval(), torch.randn(1, 3, 16, 16)
    layer = find_layer(network, "norm", 16)
    outputs: list[torch.Tensor] = []
    with ActivationEdit(network, layer) as edit, torch.inference_mode():
        # Hooks are called in the order of their registration: this one sees what the edit made.
        handle = network.norm.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        network(images)
        edit.replace(torch.tensor([2]), torch.tensor([9.0]))
        network(images)
        handle.remove()
    before, after = outputs
    assert (after[:, 1:, 2] == 9).all()
    assert torch.equal(after[:, 0], before[:, 0])
    others = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(after[:, :, others], before[:, :, others])


def test_tokens_in_another_order_are_refused() -> None:
    """As in networks that keep the tokens of a window together; their number alone does not tell."""
    torch.manual_seed(0)
    cells = torch.arange(64)
    units = cells.view(4, 2, 4, 2).permute(1, 3, 0, 2).flatten()
    survey = survey_layers(Tokens(32, units), 32)
    assert [layer.name for layer in survey.layers] == ["patch"]
    assert survey.refused["norm"] == "its cells do not lie in the order of the picture"
    with pytest.raises(UserError, match=r"^model\.layers: .auto. cannot tell the last map, since norm comes after"):
        select_layers(survey, "auto")
    assert names_of(Tokens(32), 32) == ["patch", "qkv", "norm"]
    assert names_of(Tokens(32, cells.flip(0)), 32) == ["patch"]


def test_each_call_of_a_module_is_a_layer() -> None:
    assert names_of(Reused(), 8) == ["a", "relu:0", "b", "relu:1", "c", "relu:2", "functional.relu"]
    with pytest.raises(UserError, match=r"^model\.layers: 'relu' is called 3 times .*allowed: relu:0, relu:1, relu:2$"):
        find_layer(Reused(), "relu", 8)


@pytest.mark.parametrize("call", [0, 1, 2])
def test_edit_gradient_and_tap_act_on_one_call(call: int) -> None:
    torch.manual_seed(1)
    network, images = Reused().eval().requires_grad_(False), torch.randn(4, 3, 8, 8)
    layer = find_layer(network, f"relu:{call}", 8)

    def forward(edited: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The network written out, with the given map in place of that of the call."""
        maps, kept = images, images
        for number, module in enumerate((network.a, network.b, network.c)):
            maps = module(maps).relu()
            if number == call:
                kept, maps = maps, maps if edited is None else edited
        return network.head((maps - 0.35).relu().mean(dim=(2, 3))), kept

    plain, maps = forward(None)
    changed = maps.clone()
    changed[:, 1] = 0.5
    with ActivationEdit(network, layer) as edit:
        edit.replace(torch.tensor([1]), torch.tensor([0.5]))
        torch.testing.assert_close(network(images), forward(changed)[0])
    with ActivationTap(network, (layer,)) as tap:
        network(images)
        torch.testing.assert_close(tap.maps[layer.name], maps)
    by_hand = maps.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(forward(by_hand)[0][:, 0].sum(), by_hand)
    with ActivationLeaf(network, layer) as leaf:
        logits = network(images)
        assert leaf.output is not None
        (found,) = torch.autograd.grad(logits[:, 0].sum(), leaf.output)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(network(images), plain)
    assert num_hooks(network) == 0


def test_activation_function_is_a_layer() -> None:
    """DenseNet's last ReLU is a function: without it `auto` would take the signed map before."""
    torch.manual_seed(1)
    network, images = Reused().eval(), torch.randn(2, 3, 8, 8)
    (layer,) = select_layers(survey_layers(network, 8), "auto")
    assert layer == Layer("functional.relu", "relu", 4, 8, 8)
    with ActivationTap(network, (layer,)) as tap, torch.inference_mode():
        logits = network(images)
        maps = tap.maps["functional.relu"]
        torch.testing.assert_close(network.head(maps.mean(dim=(2, 3))), logits)
        assert (maps == 0).any()
    with ActivationEdit(network, layer) as edit, torch.inference_mode():
        edit.replace(torch.tensor([0, 1, 2, 3]), torch.ones(4))
        torch.testing.assert_close(network(images), network.head(torch.ones(2, 4)))
    assert num_hooks(network) == 0


def test_function_whose_result_the_module_returns_is_listed_once() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return functional.relu(self.conv(images))

    network = nn.Sequential(Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert names_of(network, 8) == ["0.conv", "0", "1"]


def test_grid_that_does_not_follow_the_picture_is_no_map() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(5), nn.Flatten(), nn.Linear(100, 2))
    survey = survey_layers(network, 16)
    assert survey.refused["1"] == "its grid does not follow the size of the picture"
    assert [layer.name for layer in survey.layers] == ["0"]


def test_rows_that_are_not_pictures_are_no_map() -> None:
    """Windows and regions of a picture, as in detectors."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.first(images)
            inner: torch.Tensor = self.inner(maps.unflatten(2, (2, -1)).transpose(1, 2).flatten(0, 1))
            return inner.mean(dim=(2, 3))

    survey = survey_layers(Windows(), 8)
    assert survey.refused["inner"] == "its rows are not pictures: 2 and 4 of them for 1 and 2 pictures"


def test_classifier_without_pooling_is_probed_as_far_as_it_comes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2))
    survey = survey_layers(network, 16)
    assert [layer.name for layer in survey.layers] == ["0", "1"]
    assert survey.unproven == frozenset()


def test_network_with_a_second_argument_is_told_to_be_wrapped() -> None:
    class Two(nn.Module):
        def forward(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return images * mask

    with pytest.raises(UserError, match=r"^model\.arch: the network cannot be called with one picture .* wrap it: "):
        survey_layers(Two(), 8)


@pytest.mark.parametrize(
    ("arch", "size_px", "expected"),
    [
        ("timm:test_vit", 160, Layer("norm", "LayerNorm", 64, 10, 10, "NTC", 1)),
        ("timm:swin_tiny_patch4_window7_224", 224, Layer("norm", "LayerNorm", 768, 7, 7, "NHWC")),
        ("timm:mambaout_femto", 64, Layer("stages", "Sequential", 288, 2, 2, "NHWC")),
        ("torchvision:vgg11", 64, Layer("features", "Sequential", 512, 2, 2)),
        ("torchvision:densenet121", 64, Layer("functional.relu", "relu", 1024, 2, 2)),
        ("torchvision:swin_t", 64, Layer("permute", "Permute", 768, 2, 2)),
    ],
)
def test_auto_on_real_architectures(arch: str, size_px: int, expected: Layer) -> None:
    import timm
    import torchvision

    library, name = arch.split(":")
    network = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name, weights=None)
    assert select_layers(survey_layers(network.eval(), size_px), "auto") == [expected]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Conv2d(1, 4, 3), r"^model\.preprocessing\.mean: the network takes grey pictures; set model\.preprocessing"),
        (
            nn.Conv2d(11, 4, 3),
            r"^model\.preprocessing\.mean: the network takes pictures of 11 channels, not of 3 .* to 11 numbers each",
        ),
        (nn.Conv3d(3, 4, 3), r"^model\.arch: the network takes videos or volumes, not pictures "),
        (nn.Conv2d(3, 4, 17), r"^model\.preprocessing\.size_px: the network does not take a picture of 3 x 16 x 16 "),
    ],
)
def test_network_that_takes_something_else_is_told_apart(network: nn.Module, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        survey_layers(nn.Sequential(network), 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_network_in_half_precision_is_probed_as_it_is(dtype: torch.dtype) -> None:
    network = Small().to(dtype)
    assert [layer.name for layer in select_layers(survey_layers(network, 12), "auto")] == ["block"]


def test_auto_does_not_fall_back_where_pictures_are_too_small() -> None:
    from torchvision.models import resnet18

    survey = survey_layers(resnet18(weights=None), 32)
    with pytest.raises(UserError, match=r"^model\.layers: 'auto' would take layer4, whose map has one cell"):
        select_layers(survey, "auto")
    assert select_layers(survey, ("layer3",))[0].height == 2


def test_auto_takes_the_map_before_a_pooling_of_fixed_size() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert [layer.name for layer in select_layers(survey_layers(network, 8), "auto")] == ["0"]


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_weights_of_which_nothing_can_be_told_hide_no_layer(value: float) -> None:
    network = Tokens()
    for parameter in network.parameters():
        parameter.data.fill_(value)
    assert names_of(network, 16)[-1] == "norm"


def test_order_of_tokens_is_the_checkpoints_fault() -> None:
    """It is told by the weights; a re-audit goes on with other checkpoints."""
    torch.manual_seed(0)
    survey = survey_layers(Tokens(32, torch.arange(64).flip(0)), 32)
    for names in ("auto", ("norm",)):
        with pytest.raises(CheckpointError, match="its cells do not lie in the order of the picture"):
            select_layers(survey, names)
    with pytest.raises(UserError) as err:
        select_layers(survey, ("head",))
    assert not isinstance(err.value, CheckpointError)


# ---------------------------------------------------------------- inputs that are not square


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (128, 192), (192, 256), (64, 128), (224, 288)], ids=str)
@pytest.mark.parametrize("arch", ["resnet18", "mambaout_femto", "convnext_atto"])
def test_layers_of_real_networks_have_the_aspect_ratio_of_the_input(arch: str, size: tuple[int, int]) -> None:
    """The same layers as for a square; a stride of 32 leaves so many cells."""
    import timm

    network = timm.create_model(arch).eval()
    found = survey_layers(network, size)
    square = survey_layers(network, 64)
    assert [layer.name for layer in found.layers] == [layer.name for layer in square.layers]
    assert [layer.layout for layer in found.layers] == [layer.layout for layer in square.layers]
    last = select_layers(found, "auto")[0] if min(size) > 32 else found.layers[-1]
    assert (last.height, last.width) == (size[0] // 32, size[1] // 32)


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (112, 80)], ids=str)
def test_tokens_of_a_transformer_of_one_size(size: tuple[int, int]) -> None:
    import timm

    network = timm.create_model("vit_tiny_patch16_224", img_size=size).eval()
    (layer,) = select_layers(survey_layers(network, size), ("blocks.3",))
    assert (layer.layout, layer.height, layer.width, layer.num_prefix_tokens) == (
        "NTC",
        size[0] // 16,
        size[1] // 16,
        1,
    )


def test_windows_of_a_transformer_that_are_not_square() -> None:
    import timm

    network = timm.create_model("swin_tiny_patch4_window7_224", img_size=(224, 112)).eval()
    survey = survey_layers(network, (224, 112))
    (layer,) = select_layers(survey, "auto")
    assert (layer.name, layer.layout, layer.height, layer.width) == ("norm", "NHWC", 7, 4)  # 7 x 3.5, rounded up
    square = survey_layers(timm.create_model("swin_tiny_patch4_window7_224").eval(), 224)
    assert [layer.name for layer in survey.layers] == [layer.name for layer in square.layers]


@pytest.mark.parametrize("size", [(32, 48), (48, 16)], ids=str)
def test_tokens_in_another_order_are_found_out_in_any_aspect_ratio(size: tuple[int, int]) -> None:
    num = size[0] * size[1] // 16
    assert survey_layers(Tokens(size), size).layers[-1] == Layer(
        "norm", "LayerNorm", 8, size[0] // 4, size[1] // 4, "NTC", 1
    )
    turned = survey_layers(Tokens(size, torch.arange(num).flip(0)), size)
    assert [layer.name for layer in turned.layers] == ["patch"]
    assert turned.last_refused


def test_tokens_laid_column_by_column_are_found_out() -> None:
    """Of a grid that is not square, another reading of the same number."""
    order = torch.arange(8 * 12).view(8, 12).T.flatten()
    survey = survey_layers(Tokens((32, 48), order), (32, 48))
    assert [layer.name for layer in survey.layers] == ["patch"]
