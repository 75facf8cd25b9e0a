"""Pickles that name classes: what is built, what is stood in for, what is refused, and that nothing runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import pickle
import types
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from lavise.storage.models.inert_pickle import Inert, RefusedClassError, load_pickle, walk

RAN: list[str] = []


class Recorder:
    """Writes down whatever an unpickler does to it."""

    def __init__(self) -> None:
        RAN.append("init")
        self.content = [1, 2]

    def __new__(cls) -> Recorder:
        RAN.append("new")
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        RAN.append("state")


def record(*arguments: Any) -> str:
    RAN.append("called")
    return "called"


class Calls:
    def __reduce__(self) -> tuple[Any, ...]:
        return record, ("argument",)


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()


def no_storage(pid: tuple[Any, ...]) -> Any:
    raise AssertionError(pid)


def load(content: Any, protocol: int = 2) -> Any:
    return load_pickle(io.BytesIO(pickle.dumps(content, protocol)), no_storage)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_containers_and_numbers_are_built(protocol: int) -> None:
    content = {
        "a": collections.OrderedDict(x=[1, 2.5, "text", None, True]),
        "b": ({1, 2}, frozenset({3}), (4, 5), b"bytes"),
        "big": 2**70,
        "counter": collections.Counter({"a": 3}),
        "default": collections.defaultdict(list, {"k": [1]}),
    }
    found = load(content, protocol)
    if protocol == 2:  # bytes are made by _codecs.encode there, which is not called
        assert isinstance(found["b"][3], Inert)
        found["b"] = (*found["b"][:3], b"bytes")
    assert found == content
    assert isinstance(found["a"], collections.OrderedDict)
    assert not isinstance(found["counter"], collections.Counter)


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(lr=0.1, model="resnet18"),
        types.SimpleNamespace(a=1),
        Path("/data/run"),
        PurePosixPath("a/b"),
        datetime.timedelta(seconds=3),
        np.float64(1.5),
        np.arange(3),
        b"",
        bytearray(b"x"),
        np.dtype("float32"),
        np.random.RandomState(0).get_state(legacy=False),
        torch.__version__,
        torch.device("cpu"),
        torch.Size([1, 2]),
        torch.float16,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_what_trainers_put_beside_weights_is_stood_in_for(value: Any, protocol: int) -> None:
    assert load({"epoch": 3, "beside": value}, protocol)["epoch"] == 3


def test_namespace_keeps_what_it_held() -> None:
    found = load(argparse.Namespace(model="resnet18"))
    assert isinstance(found, Inert)
    assert (found.origin, found.state) == ("argparse.Namespace", {"model": "resnet18"})


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("omegaconf.dictconfig", "DictConfig"),
        ("mmengine.logging.history_buffer", "HistoryBuffer"),
        ("fastcore.foundation", "L"),
        ("lightning.fabric.utilities.data", "AttributeDict"),
    ],
)
def test_classes_of_trainers_that_are_not_installed(module: str, name: str) -> None:
    data = pickle.dumps({"epoch": 3, "beside": Recorder()}, 2)
    data = data.replace(f"{__name__}\nRecorder\n".encode(), f"{module}\n{name}\n".encode())
    RAN.clear()
    found = load_pickle(io.BytesIO(data), no_storage)
    assert (found["epoch"], found["beside"].origin, found["beside"].state) == (
        3,
        f"{module}.{name}",
        {"content": [1, 2]},
    )
    assert RAN == []


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("value", [Recorder, Recorder(), Calls(), [Calls()], {"inner": (Recorder(),)}])
def test_class_outside_the_list_is_refused_before_anything_of_it_runs(value: Any, protocol: int) -> None:
    data = pickle.dumps({"epoch": 3, "hyper_parameters": {"net": value}}, protocol)
    RAN.clear()
    with pytest.raises(RefusedClassError) as err:
        load_pickle(io.BytesIO(data), no_storage)
    assert RAN == []
    assert err.value.name.rsplit(".", 1)[-1] in ("Recorder", "record", "_reconstructor")
    assert err.value.key.startswith("hyper_parameters.net")
    # The file is a real one: whoever unpickles it does run what it names.
    pickle.loads(data)
    assert RAN or value is Recorder


@pytest.mark.parametrize("function", [eval, exec, compile, open, __import__, setattr, io.open, pickle.loads])
def test_functions_outside_the_list_are_never_called(function: Any) -> None:
    class Asks:
        def __reduce__(self) -> tuple[Any, ...]:
            return function, ("0",)

    with pytest.raises(RefusedClassError):
        load(Asks())


def test_getattr_is_a_name_and_no_more() -> None:
    class Asks:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, ("text", "upper")

    assert isinstance(load([Asks()])[0], Inert)


def test_name_of_a_class_is_shown_without_terminal_codes() -> None:
    with pytest.raises(RefusedClassError) as err:
        load_pickle(io.BytesIO(b"cevil\x1b[31m\nname\n."), no_storage)
    assert err.value.name == "evil\\x1b[31m.name"


def test_object_that_holds_itself_is_walked_once() -> None:
    loop: dict[str, Any] = {"a": 1}
    loop["self"] = [loop]
    assert [key for key, _ in walk(load(loop))] == ["", "a", "self"]
