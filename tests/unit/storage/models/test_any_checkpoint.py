"""Checkpoints of somebody else: any structure is read as it is, any damage said, and nothing that is named is run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lavise.configs.errors import UserError
from lavise.storage.models import checkpoint_files
from lavise.storage.models.checkpoint_files import read_checkpoint
from lavise.storage.models.inert_pickle import Inert, RefusedClassError, _find_known, load_pickle
from tests.unit.storage.models.test_distributed_checkpoints import Chunk, write_chunks

QUIET = settings(max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAIN: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=10,
)
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
MODULES = st.sampled_from(
    ["os", "posix", "subprocess", "builtins", "sys", "lavise.configs.errors", "torch", "numpy", "pathlib"]
)
NAMES = st.sampled_from(
    ["system", "mkdir", "eval", "exec", "open", "exit", "load", "Popen", "Path", "UserError", "getattr"]
)


def refuse(pid: tuple[Any, ...]) -> Any:
    raise pickle.UnpicklingError("none here")


def load(content: bytes) -> Any:
    return load_pickle(io.BytesIO(content), refuse)


@QUIET
@given(PLAIN, st.integers(3, 5))
def test_plain_values_are_read_back(value: Any, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol)) == value


@QUIET
@given(MODULES, NAMES)
def test_no_name_is_looked_up(module: str, name: str) -> None:
    """A pickle that only names something, and one that calls it."""
    named = f"c{module}\n{name}\n".encode()
    for content in (named + b".", named + b"(U\x01xtR."):
        refused = ""
        try:
            found = load(content)
        except RefusedClassError as err:
            refused = err.name
        if refused:
            assert refused == f"{module}.{name}"
        else:
            assert isinstance(found, Inert) or (isinstance(found, type) and issubclass(found, Inert))
    assert _find_known(module, name) is None


@QUIET
@given(st.dictionaries(st.text(min_size=1), st.tuples(SHAPES, DTYPES), max_size=4), st.booleans())
def test_what_torch_saves_is_read_back(tmp_path: Path, shapes: dict[str, Any], new: bool) -> None:
    state = {key: torch.ones(shape, dtype=dtype) for key, (shape, dtype) in shapes.items()}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    found = read_checkpoint(tmp_path / "a.pth")
    assert list(found) == list(state)
    assert all(torch.equal(found[key], state[key]) and found[key].dtype == state[key].dtype for key in state)


@pytest.mark.parametrize("new", [True, False])
@settings(QUIET, max_examples=15)
@given(share=st.floats(0, 1, exclude_max=True))
def test_wherever_it_is_cut_it_is_said(tmp_path: Path, new: bool, share: float) -> None:
    torch.save({"a": torch.ones(30, 3), "b": [1, "two"]}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"^model\.weights: "):
        read_checkpoint(tmp_path / "a.pth")


@settings(QUIET, max_examples=10)
@given(data=st.data(), rows=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_chunks_that_cover_a_tensor_once_are_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: list[int]
) -> None:
    """Two columns of chunks; then one of them is moved."""
    whole = torch.arange(float(4 * sum(rows))).reshape(-1, 4)
    starts = [sum(rows[:i]) for i in range(len(rows))]
    chunks: list[Chunk] = [
        ((start, left), (n, 2), whole[start : start + n, left : left + 2].clone())
        for start, n in zip(starts, rows, strict=True)
        for left in (0, 2)
    ]
    folder = tmp_path_factory.mktemp("chunks")
    found = read_checkpoint(write_chunks(folder / "good", (len(whole), 4), chunks))
    assert torch.equal(found["net"]["weight"], whole)
    number = data.draw(st.integers(0, len(chunks) - 1))
    (top, left), size, tensor = chunks[number]
    moved = data.draw(st.sampled_from([(top + 1, left), (top, 2 - left), (top, left + 1), (top, left - 1), (-1, left)]))
    chunks[number] = (moved, size, tensor)
    with pytest.raises(UserError, match=r"^model\.weights: "):
        read_checkpoint(write_chunks(folder / "bad", (len(whole), 4), chunks))


def test_storage_larger_than_its_file_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """The number stands in the persistent id of torch's old form."""
    torch.save({"a": torch.ones(100)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pth").read_bytes()
    assert content.count(b"K\x64") >= 1
    (tmp_path / "a.pth").write_bytes(content.replace(b"K\x64", b"M\xff\xff", 1))
    with pytest.raises(UserError, match=r"a storage of 65535 numbers in a file of"):
        read_checkpoint(tmp_path / "a.pth")


def test_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    torch.save({"a": torch.zeros(50_000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as own,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as b,
    ):
        for name in own.namelist():
            b.writestr(name, own.read(name))
    assert torch.equal(read_checkpoint(tmp_path / "b.pth")["a"], torch.zeros(50_000))
    monkeypatch.setattr(checkpoint_files, "_MAX_UNPACKED_BYTES", 1000)
    read_checkpoint(tmp_path / "a.pth")  # not packed, however large
    with pytest.raises(UserError, match=r"b\.pth unpacks from [\d,]+ to 20\d,\d+ bytes; allowed: what torch\.save"):
        read_checkpoint(tmp_path / "b.pth")
