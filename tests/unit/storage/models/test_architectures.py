"""Architectures by name, and callables of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import pytest
import torch

from lavise.configs.errors import UserError
from lavise.storage.models.layers import ActivationTap, Layer
from tests.unit.storage.models.helpers import load


@pytest.mark.parametrize(
    ("arch", "expected"),
    [("resnet18", "torchvision:resnet18"), ("tf_efficientnet_lite0", "timm:tf_efficientnet_lite0")],
)
def test_bare_name_is_torchvision_first_then_timm(arch: str, expected: str) -> None:
    assert load({"arch": arch, "num_classes": 3}).arch == expected


def test_number_of_classes() -> None:
    network = load({"arch": "torchvision:resnet18", "num_classes": 7}).network
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


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
        UserError,
        match=r"^model\.weights: 'pretrained' is for timm, torchvision and transformers; allowed here: random",
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


_CODE = """
import torch.nn as nn
from beside_for_tests import CHANNELS


def build(num_classes=3, width=CHANNELS):
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, num_classes, 1))
"""


def test_callable_of_a_file_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "some where"
    folder.mkdir()
    (folder / "beside_for_tests.py").write_text("CHANNELS = 4\n")
    file = folder / "my-net.py"
    file.write_text(_CODE)
    model = load({"arch": f"{file}:build", "options": {"width": 5}})
    assert isinstance(model.network[0], torch.nn.Conv2d)  # type: ignore[index]
    assert (model.network[0].out_channels, model.options) == (5, {"width": 5})  # type: ignore[index]
    assert model.arch == f"{file}:build"
    plain = load({"arch": f"{file}:build"})
    assert plain.network[0].out_channels == 4  # type: ignore[index]
    file.write_text(_CODE + "\n# changed\n")
    changed = load({"arch": f"{file}:build"})
    assert changed.code != plain.code, "the content of the file is part of what maps depend on"
    with pytest.raises(UserError, match=r"^model\.arch: found '.*none\.py', which is no file; allowed: path/to/"):
        load({"arch": f"{folder / 'none.py'}:build"})
    with pytest.raises(UserError, match=r"^model\.options: .* cannot be called with \{'depth': 3\} \(.*depth"):
        load({"arch": f"{file}:build", "options": {"depth": 3}})


def test_options_are_part_of_what_maps_depend_on() -> None:
    plain = load({"arch": "torchvision:resnet18"})
    wide = load({"arch": "torchvision:resnet18", "options": {"width_per_group": 64}})
    assert plain.digest == wide.digest
    assert plain.code != wide.code
    with pytest.raises(UserError, match=r"^model\.options: 'torchvision:resnet18' cannot be called with .*no_such"):
        load({"arch": "torchvision:resnet18", "options": {"no_such": 1}})


@pytest.mark.parametrize("arch", ["inception_v3", "googlenet"])
def test_fine_tuned_inception_has_to_say_how_it_takes_its_input(tmp_path: Path, arch: str) -> None:
    """torchvision sets `transform_input` with its trained weights; a state dict does not hold it, and without it the
    maps are another network's."""
    import torchvision

    torch.manual_seed(0)
    tuned = torchvision.models.get_model(arch, weights=None, init_weights=False, transform_input=True).eval()
    torch.save(tuned.state_dict(), tmp_path / "tuned.pth")
    settings = {"arch": f"torchvision:{arch}", "weights": str(tmp_path / "tuned.pth")}
    with pytest.raises(UserError, match=rf"^model\.options: {arch} was trained with transform_input true .* set model"):
        load(settings)
    images, first = torch.randn(1, 3, 128, 128), {"inception_v3": "Conv2d_1a_3x3", "googlenet": "conv1"}[arch]
    layer = Layer(first, "BasicConv2d", 1, 1, 1)
    with torch.inference_mode(), ActivationTap(tuned, (layer,)) as tap:
        tuned(images)
        expected = tap.maps[first]
    for answer in (True, False):
        model = load({**settings, "options": {"transform_input": answer}, "preprocessing": {"size_px": 128}})
        with torch.inference_mode(), ActivationTap(model.network, (layer,)) as tap:
            model.network(images)
            difference = float((tap.maps[first] - expected).norm() / expected.norm())
        assert difference == 0 if answer else difference > 0.5
    random = load({"arch": f"torchvision:{arch}"})
    assert random.options == {}


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fasterrcnn_resnet50_fpn", "raft_small", "r3d_18"])
def test_builders_of_other_tasks_are_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.arch: torchvision's '{name}' does not classify pictures"):
        load({"arch": f"torchvision:{name}"})


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_script_module_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\n\n\ndef build():\n    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))\n"
        "    return torch.jit.trace(net, torch.zeros(1, 3, 8, 8))\n"
    )
    with pytest.raises(UserError, match=r"returned a ScriptModule, whose layers cannot be read; allowed: the"):
        load({"arch": f"{file}:build"})


@pytest.mark.parametrize("precision", ["as_built", "float32"])
def test_network_in_half_precision(tmp_path: Path, precision: str) -> None:
    file = tmp_path / "half.py"
    file.write_text(
        "import torch\n\n\ndef build():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).bfloat16()\n"
    )
    model = load({"arch": f"{file}:build", "precision": precision})
    assert model.dtype == (torch.float32 if precision == "float32" else torch.bfloat16)


def test_module_beside_a_file_that_is_another_folders_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the second network would be built of the first one's parts, without a word."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = "import torch.nn as nn\nimport parts_for_tests as p\n\n\ndef build():\n    return nn.Conv2d(3, p.N, 1)\n"
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "parts_for_tests.py").write_text(f"N = {number}\n")
        (folder / "net.py").write_text(code + f"# {number}\n")
    try:
        assert load({"arch": f"{tmp_path / '1' / 'net.py'}:build"}).network.out_channels == 1
        expected = r"^model\.arch: net\.py imports 'parts_for_tests', which lies beside it, but another module has that"
        with pytest.raises(UserError, match=expected):
            load({"arch": f"{tmp_path / '2' / 'net.py'}:build"})
    finally:
        sys.modules.pop("parts_for_tests", None)
