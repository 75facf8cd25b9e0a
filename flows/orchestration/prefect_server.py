"""What `lavise up` asks of its Prefect server: the work pool, the limit of the GPU, an end to dead flow runs, and a new
schedule where the clock was set back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from lavise.flows.shared.retries import device_tag

GPU_TAG = device_tag("cuda")
_ANSWER_SECONDS = 30.0
_OPEN_STATES = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_RUNS_PER_PAGE = 200


def open_client(api_url: str) -> SyncPrefectClient:
    """For the server at this address, whatever PREFECT_API_URL says; starts none.

    Its methods raise httpx.TransportError where nothing answers, and PrefectHTTPStatusError for a refusal.
    """
    return SyncPrefectClient(api_url, httpx_settings={"timeout": _ANSWER_SECONDS})


def prepare_server(api_url: str, work_pool: str) -> None:
    """Make the work pool, and the limit that keeps two audits from sharing a GPU, where they are not there yet."""
    with open_client(api_url) as client:
        try:
            client.read_work_pool(work_pool)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=work_pool, type="process"))
        try:
            client.read_concurrency_limit_by_tag(GPU_TAG)
        except ObjectNotFound:
            client.create_concurrency_limit(GPU_TAG, 1)


def crash_dead_runs(api_url: str) -> None:
    """Mark flow runs Crashed whose process on this machine is gone: killed with its worker, or by a power cut."""
    with open_client(api_url) as client:
        open_runs = list(_list_runs(client, _OPEN_STATES))
        dead = {run.id for run in open_runs if has_died(run.infrastructure_pid)}
        # A subflow runs in the process of the flow run that called it, and has no number of its own.
        below = {run.id: _find_caller(client, run.parent_task_run_id) for run in open_runs if run.parent_task_run_id}
        alive = {run.id for run in open_runs} - dead
        for _ in below:  # a caller that has ended counts as dead too
            orphans = {run for run, caller in below.items() if caller not in alive}
            dead, alive = dead | orphans, alive - orphans
        for run_id in sorted(dead):
            client.set_flow_run_state(run_id, Crashed(message="its process is gone, as found by lavise up"), force=True)


def forget_scheduled_runs(api_url: str) -> int:
    """Delete what schedules have planned and nobody has begun.

    Prefect plans no more while there are enough plans ahead: after the clock was set back by a day, a folder would be
    looked at again a day later. Its server has to be started again, too.

    Returns:
        how many were deleted.
    """
    with open_client(api_url) as client:
        planned = [run.id for run in _list_runs(client, [StateType.SCHEDULED]) if run.auto_scheduled]
        for run_id in planned:
            with suppress(ObjectNotFound):
                client.delete_flow_run(run_id)
    return len(planned)


def _list_runs(client: SyncPrefectClient, states: list[StateType]) -> Iterator[FlowRun]:
    """All of them: the server gives so many at a time."""
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)))
    offset = 0
    while page := client.read_flow_runs(
        flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, limit=_RUNS_PER_PAGE, offset=offset
    ):
        yield from page
        offset += len(page)


def _find_caller(client: SyncPrefectClient, task_run_id: UUID) -> UUID | None:
    try:
        return client.read_task_run(task_run_id).flow_run_id
    except ObjectNotFound:
        return None


def has_died(infrastructure_pid: str | None) -> bool:
    """Whether the process of a flow run is gone.

    Args:
        infrastructure_pid: `PID` or `HOST:PID`; of what has no process on this machine (a subflow, a container)
            nothing is known, and it counts as alive.
    """
    pid = str(infrastructure_pid or "").rsplit(":", 1)[-1]
    return pid.isdigit() and not _runs_prefect(int(pid))


def _runs_prefect(pid: int) -> bool:
    """Whether this process is there and is one of Prefect's, not another one that got its number."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and any("prefect" in part for part in process.cmdline())
    except psutil.Error:
        return False
