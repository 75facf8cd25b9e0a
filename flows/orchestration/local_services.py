"""`lavise up`: Prefect server, MLflow server and a worker with the deployments, on loopback, in one command.

All state lies in the state folder. The processes are children of this one, in process groups of their own, and are
stopped with it: the worker first, so that it can hand back what it runs. One that ends by itself is started again; flow
runs whose process is gone are then marked Crashed, since nobody else would. Where this process is killed, a guard stops
them. One process at a time serves a state folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from lavise.configs.errors import UserError
from lavise.configs.loading import list_presets, load_config
from lavise.configs.paths import expand_home
from lavise.configs.policy import list_policies, load_policy
from lavise.configs.sources import FolderSource
from lavise.flows.orchestration.service_guard import ServiceGuard
from lavise.storage.moved_store import follow_move
from lavise.storage.state.environment import find_state_root
from lavise.storage.state.files import make_private_folder, write_atomically
from lavise.storage.state.locks import is_locked, try_lock
from lavise.storage.state.text import one_line
from lavise.storage.tracking import local_tracking_uri
from lavise.storage.tracking_addresses import hide_credentials

HOST = "127.0.0.1"
WORK_POOL = "local"
_START_SECONDS = 120.0
_STOP_SECONDS = 15.0
_MAX_RESTARTS = 5
_RESTART_WINDOW_SECONDS = 600.0
_RESTART_PAUSE_SECONDS = 2.0
# Less than that is a clock that is put right, of which a schedule's interval is hardly longer.
_CLOCK_SECONDS = 20.0
_POINTER, _POINTER_MARK = "prefect.toml", "# written by `lavise up` and removed when it stops\n"
_LOCK = Path("locks", "up.lock")
_ADDRESSES = "up.json"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Service:
    """A child process: how it is started, and the address at which it is well."""

    name: str
    command: tuple[str, ...]
    url: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True)
class Watch:
    """What the deployment `lavise-reaudit/watch` is switched on with.

    Attributes:
        folder: that new checkpoints come to.
        config: a preset or a YAML file, with overrides as of `lavise run --set`.
        policy: rules that each audit must pass; None for no rules.
        every_seconds: between two looks.
        stable_seconds: a file is taken when it has not changed for so long.
    """

    folder: Path
    config: str
    overrides: Sequence[str]
    policy: str | None
    every_seconds: float
    stable_seconds: float

    def to_parameters(self) -> dict[str, Any]:
        """Of the flow; paths absolute, since the worker may stand elsewhere."""
        source = FolderSource(folder=self.folder.absolute(), stable_seconds=self.stable_seconds)
        return {
            "config": self.config if self.config in list_presets() else str(expand_home(self.config).absolute()),
            "overrides": list(self.overrides),
            "source": source.model_dump(mode="json"),
            "policy": _absolute_policy(self.policy) or "",
        }


def run_services(prefect_port: int, mlflow_port: int, watch: Watch | None = None) -> None:
    """Start everything, say where it is, and wait for Ctrl-C or SIGTERM.

    Raises:
        UserError: a port is taken, another process serves the state folder, or what is to be watched is not there.
        RuntimeError: a service does not start, or ends again and again; names its log.
    """
    if watch:
        _check_watch(watch)
    if prefect_port == mlflow_port:
        raise UserError(f"--mlflow-port: found {mlflow_port}, which is --prefect-port, too; give two different ports")
    root, mlflow_url = find_state_root(None), f"http://{HOST}:{mlflow_port}"
    if is_locked(root / _LOCK):
        raise _explain_running(root)
    for port, option in ((prefect_port, "--prefect-port"), (mlflow_port, "--mlflow-port")):
        _require_free(port, option)
    with _serve_alone(root, f"http://{HOST}:{prefect_port} and {mlflow_url}"):
        _run_services(root, prefect_port, mlflow_port, watch)


def _run_services(root: Path, prefect_port: int, mlflow_port: int, watch: Watch | None) -> None:
    api_url, mlflow_url = f"http://{HOST}:{prefect_port}/api", f"http://{HOST}:{mlflow_port}"
    environment = _make_environment(root, api_url, mlflow_url)
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    services = Services()
    try:
        with _point_prefect_here(api_url):
            _start_servers(services, root, environment, prefect_port, mlflow_port)
            _prepare_prefect(api_url, root, environment, watch)
            _start_worker(services, root, environment, prefect_port)
            _say(f"Prefect   http://{HOST}:{prefect_port}")
            _say(f"MLflow    {mlflow_url}")
            _say("run       prefect deployment run lavise/full --watch")
            _say(f"          (in another folder first: export PREFECT_API_URL={api_url})")
            if watch:
                _say(f"watching  {watch.folder} every {watch.every_seconds:g} s, with {watch.config}")
            _say("ready; Ctrl-C stops all")
            _keep_running(services, api_url, environment)
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        services.stop()


@contextlib.contextmanager
def _serve_alone(root: Path, addresses: str) -> Iterator[None]:
    """Keep others from serving the same state folder, and let them say who does.

    Raises:
        UserError: another process does.
    """
    with try_lock(root / _LOCK) as free:
        if not free:
            raise _explain_running(root)
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        about = {"process": os.getpid(), "since": since, "addresses": addresses}
        write_atomically(root / _ADDRESSES, json.dumps(about))
        try:
            yield
        finally:
            (root / _ADDRESSES).unlink(missing_ok=True)


def _explain_running(root: Path) -> UserError:
    with contextlib.suppress(OSError, json.JSONDecodeError, KeyError, TypeError):  # it is about to write or to end
        about = json.loads((root / _ADDRESSES).read_text("utf-8"))
        said = f" (process {about['process']}, since {about['since']}, at {about['addresses']})"
        return UserError(f"state folder {root}: already served by `lavise up`{said}; use that one, or stop it first")
    return UserError(f"state folder {root}: already served by `lavise up`; use that one, or stop it first")


def find_serving_process(root: Path) -> int | None:
    """The process of `lavise up` that serves a state folder; None where none does."""
    if is_locked(root / _LOCK):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # it is about to write or to end
            return int(json.loads((root / _ADDRESSES).read_text("utf-8"))["process"])
    return None


def find_deployments_file() -> Path:
    """prefect.yaml of the checkout, or the copy in the installed package."""
    here = Path(__file__).resolve().parent
    for path in (here.parents[1] / "prefect.yaml", here / "prefect.yaml"):
        if path.is_file():
            return path
    raise FileNotFoundError("prefect.yaml is missing from the installation")


class Services:
    """Those that run, those that have ended, and the guard that stops them where this process is killed.

    What was ended stays in the list for its process group: a flow run may have outlived its worker.
    """

    def __init__(self) -> None:
        self.all: list[Service] = []
        self.guard = ServiceGuard()

    def start(self, name: str, command: Sequence[str], url: str, environment: dict[str, str], logs: Path) -> Service:
        """Start one; nobody waits until it is well."""
        self.all.append(_start(name, command, url, environment, logs))
        self.guard.watch(self.all[-1].process.pid)
        return self.all[-1]

    def find_current(self, name: str) -> Service:
        """The one of this name that was started last."""
        return [service for service in self.all if service.name == name][-1]

    def stop(self) -> None:
        """All of them, then the guard."""
        _stop(self.all)
        self.guard.dismiss()


def _start_servers(
    services: Services, root: Path, environment: dict[str, str], prefect_port: int, mlflow_port: int
) -> None:
    logs = root / "logs"
    for folder in (logs, root / "prefect", root / "mlflow" / "artifacts"):
        make_private_folder(folder)
    follow_move(root)
    prefect, mlflow = _tool("prefect"), _tool("mlflow")
    server = [*prefect, "server", "start", "--host", HOST, "--port", str(prefect_port)]
    tracking = [*mlflow, "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
    tracking += ["--backend-store-uri", local_tracking_uri(root)]
    # Files, not a proxy: what `lavise run` writes without a server and what runs under it stay one store.
    tracking += ["--no-serve-artifacts", "--default-artifact-root", (root / "mlflow" / "artifacts").as_uri()]
    health = f"http://{HOST}:{prefect_port}/api/health"
    services.start("prefect-server", server, health, environment, logs)
    services.start("mlflow-server", tracking, f"http://{HOST}:{mlflow_port}/health", environment, logs)
    for service in services.all:
        _wait_until_well(service)


def _start_worker(services: Services, root: Path, environment: dict[str, str], prefect_port: int) -> None:
    command = [*_tool("prefect"), "worker", "start", "--pool", WORK_POOL, "--type", "process"]
    url = f"http://{HOST}:{prefect_port}/api/work_pools/{WORK_POOL}"
    command += ["--install-policy", "never"]
    _wait_until_well(services.start("prefect-worker", command, url, environment, root / "logs"))


def _prepare_prefect(api_url: str, root: Path, environment: dict[str, str], watch: Watch | None) -> None:
    """Work pool, deployments, the limit that keeps two audits from sharing a GPU; and what a crash left behind."""
    from lavise.flows.orchestration.prefect_server import crash_dead_runs, prepare_server

    crash_dead_runs(api_url)
    prepare_server(api_url, WORK_POOL)
    file = root / "prefect" / "prefect.yaml"
    write_atomically(file, make_deployments(find_deployments_file().read_text("utf-8"), watch))
    _deploy(_tool("prefect"), environment, root / "logs", file)


def make_deployments(text: str, watch: Watch | None) -> str:
    """prefect.yaml, with the deployment `watch` switched on where it is wanted."""
    content = yaml.safe_load(text)
    if watch:
        (deployment,) = (d for d in content["deployments"] if d["name"] == "watch")
        deployment["parameters"] = watch.to_parameters()
        deployment["schedules"] = [{"interval": watch.every_seconds, "active": True}]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _check_watch(watch: Watch) -> None:
    """What can be wrong is said before anything is started.

    Raises:
        UserError: no such folder, or a mistake in the config or the policy.
    """
    if not watch.folder.is_dir():
        raise UserError(f"--watch: found {str(watch.folder)!r}, which is no folder; make it, or name another")
    for item in watch.overrides:
        if hide_credentials(item) != item:
            raise UserError(
                f"--set {hide_credentials(item)}: a password would stand in Prefect's database for all to see; "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
    load_config(watch.config, watch.overrides)
    if watch.policy:
        load_policy(watch.policy)


def _absolute_policy(policy: str | None) -> str | None:
    return policy if policy is None or policy in list_policies() else str(expand_home(policy).absolute())


def _make_environment(root: Path, api_url: str, mlflow_url: str) -> dict[str, str]:
    port = urllib.parse.urlsplit(api_url).port
    return {
        **os.environ,
        "LAVISE_HOME": str(root),
        "MLFLOW_TRACKING_URI": mlflow_url,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "true",
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        # Its default is any page of any site that a browser on this machine shows; MLflow's is its own already. Who
        # may ask does not settle who may write: for that it wants a token, which its clients and its page fetch.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port},http://localhost:{port}",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        # Its default deletes old events alone, so that its database, of which each of its connections keeps up to
        # 80 MB in memory, would grow for ever: a watched folder is a flow run at each look. Audits are MLflow's.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": os.environ.get(
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED", "events,flow_runs"
        ),
        # In memory, as is the default, slots that were taken when the server was killed stay taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PYTHONUNBUFFERED": "1",
    }


def _tool(name: str) -> list[str]:
    """The console script that belongs to this interpreter, whatever PATH says."""
    return [sys.executable, "-m", name]


def _start(name: str, command: Sequence[str], url: str, environment: dict[str, str], logs: Path) -> Service:
    path = logs / f"{name}.log"
    with path.open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return Service(name, tuple(command), url, process, path)


def _deploy(prefect: Sequence[str], environment: dict[str, str], logs: Path, file: Path) -> None:
    command = [*prefect, "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
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


def _wait_until_well(service: Service) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        _require_running(service)
        try:
            with urllib.request.urlopen(service.url, timeout=5):  # noqa: S310 - our own loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"{service.name} did not answer within {_START_SECONDS:.0f} s, see {service.log}")


def _require_running(service: Service) -> None:
    code = service.process.poll()
    if code is not None:
        raise RuntimeError(f"{service.name} ended with exit code {code}, see {service.log}")


def _keep_running(services: Services, api_url: str, environment: dict[str, str]) -> None:
    """Start again what ends by itself, until that does not help any more; and see to it that schedules follow the
    clock."""
    from lavise.flows.orchestration.prefect_server import crash_dead_runs, forget_scheduled_runs

    ends: list[float] = []
    ahead = _measure_clock()
    while True:
        for service in list(services.all):
            code = service.process.poll()
            if code is None or service is not services.find_current(service.name):
                continue
            ends = [t for t in ends if time.monotonic() - t < _RESTART_WINDOW_SECONDS] + [time.monotonic()]
            if len(ends) > _MAX_RESTARTS:
                raise RuntimeError(f"{service.name} ended {len(ends)} times, see {service.log}")
            _say(f"{service.name} ended with exit code {code}; starting it again (log: {service.log})")
            if service.name != "prefect-worker":  # a server's own children would keep its port
                _signal_group(service, signal.SIGKILL)
            again = services.start(service.name, service.command, service.url, environment, service.log.parent)
            try:
                _wait_until_well(again)
            except RuntimeError as err:
                _say(str(err))
                if again.process.poll() is None:  # it runs and never answers
                    raise
                time.sleep(_RESTART_PAUSE_SECONDS)
                continue  # counted, and started again, in the next round
            with _prefect_may_be_away("flow runs whose process is gone could not be marked"):
                crash_dead_runs(api_url)
        before, ahead = ahead, _measure_clock()
        if before - ahead > _CLOCK_SECONDS:
            _say(f"the clock was set back by {before - ahead:.0f} s; what is scheduled is planned anew")
            with _prefect_may_be_away("what was scheduled before could not be deleted"):
                forget_scheduled_runs(api_url)
            # Without that it plans nothing even then (findings/prefect-clock-set-back.sh).
            for service in services.all:
                if service.name == "prefect-server":
                    _signal_group(service, signal.SIGTERM)
        time.sleep(0.5)


def _measure_clock() -> float:
    """Seconds that the clock is ahead of one that nobody can set."""
    return time.time() - time.monotonic()


@contextlib.contextmanager
def _prefect_may_be_away(what: str) -> Iterator[None]:
    """The server is gone too, or busy with its own start."""
    import httpx
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound) as err:
        _say(f"{what} ({one_line(err)[:200]})")


def _stop(services: Sequence[Service]) -> None:
    """Ask, wait, then insist; the worker goes first. Whole groups, so that flow runs do not outlive their worker."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave half of them behind
    for service in sorted(services, key=lambda s: s.name != "prefect-worker"):
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
    text = f'{_POINTER_MARK}[api]\nurl = "{api_url}"\n'
    try:
        is_ours = not pointer.exists() or pointer.read_bytes().startswith(_POINTER_MARK.encode())
        if is_ours:
            pointer.write_text(text, "utf-8")
    except OSError as err:
        _say(f"{pointer} could not be written ({err.strerror}); for `prefect`: export PREFECT_API_URL={api_url}")
        is_ours = False
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if is_ours and pointer.read_bytes() == text.encode():  # not that of another server, started here later
                pointer.unlink()


def _say(line: str) -> None:
    print(line, flush=True)
