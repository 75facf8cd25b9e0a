"""Servers that fail in the middle of an audit: MLflow answers 500 or nothing, servers and the worker are killed.

Each must end with one clear line and lose nothing (the audit again gives the bits of an undisturbed one), or go on.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.failing_proxy import FailingProxy
from benchmarks.faults.parts import Options, finish, note
from benchmarks.faults.tiny_audit import (
    compare,
    digest_artefacts,
    list_audits,
    list_held_locks,
    list_processes,
    list_running,
    start,
    wait_until_gone,
    write_inputs,
)

_OUTAGE_SECONDS = 300.0
_START_SECONDS = 300.0
_ORPHAN_SECONDS = 30.0
_STAGE = "regions tail"
# A part of the command line of what is killed.
VICTIMS = {
    "Prefect server": "prefect server start",
    "MLflow server": "mlflow server",
    "Prefect worker": "prefect worker",
}


def measure_services(options: Options) -> Mapping[str, Any]:
    config = write_inputs(options.work, 1)
    home = options.work / "undisturbed"
    command = start(home, "run", str(config), "--json")
    if command.wait() != 0:
        raise RuntimeError(f"the undisturbed audit failed: {command.text[-2000:]}")
    expected = digest_artefacts(home)
    rows: list[dict[str, Any]] = []

    def record(case: str, became: str, said: str, faults: list[str]) -> None:
        rows.append({"case": case, "became": became, "said": said[:200], "faults": "; ".join(faults) or "none"})
        note(options.work / "services.jsonl", rows[-1])

    with _mlflow_server(options.work) as (port, store):
        for case, how, seconds in (
            ("MLflow answers 500 from then on", "500", 3600.0),
            (f"MLflow answers nothing for {_OUTAGE_SECONDS:.0f} s", "silent", _OUTAGE_SECONDS),
            (f"MLflow answers 500 for {_OUTAGE_SECONDS:.0f} s", "500", _OUTAGE_SECONDS),
        ):
            proxy = FailingProxy(port)
            home = options.work / f"proxied-{how}-{seconds:.0f}"
            order = ("run", str(config), "--json", "--set", f"tracking.uri={proxy.url}")
            command = start(home, *order, name="faulty")
            faults = [] if command.wait_for(f"{_STAGE:<28} started") else ["the stage was not reached"]
            begun = time.monotonic()
            proxy.fail_for(how, seconds)
            code = command.wait(900)
            became = f"exit code {code} after {time.monotonic() - begun:.0f} s"
            proxy.how = "well"
            lines = [line for line in command.text.splitlines() if line.startswith("lavise: ")]
            if code != 0:
                faults += ["a stack trace"] if "Traceback" in command.text else []
                faults += [f"{len(lines)} lines"] if len(lines) != 1 else []
                again = start(home, *order, name="again")
                faults += [f"again: {again.process.returncode}"] if again.wait() != 0 else []
            faults += [f"other bits: {key}" for key in compare(digest_artefacts(home), expected)][:3]
            faults += [f"RUNNING: {run}" for run in _list_running_in(store)]
            faults += [f"held lock: {path}" for path in list_held_locks(home)]
            record(case, became, lines[-1] if lines else "", faults)
            proxy.close()
    home = options.work / "up"
    for victim, part in VICTIMS.items():
        record(f"{victim} killed (lavise up)", *_kill_service(home, config, part, expected))
    return finish("services", rows)


def _kill_service(home: Path, config: Path, part: str, expected: Mapping[str, str]) -> tuple[str, str, list[str]]:
    """What became of an audit by `lavise up` whose service was killed; what was said; faults."""
    ports = [find_free_port(), find_free_port()]
    up = start(home, "up", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1]), name="up")
    faults = []
    try:
        if not up.wait_for("ready", _START_SECONDS):
            return "did not start", up.text[-200:], ["lavise up did not start"]
        before = len(_finished(home))
        flow = _run_deployment(home, ports[0], config)
        worker_log = home / "logs" / "prefect-worker.log"
        reached = wait_until(lambda: f"{_STAGE:<28} started" in worker_log.read_text("utf-8", "replace"), 300)
        faults += [] if reached else ["the stage was not reached"]
        killed = _kill(home, part)
        faults += [] if killed else ["nobody to kill"]
        flow.wait(600)
        # Where the flow crashed, somebody starts it again.
        times = 1
        wait_until(lambda: len(_finished(home)) > before, 60)
        while len(_finished(home)) == before and times < 3:
            _run_deployment(home, ports[0], config).wait(600)
            times += 1
        faults += [f"other bits: {key}" for key in compare(digest_artefacts(home), expected)][:3]
        faults += ["no finished audit"] if len(_finished(home)) == before else []
        became = "went on" if times == 1 else f"ended; started again, {times} in all, and whole"
        said = [line for line in up.text.splitlines() if "again" in line or "Crashed" in line]
    finally:
        up.process.send_signal(signal.SIGINT)
        up.wait(120)
        faults += [f"left: {line}" for line in wait_until_gone(home, _ORPHAN_SECONDS)]
    # The next to open the store marks what was killed.
    start(home, "runs", name="runs").wait()
    faults += [f"RUNNING: {run}" for run in list_running(home)]
    return became, said[-1] if said else "", faults


def _kill(home: Path, part: str) -> int:
    """kill -9 of a service with all below it; how many processes."""
    number = 0
    for process in list(list_processes(home)):
        try:
            if part in " ".join(process.cmdline()):
                for child in process.children(recursive=True):
                    child.kill()
                    number += 1
                process.kill()
                number += 1
        except psutil.Error:
            continue
    return number


def _finished(home: Path) -> list[Any]:
    try:
        return list_audits(home, "FINISHED")
    except Exception:  # noqa: BLE001 - the store, or its experiment, is not there yet
        return []


def _run_deployment(home: Path, port: int, config: Path) -> subprocess.Popen[bytes]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "LAVISE_"))}
    order = [sys.executable, "-m", "prefect", "deployment", "run", "lavise/full", "--watch", "-p", f"config={config}"]
    with (home.parent / "flow.log").open("ab") as log:
        return subprocess.Popen(
            order,
            env={**kept, "LAVISE_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"},
            cwd=home.parent,
            stdout=log,
            stderr=log,
        )


def wait_until(ready: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if ready():
                return True
        except OSError:
            pass
        time.sleep(0.3)
    return False


@contextmanager
def _mlflow_server(work: Path) -> Iterator[tuple[int, str]]:
    """Its port, and the address of its store."""
    port, store = find_free_port(), f"sqlite:///{work / 'served.db'}"
    order = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    order += ["--backend-store-uri", store, "--no-serve-artifacts", "--default-artifact-root", f"file://{work}/served"]
    with (work / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(order, stdout=log, stderr=log, start_new_session=True, cwd=work)
    try:
        if not wait_until(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/health").status == 200, _START_SECONDS
        ):
            raise RuntimeError("the MLflow server does not start")
        yield port, store
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def _list_running_in(store: str) -> list[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return [str(r.info.run_name) for r in client.search_runs(experiments, "attributes.status = 'RUNNING'")]


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
