"""What a run ran on: versions, devices, the state of the code. Needed to repeat it and to understand a difference."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from lavise.configs.errors import UserError
from lavise.configs.paths import expand_home

_PACKAGES = (
    "lavise",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "h5py",
    "dask",
    "distributed",
    "gensim",
    "pycocotools",
    "pillow",
    "prefect",
    "mlflow",
    "pyarrow",
    "safetensors",
)


class GitState(TypedDict, total=False):
    """Commit of a checkout, and whether it was changed; empty where nothing is known."""

    commit: str
    dirty: bool


class Environment(TypedDict):
    """Versions, machine, device and git state, as in environment.json."""

    python: str
    platform: str
    packages: dict[str, str | None]
    device: str
    gpu: str | None
    cpu_threads: int
    git: GitState


def describe_environment(device: str) -> Environment:
    """Where an audit runs."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {p: _version(p) for p in _PACKAGES},
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "cpu_threads": torch.get_num_threads(),
        "git": read_git_state(Path(__file__).resolve().parents[2]),
    }


def read_git_state(folder: Path) -> GitState:
    """Commit of the checkout that the code runs from, and whether it was changed; empty for an installed wheel."""
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return {}

    def ask(*arguments: str) -> str:
        command = [git, "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (subprocess.SubprocessError, OSError):
        return {}  # git refuses (another owner, no commit) or hangs: nothing is known, which is not the same as clean


def find_state_root(configured: Path | None) -> Path:
    """The state folder: as configured, else LAVISE_HOME, else .lavise in the current folder; absolute."""
    return expand_home(configured or os.environ.get("LAVISE_HOME") or ".lavise").resolve()


def choose_device(configured: str) -> str:
    """`cpu` or `cuda`.

    Raises:
        UserError: cuda asked for and not there.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if configured == "cuda" and not has_cuda:
        raise UserError("device: found 'cuda', but this machine shows no usable GPU; allowed here: auto, cpu")
    return "cuda" if has_cuda and configured != "cpu" else "cpu"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
