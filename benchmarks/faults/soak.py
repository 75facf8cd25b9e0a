"""Load: many checkpoints at once, many earlier audits, re-audits in a row with the memory of the services.

A folder gets several checkpoints at once. Then a re-audit looks at them again, while MLflow has 1,000 earlier audits.
Then `lavise up --watch` gets a checkpoint, audits it, and gets the next.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.parts import Options, finish, note
from benchmarks.faults.services import VICTIMS as SERVICES
from benchmarks.faults.services import find_free_port, wait_until
from benchmarks.faults.tiny_audit import (
    count_bytes,
    list_audits,
    list_processes,
    open_store,
    start,
    wait_until_gone,
    write_checkpoint,
    write_inputs,
)
from lavise.configs.sources import FolderSource
from lavise.flows.repeats.reaudit import reaudit_here
from lavise.storage.state.progress import no_progress

ROUNDS = 24
_AT_ONCE = 100
_EARLIER = 1000
_LOOK_SECONDS = 5
_START_SECONDS = 300.0
_AUDIT_SECONDS = 400.0
_MANY_SECONDS = 7200.0
_GROWTH = 1.05
"""That memory may have after the third audit."""
_ORPHAN_SECONDS = 30.0


def measure_soak(options: Options) -> Mapping[str, Any]:
    config = write_inputs(options.work, 1)
    rows = []
    for measure in (_many_at_once, _many_earlier, _watch_in_a_row):
        rows.append(measure(options, config))
        note(options.work / "soak.jsonl", rows[-1])
    return finish("soak", rows)


def _watch_in_a_row(options: Options, config: Path) -> dict[str, Any]:
    """Checkpoints, one after the other; memory of each service after each audit."""
    home, incoming, rounds = options.work / "up", options.work / "incoming", options.rounds or ROUNDS
    incoming.mkdir()
    ports = [find_free_port(), find_free_port()]
    order = ["up", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1]), "--watch", str(incoming)]
    up = start(home, *order, "--config", str(config), "--every", "10", "--stable", "1", name="up")
    memory: dict[str, list[int]] = {name: [] for name in SERVICES}
    sizes: list[int] = []
    faults = []
    try:
        if not up.wait_for("ready", _START_SECONDS):
            raise RuntimeError(f"lavise up did not start: {up.text[-1000:]}")
        for number in range(rounds):
            write_checkpoint(incoming / f"step-{number:04d}.pt", number + 10)
            if not wait_until(partial(_has_audited, home, number + 1), _AUDIT_SECONDS):
                faults.append(f"checkpoint {number} was not audited in time")
                break
            time.sleep(8)  # the flow run ends after its audit
            for name, part in SERVICES.items():
                memory[name].append(_measure_memory(home, part))
            sizes.append(count_bytes(home))
            note(
                options.work / "soak.jsonl",
                {"audit": number, **{n: m[-1] for n, m in memory.items()}, "bytes": sizes[-1]},
            )
        audits = len(list_audits(home, "FINISHED"))
    finally:
        up.process.send_signal(signal.SIGINT)
        up.wait(120)
        faults += [f"left: {line}" for line in wait_until_gone(home, _ORPHAN_SECONDS)]
    said = []
    for name, found in memory.items():
        if len(found) > 3:
            said.append(f"{name} {found[2] / 1e6:.0f} MB after the 3rd, {found[-1] / 1e6:.0f} MB at the end")
    grown = (sizes[-1] - sizes[2]) / (len(sizes) - 3) / 1e6 if len(sizes) > 3 else float("nan")
    faults += [f"{audits} audits of {rounds}"] if audits != rounds else []
    for name, found in memory.items():
        if len(found) > 3 and found[-1] > _GROWTH * found[2]:
            faults.append(f"{name}: memory grew by {found[-1] / found[2] - 1:.0%}")
    what = "; ".join(said) + f"; state folder +{grown:.1f} MB an audit"
    return {
        "case": f"{rounds} re-audits in a row by lavise up --watch",
        "seen": what,
        "faults": "; ".join(faults) or "none",
    }


def _has_audited(home: Path, number: int) -> bool:
    try:
        return len(list_audits(home, "FINISHED")) >= number
    except LookupError:
        return False


def _measure_memory(home: Path, part: str) -> int:
    """Bytes of a service, and of all below it, that are theirs alone, whoever else uses the same libraries."""
    total = 0
    for process in list_processes(home):
        try:
            line = " ".join(process.cmdline())
            if part in line or (
                part == "mlflow server" and any(part in " ".join(p.cmdline()) for p in process.parents())
            ):
                total += _read_anonymous(process.pid)
        except (psutil.Error, OSError):
            continue
    return total


def _read_anonymous(pid: int) -> int:
    """Bytes that a process has asked for, without pages of files, which others may share or not."""
    found = re.findall(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text("utf-8"), re.MULTILINE)
    return int(found[0]) * 1024 if found else 0  # it has ended


def _many_at_once(options: Options, config: Path) -> dict[str, Any]:
    home, incoming = options.work / "at-once", options.work / "many"
    incoming.mkdir()
    for number in range(_AT_ONCE):
        write_checkpoint(incoming / f"step-{number:04d}.pt", number + 100)
    begun = time.monotonic()
    command = start(home, "reaudit", str(config), "--folder", str(incoming), "--stable", "0", "--json")
    memory: dict[int, int] = {}  # audits that are over -> highest so far
    while command.process.poll() is None and time.monotonic() < begun + _MANY_SECONDS:
        over = len(list((home / "runs").glob("*/report.html")))
        with suppress(OSError):
            memory[over] = max(_read_anonymous(command.process.pid), *memory.values(), 0)
        time.sleep(1)
    code = command.wait(1)
    audited = [run.data.tags["lavise.checkpoint"] for run in list_audits(home, "FINISHED")]
    faults = [] if code == 0 else [f"exit code {code}"]
    faults += [] if len(audited) == len(set(audited)) == _AT_ONCE else [f"{len(audited)} audits of {len(set(audited))}"]
    seen = f"{len(audited)} audits in {time.monotonic() - begun:.0f} s, one process, "
    third, last = (memory[min(n for n in memory if n >= wanted)] / 1e6 for wanted in (3, max(memory)))
    seen += f"{third:.0f} MB at the most after the 3rd, {last:.0f} MB at the end"
    return {"case": f"{_AT_ONCE} checkpoints at once", "seen": seen, "faults": "; ".join(faults) or "none"}


def _many_earlier(options: Options, config: Path) -> dict[str, Any]:
    """Seconds of a look that finds nothing new, without those of the program's own start."""
    home, incoming = options.work / "at-once", options.work / "many"
    client, experiment = open_store(home)
    model = list_audits(home, "FINISHED")[-1]
    for number in range(_EARLIER):
        tags = {**model.data.tags, "lavise.checkpoint": f"{number:064x}"}
        tags = {k: v for k, v in tags.items() if not k.startswith(("lavise.file.", "mlflow."))}
        run = client.create_run(experiment, tags=tags, run_name=f"earlier {number}")
        client.set_terminated(run.info.run_id)
    seconds = _time_look(home, incoming, config)
    seen = f"a look at {_AT_ONCE} known checkpoints: {seconds:.1f} s (in a process that runs already)"
    faults = [] if seconds < _LOOK_SECONDS else [f"more than {_LOOK_SECONDS} s"]
    return {"case": f"{_EARLIER} earlier audits in MLflow", "seen": seen, "faults": "; ".join(faults) or "none"}


def _time_look(home: Path, folder: Path, config: Path) -> float:
    """Of the second of two looks, which reads no file again."""
    os.environ["LAVISE_HOME"] = str(home)
    source, seconds = FolderSource(folder=folder, stable_seconds=0), 0.0
    for _ in range(2):
        begun = time.monotonic()
        found = reaudit_here(str(config), [], source, None, no_progress)
        seconds = time.monotonic() - begun
        assert found.count("known") == _AT_ONCE
    return seconds
