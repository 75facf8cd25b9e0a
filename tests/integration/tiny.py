"""A whole audit in a quarter of a minute: the real network on a few dozen scenes, three shards a data set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lavise.flows.command_line.commands import app

SETTINGS = {
    "reference.train_scenes": 48,
    "reference.evaluation_scenes": 32,
    "target.scenes": 32,
    "extract.batch_size": 16,
    "extract.shard_images": 16,
    "words.vocabulary_size": 3000,
    "train.max_epochs": 30,
    "train.patience_epochs": 30,
    "evaluate.methods": "[original,activation_masking,filter_attention]",
    "evaluate.bootstrap_samples": 200,
    "evaluate.baselines": "[random_words,dealt_words,most_frequent_words]",
    "report.images_per_filter": 2,
    "report.thumbnail_px": 48,
    "classes.enabled": "false",
    "causes.enabled": "false",
    "tracking.pack_network": "false",
}


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on the last line."""
        parsed: dict[str, Any] = json.loads(self.stdout.strip().splitlines()[-1])
        return parsed


def make_environment(home: Path, **extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "LAVISE_"))}
    return {**kept, "LAVISE_HOME": str(home), **extra}


def make_arguments(**overrides: object) -> list[str]:
    settings = {**SETTINGS, **{k.replace("__", "."): v for k, v in overrides.items()}}
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def make_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lavise", *arguments]


def run_lavise(home: Path, *arguments: str, cwd: Path | None = None, **extra: str) -> Finished:
    command, environment = make_command(*arguments), make_environment(home, **extra)
    done = subprocess.run(command, env=environment, cwd=cwd or home, capture_output=True, text=True, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def run_here(home: Path, *arguments: str) -> Finished:
    """A command in this process, where the imports have been paid for."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("PREFECT_", "MLFLOW_", "LAVISE_"))]:
            patch.delenv(name)
        patch.setenv("LAVISE_HOME", str(home))
        patch.chdir(home)
        done = CliRunner().invoke(app, list(arguments))
    return Finished(done.exit_code, done.stdout, done.stderr)


def run_tiny(home: Path, **overrides: object) -> Finished:
    done = run_here(home, "run", "demo", "--json", *make_arguments(**overrides))
    assert done.code == 0, done.stderr
    return done


def digest_artefacts(home: Path) -> dict[str, str]:
    """stage/digest/file -> sha256 of every file of every artefact, as published."""
    found = {}
    for handle in sorted((home / "artefacts").glob("*/*/handle.json")):
        content = json.loads(handle.read_text("utf-8"))
        for name, entry in content["files"].items():
            found[f"{content['stage']}/{content['digest'][:24]}/{name}"] = entry["sha256"]
    return found
