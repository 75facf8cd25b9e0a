"""Networks with their weights, preprocessing and digests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lavise.configs.errors import UserError
from lavise.configs.preprocessing import PreprocessingSettings
from lavise.configs.schema import ModelSettings
from lavise.storage.images.geometry import Geometry
from lavise.storage.models.target_model import TargetModel, load_target_model
from lavise.storage.models.weight_files import read_weights
from lavise.storage.state.digest import digest_tensors
from tests.unit.storage.models.helpers import PACKAGE, load


def test_package_weights_fit_the_network(lite0: TargetModel) -> None:
    given = read_weights(PACKAGE)[0]
    loaded = lite0.network.state_dict()
    assert len(given) == len(loaded) == 296
    assert all(torch.equal(a, b) for a, b in zip(given.values(), loaded.values(), strict=True))
    assert not lite0.network.training
    assert not any(p.requires_grad for p in lite0.network.parameters())
    assert lite0.mean == lite0.std == (0.5, 0.5, 0.5)
    assert lite0.geometry == Geometry(224, "squash", 0.875, "bicubic")
    assert lite0.arch == "timm:tf_efficientnet_lite0"


def test_package_weights_see_the_cat(lite0: TargetModel) -> None:
    """scikit-image's cat is a tiger cat (class 282 of ImageNet): weights, order of keys and preprocessing are right."""
    import numpy as np
    from PIL import Image
    from skimage import data

    square = lite0.geometry.resize_image(Image.fromarray(data.chelsea()))
    images = torch.from_numpy(square.astype(np.float32) / 255).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (lite0.mean, lite0.std))
    with torch.inference_mode():
        scores = lite0.network((images - mean) / std)
    assert 282 in scores[0].topk(3).indices.tolist()


def test_digest_is_of_the_weights_and_not_of_the_file(tmp_path: Path, lite0: TargetModel) -> None:
    state = lite0.network.state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "renamed.pth")
    save_file(state, tmp_path / "other.safetensors")
    for name in ("renamed.pth", "other.safetensors"):
        again = load({"arch": "timm:tf_efficientnet_lite0", "weights": str(tmp_path / name)}, seed=5)
        assert again.digest == lite0.digest == digest_tensors(state)
    state["conv_stem.weight"] = state["conv_stem.weight"] + 1e-3
    save_file(state, tmp_path / "changed.safetensors")
    changed = load({"arch": "timm:tf_efficientnet_lite0", "weights": str(tmp_path / "changed.safetensors")})
    assert changed.digest != lite0.digest


def test_random_weights_follow_the_seed() -> None:
    one, again, other = (load({"arch": "torchvision:resnet18"}, seed) for seed in (1, 1, 2))
    assert one.digest == again.digest != other.digest
    assert one.geometry == Geometry(224, "squash", 0.875, "bilinear")
    assert one.mean == (0.485, 0.456, 0.406)


def test_weights_of_another_number_of_classes(tmp_path: Path) -> None:
    torch.save(load({"arch": "resnet18", "num_classes": 7}).network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"2 of another shape \(fc\.weight \(7, 512\) instead of \(1000, 512\), fc\.bias "
    ):
        load({"arch": "resnet18", "weights": str(tmp_path / "a.pth")})
    assert load({"arch": "resnet18", "weights": str(tmp_path / "a.pth"), "num_classes": 7}).network.get_parameter(
        "fc.bias"
    ).shape == (7,)


def test_preprocessing_can_be_set() -> None:
    chosen = PreprocessingSettings(
        size_px=96, fit="center_crop", crop_share=0.5, mean=(0.1, 0.2, 0.3), std=(1, 2, 3), interpolation="bicubic"
    )
    model = load_target_model(ModelSettings(arch="torchvision:resnet18", preprocessing=chosen), 0)
    assert model.geometry == Geometry(96, "center_crop", 0.5, "bicubic")
    assert model.describe_preprocessing() == {
        "size_px": 96,
        "fit": "center_crop",
        "crop_share": 0.5,
        "interpolation": "bicubic",
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 2.0, 3.0],
    }


def test_share_of_the_crop_counts_only_when_there_is_a_crop() -> None:
    one = load({"arch": "resnet18", "preprocessing": {"crop_share": 0.5}})
    assert one.describe_preprocessing()["crop_share"] is None


def test_loading_leaves_the_global_generator_where_it_was() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    load({"arch": "torchvision:resnet18"}, seed=4)
    assert torch.equal(torch.rand(3), expected)


def test_size_of_a_config_that_is_not_square_is_taken() -> None:
    from lavise.storage.models.architectures import find_architecture

    assert find_architecture("timm:vit_base_patch16_sapiens2.fb", None).size_px == (1024, 768)
    assert find_architecture("timm:resnet18", None).size_px == 224


def test_input_that_is_not_square_is_stated() -> None:
    model = load({"arch": "resnet18", "preprocessing": {"size_px": [96, 64]}})
    assert model.describe_preprocessing()["size_px"] == [96, 64]
    assert model.geometry.shape == (96, 64)
    square = load({"arch": "resnet18", "preprocessing": {"size_px": [64, 64]}})
    assert square.describe_preprocessing()["size_px"] == 64
    assert (model.find_layer("layer3").height, model.find_layer("layer3").width) == (6, 4)


def test_network_of_bands() -> None:
    numbers = {"mean": [0.1] * 5, "std": [0.2] * 5, "size_px": 64}
    model = load({"arch": "timm:resnet18", "options": {"in_chans": 5}, "preprocessing": numbers})
    assert model.channels == 5
    assert model.find_layer("layer4").channels == 512
    model.select_layers("auto")
    with pytest.raises(UserError, match=r"takes pictures of 5 channels, not of 3 .* \.std to 5 numbers each"):
        load({"arch": "timm:resnet18", "options": {"in_chans": 5}}).select_layers("auto")


def test_options_may_hold_a_size() -> None:
    settings = {"arch": "timm:vit_tiny_patch16_224", "options": {"img_size": [96, 64]}}
    model = load({**settings, "preprocessing": {"size_px": [96, 64]}})
    assert (model.find_layer("blocks.1").height, model.find_layer("blocks.1").width) == (6, 4)


@pytest.mark.parametrize("axes", [4, 5])
def test_weights_are_laid_out_with_channels_last_where_torch_allows_it(axes: int) -> None:
    """A network that keeps a tensor of five axes, as some keep grids, is used as it is."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    network.register_buffer("grid", torch.zeros((2,) * axes))
    model = TargetModel("own", network, "0", "0", Geometry(16), (0.0,) * 3, (1.0,) * 3)
    placed = model.place("cpu")
    assert isinstance(placed, torch.nn.Sequential)
    weight = placed[0].weight
    assert isinstance(weight, torch.Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last) == (axes == 4)
    assert placed(torch.zeros(1, 3, 16, 16)).shape == (1, 4, 14, 14)
