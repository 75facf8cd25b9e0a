"""Architectures by name, and callables of the user's own."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import pytest
import torch

from lavise.configs.errors import UserError
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
