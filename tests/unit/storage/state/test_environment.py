from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from lavise.configs.errors import UserError
from lavise.storage.state.environment import choose_device, describe_environment, find_state_root, read_git_state

ROOT = Path(__file__).resolve().parents[4]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_environment_says_what_ran() -> None:
    facts = describe_environment("cpu")
    assert facts["packages"]["torch"] == metadata.version("torch")
    assert facts["packages"]["h5py"] == metadata.version("h5py")
    assert facts["device"] == "cpu"
    assert facts["gpu"] is None
    assert facts["cpu_threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(facts)) == facts


def test_git_state_of_a_folder_that_is_no_checkout(tmp_path: Path) -> None:
    assert read_git_state(tmp_path) == {}


def test_git_state_follows_commit_and_changes(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    assert read_git_state(tmp_path) == {}, "no commit yet"
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "first")
    assert read_git_state(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert read_git_state(tmp_path)["dirty"] is True


def test_state_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAVISE_HOME", raising=False)
    assert find_state_root(None) == tmp_path.resolve() / ".lavise"
    monkeypatch.setenv("LAVISE_HOME", "")
    assert find_state_root(None) == tmp_path.resolve() / ".lavise"
    monkeypatch.setenv("LAVISE_HOME", "elsewhere")
    assert find_state_root(None) == tmp_path.resolve() / "elsewhere"
    assert find_state_root(tmp_path / "given") == tmp_path.resolve() / "given"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_state_root(Path("~/x")) == tmp_path.resolve() / "home" / "x"


def test_device_of_this_machine() -> None:
    here = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto") == here
    assert choose_device("cpu") == "cpu"


def test_gpu_that_is_not_there() -> None:
    """In a process that is shown no GPU, so that the answer is the same on every machine."""
    code = (
        "from lavise.storage.state.environment import choose_device\n"
        "try: choose_device('cuda')\n"
        "except Exception as err: print(repr(err))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert UserError.__name__ in done.stdout
    assert "device: found 'cuda', but this machine shows no usable GPU; allowed here: auto, cpu" in done.stdout
