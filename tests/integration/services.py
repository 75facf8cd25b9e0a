"""A running `lavise up`, for tests against real servers and a real worker on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.tiny import make_command, make_environment

_START_SECONDS = 180
_STOP_SECONDS = 90


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Services:
    """Starts `lavise up` below a folder of its own and waits until it is ready."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home, self.prefect_port, self.mlflow_port = home, find_free_port(), find_free_port()
        self.mlflow_url = f"http://127.0.0.1:{self.mlflow_port}"
        ports = ["--prefect-port", str(self.prefect_port), "--mlflow-port", str(self.mlflow_port)]
        self.log = home / "up.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                make_command("up", *ports, *options), env=make_environment(home), cwd=home, stdout=log, stderr=log
            )
        wait_until(lambda: "ready" in self.read_log(), _START_SECONDS, self.read_log)

    def read_log(self) -> str:
        text = self.log.read_text("utf-8")
        assert self.process.poll() is None, text
        return text

    def read_worker_log(self) -> str:
        return (self.home / "logs" / "prefect-worker.log").read_text("utf-8", "replace")

    def start_deployment(self, name: str, **parameters: object) -> subprocess.Popen[str]:
        """From the folder of `lavise up`, as in another terminal: no variable needed."""
        command = [sys.executable, "-m", "prefect", "deployment", "run", name, "--watch"]
        command += [part for key, value in parameters.items() for part in ("-p", f"{key}={json.dumps(value)}")]
        return subprocess.Popen(
            command,
            env=make_environment(self.home),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """POST to Prefect's API, with the token that it wants."""
        api = f"http://127.0.0.1:{self.prefect_port}/api"
        with urllib.request.urlopen(f"{api}/csrf-token?client=tests", timeout=30) as answer:
            token = json.load(answer)["token"]
        request = urllib.request.Request(
            f"{api}{path}",
            data=json.dumps(body).encode(),
            headers={
                "content-type": "application/json",
                "prefect-csrf-token": token,
                "prefect-csrf-client": "tests",
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def find_flow_runs(self, *states: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(
            "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": list(states)}}}}
        )
        return found

    def stop(self) -> None:
        """Ctrl-C; insists if that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()


def wait_until(ready: Callable[[], bool], seconds: float, explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not in time: {explain()[-3000:]}"
        time.sleep(0.3)
