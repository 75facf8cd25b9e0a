"""Extraction that was stopped: killed, out of disk, or half there; the bytes are those of an undisturbed one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lavise.storage.activations import shard_name
from lavise.storage.images.images import num_decoded
from tests.unit.tasks.activations.test_extract import (
    BATCHES,
    LAYERS,
    SETTINGS,
    all_maps,
    extract,
    make_dataset,
    plain_forward,
)
from tests.unit.tasks.helpers import extract_maps, make_model


def content_of(folder: Path, shard: int) -> dict[str, bytes]:
    with h5py.File(folder / shard_name(shard), "r") as file:
        return {
            name: b"".join(map(bytes, file[name][:])) if name == "keys" else file[name][:].tobytes() for name in file
        }


def test_resumed_shard_has_the_same_bytes_and_others_are_left_alone(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    store = extract(model, dataset, tmp_path)["tail"]
    before = [content_of(store.folder, s) for s in range(3)]
    (store.folder / shard_name(1)).unlink()
    (store.folder / "index.json").unlink()
    kept = [store.folder / shard_name(s) for s in (0, 2)]
    kept += [tmp_path / layer / shard_name(s) for layer in ("stem", "body.1") for s in range(3)]
    stamps = [(p.stat().st_mtime_ns, p.stat().st_ino) for p in kept]
    decoded = num_decoded()
    again = extract(model, dataset, tmp_path)["tail"]
    assert num_decoded() - decoded == 4
    assert [content_of(again.folder, s) for s in range(3)] == before
    assert [(p.stat().st_mtime_ns, p.stat().st_ino) for p in kept] == stamps
    assert again.keys == store.keys


def test_complete_store_is_not_computed_again(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    extract(model, dataset, tmp_path)
    decoded = num_decoded()
    extract(model, dataset, tmp_path)
    assert num_decoded() == decoded


def test_half_written_shard_is_made_again(tmp_path: Path) -> None:
    model, dataset = make_model(), make_dataset(tmp_path / "p")
    folder = tmp_path / "tail"
    folder.mkdir()
    (folder / "shard-000001.tmp").write_bytes(b"half of it")
    store = extract(model, dataset, tmp_path, ("tail",))["tail"]
    np.testing.assert_array_equal(all_maps(store), plain_forward(model, dataset, BATCHES, "tail"))
    assert not list(folder.glob("*.tmp"))


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
import torch
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.tasks.activations.extract import ExtractionInputs, extract_activations
from lavise.tasks.engine.stage_inputs import Given
from tests.unit.tasks.activations.test_extract import LAYERS, SETTINGS
from tests.unit.tasks.helpers import make_model

torch.set_num_threads(1)
pictures, root, num = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

class Bar:
    done = 0
    def advance(self, steps=1):
        self.done += steps
        if self.done >= num:
            os.kill(os.getpid(), signal.SIGKILL)

@contextmanager
def progress(title, total):
    yield Bar()

dataset = Dataset("pictures", tuple(ImageRecord(p.name, p) for p in sorted(pictures.iterdir())))
inputs = ExtractionInputs(make_model(), LAYERS, Given(dataset, "p" * 64), SETTINGS, "cpu", progress)
extract_activations(inputs, {name: root / name for name in LAYERS})
"""


def test_killed_with_shards_in_flight_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Twice, each time just after a batch was computed: shards of it are full, half full and being written."""
    torch.set_num_threads(1)
    model, dataset = make_model(), make_dataset(tmp_path / "p", num=23)
    undisturbed = extract(model, dataset, tmp_path / "undisturbed")
    root = tmp_path / "killed"
    for name in LAYERS:
        (root / name).mkdir(parents=True)
    for num in (10, 8):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "p"), str(root), str(num)]
        assert subprocess.run(command, cwd=Path(__file__).parents[4], check=False).returncode == -signal.SIGKILL
        assert not list(root.rglob("index.json"))
        for path in root.rglob("shard-*.h5"):
            whole = tmp_path / "undisturbed" / path.relative_to(root)
            assert path.read_bytes() == whole.read_bytes()
    decoded = num_decoded()
    resumed = extract(model, dataset, root)
    assert 23 - 18 <= num_decoded() - decoded < 23
    for layer in LAYERS:
        folder, other = undisturbed[layer].folder, resumed[layer].folder
        names = sorted(p.name for p in folder.iterdir())
        assert names == sorted(p.name for p in other.iterdir())
        assert all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_full_disk_stops_at_once_with_its_own_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's error comes out of the thread that computes, and no later shard is begun."""
    model, dataset = make_model(), make_dataset(tmp_path / "p", num=20)
    (tmp_path / "tail").mkdir()
    real, calls = os.fsync, []

    def fill_disk(descriptor: int) -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill_disk)
    with pytest.raises(OSError, match="No space left on device"):
        extract_maps(model, dataset, {"tail": tmp_path / "tail"}, SETTINGS)
    assert len(calls) <= 4
    assert {name.startswith("write") for name in calls} == {True}
    assert (tmp_path / "tail" / shard_name(0)).is_file()
    assert not (tmp_path / "tail" / shard_name(1)).exists()
    monkeypatch.undo()
    store = extract(model, dataset, tmp_path, ("tail",))["tail"]
    assert store.shape[0] == 20
    assert not [t for t in threading.enumerate() if t.name.startswith(("write", "decode"))]
