"""Folders that save_pretrained wrote: against what transformers itself makes of them, where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from lavise.configs.errors import UserError
from lavise.configs.schema import ModelSettings
from lavise.storage.models.class_names import load_class_names
from lavise.storage.models.target_model import TargetModel, load_target_model
from lavise.storage.models.transformers_networks import Preprocessing, find_names_in_files, find_network, list_labels

HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
needs_transformers = pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers is not installed: an optional extra")

RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "architectures": ["ResNetForImageClassification"],
    "embedding_size": 16,
    "hidden_sizes": [16, 32],
    "depths": [1, 1],
    "layer_type": "basic",
    "id2label": {"0": "tench, Tinca tinca", "1": "goldfish", "2": "<b>shark</b>"},
}
TOKENS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "resnet": RESNET,
    "regnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
    "convnext": {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "image_size": 64},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": 64},
    "vit": TOKENS,
    "swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64},
}
CONVNEXT_INPUT = {
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}


def write_config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**RESNET, **changes}))
    return folder


def read_input(folder: Path, content: dict[str, Any]) -> Preprocessing:
    (write_config(folder) / "preprocessor_config.json").write_text(json.dumps(content))
    return find_network(str(folder), {}).preprocessing


def load(folder: Path, **changes: Any) -> TargetModel:
    settings = {"arch": f"transformers:{folder}", "weights": "pretrained", "preprocessing": {"size_px": 64}}
    return load_target_model(ModelSettings.model_validate({**settings, **changes}), 0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("somebody asked a server")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@needs_transformers
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("kind", CONFIGS)
def test_network_answers_as_transformers_own(tmp_path: Path, kind: str) -> None:
    import transformers

    torch.manual_seed(1)
    config = transformers.CONFIG_MAPPING[kind].from_dict({"num_labels": 3, **CONFIGS[kind]})
    network = transformers.AutoModelForImageClassification.from_config(config)
    network.train()(torch.randn(4, 3, 64, 64))
    network.eval().save_pretrained(tmp_path / "saved")
    torch.save(network.state_dict(), tmp_path / "state.pth")
    images = torch.randn(2, 3, 64, 64)
    own = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "saved", local_files_only=True, attn_implementation="eager"
    )
    with torch.inference_mode():
        expected = own.eval()(images).logits
        # By the names of files and by those in memory, which are not the same for some kinds.
        for weights in ("pretrained", str(tmp_path / "saved"), str(tmp_path / "state.pth")):
            model = load(tmp_path / "saved", weights=weights)
            torch.testing.assert_close(model.network(images), expected)
    assert (find_names_in_files(model.network) is not None) == (kind in ("vit", "swin"))
    assert model.select_layers("auto")[0].channels in (16, 32, 128, 1280)
    assert "HF_HUB_OFFLINE" not in os.environ


@needs_transformers
@pytest.mark.usefixtures("no_network")
def test_settings_of_the_config_are_part_of_the_digest(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "a")
    model = load(folder, weights="random")
    assert load(folder, weights="random").code == model.code
    assert load(write_config(folder, hidden_act="gelu"), weights="random").code != model.code
    write_config(folder)
    assert load(folder, weights="random", options={"layer_type": "bottleneck"}).code != model.code
    assert load(folder, weights="random", num_classes=5).network(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(UserError, match=r"^model\.options: found 'auto_map', which is no setting of the network in"):
        load(folder, options={"auto_map": "x"})
    with pytest.raises(UserError, match=r"^model\.arch: transformers cannot build the network of .*config\.json \("):
        load(write_config(folder, hidden_act="none such"), weights="random")


@needs_transformers
def test_input_is_that_of_the_folder_and_the_rest_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read_input(tmp_path / "a", CONVNEXT_INPUT)
    assert (found.size_px, found.interpolation, found.crop_share) == (224, "bicubic", 0.875)
    assert (found.mean, found.std, found.undone) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), ())
    with caplog.at_level("INFO", logger="lavise"):
        model = load(tmp_path / "a", weights="random", preprocessing={})
    assert (model.geometry.size_px, model.mean, model.geometry.interpolation) == (224, (0.5, 0.4, 0.3), "bicubic")
    said = "preprocessor_config.json also asks for the centre (set fit: center_crop and crop_share: 0.875 for the same)"
    assert said in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="lavise"):
        load(tmp_path / "a", weights="random", preprocessing={"fit": "center_crop", "crop_share": 0.875})
    assert "preprocessor_config" not in caplog.text


@needs_transformers
@pytest.mark.parametrize(
    ("content", "size_px", "crop_share", "undone"),
    [
        ({"size": {"height": 96, "width": 96}}, 96, None, ()),
        ({"size": 96, "resample": 0}, 96, None, ("the resampling filter 0, not bilinear",)),
        ({"size": {"height": 96, "width": 64}}, 96, None, ("pictures of 96 x 64 pixels",)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.9}, 384, None, ()),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, 224, 0.875, ()),
        ({"size": {"shortest_edge": 256}}, 256, None, ("pictures that keep the ratio of their sides",)),
        ({"size": 96, "rescale_factor": 1}, 96, None, ("numbers that are not on the scale 0..1",)),
        ({"size": 96, "do_flip_channel_order": True}, 96, None, ("blue before red",)),
    ],
)
def test_sizes_and_what_cannot_be_done(
    tmp_path: Path, content: dict[str, Any], size_px: int, crop_share: float | None, undone: tuple[str, ...]
) -> None:
    found = read_input(tmp_path / "a", content)
    assert (found.size_px, found.crop_share) == (size_px, crop_share)
    assert len(found.undone) == len(undone)
    assert all(part.startswith(start) for part, start in zip(found.undone, undone, strict=True))


@needs_transformers
def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    assert read_input(tmp_path / "a", {"do_normalize": False}).std == (1.0, 1.0, 1.0)
    for content, said in (
        ({"image_mean": "0.5"}, "image_mean 0.5; allowed: a number for each of red, green and blue"),
        ({"image_std": [1, 0, 1]}, "which do not fit"),
    ):
        with pytest.raises(UserError, match=said):
            read_input(tmp_path / "a", content)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"auto_map": {"AutoModel": "x.Net"}}, r"names code of its own \(auto_map\), which is not run"),
        ({"model_type": "llama"}, r"is of the model_type 'llama'; allowed: beit, bit, .*file\.py:callable"),
        ({"model_type": ["resnet"]}, r"is of the model_type"),
        (
            {"model_type": "timm_wrapper"},
            r"is of the .*set model\.arch to timm:NAME and give the folder as model\.weights",
        ),
        ({"quantization_config": {"bits": 4}}, "is of a quantised network"),
        ({"dtype": "load"}, r"has dtype 'load'; allowed: float32, float16, bfloat16, float64"),
    ],
)
def test_configs_that_are_not_built(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.arch: .*config\.json {said}"):
        find_network(str(write_config(tmp_path / "a", **changes)), {})


def test_folder_without_a_config_and_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*config\.json .*allowed: transformers:FOLDER, which save_pre"):
        find_network(str(tmp_path), {})
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        find_network(str(tmp_path), {})
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds no mapping"):
        find_network(str(tmp_path), {})


@pytest.mark.skipif(HAS_TRANSFORMERS, reason="transformers is installed")
def test_missing_package_is_said_with_what_installs_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="install it: uv sync --extra transformers, or pip install transformers"):
        find_network(str(write_config(tmp_path / "a")), {})


def test_class_names_are_those_of_the_config(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "a")
    settings = ModelSettings(arch=f"transformers:{folder}")
    found = load_class_names(settings, 3)
    assert found is not None
    assert (found.names, found.source) == ((("tench", "Tinca tinca"), ("goldfish",), ("<b>shark</b>",)), "config")
    assert load_class_names(settings, 4) is None
    assert list_labels(str(write_config(folder, id2label={"0": "LABEL_0", "1": "LABEL_1"}))) == []
    assert list_labels(str(write_config(folder, id2label={"0": "a", "2": "b"}))) == []
    assert list_labels(str(write_config(folder, id2label=None))) == []
