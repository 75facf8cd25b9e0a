"""kill -9 at random moments of an audit and of a re-audit, and what the next run makes of it.

Who is killed: the whole process group, the group twice, the main process alone (its workers must end by themselves), or
one Dask worker (the audit itself must go on, or end and be repeated). After the last run of a round: the bits of every
artefact and of every result are those of an undisturbed run, no process of the state folder is left, no lock is held,
MLflow has no run that says RUNNING, each checkpoint was audited once, and the artefacts take up no more room than those
of the undisturbed run and one shard.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.parts import Options, finish, note
from benchmarks.faults.tiny_audit import (
    Command,
    clear,
    compare,
    count_bytes,
    digest_artefacts,
    digest_results,
    list_audits,
    list_held_locks,
    list_processes,
    list_running,
    start,
    wait_until_gone,
    write_inputs,
)

ROUNDS = 200
VICTIMS = {"group": 11, "group twice": 4, "main process": 2, "Dask worker": 3}
COMMANDS = {"audit": 2, "re-audit": 1}
_ORPHAN_SECONDS = 20.0
_CHECKPOINTS = 2


def measure_kills(options: Options) -> Mapping[str, Any]:
    """So many rounds; the state folder is emptied between them, MLflow's store goes through all of them."""
    rng, home = random.Random(options.seed), options.work / "home"
    config = write_inputs(options.work, _CHECKPOINTS)
    orders = {
        "audit": ("run", str(config), "--json"),
        "re-audit": ("reaudit", str(config), "--folder", str(config.parent / "checkpoints"), "--stable", "0", "--json"),
    }
    expected: dict[str, tuple[dict[str, str], list[dict[str, str]], int, float]] = {}
    for name, order in orders.items():
        if (home / "mlflow").is_dir():
            clear(home)
        begun = time.monotonic()
        command = start(home, *order, name=name)
        if command.wait() != 0:
            raise RuntimeError(f"the undisturbed {name} failed: {command.text[-2000:]}")
        seconds = time.monotonic() - begun
        expected[name] = (digest_artefacts(home), _digest_runs(home), count_bytes(home / "artefacts"), seconds)
    shard = max(p.stat().st_size for p in (home / "artefacts").glob("extract/*/shard-*.h5"))
    rows = []
    for number in range(options.rounds or ROUNDS):
        victim = rng.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        name = rng.choices(list(COMMANDS), list(COMMANDS.values()))[0]
        clear(home)
        kills = [_kill(home, orders[name], f"killed-{number}", victim, expected[name][3], rng)]
        if victim == "group twice":
            kills.append(_kill(home, orders[name], f"killed-{number}-again", victim, expected[name][3], rng))
        faults = [f"orphan: {line}" for line in wait_until_gone(home, _ORPHAN_SECONDS)]
        faults += [f"held lock: {path}" for path in list_held_locks(home)]
        if not (victim == "Dask worker" and kills[0]["ended"] == 0):
            again = start(home, *orders[name], name="again")
            if again.wait() != 0:
                faults.append(f"rerun ended with {again.process.returncode}: {again.text[-300:]}")
        artefacts, results, size, _ = expected[name]
        # The page of a re-audit names the run that it was compared with, which is another one each time.
        own, theirs = (
            {k: v for k, v in found.items() if name == "audit" or not k.startswith("report/")}
            for found in (digest_artefacts(home), artefacts)
        )
        faults += [f"other bits: {key}" for key in compare(own, theirs)][:5]
        # An audit that had ended before the kill came is there twice.
        runs = _digest_runs(home)
        if (runs[-1:] if name == "audit" else runs) != results:
            faults.append("other results, or another number of finished audits")
        faults += [f"RUNNING: {run}" for run in list_running(home)]
        grown = count_bytes(home / "artefacts") - size
        if grown > shard:
            faults.append(f"{grown} bytes more than undisturbed")
        faults += [f"left: {line}" for line in wait_until_gone(home, _ORPHAN_SECONDS)]
        row = {"round": number, "command": name, "killed": victim, "kills": kills, "faults": faults}
        rows.append(row)
        note(options.work / "kills.jsonl", row)
    return finish("kills", _count(rows), rounds=len(rows), seed=options.seed, all_rounds=rows)


def _kill(
    home: Path, order: tuple[str, ...], log: str, victim: str, seconds: float, rng: random.Random
) -> dict[str, Any]:
    """Start the command, kill at a random moment after it has opened its state folder; returns what was seen.

    One in eight kills comes before that, while the program is still being loaded.
    """
    command = start(home, *order, name=log)
    if rng.random() > 1 / 8:
        command.wait_for("started", seconds * 3)
        delay = rng.uniform(0, 0.6 * seconds)
    else:
        delay = rng.uniform(0, 0.4 * seconds)
    moment = time.monotonic() + delay
    while time.monotonic() < moment and command.process.poll() is None:
        time.sleep(0.01)
    if victim == "Dask worker":
        ended, hit = _kill_worker(command, home, seconds)
    else:
        hit = command.process.poll() is None
        if hit and victim == "main process":
            os.kill(command.process.pid, signal.SIGKILL)
        elif hit:
            command.kill_group()
        ended = command.wait(30)
    lines = [line[9:] for line in command.text.splitlines() if " started " in line]
    return {"after_s": round(delay, 2), "hit": hit, "ended": ended, "stage": lines[-1][:28].strip() if lines else ""}


def _kill_worker(command: Command, home: Path, seconds: float) -> tuple[int, bool]:
    """Exit code of the audit whose Dask worker was killed, and whether there was one."""
    deadline = time.monotonic() + seconds * 3
    while command.process.poll() is None and time.monotonic() < deadline:
        # Workers are children of nannies, which are threads of the main process.
        workers = [p for p in list_processes(home) if p.pid != command.process.pid and _is_worker(p)]
        if workers:
            workers[-1].kill()
            return command.wait(), True
        time.sleep(0.02)
    return command.wait(), False


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _digest_runs(home: Path) -> list[dict[str, str]]:
    """Of each finished audit, in the order of their beginnings."""
    audits = sorted(list_audits(home, "FINISHED"), key=lambda r: r.info.start_time)
    return [digest_results(home / "runs" / r.info.run_id) for r in audits]


def _count(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By command and victim."""
    groups = Counter((r["command"], r["killed"]) for r in rows)
    table = []
    for (name, victim), number in sorted(groups.items()):
        own = [r for r in rows if (r["command"], r["killed"]) == (name, victim)]
        table.append(
            {
                "command": name,
                "killed": victim,
                "rounds": number,
                "kills that hit": sum(k["hit"] for r in own for k in r["kills"]),
                "same bits and nothing left": sum(not r["faults"] for r in own),
            }
        )
    return table
