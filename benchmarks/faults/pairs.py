"""Two audits at once on one state folder: of the same config, and of configs that share stages.

Both must end well, with the bits of undisturbed runs; each stage must be computed by one of them alone. The second is
started up to three seconds after the first.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.faults.parts import Options, finish, note
from benchmarks.faults.tiny_audit import (
    Command,
    clear,
    compare,
    digest_artefacts,
    digest_results,
    last_json,
    list_held_locks,
    list_running,
    start,
    wait_until_gone,
    write_inputs,
)

ROUNDS = 50
OTHERS = {
    "the same config": (),
    "another report": ("--set", "report.images_per_filter=1"),
    "other explanations": ("--set", "explain.top_images=8"),
    "another training": ("--set", "train.max_epochs=20"),
}
_HEAD_START_SECONDS = 3.0
_ORPHAN_SECONDS = 20.0
_DONE = re.compile(r"^\S+ (.+?) +done +([0-9a-f]{12})", re.MULTILINE)


def measure_pairs(options: Options) -> Mapping[str, Any]:
    """So many pairs, the kinds in turn; the state folder is emptied between them."""
    rng, home = random.Random(options.seed), options.work / "home"
    config = write_inputs(options.work, 1)
    orders = {kind: ("run", str(config), "--json", *more) for kind, more in OTHERS.items()}
    alone: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    for kind, order in orders.items():
        if (home / "mlflow").is_dir():
            clear(home)
        command = start(home, *order, name="alone")
        if command.wait() != 0:
            raise RuntimeError(f"the undisturbed audit failed: {command.text[-2000:]}")
        alone[kind] = digest_artefacts(home), _digest_result(command)
    kinds, rows = list(OTHERS), []
    for number in range(options.rounds or ROUNDS):
        kind = kinds[number % len(kinds)]
        clear(home)
        first = start(home, *orders["the same config"], name="first")
        delay = rng.uniform(0, _HEAD_START_SECONDS)
        time.sleep(delay)
        second = start(home, *orders[kind], name="second")
        faults = []
        for command, own in ((first, "the same config"), (second, kind)):
            if command.wait() != 0:
                faults.append(f"ended with {command.process.returncode}: {command.text[-300:]}")
            elif _digest_result(command) != alone[own][1]:
                faults.append("other results")
        expected = {**alone["the same config"][0], **alone[kind][0]}
        faults += [f"other bits: {key}" for key in compare(digest_artefacts(home), expected)][:5]
        computed = Counter(stage for c in (first, second) for stage in _DONE.findall(c.text))
        twice = [f"{title} {digest}" for (title, digest), times in computed.items() if times > 1]
        faults += [f"computed twice: {stage}" for stage in twice]
        faults += [f"held lock: {path}" for path in list_held_locks(home)]
        faults += [f"RUNNING: {run}" for run in list_running(home)]
        faults += [f"left: {line}" for line in wait_until_gone(home, _ORPHAN_SECONDS)]
        waited = sum(c.text.count("waiting for another run") for c in (first, second))
        row = {"round": number, "pair": kind, "after_s": round(delay, 2), "waited": waited, "faults": faults}
        rows.append({**row, "stages": len(computed)})
        note(options.work / "pairs.jsonl", rows[-1])
    return finish("pairs", _count(rows), rounds=len(rows), seed=options.seed, all_rounds=rows)


def _digest_result(command: Command) -> dict[str, str]:
    return digest_results(Path(last_json(command.text)["run_dir"]))


def _count(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = []
    for kind in OTHERS:
        own = [r for r in rows if r["pair"] == kind]
        table.append(
            {
                "pair": kind,
                "pairs": len(own),
                "in which one waited for the other": sum(r["waited"] > 0 for r in own),
                "both right, each stage computed once": sum(not r["faults"] for r in own),
            }
        )
    return table
