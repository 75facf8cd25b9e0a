"""File systems that lack something. tests/unit/benchmarks/test_network_disk.py sees the same on real ones, where these
can be mounted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lavise.configs.errors import UserError
from lavise.configs.schema import TrackingSettings
from lavise.flows.doctor.machine import try_out_folder
from lavise.storage.state import file_system
from lavise.storage.state.housekeeping import hold_state
from lavise.storage.tracking import open_tracker

LACKS = [
    ("fcntl.flock", errno.ENOLCK, "no locks (flock: No locks available)"),
    ("mmap.mmap", errno.ENODEV, "no memory maps (mmap: No such device)"),
    ("os.fchmod", errno.EPERM, "no modes, which MLflow sets (chmod: Operation not permitted)"),
]


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(("call", "number", "reason"), LACKS)
def test_what_is_lacking_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: str
) -> None:
    file_system.require_file_system(tmp_path, modes=True)
    monkeypatch.setattr(f"lavise.storage.state.file_system.{call}", refuse(number))
    with pytest.raises(UserError) as error:
        open_tracker(TrackingSettings(), tmp_path)
    assert str(error.value) == (
        f"storage.root: {tmp_path / 'mlflow'} is on a file system with {reason}; set storage.root or LAVISE_HOME to a "
        "folder on a local disk"
    )
    assert try_out_folder(tmp_path) == reason
    assert [p.name for p in tmp_path.rglob("*")] == ["mlflow"]


@pytest.mark.parametrize(("call", "number", "reason"), LACKS[1:])
def test_an_audit_without_mlflow_here_needs_no_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: str
) -> None:
    monkeypatch.setattr(f"lavise.storage.state.file_system.{call}", refuse(number))
    if call == "os.fchmod":
        with hold_state(tmp_path, exclusive=False):
            return
    with pytest.raises(UserError, match=r"no memory maps"), hold_state(tmp_path, exclusive=False):
        pass


def test_other_errors_are_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavise.storage.state.file_system.fcntl.flock", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        file_system.require_file_system(tmp_path)
