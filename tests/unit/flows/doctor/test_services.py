from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import WorkPool, WorkPoolStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from lavise.configs.schema import TrackingSettings
from lavise.flows.doctor import Check, Status, services
from lavise.flows.orchestration.local_services import WORK_POOL
from tests.unit.flows.doctor.helpers import closed_port, look, look_all, serving, states

PREFECT = metadata.version("prefect")
MLFLOW = metadata.version("mlflow")


def test_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(services, "CHECKOUT", tmp_path)
    assert "no checkout" in look(services.check_git).found
    (tmp_path / ".git").mkdir()
    check = look(services.check_git)
    assert (check.status, f"`git -C {tmp_path} status`" in check.advice) == ("warning", True)


# Prefect


@contextmanager
def prefect_at(url: str, auth: str | None = None) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}):
        yield


def answer_as_prefect(version: str = PREFECT, pool: str = "READY", *missing: str) -> dict[str, tuple[int, str]]:
    """A server on which all deployments are registered, but for the missing ones."""
    work_pool = WorkPool(name=WORK_POOL, type="process", default_queue_id=uuid4(), status=WorkPoolStatus(pool))
    answers = {
        "/api/admin/version": (200, json.dumps(version)),
        f"/api/work_pools/{WORK_POOL}": (200, work_pool.model_dump_json()),
    }
    for name in {"lavise/full", "lavise-reaudit/nightly", "lavise-reaudit/watch"} - set(missing):
        body = DeploymentResponse(id=uuid4(), name=name, flow_id=uuid4(), labels={}).model_dump_json()
        answers[f"/api/deployments/name/{name}"] = (200, body)
    return answers


def test_no_prefect() -> None:
    check = look(services.check_prefect)
    assert (check.status, check.found) == ("ok", "none configured; start one with `lavise up`")


def test_prefect_that_does_not_answer_is_no_failure() -> None:
    url = f"http://127.0.0.1:{closed_port()}/api"
    with prefect_at(url):
        check = look(services.check_prefect)
    assert check.status == "warning"
    assert check.found.startswith(f"{url} does not work (")
    assert "refused" in check.found
    assert check.advice.startswith("`lavise run` needs no server")


def test_prefect_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "ANSWER_SECONDS", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        prefect_at(f"http://127.0.0.1:{silent.getsockname()[1]}/api"),
    ):
        check = look(services.check_prefect)
    assert (check.status, "timed out" in check.found) == ("warning", True)


def test_prefect_in_order() -> None:
    with serving(answer_as_prefect(), password="me:secret") as url, prefect_at(f"{url}/api", "me:secret"):
        checks = look_all(services.check_prefect)
    assert states(checks) == {"Prefect": "ok", "Prefect worker": "ok", "Prefect deployments": "ok"}
    assert checks["Prefect"].found == f"{url}/api answers, and fits Prefect {PREFECT}"


def test_prefect_that_asks_for_a_password() -> None:
    with serving(answer_as_prefect(), password="me:secret") as url, prefect_at(f"{url}/api", "me:wrong"):
        check = look(services.check_prefect)
    assert (check.status, "401 Unauthorized" in check.found) == ("warning", True)
    assert "PREFECT_API_AUTH_STRING" in check.advice


@pytest.mark.parametrize(("pool", "state"), [("NOT_READY", "not ready"), ("PAUSED", "paused")])
def test_prefect_without_a_worker_and_a_deployment(pool: str, state: str) -> None:
    with serving(answer_as_prefect(PREFECT, pool, "lavise/full")) as url, prefect_at(f"{url}/api"):
        checks = look_all(services.check_prefect)
    assert states(checks) == {"Prefect": "ok", "Prefect worker": "warning", "Prefect deployments": "warning"}
    assert checks["Prefect worker"].found.startswith(f"work pool {WORK_POOL}: {state};")
    assert checks["Prefect deployments"].found == "not registered: lavise/full"


def test_prefect_without_the_work_pool() -> None:
    answers = answer_as_prefect()
    del answers[f"/api/work_pools/{WORK_POOL}"]
    with serving(answers) as url, prefect_at(f"{url}/api"):
        check = look_all(services.check_prefect)["Prefect worker"]
    assert (check.status, f"work pool {WORK_POOL}: not there" in check.found) == ("warning", True)


@pytest.mark.parametrize(
    "answers",
    [{}, *({"/api/admin/version": answer} for answer in [(503, ""), (200, "<html>"), (200, '"2.20.1"')])],
    ids=["nothing", "not well", "another site", "another major version"],
)
def test_server_that_is_no_such_prefect(answers: dict[str, tuple[int, str]]) -> None:
    with serving(answers) as url, prefect_at(f"{url}/api"):
        assert states(look_all(services.check_prefect)) == {"Prefect": "warning"}


# MLflow


def mlflow_at(uri: str | None) -> Check:
    return look(partial(services.check_mlflow, TrackingSettings(uri=uri), None))


def test_mlflow_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    check = mlflow_at(None)
    assert check.status == "failed"
    assert check.found.startswith(f"tracking.uri: {uri} does not answer (")
    assert check.advice.startswith("start that server, or leave tracking.uri and MLFLOW_TRACKING_URI empty")


@pytest.mark.parametrize(
    ("answer", "status"),
    [((200, f"{MLFLOW}\n"), "ok"), ((200, "1.30.0"), "warning"), ((200, "<html>"), "failed"), ((404, ""), "failed")],
)
def test_version_of_mlflow(answer: tuple[int, str], status: Status) -> None:
    with serving({"/version": answer}) as uri:
        assert mlflow_at(uri + "/").status == status


def test_mlflow_behind_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({"/version": (200, MLFLOW)}, password="me:s%/") as uri:
        check = mlflow_at(uri)
        assert (check.status, check.found) == ("failed", f"{uri} does not let us in (HTTP 401)")
        assert "MLFLOW_TRACKING_USERNAME" in check.advice
        check = mlflow_at(uri.replace("://", "://me:hush@"))
        assert (check.status, check.found) == ("failed", f"{uri} does not let us in (HTTP 401)")
        check = mlflow_at(uri.replace("://", "://me:s%25%2F@"))
        assert (check.status, check.found) == ("ok", f"{uri}: version {MLFLOW}, here {MLFLOW}")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s%/")
        assert mlflow_at(uri).status == "ok"


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real SQLite store of this MLflow."""
    from lavise.storage.tracking import open_tracker

    root = tmp_path_factory.mktemp("store")
    open_tracker(TrackingSettings(uri=f"sqlite:///{root / 'mlflow.db'}"), root)
    return (root / "mlflow.db").read_bytes()


def test_store_in_the_state_folder(tmp_path: Path, mlflow_store: bytes) -> None:
    root = tmp_path / "other"
    check = partial(services.check_mlflow, TrackingSettings(), root)
    assert look(check).found == f"sqlite:///{root}/mlflow/mlflow.db: made by the first run"
    assert not root.exists()
    (root / "mlflow").mkdir(parents=True)
    file = root / "mlflow" / "mlflow.db"
    file.write_bytes(b"")
    assert look(check).found.endswith(": empty, filled by the first run")
    file.write_bytes(mlflow_store)
    assert look(check).found.endswith(": opens, schema up to date")
    assert file.read_bytes() == mlflow_store, "the doctor only looks"
    assert [p.name for p in file.parent.iterdir()] == ["mlflow.db"]


def test_store_of_another_mlflow(tmp_path: Path, mlflow_store: bytes) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(mlflow_store)
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    connection.close()
    before = file.read_bytes()
    check = mlflow_at(f"sqlite:///{file}")
    assert check.status == "failed"
    assert f"schema 451aebb31d03, MLflow {MLFLOW} has " in check.found
    assert check.advice.startswith(f"make a copy, then `mlflow db upgrade sqlite:///{file}`; ")
    assert file.read_bytes() == before, "the doctor only looks"


def test_store_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"hello" * 1000)
    check = mlflow_at(f"sqlite:///{tmp_path}/mlflow.db")
    assert check.status == "failed"
    assert "does not open (file is not a database)" in check.found


def test_store_that_is_locked(tmp_path: Path, mlflow_store: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "ANSWER_SECONDS", 0.05)
    file = tmp_path / "mlflow.db"
    file.write_bytes(mlflow_store)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert "does not open (database is locked)" in mlflow_at(f"sqlite:///{file}").found
    finally:
        holder.close()
    assert mlflow_at(f"sqlite:///{file}").status == "ok"


@pytest.mark.parametrize("uri", ["nonsense://me:hush@host", "postgresql+nonsense://me:hush@host/db"])
def test_store_that_cannot_be_opened(uri: str) -> None:
    check = mlflow_at(uri)
    assert check.status == "failed"
    assert check.found.startswith(f"{uri.replace('me:hush@', '')} does not ")
    assert "hush" not in check.found + check.advice


# Dask


def test_scheduler_with_a_worker_and_without() -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
    ) as running:
        address = running.scheduler_address
        check = look(partial(services.check_scheduler, address))
        assert (check.status, check.found.split(";")[0]) == ("ok", f"{address}: 1 workers, 1 threads")
        (worker,) = running.workers.values()
        assert "a Worker is there" in look(partial(services.check_scheduler, worker.address)).found
    with LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address=None) as empty:
        check = look(partial(services.check_scheduler, empty.scheduler_address))
        assert (check.status, check.found) == ("warning", f"{empty.scheduler_address}: 0 workers, 0 threads")


def test_scheduler_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    here = metadata.version
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
    ) as running:
        monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "distributed" else here(name))
        check = look(partial(services.check_scheduler, running.scheduler_address))
    assert (check.status, check.advice) == ("warning", "install the same versions there")
    assert check.found.endswith(f"distributed {here('distributed')} there, {check.found.split(' there, ')[1]}")


def test_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    check = look(partial(services.check_scheduler, f"tcp://127.0.0.1:{closed_port()}"))
    assert (check.status, "refused" in check.found) == ("failed", True)
    monkeypatch.setattr(services, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        check = look(partial(services.check_scheduler, f"tcp://127.0.0.1:{silent.getsockname()[1]}"))
    assert (check.status, check.found.endswith("(TimeoutError)")) == ("failed", True)


@pytest.mark.parametrize("address", ["127.0.0.1:8786", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "nonsense"])
def test_what_is_no_address_of_a_scheduler(address: str) -> None:
    check = look(partial(services.check_scheduler, address))
    assert (check.status, "tcp://HOST:PORT" in check.advice) == ("failed", True)
