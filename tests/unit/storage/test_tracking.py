from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import RunStatus
from mlflow.tracking import MlflowClient

from configs.errors import UserError
from configs.schema import TrackingSettings
from storage.tracking import DatasetFacts, MlflowRun, MlflowTracker, NullTracker, open_tracker

FACTS = DatasetFacts("coco/train2017", "ab" * 32, "/data/coco", "train", 190)


@pytest.fixture(scope="module")
def state_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder whose name has a space, with an empty SQLite store in it."""
    return tmp_path_factory.mktemp("state folder")


@pytest.fixture(autouse=True)
def no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def tracker(state_root: Path) -> MlflowTracker:
    opened = open_tracker(TrackingSettings(), state_root)
    assert isinstance(opened, MlflowTracker)
    return opened


def client_of(tracker: MlflowTracker) -> MlflowClient:
    """A client that shares nothing with the tracker but the address."""
    return MlflowClient(tracking_uri=tracker.uri)


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# Off


def test_null_tracker_keeps_nothing(tmp_path: Path) -> None:
    tracker = open_tracker(TrackingSettings(enabled=False), tmp_path)
    assert isinstance(tracker, NullTracker)
    assert tracker.uri is None
    run, other = tracker.start("audit", {"a": "b"}), tracker.start("stage", {}, parent="x")
    assert run.run_id != other.run_id
    run.log_params({"a": 1})
    run.log_metrics({"a": 1.0})
    run.log_history([("loss", 1.0, 0)])
    run.set_tags({"a": "b"})
    run.log_folder(tmp_path)
    run.log_dataset(FACTS)
    run.end()
    assert list(tmp_path.iterdir()) == []


# On


def test_store_lies_in_the_state_folder(tracker: MlflowTracker, state_root: Path) -> None:
    assert tracker.uri == f"sqlite:///{state_root / 'mlflow' / 'mlflow.db'}"
    assert (state_root / "mlflow" / "mlflow.db").is_file()
    experiment = client_of(tracker).get_experiment_by_name("lavise")
    assert experiment is not None
    assert experiment.artifact_location.startswith("file:///")


def test_run_and_child_run(tracker: MlflowTracker) -> None:
    parent = tracker.start("audit", {"preset": "demo"})
    child = tracker.start("extract", {}, parent=parent.run_id)
    client = client_of(tracker)
    stored_parent, stored_child = client.get_run(parent.run_id), client.get_run(child.run_id)
    assert stored_parent.info.run_name == "audit"
    assert stored_parent.data.tags["preset"] == "demo"
    assert "mlflow.parentRunId" not in stored_parent.data.tags
    assert stored_child.data.tags["mlflow.parentRunId"] == parent.run_id
    assert stored_child.data.tags["lavise.pid"] == str(os.getpid())
    assert stored_child.data.tags["lavise.host"] == socket.gethostname()
    assert stored_child.info.status == "RUNNING"
    child.end()
    parent.end("FAILED")
    assert client.get_run(child.run_id).info.status == "FINISHED"
    assert client.get_run(parent.run_id).info.status == "FAILED"
    assert client.get_run(parent.run_id).info.end_time is not None


def test_parameters(tracker: MlflowTracker) -> None:
    run = tracker.start("audit", {})
    many = {f"section.key{i}": i for i in range(230)}
    run.log_params({**many, "none": None, "list": [1, 2], "long": "x" * 2000})
    run.log_params({})
    stored = client_of(tracker).get_run(run.run_id).data.params
    assert {k: stored[k] for k in many} == {k: str(v) for k, v in many.items()}
    assert (stored["none"], stored["list"]) == ("None", "[1, 2]")
    assert stored["long"] == "x" * 500
    assert len(stored) == 233
    run.end()


def test_metrics(tracker: MlflowTracker) -> None:
    run = tracker.start("audit", {})
    run.log_metrics({"recall_at_5": 0.25, "broken": math.nan})
    history = [("loss", 10.0 - step, step) for step in range(1000)]
    run.log_history(iter(history))
    client = client_of(tracker)
    stored = client.get_run(run.run_id).data.metrics
    assert stored["recall_at_5"] == 0.25
    assert math.isnan(stored["broken"])
    assert [("loss", m.value, m.step) for m in client.get_metric_history(run.run_id, "loss")] == history
    run.end()


def test_tags_data_sets_and_files(tracker: MlflowTracker, tmp_path: Path, state_root: Path) -> None:
    run = tracker.start("audit", {"kept": "1", "changed": "old"})
    run.set_tags({"changed": "new"})
    run.log_dataset(FACTS)
    run.log_dataset(DatasetFacts("photos", "cd" * 32, "/data/photos", "target", 240))
    (tmp_path / "sub").mkdir()
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "sub" / "ü.txt").write_text("text")
    run.log_folder(tmp_path)
    run.log_folder(tmp_path / "sub", "again")
    client = client_of(tracker)
    stored = client.get_run(run.run_id)
    assert (stored.data.tags["kept"], stored.data.tags["changed"]) == ("1", "new")
    assert stored.inputs is not None
    inputs = {
        (i.dataset.name, i.dataset.digest, i.dataset.source, i.dataset.profile, i.tags[0].key, i.tags[0].value)
        for i in stored.inputs.dataset_inputs
    }
    context = "mlflow.data.context"
    assert inputs == {
        ("coco/train2017", ("ab" * 32)[:36], "/data/coco", '{"num_images": 190}', context, "train"),
        ("photos", ("cd" * 32)[:36], "/data/photos", '{"num_images": 240}', context, "target"),
    }
    assert sorted(f.path for f in client.list_artifacts(run.run_id)) == ["again", "metrics.json", "sub"]
    assert [f.path for f in client.list_artifacts(run.run_id, "again")] == ["again/ü.txt"]
    assert Path(client.download_artifacts(run.run_id, "metrics.json", str(tmp_path))).read_text() == "{}"
    # Below the state folder, and not beside it under a name with %20.
    assert list(state_root.rglob("metrics.json"))
    run.end()


def test_experiment_is_found_again(tracker: MlflowTracker, state_root: Path) -> None:
    again = open_tracker(TrackingSettings(), state_root)
    run = again.start("second", {})
    one = client_of(tracker).get_run(tracker.start("first", {}).run_id)
    assert one.info.experiment_id == client_of(tracker).get_run(run.run_id).info.experiment_id


def test_runs_of_dead_processes_are_marked(tracker: MlflowTracker, state_root: Path) -> None:
    client = client_of(tracker)

    def start(**tags: str) -> str:
        run = tracker.start("audit", {})
        for key, value in tags.items():
            client.set_tag(run.run_id, f"lavise.{key}", value)
        return run.run_id

    mine = start()
    dead = start(pid=str(dead_pid()))
    nonsense = start(pid="nobody")
    elsewhere = start(pid=str(dead_pid()), host="another-machine")
    finished = start(pid=str(dead_pid()))
    client.set_terminated(finished, "FINISHED")
    open_tracker(TrackingSettings(), state_root)
    states = {name: client.get_run(i).info.status for name, i in locals().items() if isinstance(i, str)}
    assert states == {
        "mine": "RUNNING",
        "dead": "KILLED",
        "nonsense": "KILLED",
        "elsewhere": "RUNNING",
        "finished": "FINISHED",
    }


def test_run_of_a_killed_process_is_marked(state_root: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from configs.schema import TrackingSettings\n"
        "from storage.tracking import open_tracker\n"
        "print(open_tracker(TrackingSettings(), Path(sys.argv[1])).start('audit', {}).run_id, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(state_root)],
        cwd=Path(__file__).resolve().parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    client = client_of(opened(state_root))
    assert client.get_run(run_id).info.status == "RUNNING"
    process.kill()
    process.communicate()
    opened(state_root)
    assert client.get_run(run_id).info.status == "KILLED"


def opened(state_root: Path) -> MlflowTracker:
    tracker = open_tracker(TrackingSettings(), state_root)
    assert isinstance(tracker, MlflowTracker)
    return tracker


def test_run_whose_process_id_was_given_to_another_process_is_marked(tracker: MlflowTracker, state_root: Path) -> None:
    """The process that has the id now began after the run did."""
    run = tracker.start("audit", {})
    time.sleep(1.5)  # the kernel tells when a process began to about a second
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        client_of(tracker).set_tag(run.run_id, "lavise.pid", str(process.pid))
        open_tracker(TrackingSettings(), state_root)
        status: Any = client_of(tracker).get_run(run.run_id).info.status
    finally:
        process.communicate(b"\n")
    assert status == RunStatus.to_string(RunStatus.KILLED)


def test_deleted_experiment(tracker: MlflowTracker, state_root: Path) -> None:
    other = open_tracker(TrackingSettings(experiment="short-lived"), state_root)
    assert isinstance(other, MlflowTracker)
    experiment = client_of(tracker).get_experiment_by_name("short-lived")
    assert experiment is not None
    client_of(tracker).delete_experiment(experiment.experiment_id)
    with pytest.raises(
        UserError, match=r"^tracking\.experiment: 'short-lived' was deleted in sqlite:.*; restore it or name another$"
    ):
        open_tracker(TrackingSettings(experiment="short-lived"), state_root)


def test_address_in_the_settings_comes_before_the_one_in_the_environment(
    state_root: Path, tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
    assert open_tracker(TrackingSettings(uri=tracker.uri), state_root).uri == tracker.uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tracker.uri))
    assert open_tracker(TrackingSettings(), state_root / "not made").uri == tracker.uri
    assert not (state_root / "not made").exists()


def test_address_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^tracking\.uri: nonsense://host does not work \(.*\); start that server, or leave"
    ):
        open_tracker(TrackingSettings(uri="nonsense://host"), tmp_path)


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The address of a service that gives the same answer to whoever calls."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_server_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{held.getsockname()[1]}"  # bound and not listening: refused
        begin = time.monotonic()
        with pytest.raises(
            UserError, match=rf"^tracking\.uri: {uri} does not answer \(.*refused.*\); start that server"
        ):
            open_tracker(TrackingSettings(uri=uri), tmp_path)
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ],
    ids=["no HTTP", "nothing there", "another site"],
)
def test_server_that_is_not_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(answer) as uri, pytest.raises(UserError, match=rf"^tracking\.uri: {uri} does not (answer|work) \("):
        open_tracker(TrackingSettings(uri=uri), tmp_path)


def test_runs_need_no_process_wide_state(tracker: MlflowTracker) -> None:
    import mlflow

    run = tracker.start("audit", {})
    assert isinstance(run, MlflowRun)
    assert mlflow.active_run() is None
    run.end()
