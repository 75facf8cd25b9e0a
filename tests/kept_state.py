"""Keeps a small state folder as this build writes it, for later builds to read (`make state`).

It holds two re-audits of a tiny network with a policy, a comparison and a review, in MLflow's SQLite store and in run
folders, with the pictures and checkpoints that they are of, and `facts.json`: what this build reads in it. They are
packed into tests/kept_states/DATE.tar.xz. tests/integration/test_kept_states.py reads all that lie there.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import mlflow
import numpy as np
import pandas as pd
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image
from typer.testing import CliRunner, Result

from benchmarks.faults.tiny_audit import last_json, write_checkpoint, write_inputs
from benchmarks.faults.tiny_network import TinyNetwork
from lavise.flows.command_line.commands import app
from lavise.flows.notebook import open_audit
from lavise.storage.state.digest import digest_file
from lavise.storage.tracking import local_tracking_uri

FOLDER = Path(__file__).with_name("kept_states")
HOME, CONFIG, FACTS, POLICY, NOTES = "home", "tiny.yaml", "facts.json", "policy.yaml", "notes.csv"
_SEEDS, _NUM_FILTERS = (0, 4), 8
_POLICY = {
    "name": "kept",
    "rules": [
        {"metric": "share_explained", "at_least": 0.1},
        {"metric": "diff/share_changed", "at_most": 0.2},
        {"name": "no sky", "forbidden_words": ["sky"], "status": ["new", "changed"], "num_words": 3},
    ],
}


def invoke(home: Path, *arguments: str | Path) -> Result:
    """`lavise ARGUMENTS` in this process, on a state folder and its own store."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_API", "MLFLOW_TRACKING", "LAVISE_"))}
    with mock.patch.dict(os.environ, {**kept, "LAVISE_HOME": str(home)}, clear=True):
        return CliRunner().invoke(app, [str(a) for a in arguments])


def write_state(folder: Path) -> None:
    """Inputs, the state folder and the facts, with today's code."""
    home = folder / HOME
    place_inputs(write_inputs(folder, 0))
    for seed in _SEEDS:
        write_checkpoint(folder / "checkpoints" / f"step-{seed:04d}.pt", seed)
    for path in folder.glob("*/*/*.png"):  # a few even squares, which pack well
        picture = Image.open(path)
        picture.resize((6, 6), Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST).save(path)
    (folder / POLICY).write_text(yaml.safe_dump(_POLICY), "utf-8")
    order: list[str | Path] = ["reaudit", folder / CONFIG, "--folder", folder / "checkpoints", "--stable", "0"]
    done = invoke(home, *order, "--policy", folder / POLICY, "--json")
    runs = [checkpoint["run_id"] for checkpoint in last_json(done.stdout)["checkpoints"]]
    _write_notes(folder / NOTES, home, runs[0])
    if invoke(home, "review", runs[0], folder / NOTES).exit_code != 0:
        raise RuntimeError("the review was refused")
    (folder / FACTS).write_text(json.dumps(read_facts(home, runs), indent=1, sort_keys=True), "utf-8")


def place_inputs(config: Path) -> None:
    """Let a config name the pictures and the checkpoint that lie beside it; the network by a name without a place,
    which stages' digests hold."""
    folder, content = config.parent, yaml.safe_load(config.read_text("utf-8"))
    content["model"] |= {
        "arch": f"{TinyNetwork.__module__}:{TinyNetwork.__name__}",
        "weights": str(folder / "checkpoints" / f"step-{_SEEDS[0]:04d}.pt"),
    }
    for part in ("reference", "target"):
        content[part]["root"] = str(folder / part)
    config.write_text(yaml.safe_dump(content), "utf-8")


def read_facts(home: Path, runs: list[str]) -> dict[str, Any]:
    """What is read in a state folder, without times and places: run ids, words, verdicts, MLflow's runs and files."""
    old, new = runs
    listed = last_json(_succeed(invoke(home, "runs", "--json")))["runs"]
    shown = ("run_id", "name", "checkpoint", "layers", "num_filters", "num_explained", "gate", "damage")
    gate = last_json(invoke(home, "gate", new, "--json").stdout)
    expected = last_json(invoke(home, "expect", old, "--must", "dog", "--must-not", "sky", "--json").stdout)
    return {
        "order": runs,
        "runs": [{name: run[name] for name in shown} for run in listed],
        "gate": {name: gate[name] for name in ("policy", "outcome", "verdicts", "compared_with")},
        "expect": [{name: word[name] for name in ("word", "outcome", "filters")} for word in expected["words"]],
        "words": {run: read_words(home / "runs" / run) for run in runs},
        "recorded_changes": json.loads((home / "runs" / new / "diff.json").read_text("utf-8")),
        "review": json.loads((home / "runs" / old / "review.json").read_text("utf-8"))["all"],
        "mlflow": {run: _read_record(home, run) for run in runs},
        "explainers": {run: _name_regions(home, run) for run in runs},
    }


def _succeed(done: Result) -> str:
    if done.exit_code != 0:
        raise RuntimeError(f"exit code {done.exit_code}: {done.output[-1000:]}")
    return done.stdout


def read_words(folder: Path) -> list[dict[str, Any]]:
    """Of every filter, as a notebook has them."""
    shown = open_audit(folder).filters[["layer", "filter", "words", "confidence"]]
    found: list[dict[str, Any]] = json.loads(shown.to_json(orient="records", double_precision=15))
    return found


def _read_record(home: Path, run_id: str) -> Mapping[str, Any]:
    client = MlflowClient(tracking_uri=local_tracking_uri(home))
    run = client.get_run(run_id)
    page = Path(client.download_artifacts(run_id, "report.html"))
    return {
        "status": run.info.status,
        "metrics": dict(run.data.metrics),
        "tags": {k: v for k, v in run.data.tags.items() if k.startswith("lavise.")},
        "artifacts": sorted(a.path for a in client.list_artifacts(run_id)),
        "report": digest_file(page),
    }


def _name_regions(home: Path, run_id: str) -> list[list[str]]:
    """What the explainer in MLflow says of a region in which one filter alone is active, for each filter."""
    client = MlflowClient(tracking_uri=local_tracking_uri(home))
    experiments = [client.get_run(run_id).info.experiment_id]
    (model,) = client.search_logged_models(experiments, filter_string=f"source_run_id = '{run_id}'")
    regions = pd.DataFrame({"region_features": np.eye(_NUM_FILTERS).tolist()})
    found = mlflow.pyfunc.load_model(model.artifact_location).predict(regions)
    return [list(words) for words in found["words"]]


def _write_notes(path: Path, home: Path, run_id: str) -> None:
    """A reviewer's verdict on each filter with a word."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("layer", "filter", "word", "verdict", "note", "reviewer"))
        explained = [row for row in read_words(home / "runs" / run_id) if row["words"]]
        for number, row in enumerate(explained):
            verdict = ("fits", "partly", "no")[number % 3]
            rows.writerow((row["layer"], row["filter"], row["words"][0], verdict, "", "kept"))


def pack(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for name in sorted(p.name for p in folder.iterdir()):
            archive.add(folder / name, name)


def unpack(path: Path, folder: Path) -> None:
    """With every path of the config where it lies now."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    place_inputs(folder / CONFIG)


def main() -> None:
    path = FOLDER / f"{datetime.date.today().isoformat()}.tar.xz"
    if path.exists():
        sys.exit(f"{path} is there; remove it first")
    with tempfile.TemporaryDirectory(prefix="lavise-state-") as name:
        write_state(Path(name))
        FOLDER.mkdir(exist_ok=True)
        pack(Path(name), path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
