"""`lavise up` and `prefect deployment run lavise/full`: real servers, a real worker, on loopback."""

from __future__ import annotations

import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from lavise.flows.doctor import run_check
from lavise.flows.doctor.listening import check_listening
from tests.integration.services import Services
from tests.integration.tiny import SETTINGS, run_lavise
from tests.users_folder import write_users_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    running = Services(write_users_folder(tmp_path_factory.mktemp("up")))
    yield running
    running.stop()


def test_deployment_completes_and_is_in_mlflow(services: Services) -> None:
    """With a network of the user's, in a folder with packages that are called as ours are."""
    settings = {**SETTINGS, "model.arch": "tasks.net:make"}
    flow = services.start_deployment(
        "lavise/full", config="demo", overrides=[f"{k}={v}" for k, v in settings.items()], register_model=True
    )
    said, _ = flow.communicate()
    assert flow.returncode == 0, said
    from mlflow.tracking import MlflowClient

    (done,) = services.find_flow_runs("COMPLETED")
    assert re.match(r"bn2: \d+ of 1,280 filters explained", done["state"]["message"])
    client = MlflowClient(services.mlflow_url)
    experiment = client.get_experiment_by_name("lavise")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`lavise.config` = 'demo'")
    assert [r.info.status for r in runs] == ["FINISHED"]
    assert runs[0].data.tags["prefect.flow_run_id"]
    assert "report.html" in {a.path for a in client.list_artifacts(runs[0].info.run_id)}
    assert (services.home / "runs" / runs[0].info.run_id / "report.html").is_file()
    assert runs[0].data.metrics["system/system_memory_usage_megabytes"] > 0
    assert [v.run_id for v in client.search_model_versions("name='lavise-explainer'")] == [runs[0].info.run_id]
    shown = services.ask("/artifacts/filter", {})
    assert {a["key"]: a["type"] for a in shown} == {
        "lavise-stages": "table",
        "lavise-report": "markdown",
        "lavise-mlflow-run": "markdown",
        "lavise-filters": "image",
    }


def test_stages_that_compute_on_the_device_share_a_limit(services: Services) -> None:
    tags = {run["name"]: set(run["tags"]) for run in services.ask("/task_runs/filter", {})}
    on_device = {name for name, own in tags.items() if own == {"lavise-cpu"}}
    assert on_device == {f"extract {r}" for r in ("train", "evaluation", "target")} | {
        f"{stage} bn2" for stage in ("train", "validate", "precision", "explain", "evaluate")
    }
    limits = services.ask("/concurrency_limits/filter", {})
    assert {limit["tag"]: limit["concurrency_limit"] for limit in limits} == {"lavise-cuda": 1}


def test_unknown_layer_fails_with_the_clear_line(services: Services) -> None:
    flow = services.start_deployment("lavise/full", layers=["layer9"])
    flow.communicate()
    assert flow.returncode != 0
    (failed,) = services.find_flow_runs("FAILED")
    assert failed["state"]["message"].startswith("model.layers: found 'layer9'; allowed: conv_stem")


def ask_from(origin: str, url: str, method: str, **headers: str) -> tuple[int, str | None]:
    """(status, origin that may read the answer) of what a browser would ask for a page of this origin."""
    request = urllib.request.Request(url, b"{}" if method == "POST" else None, method=method)
    for name, value in {"Origin": origin, "Content-Type": "application/json", **headers}.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["Access-Control-Allow-Origin"]
    except urllib.error.HTTPError as err:
        return err.code, err.headers["Access-Control-Allow-Origin"]


def test_pages_of_other_sites_are_refused(services: Services) -> None:
    """They may read nothing, and write nothing without a token, which they cannot read."""
    own, other = f"http://127.0.0.1:{services.prefect_port}", "http://elsewhere.example"
    prefect, preflight = f"{own}/api/deployments/filter", {"Access_Control_Request_Method": "POST"}
    assert ask_from(own, prefect, "OPTIONS", **preflight) == (200, own)
    assert ask_from(other, prefect, "OPTIONS", **preflight) == (400, None)
    assert ask_from(other, prefect, "POST") == (403, None)
    assert ask_from(own, prefect, "POST")[0] == 403
    token = f"{own}/api/csrf-token?client=page"
    assert ask_from(other, token, "GET") == (200, None)  # sent, and kept from the page by its browser
    assert ask_from(own, token, "GET") == (200, own)
    mlflow = f"{services.mlflow_url}/api/2.0/mlflow/experiments/create"
    assert ask_from(other, mlflow, "POST") == (403, None)
    assert ask_from(own, mlflow, "POST", Host="elsewhere.example") == (403, None)


def test_servers_listen_on_loopback_and_the_doctor_says_so(services: Services) -> None:
    (check,) = run_check("servers", partial(check_listening, services.home))
    assert check.status == "ok"
    for port in (services.prefect_port, services.mlflow_port):
        assert f"127.0.0.1:{port}" in check.found


def test_taken_port_is_the_users_mistake(services: Services, tmp_path: Path) -> None:
    done = run_lavise(tmp_path, "up", "--prefect-port", str(services.prefect_port))
    assert done.code == 2
    assert f"--prefect-port: port {services.prefect_port} is taken" in done.stderr


def test_second_up_on_the_state_folder_says_who_serves_it(services: Services, tmp_path: Path) -> None:
    for folder in (services.home, tmp_path):
        done = run_lavise(services.home, "up", cwd=folder)
        assert done.code == 2
        said = " ".join(done.stderr.split())
        assert f"already served by `lavise up` (process {services.process.pid}, since" in said
        assert services.mlflow_url in said
    assert (services.home / "prefect.toml").is_file()
    assert services.process.poll() is None


def test_ctrl_c_leaves_no_child_and_no_pointer(services: Services) -> None:
    children = psutil.Process(services.process.pid).children(recursive=True)
    assert len(children) >= 3
    assert (services.home / "prefect.toml").is_file()
    services.process.send_signal(signal.SIGINT)
    assert services.process.wait(90) == 0, services.log.read_text("utf-8")
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert not (services.home / "prefect.toml").exists()


def test_kill_of_lavise_up_leaves_nobody(tmp_path: Path) -> None:
    services = Services(tmp_path)
    children = psutil.Process(services.process.pid).children(recursive=True)
    assert len(children) >= 4
    services.process.kill()
    services.process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    Services(tmp_path).stop()  # nothing of the first is in the way of the next
