"""Claims in MLflow, of re-audits that share it but no state folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lavise.configs.schema import Config
from lavise.flows.audit.results import Occasion
from lavise.flows.repeats import claims
from lavise.flows.repeats.claims import hold_claim
from lavise.storage.tracking import MlflowTracker
from tests.unit.flows.helpers import make_tracker, tags_of
from tests.unit.flows.repeats.watched_folder import Watched, make_weights

KEY = "lavise.claim.work"


@pytest.fixture
def tracker(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> MlflowTracker:
    return make_tracker(tmp_path_factory, tmp_path)


def claim_of(host: str, seen: float, pid: int | None = None) -> str:
    started = psutil.Process(pid).create_time() if pid else 0.0
    facts: dict[str, Any] = {"owner": "o", "host": host, "pid": str(pid or 7), "pid_started": str(started)}
    return json.dumps({**facts, "since": seen, "seen": seen})


def test_a_claim_is_seen_by_others_and_goes_with_the_work(tracker: MlflowTracker) -> None:
    with hold_claim(tracker, "work", 0) as other:
        assert other == ""
        with hold_claim(tracker, "work", 0) as second, hold_claim(tracker, "other work", 0) as third:
            assert second.startswith(f"process {os.getpid()} on {socket.gethostname()}, since ")
            assert third == ""
        assert tracker.read_note(KEY) is not None
    assert tracker.read_note(KEY) is None
    with pytest.raises(ZeroDivisionError), hold_claim(tracker, "work", 0):
        raise ZeroDivisionError
    assert tracker.read_note(KEY) is None


def test_of_two_that_write_at_once_the_last_one_has_it(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one writes while this one waits to look again."""
    theirs = claim_of("elsewhere", time.time())
    monkeypatch.setattr("time.sleep", lambda seconds: tracker.write_note(KEY, theirs))
    with hold_claim(tracker, "work") as other:
        assert "process 7 on elsewhere" in other
    assert tracker.read_note(KEY) == theirs


@pytest.mark.parametrize(("age", "is_free"), [(30.0, False), (599.0, False), (601.0, True)])
def test_a_claim_of_another_machine_counts_while_it_is_renewed(
    tracker: MlflowTracker, age: float, is_free: bool
) -> None:
    tracker.write_note(KEY, claim_of("elsewhere", time.time() - age))
    with hold_claim(tracker, "work", 0) as other:
        assert (other == "") is is_free


def test_a_claim_of_a_killed_process_of_this_machine_counts_for_nothing(tracker: MlflowTracker) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        tracker.write_note(KEY, claim_of(socket.gethostname(), time.time(), process.pid))
        with hold_claim(tracker, "work", 0) as other:
            assert f"process {process.pid} on" in other
        process.kill()
        process.wait()
    with hold_claim(tracker, "work", 0) as other:
        assert other == ""


def test_a_claim_is_renewed_while_the_work_goes_on(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_RENEW_SECONDS", 0.01)
    with hold_claim(tracker, "work", 0):
        first = json.loads(tracker.read_note(KEY) or "")
        deadline = time.monotonic() + 20
        while (last := json.loads(tracker.read_note(KEY) or ""))["seen"] == first["seen"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert (last["owner"], last["since"]) == (first["owner"], first["since"])


def test_a_note_that_is_none_of_ours_is_no_claim(tracker: MlflowTracker) -> None:
    tracker.write_note(KEY, "{}")
    with hold_claim(tracker, "work", 0) as other:
        assert other == ""


def test_services_without_a_common_state_folder_audit_once(watched: Watched, tmp_path: Path) -> None:
    watched.drop("epoch1.pth", make_weights(1))
    elsewhere = tmp_path / "another state"
    found: list[Any] = []

    def during(config: Config, occasion: Occasion) -> None:
        if not found:
            found.append(None)
            other = watched.make_reaudit()
            object.__setattr__(other, "root", elsewhere)
            found.extend(other.run().checkpoints)

    watched.audits.during = during
    assert watched.outcomes() == {"epoch1.pth": "audited"}
    assert (found[1].outcome, found[1].detail.startswith("another re-audit is on it: process")) == ("busy", True)
    assert watched.audits.num_started == 1


def test_an_audit_that_was_done_twice_says_so(watched: Watched) -> None:
    """Claims can miss each other: here the other one does not look."""
    watched.drop("epoch1.pth", make_weights(1))
    others: list[str] = []

    def during(config: Config, occasion: Occasion) -> None:
        if not others:
            others.append("")
            others[0] = watched.audits(config, occasion).run_id

    watched.audits.during = during
    outcome = watched.look()["epoch1.pth"]
    assert outcome.outcome == "audited"
    assert outcome.detail == f"audited at the same moment as run {others[0]}"
    assert outcome.run_id
    assert tags_of(watched.tracker, outcome.run_id)["lavise.audited_twice"] == others[0]
