"""State folders on network file systems: one case for each way in which these differ from a local disk.

The audit must end well with the bits of an undisturbed one, or end with one clear line and lose nothing: the same
command gives these bits once the fault is over, or on a disk that is as it should be. In the cases of two clients, two
audits of one config run at once, each on a mount of its own; what only one of the two could do is computed once.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.disk import Ended, find_last_line, read_end, run_with
from benchmarks.faults.network_disk import Behaviour, CannotMountError, mount
from benchmarks.faults.parts import Options, finish, note
from benchmarks.faults.tiny_audit import (
    Command,
    compare,
    digest_artefacts,
    list_held_locks,
    list_running,
    start,
    wait_until_gone,
    write_inputs,
)

ALONE: dict[str, Behaviour] = {
    "as a local disk": Behaviour(),
    "open files that are deleted stay as .nfs files": Behaviour(silly_rename=True),
    "no hard links (EPERM)": Behaviour(hard_links=False),
    "no locks (ENOLCK)": Behaviour(locks="refused"),
    "folders cannot be synced (EINVAL)": Behaviour(sync_folders=False),
    "no folder is renamed over another (EEXIST)": Behaviour(replace_folders=False),
    "no modes (0777, chmod is EPERM)": Behaviour(modes=False),
    "no shared memory maps (ENODEV)": Behaviour(shared_maps=False),
    "names that differ in case are one": Behaviour(fold_case=True),
}
TWO: dict[str, Behaviour] = {
    "two clients, locks between them": Behaviour(silly_rename=True),
    "two clients, locks between them, names known for 30 s": Behaviour(silly_rename=True, names_cached_s=30),
    "two clients, each with its own locks": Behaviour(silly_rename=True, locks="local"),
}
# A fault, and for how long; None: until the audit has ended.
FAULTS: dict[str, tuple[str, float | None]] = {
    "full, said when a file is closed or synced": ("late ENOSPC", None),
    "over quota, said when a file is closed or synced": ("late EDQUOT", None),
    "EIO when a file is closed or synced": ("late EIO", None),
    "EIO for 4 s": ("all EIO", 4.0),
    "EIO from then on": ("all EIO", None),
    "ESTALE of all open files, once": ("stale", 0.2),
    "no answer for 20 s": ("silent", 20.0),
}
ROUNDS = 1
"""Of each fault with MLflow there and elsewhere, each in another stage."""
STAGES = ("extract train", "train tail", "report")
_ORPHAN_SECONDS = 20.0
_DONE = re.compile(r"^\S+ (.+?) +done +([0-9a-f]{12})", re.MULTILINE)


def measure_network(options: Options) -> Mapping[str, Any]:
    """All cases; each fault so many times."""
    config = write_inputs(options.work, 1)
    order = ("run", str(config), "--json")
    home = options.work / "undisturbed"
    command = start(home, *order)
    if command.wait() != 0:
        raise RuntimeError(f"the undisturbed audit failed: {command.text[-2000:]}")
    expected = digest_artefacts(home)
    rows: list[dict[str, Any]] = []
    try:
        for measure in _list_measures(options.work, order, expected, options.rounds or ROUNDS):
            rows.append(measure())
            note(options.work / "network.jsonl", rows[-1])
    except CannotMountError as err:
        raise SystemExit(f"network: {err}") from None
    return finish("network", [{**row, "faults": "; ".join(row["faults"]) or "none"} for row in rows])


def _list_measures(
    work: Path, order: tuple[str, ...], expected: Mapping[str, str], rounds: int
) -> Iterator[Callable[[], dict[str, Any]]]:
    number = 0
    for case, behaviour in ALONE.items():
        number += 1
        yield partial(_try_alone, work / f"alone{number}", case, behaviour, order, expected)
    for case, behaviour in TWO.items():
        number += 1
        yield partial(_try_two, work / f"two{number}", case, behaviour, order, expected)
    for case, (fault, seconds) in FAULTS.items():
        for turn in range(2 * rounds):
            number += 1
            stage = STAGES[(number + turn // 2) % len(STAGES)]
            place, elsewhere = work / f"fault{number}", turn % 2 == 1
            yield partial(_try_fault, place, case, fault, seconds, stage, order, expected, elsewhere=elsewhere)


def _try_alone(
    place: Path, case: str, behaviour: Behaviour, order: tuple[str, ...], expected: Mapping[str, str]
) -> dict[str, Any]:
    """One client, two audits one after the other; where the first ends with a line, the second is on a local disk."""
    with mount(place / "server", place / "client", behaviour):
        home = place / "client" / "home"
        command = start(home, *order, logs=place)
        command.wait()
        ended = read_end(command)
        faults = _look(home, ended)
        if ended.code == 0:
            faults += _compare(home, start(home, *order, name="again", logs=place), expected, cached=True)
            faults += _find_left(home)
    if ended.code != 0:
        faults += _compare(place / "local", start(place / "local", *order, name="again", logs=place), expected)
    return {"case": case, "exit code": ended.code, "said": _say(ended), "faults": faults}


def _try_fault(
    place: Path,
    case: str,
    fault: str,
    seconds: float | None,
    stage: str,
    order: tuple[str, ...],
    expected: Mapping[str, str],
    *,
    elsewhere: bool,
) -> dict[str, Any]:
    """A fault as soon as a stage has begun; the same command again once it is over.

    Args:
        elsewhere: MLflow's store is a local one, so that the fault meets stages alone.
    """
    if elsewhere:
        order = (*order, "--set", f"tracking.uri=sqlite:///{place / 'mlflow.db'}")
        case = f"{case}, MLflow elsewhere"
    with mount(place / "server", place / "client", Behaviour(silly_rename=True)) as switch:
        home = place / "client" / "home"

        def fail() -> None:
            switch.write_text(fault, "utf-8")
            if seconds is not None:
                threading.Timer(seconds, switch.write_text, ("", "utf-8")).start()

        ended = run_with(place, home, order, stage, fail)
        switch.write_text("", "utf-8")
        faults = _look(home, ended) + ([] if ended.hit else ["the audit had ended before"])
        faults += _compare(home, start(home, *order, name="again", logs=place), expected)
        faults += _find_left(home)
    return {
        "case": f"{case}, from the stage {stage} on",
        "exit code": ended.code,
        "said": _say(ended),
        "faults": faults,
    }


def _try_two(
    place: Path, case: str, behaviour: Behaviour, order: tuple[str, ...], expected: Mapping[str, str]
) -> dict[str, Any]:
    """Two audits of one config at once, each on a client of its own; MLflow's store is a local one of each."""
    with ExitStack() as stack:
        homes = []
        for name in ("one", "other"):
            stack.enter_context(mount(place / "server", place / name, behaviour))
            homes.append(place / name / "home")
        commands = []
        for home in homes:
            own = f"tracking.uri=sqlite:///{place / home.parent.name}.db"
            commands.append(start(home, *order, "--set", own, name=home.parent.name, logs=place))
            time.sleep(1.0)
        faults: list[str] = []
        for home, command in zip(homes, commands, strict=True):
            command.wait()
            faults += _look(home, read_end(command))
        ended = [read_end(command) for command in commands]
        computed = Counter(stage for command in commands for stage in _DONE.findall(command.text))
        twice = sum(times > 1 for times in computed.values())
        faults += [f"{twice} of {len(computed)} stages computed twice"] if twice else []
        own = f"tracking.uri=sqlite:///{place / 'one'}.db"
        faults += _compare(homes[0], start(homes[0], *order, "--set", own, name="again", logs=place), expected)
        faults += _find_left(homes[0])
    said = " / ".join(filter(None, map(_say, ended)))
    return {"case": case, "exit code": " and ".join(str(e.code) for e in ended), "said": said, "faults": faults}


def _look(home: Path, ended: Ended) -> list[str]:
    faults = ["a stack trace"] if ended.has_traceback else []
    if ended.code and len(ended.lines) != 1:
        faults.append(f"{len(ended.lines)} lines")
    if ended.code not in (0, 2):
        faults.append(f"exit code {ended.code}")
    return faults + [f"left: {line}" for line in wait_until_gone(home, _ORPHAN_SECONDS)]


def _compare(home: Path, again: Command, expected: Mapping[str, str], *, cached: bool = False) -> list[str]:
    """What is wrong after the command has run again."""
    if again.wait() != 0:
        return [f"again: {again.process.returncode} {find_last_line(again)}"]
    faults = [f"other bits: {key}" for key in compare(digest_artefacts(home), expected)][:3]
    if (home / "mlflow" / "mlflow.db").is_file():
        faults += [f"RUNNING: {run}" for run in list_running(home)]
    if cached and (done := _DONE.findall(again.text)):
        faults.append(f"{len(done)} stages computed again")
    return faults


def _find_left(home: Path) -> list[str]:
    """Locks that are held, names of deleted files, files that were being written."""
    left = [p for p in home.rglob("*") if p.name.startswith(".nfs") or p.suffix in (".tmp", ".partial")]
    held = [f"held lock: {path}" for path in list_held_locks(home)]
    return held + [f"left: {p.relative_to(home).as_posix()}" for p in left][:3]


def _say(ended: Ended) -> str:
    return ended.lines[-1].removeprefix("lavise: ")[:160] if ended.lines else ""
