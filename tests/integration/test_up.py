"""`lavise up` and `prefect deployment run lavise/full`: real servers, a real worker, on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.tiny import SETTINGS, make_command, make_environment, run_lavise

pytestmark = pytest.mark.slow
_START_SECONDS = 180


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Services:
    """A running `lavise up`."""

    def __init__(self, home: Path) -> None:
        self.home, self.prefect_port, self.mlflow_port = home, find_free_port(), find_free_port()
        ports = ["--prefect-port", str(self.prefect_port), "--mlflow-port", str(self.mlflow_port)]
        self.log = home / "up.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                make_command("up", *ports), env=make_environment(home), cwd=home, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_SECONDS
        while "ready" not in self.log.read_text("utf-8"):
            assert self.process.poll() is None, self.log.read_text("utf-8")
            assert time.monotonic() < deadline, "not ready in time"
            time.sleep(0.2)

    def run_deployment(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        """From the folder of `lavise up`, as in another terminal: no variable needed."""
        command = [sys.executable, "-m", "prefect", "deployment", "run", "lavise/full", "--watch"]
        command += ["-p", "config=demo", "-p", f"overrides={json.dumps(list(overrides))}"]
        return subprocess.run(
            command, env=make_environment(self.home), cwd=self.home, capture_output=True, text=True, check=False
        )

    def read_failed_messages(self) -> list[str]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.prefect_port}/api/flow_runs/filter",
            data=json.dumps({"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}}).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return [run["state"]["message"] for run in json.load(answer)]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    running = Services(tmp_path_factory.mktemp("up"))
    yield running
    if running.process.poll() is None:
        running.process.kill()


def test_deployment_completes_and_is_in_mlflow(services: Services) -> None:
    done = services.run_deployment(*(f"{k}={v}" for k, v in SETTINGS.items()))
    assert done.returncode == 0, done.stdout + done.stderr
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{services.mlflow_port}")
    experiment = client.get_experiment_by_name("lavise")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`lavise.config` = 'demo'")
    assert [r.info.status for r in runs] == ["FINISHED"]
    assert runs[0].data.tags["prefect.flow_run_id"]
    assert "report.html" in {a.path for a in client.list_artifacts(runs[0].info.run_id)}
    assert (services.home / "runs" / runs[0].info.run_id / "report.html").is_file()


def test_unknown_layer_fails_with_the_clear_line(services: Services) -> None:
    done = services.run_deployment("model.layers=layer9")
    assert done.returncode != 0
    (message,) = services.read_failed_messages()
    assert message.startswith("model.layers: found 'layer9'; allowed: conv_stem")


def test_taken_port_is_the_users_mistake(services: Services) -> None:
    done = run_lavise(services.home, "up", "--prefect-port", str(services.prefect_port))
    assert done.code == 2
    assert f"--prefect-port: port {services.prefect_port} is taken" in done.stderr


def test_ctrl_c_leaves_no_child_and_no_pointer(services: Services) -> None:
    children = psutil.Process(services.process.pid).children(recursive=True)
    assert len(children) >= 3
    assert (services.home / "prefect.toml").is_file()
    services.process.send_signal(signal.SIGINT)
    assert services.process.wait(90) == 0, services.log.read_text("utf-8")
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert not (services.home / "prefect.toml").exists()
