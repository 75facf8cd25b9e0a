"""Start the trainers, look at their folder meanwhile, and check what was audited."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import save_result
from benchmarks.environments import Tool, make_environment, read_version, start_script
from benchmarks.mixed_folder.train import NUM_EPOCHS, TRAINERS
from benchmarks.producers.producer_list import PRODUCERS
from benchmarks.producers.shared import TRUTH
from lavise.configs.schema import ModelSettings, TrackingSettings
from lavise.storage.models.target_model import load_target_model
from lavise.storage.tracking import open_tracker

_STABLE_SECONDS = 3
_MODEL = ModelSettings(arch="timm:test_resnet", num_classes=3, class_names="none")
_SETTINGS = (
    f"model.arch={_MODEL.arch}",
    "model.num_classes=3",
    "model.layers=layer4",
    "model.class_names=none",
    "model.weights_key=[state_dict_ema, auto]",
    "model.preprocessing.size_px=96",
    "reference.train_scenes=48",
    "reference.evaluation_scenes=32",
    "target.scenes=32",
    "words.vocabulary_size=3000",
    "train.max_epochs=30",
    "evaluate.methods=[filter_attention]",
    "evaluate.bootstrap_samples=200",
    "classes.enabled=false",
    "causes.enabled=false",
    "tracking.pack_network=false",
)


def list_tools() -> dict[str, Tool]:
    """By the trainer's name; Lightning with timm beside it."""
    tools = {tool.name: tool for tool in PRODUCERS if tool.name in TRAINERS}
    lightning, timm = tools["lightning"], tools["timm"]
    return {
        **tools,
        "lightning": replace(lightning, name="lightning_timm", packages=lightning.packages + timm.packages),
    }


def look(folder: Path, home: Path) -> dict[str, Any]:
    """One re-audit, as cron would have it: its exit code and its result.

    Raises:
        RuntimeError: it ended with a mistake.
    """
    settings = [part for setting in _SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "lavise", "reaudit", "demo", "--json", "--folder", str(folder), *settings]
    environment = {**os.environ, "LAVISE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--stable", str(_STABLE_SECONDS)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1, 3):
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {"exit_code": done.returncode, **result}


def watch(work: Path, home: Path) -> list[dict[str, Any]]:
    """All looks, from before the first file to after the last."""
    watched, pythons = work / "watched", {}
    for name, tool in list_tools().items():
        pythons[name] = make_environment(tool, work / "environments" / tool.name)
    trainers = [
        start_script("benchmarks.mixed_folder.train", python, watched / name) for name, python in pythons.items()
    ]
    looks = []
    ended = False
    while not ended:
        ended = all(trainer.poll() is not None for trainer in trainers)
        if ended:
            time.sleep(_STABLE_SECONDS + 1)
        looks.append(look(watched, home))
        counts = Counter(checkpoint["outcome"] for checkpoint in looks[-1]["checkpoints"])
        print(f"look {len(looks)}: exit code {looks[-1]['exit_code']}, {dict(counts)}")
    if failed := [trainer.args for trainer in trainers if trainer.returncode]:
        raise RuntimeError(f"a trainer failed: {failed}")
    return looks


def find_truth(work: Path) -> dict[str, str]:
    """Digest of each network that a trainer had in memory when it saved -> the trainer's words for it."""
    found = {}
    for path in sorted((work / TRUTH).glob("*.safetensors")):
        found[load_target_model(_MODEL.model_copy(update={"weights": str(path)}), 0).digest] = path.stem
    return found


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description="Re-audits of a folder in which three trainers write at once.")
    parser.add_argument("--work", type=Path, required=True, help="for environments and files")
    work = parser.parse_args().work.resolve()
    home = work / "home"
    for old in ("home", "watched", TRUTH):
        if (work / old).exists():
            parser.error(f"--work: {work / old} is there already; remove it first")
    home.mkdir(parents=True)
    looks, truth = watch(work, home), find_truth(work)
    tracker = open_tracker(TrackingSettings(), home)
    whole = [run for run in tracker.find({}) if "lavise.checkpoint" in run.tags]
    digests = [run.tags["lavise.checkpoint"] for run in whole if run.status == "FINISHED"]
    outcomes = [(c["name"], c["outcome"]) for seen in looks for c in seen["checkpoints"]]
    audited = sorted(name for name, outcome in outcomes if outcome == "audited")
    num_others = len(whole) - len(digests)
    wrong = {outcome for _, outcome in outcomes} - {"audited", "known", "waiting"}
    versions = {
        name: read_version(tool, work / "environments" / tool.name / "bin" / "python")
        for name, tool in list_tools().items()
    }
    well = sorted(digests) == sorted(truth) and len(truth) == len(TRAINERS) * NUM_EPOCHS and not num_others | len(wrong)
    save_result(
        "mixed_folder",
        {
            "well": well,
            "looks": len(looks),
            "exit_codes": [seen["exit_code"] for seen in looks],
            "audited": audited,
            "networks": sorted(truth.values()),
            "runs_that_did_not_end_well": num_others,
            "other_outcomes": sorted(wrong),
            "versions": versions,
        },
    )
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
