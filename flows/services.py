"""`lavise up`: Prefect server, MLflow server and a worker with the deployments, on loopback, in one command.

All state lies in the state folder. The processes are children of this one, in process groups of their own, and are
stopped with it: the worker first, so that it can hand back what it runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from configs.errors import UserError
from storage.environment import find_state_root

HOST = "127.0.0.1"
WORK_POOL = "local"
_START_SECONDS = 120.0
_STOP_SECONDS = 15.0
_POINTER = "prefect.toml"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Service:
    """A child process and the address at which it is well."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def run_services(prefect_port: int, mlflow_port: int) -> None:
    """Start everything, say where it is, and wait for Ctrl-C or SIGTERM.

    Raises:
        UserError: a port is taken.
        RuntimeError: a service does not start, or ends; names its log.
    """
    for port, option in ((prefect_port, "--prefect-port"), (mlflow_port, "--mlflow-port")):
        _require_free(port, option)
    root = find_state_root(None)
    api_url, mlflow_url = f"http://{HOST}:{prefect_port}/api", f"http://{HOST}:{mlflow_port}"
    environment = _make_environment(root, api_url, mlflow_url)
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    services: list[Service] = []
    try:
        with _point_prefect_here(api_url):
            _start_servers(services, root, environment, prefect_port, mlflow_port)
            _say(f"Prefect   http://{HOST}:{prefect_port}")
            _say(f"MLflow    {mlflow_url}")
            _say("run       prefect deployment run lavise/full --watch")
            _say(f"          (in another folder first: export PREFECT_API_URL={api_url})")
            _say("ready; Ctrl-C stops all")
            _watch(services)
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        _stop(services)


def find_deployments_file() -> Path:
    """prefect.yaml of the checkout, or the copy in the installed package."""
    package = Path(__file__).resolve().parent
    for path in (package.parent / "prefect.yaml", package / "prefect.yaml"):
        if path.is_file():
            return path
    raise FileNotFoundError("prefect.yaml is missing from the installation")


def _start_servers(
    services: list[Service], root: Path, environment: dict[str, str], prefect_port: int, mlflow_port: int
) -> None:
    logs = root / "logs"
    for folder in (logs, root / "prefect", root / "mlflow" / "artifacts"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    prefect, mlflow = _tool("prefect"), _tool("mlflow")
    server = [*prefect, "server", "start", "--host", HOST, "--port", str(prefect_port)]
    tracking = [*mlflow, "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    tracking += ["--backend-store-uri", f"sqlite:///{root / 'mlflow' / 'mlflow.db'}"]
    # Files, not a proxy: what `lavise run` writes without a server and what runs under it stay one store.
    tracking += ["--no-serve-artifacts", "--default-artifact-root", (root / "mlflow" / "artifacts").as_uri()]
    services.append(_start("prefect-server", server, environment, logs))
    services.append(_start("mlflow-server", tracking, environment, logs))
    _wait_until_well(services[0], f"http://{HOST}:{prefect_port}/api/health")
    _wait_until_well(services[1], f"http://{HOST}:{mlflow_port}/health")
    worker = [*prefect, "worker", "start", "--pool", WORK_POOL, "--type", "process", "--install-policy", "never"]
    services.append(_start("prefect-worker", worker, environment, logs))
    _wait_until_well(services[2], f"http://{HOST}:{prefect_port}/api/work_pools/{WORK_POOL}")
    _deploy(prefect, environment, logs)


def _make_environment(root: Path, api_url: str, mlflow_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "LAVISE_HOME": str(root),
        "MLFLOW_TRACKING_URI": mlflow_url,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "true",
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONUNBUFFERED": "1",
    }


def _tool(name: str) -> list[str]:
    """The console script that belongs to this interpreter, whatever PATH says."""
    return [sys.executable, "-m", name]


def _start(name: str, command: Sequence[str], environment: dict[str, str], logs: Path) -> Service:
    path = logs / f"{name}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return Service(name, process, path)


def _deploy(prefect: Sequence[str], environment: dict[str, str], logs: Path) -> None:
    command = [*prefect, "--no-prompt", "deploy", "--all", "--prefect-file", str(find_deployments_file())]
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (logs / "deploy.log").write_text(done.stdout, "utf-8")
    if done.returncode:
        raise RuntimeError(f"the deployments could not be registered, see {logs / 'deploy.log'}")


def _wait_until_well(service: Service, url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        _require_running(service)
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"{service.name} did not answer within {_START_SECONDS:.0f} s, see {service.log}")


def _require_running(service: Service) -> None:
    code = service.process.poll()
    if code is not None:
        raise RuntimeError(f"{service.name} ended with exit code {code}, see {service.log}")


def _watch(services: Sequence[Service]) -> None:
    while True:
        for service in services:
            _require_running(service)
        time.sleep(0.5)


def _stop(services: Sequence[Service]) -> None:
    """Ask, wait, then insist; the worker goes first. Whole groups, so that flow runs do not outlive their worker."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave half of them behind
    for service in reversed(services):
        _signal_group(service, signal.SIGINT if service.name == "prefect-worker" else signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.process.wait(_STOP_SECONDS)
        _signal_group(service, signal.SIGKILL)
        service.process.wait()


def _signal_group(service: Service, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(service.process.pid, number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _require_free(port: int, option: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise UserError(f"{option}: port {port} is taken; stop what listens there, or give another port") from None


@contextlib.contextmanager
def _point_prefect_here(api_url: str) -> Iterator[None]:
    """Lets `prefect` in the current folder find the server, by a prefect.toml that goes when the server goes."""
    pointer = Path.cwd() / _POINTER
    mark = "# written by `lavise up` and removed when it stops\n"
    if pointer.exists() and not pointer.read_text("utf-8").startswith(mark):
        yield
        return
    pointer.write_text(f'{mark}[api]\nurl = "{api_url}"\n', "utf-8")
    try:
        yield
    finally:
        pointer.unlink(missing_ok=True)


def _say(line: str) -> None:
    print(line, flush=True)
