"""A clock that is set back or forward while audits run, by libfaketime (PyPI: libfaketime; not needed by lavise).

    pip install --target FOLDER libfaketime
    LAVISE_FAKETIME=FOLDER/libfaketime/vendor/libfaketime/src/libfaketime.so.1 python -m benchmarks.faults clock

Two audits on one state folder; the second begins when the clock has moved. Both must end well, with the bits of an
undisturbed audit, and neither may take the other for killed. Then a re-audit of a checkpoint whose time lies ahead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.faults.parts import Options, finish, note
from benchmarks.faults.tiny_audit import (
    compare,
    digest_artefacts,
    list_audits,
    list_held_locks,
    list_running,
    start,
    wait_until_gone,
    write_checkpoint,
    write_inputs,
)

_VARIABLE = "LAVISE_FAKETIME"
_STAGE = "regions tail"
_MOVES = {"back by a day": -86_400, "back by a minute": -60, "ahead by a day": 86_400}
_PATIENCE_SECONDS = 1200.0
_ORPHAN_SECONDS = 20.0


def measure_clock(options: Options) -> Mapping[str, Any]:
    library = os.environ.get(_VARIABLE, "")
    if not Path(library).is_file():
        raise SystemExit(f"{_VARIABLE}: found {library!r}; wanted is the path of libfaketime.so.1 ({__doc__})")
    config = write_inputs(options.work, 1)
    home = options.work / "undisturbed"
    command = start(home, "run", str(config), "--json")
    if command.wait() != 0:
        raise RuntimeError(f"the undisturbed audit failed: {command.text[-2000:]}")
    expected = digest_artefacts(home)
    rows = []
    for case, seconds in _MOVES.items():
        rows.append(_move_clock(options.work, case, seconds, config, library, expected))
        note(options.work / "clock.jsonl", rows[-1])
    rows.append(_audit_from_ahead(options.work, config))
    note(options.work / "clock.jsonl", rows[-1])
    return finish("clock", rows)


def _move_clock(
    work: Path, case: str, seconds: int, config: Path, library: str, expected: Mapping[str, str]
) -> dict[str, Any]:
    home, clock = work / case.replace(" ", "-"), work / "clock"
    clock.write_text("+0\n", "utf-8")
    moved = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    first = start(home, "run", str(config), "--json", name="first", logs=work, **moved)
    faults = [] if first.wait_for(f"{_STAGE:<28} started") else ["the stage was not reached"]
    clock.write_text(f"{seconds:+d}\n", "utf-8")
    time.sleep(2)
    second = start(home, "run", str(config), "--json", name="second", logs=work, **moved)
    codes = [command.wait(_PATIENCE_SECONDS) for command in (first, second)]
    faults += [f"exit codes {codes}"] if any(codes) else []
    faults += [f"other bits: {key}" for key in compare(digest_artefacts(home), expected)][:3]
    faults += [f"RUNNING: {run}" for run in list_running(home)]
    faults += [f"KILLED: {run.info.run_id}" for run in list_audits(home, "KILLED")]
    faults += [f"held lock: {path}" for path in list_held_locks(home)]
    faults += [f"left: {line}" for line in wait_until_gone(home, _ORPHAN_SECONDS)]
    seen = f"{len(list_audits(home, 'FINISHED'))} of 2 audits"
    return {"case": f"clock set {case} in {_STAGE}", "seen": seen, "faults": "; ".join(faults) or "none"}


def _audit_from_ahead(work: Path, config: Path) -> dict[str, Any]:
    """A checkpoint that was written before the clock was set back by a day, in a watched folder."""
    incoming = work / "ahead"
    incoming.mkdir()
    path = write_checkpoint(incoming / "step-0000.pt", 3)
    os.utime(path, (time.time() + 86_400,) * 2)
    home = work / "from-ahead"
    looks = 0
    while looks < 3 and (not (home / "mlflow").is_dir() or not list_audits(home, "FINISHED")):
        looks += 1
        start(home, "reaudit", str(config), "--folder", str(incoming), "--stable", "2", name=f"look {looks}").wait()
        time.sleep(3)
    audits = len(list_audits(home, "FINISHED"))
    faults = [] if audits == 1 else [f"{audits} audits after {looks} looks"]
    return {
        "case": "a checkpoint from a day ahead in a watched folder",
        "seen": f"audited at look {looks}",
        "faults": "; ".join(faults) or "none",
    }
