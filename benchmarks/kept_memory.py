"""Forward passes that take their memory from what was freed, beside those that ask the system for it each time.

    python -m benchmarks.kept_memory [--networks timm:tf_efficientnet_lite0,timm:resnet50] [--batches 1,8,32]

Both ways take turns, in processes of their own, with random weights at 224 px in channels-last, as extraction runs
them; the second is `lavise.storage.state.memory.keep_freed_memory`. Of each: pictures a second (the best of the
turns), processor seconds a picture of the program and of the system, pages of memory that were asked for a picture, and
the most memory. The logits are the same to the bit, or the script fails.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.common import save_result
from lavise.configs.schema import ModelSettings
from lavise.storage.models.target_model import load_target_model
from lavise.storage.state.memory import keep_freed_memory

WAYS = ("asked for", "kept")
_SIDE_PX, _PICTURES, _TURNS = 224, 96, 3


def run_one(way: str, arch: str, batch: int) -> dict[str, float]:
    """One turn, in a process that nothing else ran in."""
    if way == "kept":
        keep_freed_memory()
    network = load_target_model(ModelSettings(arch=arch, weights="random"), seed=0).place("cpu")
    images = torch.randn(batch, 3, _SIDE_PX, _SIDE_PX, generator=torch.Generator().manual_seed(0))
    images = images.to(memory_format=torch.channels_last)
    passes = max(_PICTURES // batch, 1)
    with torch.inference_mode():
        network(images)
        before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for _ in range(passes):
            logits = network(images)
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    pictures = passes * batch
    return {
        "pictures_per_s": pictures / seconds,
        "program_s": (after.ru_utime - before.ru_utime) / pictures,
        "system_s": (after.ru_stime - before.ru_stime) / pictures,
        "pages": (after.ru_minflt - before.ru_minflt) / pictures,
        "most_mb": after.ru_maxrss / 1000,
        "logits": float(logits.double().sum()),
    }


def measure(arch: str, batch: int) -> dict[str, Any]:
    """Of each way, the turn with the most pictures a second."""
    turns: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(_TURNS):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.kept_memory", "--one", way, arch, str(batch)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            turns[way].append(json.loads(done.stdout.splitlines()[-1]))
    if len({turn["logits"] for way in WAYS for turn in turns[way]}) > 1:
        raise RuntimeError(f"{arch}, {batch} pictures a pass: the logits differ")
    best = {way: max(turns[way], key=lambda turn: turn["pictures_per_s"]) for way in WAYS}
    ratio = best["kept"]["pictures_per_s"] / best["asked for"]["pictures_per_s"]
    return {"arch": arch, "batch": batch, "times_as_fast": ratio, **best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="timm:tf_efficientnet_lite0,timm:resnet50")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        way, arch, batch = arguments.one
        print(json.dumps(run_one(way, arch, int(batch))))
        return
    rows = [
        measure(arch, int(batch)) for arch in arguments.networks.split(",") for batch in arguments.batches.split(",")
    ]
    print(f"{'network':30}{'batch':>6}{'memory':>11}{'pictures/s':>12}", end="")
    print(f"{'program ms':>12}{'system ms':>11}{'MB':>7}{'times':>7}")
    for row in rows:
        for way in WAYS:
            own, times = row[way], f"{row['times_as_fast']:.2f}" if way == "kept" else ""
            print(
                f"{row['arch']:30}{row['batch']:6}{way:>11}{own['pictures_per_s']:12.1f}{own['program_s'] * 1000:12.1f}"
                f"{own['system_s'] * 1000:11.1f}{own['most_mb']:7.0f}{times:>7}"
            )
    save_result("kept_memory", {"side_px": _SIDE_PX, "threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    main()
