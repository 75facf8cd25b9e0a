"""What the benchmarks share: timing, and results with date, machine and versions."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from lavise.storage.state.environment import describe_environment

RESULTS = Path(__file__).resolve().parent / "results"


def read_arguments(
    description: str, add: Callable[[argparse.ArgumentParser], Any] = lambda _: None
) -> argparse.Namespace:
    """--root of a COCO folder (as in the coco-mini preset), --repeats, and what `add` adds."""
    parser = argparse.ArgumentParser(description=description)
    add(parser)
    parser.add_argument("--root", type=Path, required=True, help="COCO folder: train2017, val2017, annotations")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def measure_alternating(work: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Wall seconds of each piece of work, and seconds of this process' processors (median), taken in turns so that a
    noisy machine is noisy for all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    used: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            start, start_used = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - start)
            used[name].append(time.process_time() - start_used)
    return {
        n: {"median": statistics.median(s), "min": min(s), "max": max(s), "processor": statistics.median(used[n])}
        for n, s in seconds.items()
    }


def save_result(name: str, content: Mapping[str, Any], device: str = "cpu") -> None:
    """Print, and write results/NAME-DATE.json."""
    environment = describe_environment(device)
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    result = {"date": date.today().isoformat(), **content, "machine": machine, "environment": environment}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(content, indent=1))
    print(path)
