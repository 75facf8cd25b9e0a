"""Packed networks come back computing the same, or not at all."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lavise.configs.errors import UserError
from lavise.configs.schema import ModelSettings
from lavise.storage.models.packed_network import PackedNetwork, keep_weights, load_packed_network, save_packed_network
from lavise.storage.models.target_model import TargetModel, load_target_model
from tests.unit.storage.models.helpers import Small, equal, load


class Tied(nn.Module):
    """Two layers that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 3, 1)
        self.other = nn.Conv2d(3, 3, 1)
        self.other.weight = self.one.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.other(self.one(images))
        return out


def pack(model: TargetModel, folder: Path, layer: str, num_classes: int | None = None) -> Path:
    folder.mkdir()
    save_packed_network(PackedNetwork(model, num_classes, layer), folder)
    return folder


@pytest.mark.parametrize("fit", ["squash", "center_crop"])
def test_packed_network_comes_back(tmp_path: Path, fit: str) -> None:
    preprocessing = {"size_px": 24, "fit": fit, "crop_share": 0.5, "std": (1, 2, 3), "interpolation": "bicubic"}
    model = load({"arch": f"{Small.__module__}:Small", "num_classes": 5, "preprocessing": preprocessing}, seed=4)
    model.network.to(memory_format=torch.channels_last)
    random_state = torch.get_rng_state()
    found = load_packed_network(pack(model, tmp_path / "packed", "conv", 5))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (found.layer, found.num_classes) == ("conv", 5)
    assert equal(found.model.network.state_dict(), dict(model.network.state_dict()))
    assert not found.model.network.training
    assert (found.model.arch, found.model.digest, found.model.code) == (model.arch, model.digest, model.code)
    assert found.model.describe_preprocessing() == model.describe_preprocessing()
    assert sorted(p.name for p in (tmp_path / "packed").iterdir()) == ["network.json", "network.safetensors"]


def test_packed_network_of_a_library_keeps_its_preprocessing(tmp_path: Path, lite0: TargetModel) -> None:
    found = load_packed_network(pack(lite0, tmp_path / "packed", "bn2")).model
    assert (found.digest, found.geometry, found.mean, found.std) == (
        lite0.digest, lite0.geometry, lite0.mean, lite0.std,
    )  # fmt: skip


def test_packed_network_with_shared_weights(tmp_path: Path) -> None:
    model = load({"arch": f"{__name__}:Tied"}, seed=1)
    found = load_packed_network(pack(model, tmp_path / "packed", "other")).model.network
    assert equal(found.state_dict(), dict(model.network.state_dict()))


def test_packed_weights_that_were_changed(tmp_path: Path) -> None:
    folder = pack(load({"arch": f"{Small.__module__}:Small"}), tmp_path / "packed", "conv")
    tensors = load_file(folder / "network.safetensors")
    save_file({**tensors, "head.bias": tensors["head.bias"] + 1}, folder / "network.safetensors")
    with pytest.raises(
        UserError, match=r"network\.safetensors: found weights with the digest \w{12}; allowed: \w{12}, as "
    ):
        load_packed_network(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("relu", "tanh"),
            r"^model\.arch: packed_for_tests:build with the packed weights gives other maps of 'block' than",
        ),
        (("block", "blocks"), r"^model\.weights: .*network\.safetensors does not fit the architecture: 2 missing"),
        (
            ("self.act = ", "self.activation = "),
            r"^model\.arch: packed_for_tests:build has no layer 'act' any more .*; use",
        ),
    ],
    ids=["works differently", "other names of weights", "layer is gone"],
)
def test_architecture_that_is_another_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    """Only the architecture's name is packed; its code is the user's, who may have gone on working on it."""
    monkeypatch.syspath_prepend(tmp_path)
    code = (
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.block = torch.nn.Conv2d(3, 4, 3)\n"
        "        self.act = torch.nn.Identity()\n"
        "    def forward(self, x): return getattr(self, 'act', torch.nn.Identity())(self.block(torch.relu(x)))\n"
        "def build(): return Net()\n"
    )

    def write(text: str) -> None:
        (tmp_path / "packed_for_tests.py").write_text(text)
        sys.modules.pop("packed_for_tests", None)
        importlib.invalidate_caches()

    write(code)
    layer = "act" if "act" in change[0] else "block"
    folder = pack(load({"arch": "packed_for_tests:build"}), tmp_path / "packed", layer)
    assert load_packed_network(folder).layer == layer
    write(code.replace(*change))
    with pytest.raises(UserError, match=message):
        load_packed_network(folder)


def test_setting_that_is_no_weight_is_noticed(tmp_path: Path) -> None:
    """torchvision's pretrained Inception also rescales its input, which its weights do not tell."""
    model = load({"arch": "torchvision:squeezenet1_1", "preprocessing": {"size_px": 64}})
    stem = model.network.get_submodule("features.0")
    assert isinstance(stem, nn.Conv2d)
    stem.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5 + 0.1,))
    with pytest.raises(
        UserError, match=r"gives other maps of 'features\.2' than when it was packed: its code is another"
    ):
        load_packed_network(pack(model, tmp_path / "packed", "features.2"))


def test_packed_network_of_bands_and_of_an_input_that_is_not_square(tmp_path: Path) -> None:
    preprocessing = {"size_px": [64, 96], "mean": [0.1] * 5, "std": [0.3] * 5}
    settings = {"arch": "timm:resnet18", "options": {"in_chans": 5}, "preprocessing": preprocessing}
    model = load(settings, seed=2)
    found = load_packed_network(pack(model, tmp_path / "packed", "layer2")).model
    assert (found.geometry, found.channels, found.digest) == (model.geometry, 5, model.digest)
    assert found.geometry.shape == (64, 96)
    assert dict(found.options) == {"in_chans": 5}


def test_weights_that_are_kept_elsewhere_are_not_copied(tmp_path: Path) -> None:
    """They are read from there again; gone or another, they are told of."""
    weights, arch = tmp_path / "epoch9.pt", f"{Small.__module__}:Small"
    torch.save(load({"arch": arch}, seed=4).network.state_dict(), weights)
    settings = ModelSettings.model_validate({"arch": arch, "weights": str(weights)})
    model, folder = load_target_model(settings, seed=1), tmp_path / "packed"
    folder.mkdir()
    save_packed_network(PackedNetwork(model, None, "conv", keep_weights(settings, seed=1)), folder)
    assert [p.name for p in folder.iterdir()] == ["network.json"]
    found = load_packed_network(folder)
    assert found.model.digest == model.digest
    assert found.kept_at is not None
    torch.save(load({"arch": arch}, seed=5).network.state_dict(), weights)
    with pytest.raises(UserError, match=r"epoch9\.pt: found weights with the digest \w{12}; allowed: \w{12}"):
        load_packed_network(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"epoch9\.pt"):
        load_packed_network(folder)


def test_a_copy_of_a_checkpoint_is_found_in_a_state_folder_that_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch, before, now = f"{Small.__module__}:Small", tmp_path / "before", tmp_path / "now"
    weights, folder = before / "checkpoints" / f"{'a' * 64}.pt", tmp_path / "packed"
    for made in (weights.parent, folder):
        made.mkdir(parents=True)
    torch.save(load({"arch": arch}, seed=4).network.state_dict(), weights)
    settings = ModelSettings.model_validate({"arch": arch, "weights": str(weights)})
    model = load_target_model(settings, seed=1)
    save_packed_network(PackedNetwork(model, None, "conv", keep_weights(settings, seed=1)), folder)
    before.rename(now)
    with pytest.raises(UserError, match=r"a\.pt"):
        load_packed_network(folder)
    monkeypatch.setenv("LAVISE_HOME", str(now))
    assert load_packed_network(folder).model.digest == model.digest


def test_random_weights_are_drawn_again(tmp_path: Path) -> None:
    settings = ModelSettings.model_validate({"arch": f"{Small.__module__}:Small", "weights": "random"})
    model = load_target_model(settings, seed=3)
    save_packed_network(PackedNetwork(model, None, "conv", keep_weights(settings, seed=3)), tmp_path)
    assert load_packed_network(tmp_path).model.digest == model.digest
