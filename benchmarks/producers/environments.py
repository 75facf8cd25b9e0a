"""Virtual environments of the producers: pinned packages beside the torch of the interpreter that runs this."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_SHARED = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Producer:
    """A library that writes checkpoints.

    Attributes:
        name: of its script and its folder.
        distribution: whose version the table shows.
        packages: pinned, for pip; none where this interpreter has them.
        builders: installed first, where packages are built from their source with what is installed.
        without_dependencies: pinned, of which pip is not to install what they ask for.
    """

    name: str
    distribution: str
    packages: tuple[str, ...] = ()
    without_dependencies: tuple[str, ...] = ()
    builders: tuple[str, ...] = field(default=(), repr=False)


PRODUCERS = (
    Producer("torchvision", "torchvision"),
    Producer("timm", "timm", ("timm==1.0.31",)),
    Producer("lightning", "lightning", ("lightning==2.6.6", "omegaconf==2.4.0")),
    Producer("huggingface", "transformers", ("transformers==5.24.0", "accelerate==1.15.0", "timm==1.0.31")),
    Producer("fastai", "fastai", ("fastai==2.8.12", "timm==1.0.31")),
    Producer("mmengine", "mmengine", ("mmengine==0.10.7",)),
    Producer(  # it allows torch before 2.7.1 only, and runs on this one
        "composer",
        "mosaicml",
        (
            "torchmetrics==1.9.0",
            "torch-optimizer==0.3.0",
            "tabulate==0.10.0",
            "py-cpuinfo==9.0.0",
            "mosaicml-cli==0.8.3",
        ),
        ("mosaicml==0.32.1",),
    ),
    Producer("accelerate", "accelerate", ("accelerate==1.15.0",)),
    Producer("ignite", "pytorch-ignite", ("pytorch-ignite==0.5.5",)),
    Producer("monai", "monai", ("monai==1.6.1", "pytorch-ignite==0.5.5")),
    Producer("skorch", "skorch", ("skorch==1.4.0",)),
    Producer("lightly", "lightly", ("lightly==1.6.0", "pytorch-lightning==2.6.6")),
    Producer("self_supervised", "torch"),
    Producer("ultralytics", "ultralytics", ("ultralytics==8.4.190",)),
    Producer("torch", "torch"),
    Producer("distributed", "torch"),
    Producer("deepspeed", "deepspeed", ("deepspeed==0.19.8",), builders=("wheel", "ninja")),
    Producer("onnx", "onnx", ("onnx==1.23.2", "onnxscript==0.7.2")),
    Producer("keras", "keras", ("keras==3.15.1",)),
    Producer("mlflow", "mlflow", ("lightning==2.6.6",)),
)


def make_environment(producer: Producer, folder: Path) -> Path:
    """Its interpreter; installed where it is not there yet.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    python = folder / "bin" / "python"
    done = folder / "installed"
    if done.is_file() and done.read_text("utf-8") == repr(producer):
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    # Packages of this interpreter, after those of the environment.
    packages = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (packages / "zz_shared.pth").write_text(f"{metadata.distribution('torch').locate_file('')}\n", "utf-8")
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{n}=={metadata.version(n)}\n" for n in _SHARED), "utf-8")
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    if producer.builders:
        subprocess.run([*install, *producer.builders], check=True)
        install.append("--no-build-isolation")
    if producer.packages:
        subprocess.run([*install, *producer.packages], check=True)
    if producer.without_dependencies:
        subprocess.run([*install, "--no-deps", *producer.without_dependencies], check=True)
    done.write_text(repr(producer), "utf-8")
    return python


def run_script(producer: Producer, python: Path, folder: Path) -> None:
    """Have its files written below a folder; without network, as far as the library lets itself be told.

    What it says goes into a log beside the folder.

    Raises:
        subprocess.CalledProcessError: the script failed.
    """
    settings = {
        "PYTHONPATH": str(REPOSITORY),
        "HF_HUB_OFFLINE": "1",
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
    command: list[str | Path] = [python, "-P", "-m", f"benchmarks.producers.make_{producer.name}", folder]
    with folder.with_suffix(".log").open("wb") as log:
        subprocess.run(command, check=True, cwd=folder, env={**os.environ, **settings}, stdout=log, stderr=log)


def read_version(producer: Producer, python: Path) -> str:
    """Of the distribution that the table shows."""
    code = f"from importlib.metadata import version; print(version({producer.distribution!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
