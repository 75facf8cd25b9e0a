"""Weights as people have them; files that are none; files that would run code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lavise.configs.errors import UserError
from lavise.storage.models.state_dicts import find_weights_file, load_weights, read_state_dict
from tests.unit.storage.models.helpers import Small, equal


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.witness),)


def trained(seed: int = 1) -> Small:
    """A network whose buffers are not those of a fresh one."""
    torch.manual_seed(seed)
    network = Small()
    network(torch.randn(8, 3, 9, 9))
    return network


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
