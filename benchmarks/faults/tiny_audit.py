"""A whole audit of a tiny network in seconds, in processes of its own, and what is looked at afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from PIL import Image

from benchmarks.faults.tiny_network import TinyNetwork
from lavise.storage.state.digest import digest_file
from lavise.storage.state.locks import is_locked

CATEGORIES = {"dog": (200, 40, 40), "grass": (40, 200, 40), "sky": (40, 40, 200)}
_PICTURES = 16
_SIDE_PX = 48
# Of a run folder: what an audit finds out, without run ids, times and paths.
RESULTS = ("filters.parquet", "explanations.parquet", "explainer.safetensors", "metrics.json")
PATIENCE_SECONDS = 600.0


def write_inputs(folder: Path, checkpoints: int) -> Path:
    """Pictures by category, pictures without labels, checkpoints, and tiny.yaml; returns the path of the last."""
    rng = np.random.default_rng(0)
    for part in ("reference", "target"):
        for name, colour in CATEGORIES.items():
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(_PICTURES):
                picture_YXC = rng.integers(0, 60, (_SIDE_PX, _SIDE_PX, 3))
                top, left = rng.integers(0, _SIDE_PX // 2, 2)
                picture_YXC[top : top + _SIDE_PX // 2, left : left + _SIDE_PX // 2] += np.array(colour) * 3 // 4
                Image.fromarray(picture_YXC.astype(np.uint8)).save(place / f"{number:03d}.png")
    (folder / "checkpoints").mkdir()
    for number in range(checkpoints):
        write_checkpoint(folder / "checkpoints" / f"step-{number:04d}.pt", number)
    config = {
        "name": "tiny-faults",
        "device": "cpu",
        "model": {
            "arch": f"{Path(__file__).with_name('tiny_network.py')}:TinyNetwork",
            "weights": str(folder / "checkpoints" / "step-0000.pt"),
            "layers": ["tail"],
            "preprocessing": {"size_px": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"},
        },
        "reference": {"kind": "image_folder", "root": str(folder / "reference")},
        "target": {"kind": "image_folder", "root": str(folder / "target")},
        "words": {"vocabulary_size": 500},
        "extract": {"batch_size": 8, "shard_images": 8},
        "train": {"max_epochs": 30, "patience_epochs": 30},
        "explainer": {"kind": "learned"},
        "evaluate": {"methods": ["original", "filter_attention"], "bootstrap_samples": 100, "baselines": []},
        "explain": {"top_images": 10, "min_images": 3},
        "report": {"images_per_filter": 2, "thumbnail_px": 32},
        "classes": {"enabled": False},
        "causes": {"enabled": False},
        "tracking": {"pack_network": False, "system_metrics": False},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


def write_checkpoint(path: Path, seed: int) -> Path:
    """Of the tiny network; an hour old, so that a watched folder takes it at once."""
    torch.manual_seed(seed)
    network = TinyNetwork()
    with torch.no_grad():
        for layer in (network.stem, network.tail):
            assert layer.bias is not None
            for channel in range(len(CATEGORIES)):  # its filter is where this channel is bright
                layer.weight[channel] = 0
                layer.weight[channel, channel] = 1 / 9
                layer.bias[channel] = 0
    torch.save(network.state_dict(), path)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


@dataclass
class Command:
    """A running lavise, in a process group of its own."""

    home: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Its exit code; it is stopped where it takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_group()
            self.process.wait()
            return 124

    def kill_group(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)

    def wait_for(self, text: str, seconds: float = PATIENCE_SECONDS) -> bool:
        """Whether its log has the text, before it has ended or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if text in self.text:
                return True
            if self.process.poll() is not None:
                return text in self.text
            time.sleep(0.05)
        return False


def start(home: Path, *arguments: str, name: str = "command", logs: Path | None = None, **extra: str) -> Command:
    """`lavise ARGUMENTS` with this state folder; its log lies beside it, or in `logs`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "LAVISE_"))}
    home.mkdir(parents=True, exist_ok=True)
    log = (logs or home.parent) / f"{home.name}.{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "lavise", *arguments],
            env={**kept, "LAVISE_HOME": str(home), **extra},
            cwd=home.parent,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Command(home, process, log)


def digest_artefacts(home: Path) -> dict[str, str]:
    """stage/digest/file -> sha256 of every file of every artefact, of the bytes that lie there now."""
    found = {}
    for handle in sorted((home / "artefacts").glob("*/*/handle.json")):
        if handle.parent.suffix:
            continue  # .partial
        content = json.loads(handle.read_text("utf-8"))
        for name in content["files"]:
            found[f"{content['stage']}/{handle.parent.name}/{name}"] = digest_file(handle.parent / name)
    return found


def digest_results(run_dir: Path) -> dict[str, str]:
    """Of the files that say what an audit found out, and of all that its stages made.

    The page of a re-audit names the run that it was compared with, by its id, which is another one each time.
    """
    stages = json.loads((run_dir / "artefacts.json").read_text("utf-8"))["stages"]
    made = {f"{t} {n}": d for t, own in stages.items() if t != "report" for a in own for n, d in a["files"].items()}
    return {**{name: digest_file(run_dir / name) for name in RESULTS}, **made}


def last_json(text: str) -> dict[str, Any]:
    """What `--json` printed."""
    found: dict[str, Any] = json.loads([line for line in text.splitlines() if line.startswith("{")][-1])
    return found


def count_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def list_held_locks(home: Path) -> list[str]:
    return [p.relative_to(home).as_posix() for p in sorted(home.rglob("*.lock")) if is_locked(p)]


def list_processes(home: Path) -> Iterator[psutil.Process]:
    """All that were started with this state folder, whoever their parents are."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("LAVISE_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            continue


def wait_until_gone(home: Path, seconds: float) -> list[str]:
    """Command lines of the processes that are still there after so long."""
    deadline = time.monotonic() + seconds
    while (left := list(list_processes(home))) and time.monotonic() < deadline:
        time.sleep(0.2)
    lines = []
    for process in left:
        try:
            lines.append(" ".join(process.cmdline())[-120:])
            process.kill()
        except psutil.Error:
            continue
    return lines


def clear(home: Path) -> None:
    """All that audits have made; MLflow's store stays, its runs are deleted."""
    for name in ("artefacts", "runs", "diffs", "checkpoints"):
        shutil.rmtree(home / name, ignore_errors=True)
    client, experiment = open_store(home)
    for run in search(client, experiment, "attributes.status != 'NONE'"):
        client.delete_run(run.info.run_id)


def open_store(home: Path) -> tuple[Any, str]:
    """A client of the store in a state folder, and its experiment."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lavise")
    if experiment is None:
        raise LookupError(f"{home} has no audits")
    return client, str(experiment.experiment_id)


def search(client: Any, experiment: str, query: str) -> list[Any]:
    found, token = [], None
    while True:
        page = client.search_runs([experiment], query, max_results=1000, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def list_audits(home: Path, status: str) -> list[Any]:
    """Runs of audits, without those of stages."""
    client, experiment = open_store(home)
    return search(client, experiment, f"attributes.status = '{status}' and tags.`lavise.config_digest` != ''")


def list_running(home: Path) -> list[str]:
    client, experiment = open_store(home)
    return [r.info.run_name for r in search(client, experiment, "attributes.status = 'RUNNING'")]


def compare(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Names of what is missing, too much, or another content."""
    return sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
