"""What `lavise up` decides: deployments, and what is refused before anything starts."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.exceptions import ParameterTypeError
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from prefect.utilities.schema_tools.validation import ValidationError

from lavise.configs.errors import UserError
from lavise.configs.sources import FolderSource, RegisteredModelSource
from lavise.flows.orchestration import local_services
from lavise.flows.orchestration.local_services import (
    Services,
    Watch,
    _keep_running,
    _make_environment,
    _point_prefect_here,
    _serve_alone,
    _start,
    _wait_until_well,
    find_deployments_file,
    make_deployments,
    run_services,
)

VACUUM = "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"
TEXT = find_deployments_file().read_text("utf-8")


@pytest.fixture(autouse=True)
def signals_restored() -> Iterator[None]:
    """Who stops services is deaf to further signals from then on, and so would be all that this process starts."""
    before = {number: signal.getsignal(number) for number in local_services._SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return Watch(folder, "demo", ["seed=1"], "default", every_seconds=10.0, stable_seconds=1.0)


def read_deployments(text: str) -> dict[str, dict[str, Any]]:
    return {d["name"]: d for d in yaml.safe_load(text)["deployments"]}


def find_flow(deployment: dict[str, Any]) -> Flow[Any, Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    found: Flow[Any, Any] = getattr(importlib.import_module(module), name)
    return found


# Deployments


def test_without_a_watch_the_file_says_what_it_said() -> None:
    assert yaml.safe_load(make_deployments(TEXT, None)) == yaml.safe_load(TEXT)


def test_with_a_watch_exactly_watch_is_switched_on(watch: Watch) -> None:
    before, after = read_deployments(TEXT), read_deployments(make_deployments(TEXT, watch))
    assert list(after) == list(before) == ["full", "nightly", "watch"]
    assert after["watch"].pop("schedules") == [{"interval": 10.0, "active": True}]
    assert after["watch"].pop("parameters") == watch.to_parameters()
    for key in ("schedules", "parameters"):
        del before["watch"][key]
    assert after == before
    assert after["watch"]["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_what_the_three_deployments_are() -> None:
    deployments = read_deployments(TEXT)
    assert {f"{find_flow(d).name}/{name}" for name, d in deployments.items()} == {
        "lavise/full",
        "lavise-reaudit/nightly",
        "lavise-reaudit/watch",
    }
    assert {d["work_pool"]["name"] for d in deployments.values()} == {"local"}
    schedules = [s for d in deployments.values() for s in d.get("schedules", [])]
    assert [s["active"] for s in schedules] == [False, False]


@pytest.mark.parametrize("name", ["full", "nightly", "watch"])
@pytest.mark.parametrize("switched_on", [False, True])
def test_prefect_accepts_parameters_and_schedules(watch: Watch, name: str, switched_on: bool) -> None:
    deployment = read_deployments(make_deployments(TEXT, watch if switched_on else None))[name]
    called, parameters = find_flow(deployment), deployment["parameters"]
    schema = parameter_schema(called.fn).model_dump()
    validate(parameters, schema, raise_on_error=True)
    assert called.validate_parameters(parameters)["config"] == "demo"
    with pytest.raises(ValidationError):
        validate({**parameters, "config": 1}, schema, raise_on_error=True)
    with pytest.raises(ParameterTypeError):
        called.validate_parameters({**parameters, "policy": None})
    for schedule in deployment.get("schedules", []):
        found = _schedule_config_to_deployment_schedule(schedule)
        assert found["active"] is (switched_on and name == "watch")


def test_the_watch_becomes_a_source(watch: Watch) -> None:
    deployment = read_deployments(make_deployments(TEXT, watch))["watch"]
    found = find_flow(deployment).validate_parameters(deployment["parameters"])
    assert found["source"] == FolderSource(folder=watch.folder, stable_seconds=1.0)
    assert (found["overrides"], found["policy"]) == (["seed=1"], "default")


def test_a_registered_model_is_a_source_too() -> None:
    called = find_flow(read_deployments(TEXT)["nightly"])
    source = {"kind": "registered_model", "model": "classifier"}
    assert called.validate_parameters({"source": source})["source"] == RegisteredModelSource(model="classifier")
    for wrong in ({"kind": "bucket"}, {"kind": "folder"}, {"kind": "registered_model", "model": "models:/a/1"}):
        with pytest.raises(ParameterTypeError):
            called.validate_parameters({"source": wrong})


def test_the_worker_may_stand_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    found = Watch(Path("incoming"), "my.yaml", [], "rules.yaml", 300, 30).to_parameters()
    assert found["config"] == str(tmp_path / "my.yaml")
    assert found["source"]["folder"] == str(tmp_path / "incoming")
    assert found["policy"] == str(tmp_path / "rules.yaml")
    at_home = Watch(Path("/data"), "~/my.yaml", [], "~/rules.yaml", 300, 30).to_parameters()
    assert (at_home["config"], at_home["policy"]) == ("/home/somebody/my.yaml", "/home/somebody/rules.yaml")
    # A file that is named like a preset does not stand in for it.
    (tmp_path / "demo").touch()
    assert Watch(Path("/data"), "demo", [], None, 300, 30).to_parameters()["config"] == "demo"
    assert Watch(Path("/data"), "demo", [], None, 300, 30).to_parameters()["policy"] == ""


def test_any_folder_name_survives_the_file(watch: Watch, tmp_path: Path) -> None:
    folder = tmp_path / "ä: [x] #1 'y' \N{GRINNING FACE}"
    text = make_deployments(TEXT, replace(watch, folder=folder, overrides=["model.layers=[a, b]", "seed=1 # no"]))
    parameters = read_deployments(text)["watch"]["parameters"]
    assert parameters["source"]["folder"] == str(folder)
    assert parameters["overrides"] == ["model.layers=[a, b]", "seed=1 # no"]


# Before anything is started


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAVISE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": Path("/no/such/folder")}, "--watch: found '/no/such/folder', which is no folder; make it"),
        ({"config": "dmeo"}, "config: found 'dmeo'; .*did you mean demo"),
        ({"overrides": ["seed=-1"]}, "seed: found -1"),
        ({"policy": "strict"}, "policy: found 'strict'"),
    ],
)
def test_a_watch_that_cannot_be(state: Path, watch: Watch, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_services(1, 2, replace(watch, **change))
    assert not state.exists()


@pytest.mark.parametrize("option", ["--prefect-port", "--mlflow-port"])
def test_a_port_that_is_taken(state: Path, option: str) -> None:
    with socket.socket() as taken, socket.socket() as free:
        for opened in (taken, free):
            opened.bind(("127.0.0.1", 0))
        taken.listen()
        used, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        ports = (used, other) if option == "--prefect-port" else (other, used)
        with pytest.raises(UserError, match=f"{option}: port {used} is taken"):
            run_services(*ports)
    assert not state.exists()


def test_one_port_for_both(state: Path) -> None:
    with pytest.raises(UserError, match="--mlflow-port: found 4200, which is --prefect-port, too; give two different"):
        run_services(4200, 4200)
    assert not state.exists()


def test_a_state_folder_is_served_by_one_process_at_a_time(state: Path) -> None:
    addresses = "http://127.0.0.1:4200 and http://127.0.0.1:5000"
    expected = rf"already served by `lavise up` \(process {os.getpid()}, since 2.*, at {addresses}\); use that one, or"
    with _serve_alone(state, addresses):
        with pytest.raises(UserError, match=expected):
            run_services(4200, 5000)
        with pytest.raises(UserError, match=expected), _serve_alone(state, "elsewhere"):
            pass
        (state / "up.json").write_text("{", "utf-8")
        with pytest.raises(UserError, match="already served by `lavise up`; use that one"):
            run_services(4200, 5000)
    with _serve_alone(state, addresses):
        assert json.loads((state / "up.json").read_text("utf-8"))["addresses"] == addresses
    assert not (state / "up.json").exists()


def test_a_service_that_ends_at_once_names_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no space left', flush=True); raise SystemExit(3)"]
    service = _start("mlflow-server", command, "http://127.0.0.1:1/health", dict(os.environ), tmp_path)
    with pytest.raises(RuntimeError, match=r"mlflow-server ended with exit code 3, see .*mlflow-server\.log"):
        _wait_until_well(service)
    assert service.log.read_text("utf-8") == "no space left\n"


def test_prefect_is_pointed_here_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pointer = tmp_path / "prefect.toml"
    with _point_prefect_here("http://127.0.0.1:4200/api"):
        assert 'url = "http://127.0.0.1:4200/api"' in pointer.read_text("utf-8")
        left = pointer.read_text("utf-8")
    assert not pointer.exists()
    pointer.write_text(left, "utf-8")  # by one that was killed
    with _point_prefect_here("http://127.0.0.1:4201/api"):
        assert "4201" in pointer.read_text("utf-8")
    assert not pointer.exists()
    with _point_prefect_here("http://127.0.0.1:4202/api"):
        pointer.write_text(left, "utf-8")  # by another server, started here later
    assert pointer.read_text("utf-8") == left
    pointer.write_text("[api]\n", "utf-8")
    with _point_prefect_here("http://127.0.0.1:4200/api"):
        assert pointer.read_text("utf-8") == "[api]\n"
    assert pointer.read_text("utf-8") == "[api]\n"


def test_a_start_that_fails_once_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, then ended at once (memory still short, port still held), then well; then it ends again and again."""
    monkeypatch.setattr(local_services, "_RESTART_PAUSE_SECONDS", 0.1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = tmp_path / "service.py"
    script.write_text(
        f"""
import http.server, sys, threading, time
from pathlib import Path
starts = Path({str(tmp_path / "starts")!r})
number = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (number + 1))
if number != 2:
    sys.exit(9)
server = http.server.HTTPServer(("127.0.0.1", {port}), http.server.SimpleHTTPRequestHandler)
threading.Timer(3, server.shutdown).start()
server.serve_forever()
""",
        "utf-8",
    )
    services = Services()
    command = [sys.executable, str(script)]
    services.start("mlflow-server", command, f"http://127.0.0.1:{port}/", dict(os.environ), tmp_path)
    try:
        with pytest.raises(RuntimeError, match=r"mlflow-server ended 6 times, see "):
            _keep_running(services, "http://127.0.0.1:9/api", dict(os.environ))
    finally:
        services.stop()
    assert (tmp_path / "starts").read_text("utf-8") == "x" * 6
    said = capsys.readouterr().out
    assert said.count("mlflow-server ended with exit code 9; starting it again") == 4
    assert "flow runs whose process is gone could not be marked" in said


@pytest.mark.parametrize("given", [None, "events"])
def test_prefects_database_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """Of a watched folder, each look is a flow run; the user's own wish goes first. As Prefect itself reads it."""
    monkeypatch.delenv(VACUUM, raising=False)
    if given:
        monkeypatch.setenv(VACUUM, given)
    environment = _make_environment(tmp_path, "http://127.0.0.1:4200/api", "http://127.0.0.1:5000")
    monkeypatch.setenv(VACUUM, environment[VACUUM])
    found = ServerServicesDBVacuumSettings().enabled_vacuum_types
    assert ("flow_runs" in found) == (given is None)
    assert "events" in found


def test_where_prefects_pointer_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prefect.toml").mkdir()
    monkeypatch.chdir(tmp_path)
    with _point_prefect_here("http://127.0.0.1:4200/api"):
        pass
    assert "export PREFECT_API_URL=http://127.0.0.1:4200/api" in capsys.readouterr().out


def test_somebody_elses_pointer_in_another_encoding_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer = tmp_path / "prefect.toml"
    pointer.write_bytes("# über".encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    with _point_prefect_here("http://127.0.0.1:4200/api"):
        pass
    assert pointer.read_bytes() == "# über".encode("latin-1")


def test_a_clock_that_is_set_back_is_noticed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against one that nobody can set; not one that runs a little slow, or is set ahead. Prefect's server, whose loops
    wait for times of before, is started again: here it answers neither before nor after that."""
    seen = chain([5000.0, 4999.0, 9000.0], repeat(5400.0))
    monkeypatch.setattr(local_services, "_measure_clock", lambda: next(seen))
    monkeypatch.setattr(local_services, "_START_SECONDS", 0.5)
    services = Services()
    waiting = [sys.executable, "-c", "import time; time.sleep(600)"]
    server, other = (
        services.start(name, waiting, "http://127.0.0.1:9/", dict(os.environ), tmp_path)
        for name in ("prefect-server", "mlflow-server")
    )
    try:
        with pytest.raises(RuntimeError, match=r"^prefect-server did not answer"):
            _keep_running(services, "http://127.0.0.1:9/api", dict(os.environ))
        assert (server.process.poll(), other.process.poll()) == (-signal.SIGTERM, None)
        assert services.find_current("prefect-server").process.poll() is None
    finally:
        services.stop()
    first, second, third, _ = capsys.readouterr().out.splitlines()
    assert first == "the clock was set back by 3600 s; what is scheduled is planned anew"
    assert second.startswith("what was scheduled before could not be deleted (")
    assert third.startswith("prefect-server ended with exit code -15; starting it again")


def test_a_clock_is_measured_against_one_that_nobody_can_set() -> None:
    before = local_services._measure_clock()
    time.sleep(0.2)
    assert local_services._measure_clock() - before == pytest.approx(0, abs=1)
