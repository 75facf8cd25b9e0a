"""kill -9 in the middle of each kind of stage, one after the other; the bits are those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.tiny import digest_artefacts, make_arguments, make_command, make_environment, run_tiny

pytestmark = pytest.mark.slow
_PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("undisturbed")
    run_tiny(home, tracking__enabled="false")
    return digest_artefacts(home)


def kill_when(home: Path, ready: Callable[[str], bool]) -> str:
    """Start the audit, kill -9 it as soon as `ready(its log)`; returns the log."""
    log_path = home / "killed.log"
    command = make_command("run", "demo", *make_arguments(tracking__enabled="false"))
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command, env=make_environment(home), cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready(log_path.read_text("utf-8")):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait(30) == -signal.SIGKILL, log_path.read_text("utf-8")
    return log_path.read_text("utf-8")


def finished_shards(home: Path) -> list[Path]:
    return sorted((home / "artefacts" / "extract").glob("*.partial/shard-*.h5"))


def test_killed_in_each_kind_of_stage_it_goes_on_to_the_same_bits(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    log = kill_when(tmp_path, lambda _: bool(finished_shards(tmp_path)))
    assert "extract train                done" not in log
    kept = {p.name: p.stat().st_mtime_ns for p in finished_shards(tmp_path)}
    assert kept

    log = kill_when(tmp_path, lambda text: "overlaps bn2                 started" in text)
    assert "overlaps bn2                 done" not in log
    shards = (tmp_path / "artefacts" / "extract").glob("*/shard-*.h5")
    assert set(kept.values()) <= {p.stat().st_mtime_ns for p in shards}, "finished shards were computed again"
    assert not [name for name in digest_artefacts(tmp_path) if name.startswith("overlaps")]

    seen: list[float] = []

    def a_moment_into_training(text: str) -> bool:
        if "train bn2                    started" in text and not seen:
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] > 0.3

    log = kill_when(tmp_path, a_moment_into_training)
    assert "train bn2                    done" not in log
    assert "extract train                cached" in log

    run_tiny(tmp_path, tracking__enabled="false")
    assert digest_artefacts(tmp_path) == undisturbed
