"""Virtual environments of other people's tools: pinned packages beside the torch of the interpreter that runs this."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
_SHARED = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Tool:
    """A library that writes files which lavise reads.

    Attributes:
        name: of its script and its folder.
        distribution: whose version the table shows.
        packages: pinned, for pip; none where this interpreter has them.
        without_dependencies: pinned, of which pip is not to install what they ask for.
        builders: installed first, where packages are built from their source with what is installed.
    """

    name: str
    distribution: str
    packages: tuple[str, ...] = ()
    without_dependencies: tuple[str, ...] = ()
    builders: tuple[str, ...] = ()


def make_environment(tool: Tool, folder: Path) -> Path:
    """Its interpreter; installed where it is not there yet.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    python = folder / "bin" / "python"
    done = folder / "installed"
    said = repr((tool.packages, tool.without_dependencies))
    if done.is_file() and done.read_text("utf-8") == said:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    # Packages of this interpreter, after those of the environment.
    packages = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (packages / "zz_shared.pth").write_text(f"{metadata.distribution('torch').locate_file('')}\n", "utf-8")
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{n}=={metadata.version(n)}\n" for n in _SHARED), "utf-8")
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    if tool.builders:
        subprocess.run([*install, *tool.builders], check=True)
        install.append("--no-build-isolation")
    if tool.packages:
        subprocess.run([*install, *tool.packages], check=True)
    if tool.without_dependencies:
        subprocess.run([*install, "--no-deps", *tool.without_dependencies], check=True)
    done.write_text(said, "utf-8")
    return python


def run_script(module: str, python: Path, folder: Path) -> None:
    """Have a module of ours write files below a folder; what it says goes into a log beside the folder.

    Raises:
        subprocess.CalledProcessError: the script failed.
    """
    process = start_script(module, python, folder)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, process.args)


def start_script(module: str, python: Path, folder: Path) -> subprocess.Popen[bytes]:
    """The same, without waiting for it; without network, as far as the library lets itself be told."""
    settings = {
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder.parent / "huggingface"),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str(folder.parent),
        "WANDB_DISABLED": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "KERAS_BACKEND": "torch",
        "DS_ACCELERATOR": "cpu",
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",  # mmengine cannot read its own files without
    }
    folder.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = [python, "-P", "-m", module, folder]
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env={**os.environ, **settings}, stdout=log, stderr=log)


def make_files(tool: Tool, module: str, work: Path) -> tuple[Path, str]:
    """The folder with what a tool wrote, kept where it is there already, and the tool's name with its version.

    Args:
        module: of ours, that has it write.
        work: for environments and files.
    """
    folder, done = work / "files" / tool.name, work / "files" / f"{tool.name}.done"
    python = make_environment(tool, work / "environments" / tool.name)
    if not done.is_file():
        run_script(module, python, folder)
        done.touch()
    return folder, f"{tool.distribution} {read_version(tool, python)}"


def write_between(page: Path, begin: str, end: str, lines: Sequence[str]) -> None:
    """Lines into a page, in place of what stands between two marks."""
    text = page.read_text("utf-8")
    before, after = text[: text.index(begin)], text[text.index(end) :]
    joined = "\n".join(lines)
    page.write_text(f"{before}{begin}\n\n{joined}\n\n{after}", "utf-8")


def read_version(tool: Tool, python: Path) -> str:
    """Of the distribution that the table shows."""
    code = f"from importlib.metadata import version; print(version({tool.distribution!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
