"""What `lavise up` asks of Prefect, against a real server on loopback; and whose process is gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from lavise.flows.orchestration import prefect_server
from lavise.flows.orchestration.prefect_server import (
    GPU_TAG,
    _find_caller,
    crash_dead_runs,
    forget_scheduled_runs,
    has_died,
    open_client,
    prepare_server,
)
from tests.unit.flows.doctor.helpers import closed_port

# Whose process is gone


@contextmanager
def living(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that waits, with these words on its command line."""
    command = [sys.executable, "-c", "import sys; print('here', flush=True); sys.stdin.read()", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", "", "prefect"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("form", [str, lambda pid: f"{socket.gethostname()}:{pid}"], ids=["pid", "host:pid"])
def test_a_process_of_prefect_lives_and_others_do_not_count(form: Callable[[int], str]) -> None:
    with living("-m", "prefect.flow_engine") as ours, living("something", "else") as other:
        assert not has_died(form(ours.pid))
        assert has_died(form(other.pid))  # its number was given to another one since
    assert has_died(form(dead_pid()))


@pytest.mark.parametrize("pid", [None, "", "host:", "a1b2c3", "my-job-x7/pod", "123abc"])
def test_what_has_no_process_here_is_left_alone(pid: str | None) -> None:
    """Not started yet, a subflow, or in a container."""
    assert not has_died(pid)


def test_a_zombie_has_died() -> None:
    with living("prefect") as process:
        assert not has_died(str(process.pid))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
        assert has_died(str(process.pid))


# What is asked of the server


@pytest.fixture(scope="module")
def api_url() -> Iterator[str]:
    """Of a server with an empty database. The settings of this process name another one, where nothing listens."""
    with (
        temporary_settings({PREFECT_SERVER_ANALYTICS_ENABLED: False}),
        prefect_test_harness(server_startup_timeout=120),
    ):
        url = str(PREFECT_API_URL.value())
        elsewhere = {
            PREFECT_API_URL: f"http://127.0.0.1:{closed_port()}/api",
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
        }
        with temporary_settings(elsewhere):
            yield url


@flow
def audit() -> None: ...


@task
def call() -> None: ...


class Runs:
    """Flow runs on the server, by name."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client, self.ids = client, dict[str, UUID]()

    def add(self, name: str, state: StateType, pid: int | None = None, caller: str | None = None) -> None:
        parent = None
        if caller:
            parent = self.client.create_task_run(call, self.ids[caller], dynamic_key=name).id
        run = self.client.create_flow_run(audit, name=name, parent_task_run_id=parent, state=State(type=state))
        self.ids[name] = run.id
        if pid is not None:
            self.client.update_flow_run(run.id, infrastructure_pid=f"host:{pid}")

    def find_crashed(self) -> dict[str, str | None]:
        """Name -> message."""
        states = {name: self.client.read_flow_run(run_id).state for name, run_id in self.ids.items()}
        return {name: s.message for name, s in states.items() if s and s.type is StateType.CRASHED}


def test_work_pool_and_limit_are_made_once(api_url: str) -> None:
    prepare_server(api_url, "own-pool")
    with open_client(api_url) as client:
        made = client.read_work_pool("own-pool"), client.read_concurrency_limit_by_tag(GPU_TAG)
        assert (made[0].type, made[1].concurrency_limit) == ("process", 1)
        prepare_server(api_url, "own-pool")
        again = client.read_work_pool("own-pool"), client.read_concurrency_limit_by_tag(GPU_TAG)
        assert [thing.id for thing in again] == [thing.id for thing in made]


def test_a_limit_of_somebody_elses_stays(api_url: str) -> None:
    with open_client(api_url) as client:
        client.create_concurrency_limit(GPU_TAG, 3)
        prepare_server(api_url, "own-pool")
        assert client.read_concurrency_limit_by_tag(GPU_TAG).concurrency_limit == 3


@pytest.mark.parametrize("page", [200, 2])
def test_dead_runs_are_crashed_with_all_that_they_called(
    api_url: str, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(prefect_server, "_RUNS_PER_PAGE", page)
    running, dead = StateType.RUNNING, dead_pid()
    with living("prefect") as alive, open_client(api_url) as client:
        runs = Runs(client)
        runs.add("dead", running, dead)
        runs.add("child", running, caller="dead")
        runs.add("grandchild", running, caller="child")
        runs.add("alive", running, alive.pid)
        runs.add("child of alive", running, caller="alive")
        runs.add("ended", StateType.COMPLETED, dead)
        runs.add("left behind", running, caller="ended")
        runs.add("cancelled", StateType.CANCELLING, dead)
        runs.add("not started", StateType.PENDING)
        crash_dead_runs(api_url)
        found = runs.find_crashed()
        for run_id in runs.ids.values():
            client.delete_flow_run(run_id)
    said = "its process is gone, as found by lavise up"
    assert found == dict.fromkeys(["dead", "child", "grandchild", "left behind", "cancelled"], said)


def test_a_caller_that_was_deleted(api_url: str) -> None:
    with open_client(api_url) as client:
        assert _find_caller(client, uuid4()) is None


def test_what_is_scheduled_is_forgotten_and_what_somebody_asked_for_is_not(api_url: str) -> None:
    """As after the clock was set back: the plans of a schedule lie where nothing else would be planned before."""
    with open_client(api_url) as client:
        every = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=1)))
        deployment = client.create_deployment(client.create_flow(audit), name="watch", schedules=[every])
        asked = client.create_flow_run_from_deployment(deployment)
        httpx.post(f"{api_url}/deployments/{deployment}/schedule", json={"min_runs": 4}).raise_for_status()
        wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        planned = len(client.read_flow_runs(deployment_filter=wanted)) - 1
        assert planned >= 4
        assert forget_scheduled_runs(api_url) == planned
        assert [run.id for run in client.read_flow_runs(deployment_filter=wanted)] == [asked.id]
        client.delete_deployment(deployment)


def test_nothing_to_crash(api_url: str) -> None:
    with open_client(api_url) as client:
        before = {run.id: run.state_type for run in client.read_flow_runs()}
        crash_dead_runs(api_url)
        assert {run.id: run.state_type for run in client.read_flow_runs()} == before


def test_where_no_server_answers() -> None:
    with pytest.raises(httpx.TransportError):
        crash_dead_runs(f"http://127.0.0.1:{closed_port()}/api")
