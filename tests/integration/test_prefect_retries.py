"""Under Prefect too, only what can heal is tried again; against a real server that Prefect starts for the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from lavise.configs.errors import UserError
from lavise.flows.shared.retries import run_as_prefect_task
from lavise.tasks.engine.stage import StageOutcome
from tests.unit.flows.shared.test_retries import OUTCOME, Flaky

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@flow(name="retries", persist_result=False)
def run_flaky(work: Flaky) -> list[StageOutcome]:
    return [run_as_prefect_task("stage", work)]


@pytest.mark.usefixtures("server")
def test_tries_again_after_a_lost_connection() -> None:
    work = Flaky(1, ConnectionResetError("peer"))
    assert run_flaky(work) == [OUTCOME]
    assert work.calls == 2


@pytest.mark.usefixtures("server")
def test_a_mistake_is_raised_at_once() -> None:
    work = Flaky(1, UserError("seed: found -1"))
    with pytest.raises(UserError, match="found -1"):
        run_flaky(work)
    assert work.calls == 1
