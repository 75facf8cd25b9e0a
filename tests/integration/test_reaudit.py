"""Leaving lavise running: a folder watch, real servers and a real worker on loopback, kill -9 of the worker."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as parquet
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.integration.checkpoints import CHANGED, drop, load_original, reinitialise, shift_classifier
from tests.integration.services import Services, wait_until
from tests.integration.tiny import SETTINGS, make_arguments

pytestmark = pytest.mark.slow
_AUDIT_SECONDS = 240
_STABLE_SECONDS = 1
_POLICY = """
name: strict
rules:
  - metric: share_explained
    at_least: 0.99
  - metric: diff/share_changed
    at_most: 0.2
"""


class Watched:
    """`lavise up --watch` on a folder, and what MLflow knows of it."""

    def __init__(self, home: Path) -> None:
        self.incoming = home / "incoming"
        self.incoming.mkdir()
        (home / "strict.yaml").write_text(_POLICY, "utf-8")
        often = ["--every", "40", "--stable", str(_STABLE_SECONDS)]
        options = ["--watch", str(self.incoming), *often, "--policy", "strict.yaml"]
        self.services = Services(home, *options, *make_arguments())
        self.client = MlflowClient(self.services.mlflow_url)
        self.original = load_original()

    def find_audits(self, *, finished: bool = True) -> list[Run]:
        """Of all checkpoints, the oldest first."""
        experiment = self.client.get_experiment_by_name("lavise")
        if experiment is None:
            return []
        runs = self.client.search_runs(
            [experiment.experiment_id], "tags.`lavise.config_digest` != ''", order_by=["attributes.start_time"]
        )
        return [r for r in runs if (r.info.status == "FINISHED") is finished]

    def wait_for_audits(self, count: int) -> list[Run]:
        wait_until(lambda: len(self.find_audits()) >= count, _AUDIT_SECONDS, self.services.read_worker_log)
        return self.find_audits()

    def look(self) -> None:
        """One more look at the folder, as the button in Prefect's pages starts it; the schedule goes on."""
        flow = self.services.start_deployment("lavise-reaudit/watch")
        said = flow.communicate()[0]
        assert "Flow run finished" in said, said


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    running = Watched(tmp_path_factory.mktemp("watch"))
    yield running
    running.services.stop()


def test_two_audits_of_three_files_and_exactly_the_changed_filters(watched: Watched) -> None:
    first = drop(watched.original, watched.incoming / "epoch1.pth")
    (watched.incoming / "broken.pth").write_bytes(b"not a checkpoint")
    watched.wait_for_audits(1)
    shutil.copyfile(first, watched.incoming / "the_same.pth")
    drop(reinitialise(watched.original), watched.incoming / "epoch2.pth")
    time.sleep(_STABLE_SECONDS)
    watched.look()  # unless a look of the schedule is at it
    old, new = watched.wait_for_audits(2)
    watched.look()
    assert len(watched.find_audits()) == 2
    tags = new.data.tags
    assert tags["lavise.predecessor"] == old.info.run_id
    assert (tags["lavise.checkpoint_name"], old.data.tags["lavise.checkpoint_name"]) == ("epoch2.pth", "epoch1.pth")
    assert tags["lavise.config_digest"] == old.data.tags["lavise.config_digest"]
    assert tags["lavise.checkpoint"] != old.data.tags["lavise.checkpoint"]
    rows = parquet.read_table(watched.services.home / "runs" / new.info.run_id / "diff.parquet").to_pylist()
    assert {r["new_filter"] for r in rows if r["status"] != "same"} == set(CHANGED)
    assert {r["status"] for r in rows} == {"same", "changed"}
    assert new.data.metrics["bn2/diff/num_changed"] == len(CHANGED)


def test_a_broken_checkpoint_is_recorded_once(watched: Watched) -> None:
    (failed,) = watched.find_audits(finished=False)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["lavise.reaudit"] == "broken"
    assert "broken.pth" in failed.info.run_name
    assert failed.data.tags["lavise.error"].startswith("model.weights: ")


def test_a_failed_policy_is_tagged_and_an_event_tells_of_it(watched: Watched) -> None:
    audits = watched.find_audits()
    assert [r.data.tags["lavise.gate"] for r in audits] == ["failed"] * len(audits)
    query = {"filter": {"event": {"name": ["lavise.gate.failed"]}}, "limit": 50}
    wait_until(
        lambda: len(watched.services.ask("/events/filter", query)["events"]) >= 2, 60, watched.services.read_worker_log
    )
    events = watched.services.ask("/events/filter", query)["events"]
    told = {e["resource"]["prefect.resource.id"]: e["payload"] for e in events}
    assert set(told) == {f"lavise.run.{r.info.run_id}" for r in audits}
    assert [v["rule"] for v in told[f"lavise.run.{audits[0].info.run_id}"]["failed"]] == [
        "share_explained at least 0.99"
    ]


def test_two_reaudits_in_the_same_second_make_one_audit(watched: Watched) -> None:
    folder = watched.services.home / "other"
    folder.mkdir()
    drop(shift_classifier(watched.original, 1.0), folder / "epoch1.pth")
    before = len(watched.find_audits())
    parameters = {
        "source": {"kind": "folder", "folder": str(folder), "stable_seconds": 0},
        "overrides": [f"{k}={v}" for k, v in SETTINGS.items()],
    }
    flows = [watched.services.start_deployment("lavise-reaudit/nightly", **parameters) for _ in range(2)]
    said = [flow.communicate()[0] for flow in flows]
    assert [flow.returncode for flow in flows] == [0, 0], said
    assert len(watched.find_audits()) == before + 1
    messages = {r["state"]["message"] for r in watched.services.find_flow_runs("COMPLETED")}
    assert any("1 audited" in str(m) for m in messages)
    assert messages & {"1 busy", "1 known"}


def test_after_kill_of_worker_and_flow_the_audit_ends_once_and_whole(watched: Watched) -> None:
    before = watched.find_audits()
    log_before = len(watched.services.read_worker_log())
    drop(shift_classifier(watched.original, 2.0), watched.incoming / "epoch3.pth")

    def is_extracting() -> bool:
        said = watched.services.read_worker_log()[log_before:]
        return "epoch3.pth" in said and "extract train" in said

    wait_until(is_extracting, _AUDIT_SECONDS, watched.services.read_worker_log)
    children = psutil.Process(watched.services.process.pid).children(recursive=True)
    workers = [p for p in children if "worker" in p.cmdline()]
    doomed = [*workers, *(c for w in workers for c in w.children(recursive=True))]
    assert len(doomed) >= 2
    for process in doomed:
        if process.is_running():
            os.kill(process.pid, signal.SIGKILL)
    after = watched.wait_for_audits(len(before) + 1)
    watched.look()
    assert watched.find_audits() != before
    assert len(watched.find_audits()) == len(before) + 1
    assert "prefect-worker ended with exit code -9; starting it again" in watched.services.read_log()
    run = after[-1]
    assert run.data.tags["lavise.checkpoint_name"] == "epoch3.pth"
    assert run.data.metrics["bn2/diff/share_kept"] == 1.0
    assert (watched.services.home / "runs" / run.info.run_id / "report.html").is_file()
    killed = [r for r in watched.find_audits(finished=False) if "epoch3.pth" in r.info.run_name]
    assert [r.info.status for r in killed] == ["KILLED"]
    # Nothing of it is left in the state Running in Prefect either.
    wait_until(
        lambda: (
            {r["state"]["type"] for r in watched.services.find_flow_runs("RUNNING") if "epoch3" in r["name"]} == set()
        ),
        60,
        watched.services.read_worker_log,
    )
