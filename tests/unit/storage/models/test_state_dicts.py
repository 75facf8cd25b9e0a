"""Weights as people have them; files that are none; files that would run code."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lavise.configs.errors import CheckpointError, UserError
from lavise.storage.models.checkpoint_files import read_checkpoint
from lavise.storage.models.state_dicts import list_state_dicts, load_weights
from lavise.storage.models.weight_files import find_weights_file
from tests.unit.storage.models.helpers import Small, equal


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.witness),)


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The only one of a file."""
    (found,) = list_state_dicts(read_checkpoint(path), path)
    return dict(found.tensors)


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
        UserError, match=r"^model\.weights: found no state dict of a network in .*a\.pth; allowed: a state dict of"
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
        UserError,
        match=r"^model\.weights: .* (but a pickled object|holds an object of the class) .*posix\.mkdir",
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
    expected = (
        r"is no state dict but a pickled object \(torch\.nn\.modules\.container\.Sequential\), which only code could "
        r"read; where its classes are installed and you trust it: torch\.save\(torch\.load\('a\.pt', "
        r"weights_only=False\)\.state_dict\(\), 'weights\.pt'\)$"
    )
    with pytest.raises(UserError, match=expected):
        read_state_dict(tmp_path / "a.pt")


def test_text_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("hello")
    with pytest.raises(UserError, match=r"^model\.weights: .*a\.safetensors is no checkpoint; allowed: what torch"):
        read_state_dict(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "net.", "backbone.", "module._orig_mod.", "model.backbone."]
)
def test_prefixes_of_wrappers(prefix: str) -> None:
    network = Small()
    load_weights(network, {prefix + k: v for k, v in trained().state_dict().items()}, Path("file"))
    assert equal(network.state_dict(), dict(trained().state_dict()))


def test_names_that_begin_like_a_wrapper_are_kept() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = Small()

    source, network = Wrapped(), Wrapped()
    load_weights(network, source.state_dict(), Path("file"))
    assert equal(network.state_dict(), source.state_dict())


def test_weights_saved_without_the_batch_counter() -> None:
    state = trained().state_dict()
    del state["bn.num_batches_tracked"]
    network = Small()
    load_weights(network, state, Path("file"))
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
        load_weights(Small(), state, Path("my.pth"))


def test_mismatch_leaves_the_network_as_it_was() -> None:
    network = Small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(UserError, match=r"1 missing \(head\.bias\)"):
        load_weights(network, {k: v for k, v in trained().state_dict().items() if k != "head.bias"}, Path("file"))
    assert equal(network.state_dict(), before)


def test_pairing_by_order() -> None:
    state = {f"tensor{i:02d}": v for i, v in enumerate(trained().state_dict().values())}
    network = Small()
    load_weights(network, state, Path("file"), by_order=True)
    assert equal(network.state_dict(), dict(trained().state_dict()))
    with pytest.raises(UserError, match=r"\d+ missing \(conv\.weight, .*\d+ unexpected \(tensor00, "):
        load_weights(Small(), state, Path("file"))


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
        load_weights(Small(), state, Path("file"), by_order=True)


def test_weights_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^model\.weights: found '.*none\.pth', which is no file; allowed: random, pretrai"
    ):
        find_weights_file(str(tmp_path / "none.pth"))


def test_packages_without_weights() -> None:
    with pytest.raises(
        UserError, match=r"^model\.weights: package 'no-such-thing' is not installed; install it, or give"
    ):
        find_weights_file("package:no-such-thing")
    with pytest.raises(
        UserError, match=r"^model\.weights: found 0 weight files in package 'pyyaml'; allowed: exactly one$"
    ):
        find_weights_file("package:pyyaml")


def states(*seeds: int) -> list[dict[str, torch.Tensor]]:
    return [dict(trained(seed).state_dict()) for seed in seeds]


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (
            lambda a, b: {"model": a, "model_ema": with_prefix(b, "module.", n_averaged=torch.tensor(3))},
            "model, model_ema (the average (EMA))",
        ),
        (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "state_dict, state_dict_ema (the average (EMA))"),
        (
            lambda a, b: {"state_dict": b, "ema_state_dict": with_prefix(a, "module.", steps=torch.tensor(3))},
            "state_dict (the average (EMA)), ema_state_dict (the raw weights)",
        ),
        (
            lambda a, b: {
                "state_dict": b,
                "current_model_state": a,
                "averaging_state": {"n_averaged": torch.tensor(3)},
            },
            "state_dict (the average), current_model_state (the raw weights)",
        ),
        (
            lambda a, b: {"state_dict": a, "callbacks": {"StochasticWeightAveraging": {"average_model_state": b}}},
            "state_dict, callbacks.StochasticWeightAveraging.average_model_state (the average (SWA) with batch "
            "statistics that were never trained: no network of its own)",
        ),
        (
            lambda a, b: {"student": with_prefix(a, "module."), "teacher": b},
            "student (the student), teacher (the teacher)",
        ),
    ],
    ids=["torchvision", "timm", "mmengine", "lightning average", "lightning SWA", "DINO"],
)
def test_average_beside_raw_weights_is_asked_for(make: Callable[..., dict[str, Any]], shown: str) -> None:
    raw, average = states(1, 2)
    content = make(raw, average)
    with pytest.raises(UserError) as err:
        load_weights(Small(), content, Path("last.pth"))
    assert str(err.value) == (
        f"model.weights_key: last.pth holds 2 networks that fit and differ: {shown}; set model.weights_key to the one "
        "to audit"
    )
    assert not isinstance(err.value, CheckpointError), "a question, not a fault of the checkpoint"
    for key in (part.split(" (")[0] for part in shown.replace("(the average (EMA))", "").split(", ")):
        network = Small()
        load_weights(network, content, Path("last.pth"), (key.strip(),))
        found = network.state_dict()
        assert equal(found, raw) or equal(found, average)


def with_prefix(state: dict[str, torch.Tensor], prefix: str, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**more, **{f"{prefix}{key}": value for key, value in state.items()}}


def test_key_takes_what_it_names() -> None:
    raw, average = states(1, 2)
    content = {"model": raw, "model_ema": with_prefix(average, "module.", n_averaged=torch.tensor(3))}
    for keys, expected in (
        (("model",), raw),
        (("model_ema",), average),
        (("state_dict_ema", "model_ema", "auto"), average),
    ):
        network = Small()
        load_weights(network, content, Path("last.pth"), keys)
        assert equal(network.state_dict(), expected)


def test_average_is_not_asked_for_where_it_is_the_same() -> None:
    (state,) = states(1)
    network = Small()
    load_weights(network, {"state_dict": state, "state_dict_ema": dict(state)}, Path("last.pth"))
    assert equal(network.state_dict(), state)


def test_average_that_lightning_put_into_use_is_not_asked_for() -> None:
    """At the end of SWA the parameters of both are the same, and only `state_dict` has batch statistics."""
    (state,) = states(1)
    fresh = {**state, "bn.running_mean": torch.zeros(4), "bn.running_var": torch.ones(4)}
    content = {"state_dict": state, "callbacks": {"StochasticWeightAveraging": {"average_model_state": fresh}}}
    network = Small()
    load_weights(network, content, Path("last.ckpt"))
    assert equal(network.state_dict(), state)


def test_key_that_is_not_there_is_answered_with_those_that_are() -> None:
    raw, average = states(1, 2)
    content = {"state_dict": raw, "state_dict_ema": average, "epoch": 3}
    with pytest.raises(CheckpointError) as err:
        load_weights(Small(), content, Path("last.pth"), ("model_ema",))
    assert str(err.value) == (
        "model.weights_key: found 'model_ema', but last.pth holds state_dict, state_dict_ema (the average (EMA)); name "
        "one of these, or add 'auto'"
    )
    (state,) = states(1)
    network = Small()
    load_weights(network, state, Path("bare.pth"), ("model_ema", "auto"))
    assert equal(network.state_dict(), state)
    load_weights(Small(), state, Path("bare.pth"), (".",))


def test_two_networks_under_one_key_are_told_by_their_prefix() -> None:
    """As MoCo's query and key encoders."""
    query, key = states(1, 2)
    content = {
        "state_dict": {
            **with_prefix(query, "module.encoder_q."),
            **with_prefix(key, "module.encoder_k."),
            "module.queue": torch.randn(8, 16),
        }
    }
    with pytest.raises(UserError) as err:
        load_weights(Small(), content, Path("moco.pth"))
    assert str(err.value) == (
        "model.weights_prefix: moco.pth holds 2 networks that fit and differ: 'module.encoder_k.', "
        "'module.encoder_q.'; set model.weights_prefix to the one to audit"
    )
    for prefix in ("module.encoder_q.", "module.encoder_q"):
        network = Small()
        load_weights(network, content, Path("moco.pth"), prefix=prefix)
        assert equal(network.state_dict(), query)
    with pytest.raises(CheckpointError, match="does not fit the architecture"):
        load_weights(Small(), content, Path("moco.pth"), prefix="module.encoder")


def test_keys_beside_the_network_are_listed_and_not_fatal(caplog: pytest.LogCaptureFixture) -> None:
    (state,) = states(1)
    content = {"state_dict": {**with_prefix(state, "model."), "loss_fn.weight": torch.randn(3, 2)}}
    network = Small()
    with caplog.at_level("INFO", logger="lavise"):
        load_weights(network, content, Path("last.ckpt"))
    assert equal(network.state_dict(), state)
    assert "last.ckpt holds loss_fn.weight beside the network" in caplog.text
    assert "taken from state_dict, prefix 'model.' of last.ckpt" in caplog.text


def test_keys_inside_the_networks_parts_make_it_another_network() -> None:
    (state,) = states(1)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(conv\.gate\.weight\)"):
        load_weights(Small(), {**state, "conv.gate.weight": torch.randn(4, 4)}, Path("a.pth"))


def test_head_of_another_size_is_said() -> None:
    (state,) = states(1)
    state |= {"head.weight": torch.randn(7, 4), "head.bias": torch.randn(7)}
    with pytest.raises(CheckpointError, match=r"its classifier head is of another size: set model\.num_classes=7$"):
        load_weights(Small(), state, Path("a.pth"))


def test_names_of_compiled_parts_are_plain_again() -> None:
    (state,) = states(1)
    network = Small()
    compiled = {key.replace("conv.", "conv._orig_mod.") if "conv" in key else key: v for key, v in state.items()}
    load_weights(network, with_prefix(compiled, "_orig_mod."), Path("a.pth"))
    assert equal(network.state_dict(), state)


def test_parametrised_weights_are_said() -> None:
    (state,) = states(1)
    state["conv.weight_orig"] = state.pop("conv.weight")
    with pytest.raises(
        CheckpointError, match=r"conv\.weight is in parts that are none of a known kind \(orig\); save it whole: "
    ):
        load_weights(Small(), state, Path("a.pth"))


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_parts_with_numbers_for_names_are_said(prefix: str) -> None:
    """As of fastai's vision_learner and Lightly, which cut networks into a Sequential."""
    body = nn.Sequential(nn.Conv2d(2, 2, 1))
    network = nn.Sequential(OrderedDict(stem=nn.Sequential(nn.Conv2d(3, 2, 1)), body=body))
    cut = with_prefix(dict(nn.Sequential(*network.children()).state_dict()), prefix)
    with pytest.raises(CheckpointError, match=r"4 missing .*; its parts have numbers for names"):
        load_weights(network, cut, Path("a.pth"))
    other = with_prefix(dict(body.state_dict()), "stem.1.")
    with pytest.raises(CheckpointError, match=r"set model\.arch and model\.num_classes to what"):
        load_weights(network, other, Path("a.pth"))


@pytest.mark.parametrize("active", [True, False])
def test_composers_average_is_told_from_the_raw_weights(caplog: pytest.LogCaptureFixture, active: bool) -> None:
    """Its `ema_model` is whatever is not in the network at that moment."""
    loaded, other = states(1, 2)
    average = {"ema_model": {"named_parameters_dict": other, "named_buffers_dict": {}}, "ema_weights_active": active}
    content = {"state": {"model": with_prefix(loaded, "module."), "algorithms": [("EMA", average)]}}
    kinds = {s.key: s.about for s in list_state_dicts(content, Path("a.pt"))}
    assert kinds == {
        "state.model": "the average (EMA)" if active else "",
        "state.algorithms.0.1.ema_model.named_parameters_dict": (
            f"parameters alone, {'the raw ones' if active else 'the average (EMA)'}"
        ),
    }
    with caplog.at_level("INFO", logger="lavise"):
        load_weights(Small(), content, Path("a.pt"), ("state.model",))
    assert ("state.model (the average (EMA)), prefix 'module.'" in caplog.text) == active


def test_shard_alone_is_answered_with_its_index() -> None:
    (state,) = states(1)
    state.popitem()
    with pytest.raises(CheckpointError, match=r"it is one of several shards: give their index \(\*\.index\.json\)"):
        load_weights(Small(), state, Path("model-00001-of-00002.safetensors"))


def test_folder_of_torch_distributed_is_a_checkpoint_itself(tmp_path: Path) -> None:
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / name).write_bytes(b"-")
    assert find_weights_file(str(tmp_path)) == tmp_path


def test_folder_with_one_checkpoint(tmp_path: Path) -> None:
    """As Hugging Face's checkpoint-N."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(b"-")
    assert find_weights_file(str(tmp_path)) == tmp_path / "model.safetensors"
    (tmp_path / "other.pt").write_bytes(b"-")
    with pytest.raises(
        UserError, match=r"found 2 checkpoints in the folder .*: model\.safetensors, other\.pt; give the"
    ):
        find_weights_file(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert find_weights_file(str(tmp_path)) == tmp_path / "model.safetensors.index.json"
