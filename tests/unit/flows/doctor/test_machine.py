from __future__ import annotations

import os
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

from lavise.flows.doctor import Status, machine
from lavise.storage.state.locks import try_lock
from tests.unit.flows.doctor.helpers import look

GB = 10**9

# Installation


@pytest.mark.parametrize(
    ("requirement", "fault"),
    [
        ("numpy>=2.0", None),
        ("Typer", None),
        ("numpy<1", f"numpy {metadata.version('numpy')} is outside <1"),
        ("no-such-package-of-anyone>=1", "no-such-package-of-anyone is not installed"),
    ],
)
def test_package_faults(requirement: str, fault: str | None) -> None:
    assert machine.find_package_fault(Requirement(requirement)) == fault


def install_stand_in(folder: Path, *lines: str) -> None:
    """An installed distribution `lavise` that asks for something else; found first on the path."""
    info = folder / "lavise-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", "Name: lavise", "Version: 9.9", *lines, ""]))


def test_packages_out_of_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("numpy<1", "typer", "absent-package>=2", "numpy<1; python_version < '3'")
    install_stand_in(tmp_path, *(f"Requires-Dist: {line}" for line in wanted))
    monkeypatch.syspath_prepend(str(tmp_path))
    check = look(machine.check_packages)
    assert check.status == "failed"
    assert check.found == f"numpy {metadata.version('numpy')} is outside <1; absent-package is not installed"
    assert "make setup" in check.advice
    monkeypatch.setattr(machine, "CHECKOUT", tmp_path)
    assert "-m pip install 'numpy<1' 'absent-package>=2'`" in look(machine.check_packages).advice


def test_python_out_of_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(machine.check_python).status == "ok"
    install_stand_in(tmp_path, "Requires-Python: >=4")
    monkeypatch.syspath_prepend(str(tmp_path))
    check = look(machine.check_python)
    assert (check.status, check.advice) == ("failed", "make the environment anew with a Python >=4")


def test_torchvision_of_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that are not registered, as where torchvision was built for another torch."""
    import torchvision.ops

    def refuse(*_: Any) -> None:
        torch.ops.torchvision_of_another_release.nms()

    assert look(machine.check_torch).status == "ok"
    monkeypatch.setattr(torchvision.ops, "nms", refuse)
    check = look(machine.check_torch)
    assert check.status == "failed"
    assert "torchvision_of_another_release" in check.found


# Machine


def test_device_of_this_machine() -> None:
    assert look(partial(machine.check_device, "cpu")).status == "ok"
    check = look(partial(machine.check_device, "auto"))
    if torch.cuda.is_available():
        assert check.found.startswith(torch.cuda.get_device_name())
    else:
        assert (
            check.found.startswith(f"CPU, {len(os.sched_getaffinity(0))} cores") or "torch does not see" in check.found
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_asked_for_and_not_there() -> None:
    check = look(partial(machine.check_device, "cuda"))
    assert check.status == "failed"
    assert check.advice


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees the GPU")
@pytest.mark.parametrize(("wanted", "status"), [("auto", "warning"), ("cuda", "failed"), ("cpu", "ok")])
def test_gpu_that_torch_does_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, status: Status
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA Something (UUID: GPU-1)'\necho 'GPU 1: NVIDIA Something (UUID: 2)'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    check = look(partial(machine.check_device, wanted))
    assert check.status == status
    assert check.found.startswith("GPU 0: NVIDIA Something, which torch does not see; CPU, ") is (wanted != "cpu")
    assert ("CUDA" in check.advice) is (wanted != "cpu")


def write_files(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_memory_of_a_container(tmp_path: Path) -> None:
    stat = "anon 1\ninactive_file 50\n"
    write_files(tmp_path / "a", memory__max="max", memory__current="7", memory__stat=stat)
    write_files(tmp_path / "a" / "b", memory__max="1000\n", memory__current="900\n", memory__stat=stat)
    write_files(tmp_path / "a" / "b" / "c", memory__max="800", memory__current="900", memory__stat=stat)
    assert machine.find_group_memory("0::/a/b/c\n", tmp_path) == [0, 150]
    assert machine.find_group_memory("0::/a\n", tmp_path) == []
    assert machine.find_group_memory("0::/\n", tmp_path) == []


def test_memory_of_a_container_of_the_first_version(tmp_path: Path) -> None:
    stat = "inactive_file 1\ntotal_inactive_file 5\n"
    write_files(tmp_path / "memory", memory__limit_in_bytes="4000", memory__usage_in_bytes="1000", memory__stat=stat)
    # As in a container whose own group is mounted at the top, under a path that is only known outside.
    own = "3:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n"
    assert machine.find_group_memory(own, tmp_path) == [3005]


def test_memory_of_this_machine() -> None:
    assert look(machine.check_memory).found.partition(" GB can be had")[1]


@pytest.mark.parametrize(("free", "status"), [(0.9, "failed"), (1.0, "warning"), (9.9, "warning"), (10.0, "ok")])
def test_room(free: float, status: Status) -> None:
    check = machine.check_room("disk", int(free * GB), "free", (GB, 10 * GB), "free some")
    assert (check.status, check.found.startswith(f"{free:.1f} GB free")) == (status, True)


def test_disk_of_a_state_folder_that_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert f" GB free for {folder}" in look(partial(machine.check_disk, folder)).found


# State folder


def test_state_folder_that_is_there(tmp_path: Path) -> None:
    root = tmp_path / "state"
    root.mkdir(mode=0o700)
    check = look(partial(machine.check_state_folder, root))
    assert (check.status, check.found) == ("ok", f"{root}: writes, renames and locks")
    assert list(root.iterdir()) == []


def test_state_folder_that_others_can_read(tmp_path: Path) -> None:
    root = tmp_path / "my state"
    root.mkdir()
    root.chmod(0o750)
    check = look(partial(machine.check_state_folder, root))
    assert (check.status, check.advice) == ("warning", f"`chmod 700 '{root}'`")


def test_state_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # what is made in it is the user's alone all the same
    check = look(partial(machine.check_state_folder, tmp_path / "a" / "b"))
    assert (check.status, "made by the first run" in check.found) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


def test_state_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check = look(partial(machine.check_state_folder, tmp_path / "file" / "state"))
    assert check.status == "failed"
    assert "cannot write: [Errno 20] Not a directory" in check.found
    assert "LAVISE_HOME" in check.advice


def test_lock_that_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system that grants every lock: here, because each is on a file of its own."""
    assert machine.try_out_folder(tmp_path) is None
    numbers = iter(range(2))
    monkeypatch.setattr(machine, "try_lock", lambda path: try_lock(path.with_suffix(f".{next(numbers)}")))
    assert machine.try_out_folder(tmp_path) == "a lock (flock) does not keep others out"
    assert list(tmp_path.iterdir()) == []
