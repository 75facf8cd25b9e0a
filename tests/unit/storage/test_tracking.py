from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import RunStatus
from mlflow.tracking import MlflowClient

from lavise.configs.errors import UserError
from lavise.configs.schema import TrackingSettings
from lavise.storage.tracking import DatasetFacts, MlflowRun, MlflowTracker, NullTracker, open_tracker

pytestmark = pytest.mark.usefixtures("no_tracking_uri")
FACTS = DatasetFacts("coco/train2017", "ab" * 32, "/data/coco", "train", 190)


@pytest.fixture(scope="module")
def state_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder whose name has a space, with an empty SQLite store in it."""
    return tmp_path_factory.mktemp("state folder")


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
    run.log_file(tmp_path / "gate.json")
    run.log_table([{"a": 1}], "table.json")
    run.log_dataset(FACTS)
    with run.watch_system():
        pass
    run.end()
    assert tracker.resume(run.run_id).run_id != run.run_id
    assert (tracker.find({"a": "b"}), tracker.get(run.run_id), tracker.link(run.run_id)) == ([], None, None)
    with pytest.raises(FileNotFoundError, match=f"nothing is tracked, so there are no files of run {run.run_id}"):
        tracker.download(run.run_id, tmp_path)
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
    run.log_metrics({"recall_at_5": 0.25, "broken": math.nan, "bn2/large": -math.inf})
    history = [("loss", 10.0 - step, step) for step in range(1000)]
    run.log_history(iter(history))
    client = client_of(tracker)
    stored = client.get_run(run.run_id).data
    assert stored.metrics == {"recall_at_5": 0.25, "loss": -989.0}
    assert stored.tags["lavise.not_finite"] == "bn2/large (-inf), broken (nan)"
    assert [("loss", m.value, m.step) for m in client.get_metric_history(run.run_id, "loss")] == history
    run.end()


def test_metrics_of_reasons(tracker: MlflowTracker) -> None:
    """Reasons for leaving labels out are text; MLflow refuses some of its characters."""
    run = tracker.start("r", {})
    run.log_metrics({"skipped.uncertain label (-1)": 2, "skipped.line that names no picture, or several": 1})
    run.end()
    found = client_of(tracker).get_run(run.run_id).data.metrics
    assert found == {"skipped.uncertain label _-1_": 2, "skipped.line that names no picture_ or several": 1}


def test_tags_data_sets_and_files(tracker: MlflowTracker, tmp_path: Path, state_root: Path) -> None:
    run = tracker.start("audit", {"kept": "1", "changed": "old"})
    run.set_tags({"changed": "new"})
    run.log_dataset(FACTS)
    run.log_dataset(DatasetFacts("photos", "cd" * 32, "/data/photos", "target", 240, ("2 of 3 masks are boxes",)))
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
        (
            "photos",
            ("cd" * 32)[:36],
            "/data/photos",
            '{"num_images": 240, "notes": ["2 of 3 masks are boxes"]}',
            context,
            "target",
        ),
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
        "from lavise.configs.schema import TrackingSettings\n"
        "from lavise.storage.tracking import open_tracker\n"
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


# Runs that were tracked before


def test_runs_are_found_by_all_of_their_tags(tracker: MlflowTracker, state_root: Path) -> None:
    """Also those of other trackers of the experiment; deleted ones, and those of other experiments, are not."""
    wanted = {"lavise.identity": "i" * 64, "lavise.checkpoint": "sha/256 x"}
    first = tracker.start("first", wanted)
    tracker.start("other checkpoint", {**wanted, "lavise.checkpoint": "y"})
    tracker.start("without", {"lavise.identity": "i" * 64})
    deleted = tracker.start("deleted", wanted)
    client_of(tracker).delete_run(deleted.run_id)
    open_tracker(TrackingSettings(experiment="another"), state_root).start("elsewhere", wanted)
    second = opened(state_root).start("second", {**wanted, "more": "1"}, parent=first.run_id)
    second.end()
    found = tracker.find(wanted)
    assert [r.run_id for r in found] == [first.run_id, second.run_id]
    assert [(r.name, r.status) for r in found] == [("first", "RUNNING"), ("second", "FINISHED")]
    assert {k: found[1].tags[k] for k in ("more", "mlflow.parentRunId")} == {
        "more": "1",
        "mlflow.parentRunId": first.run_id,
    }
    stored = client_of(tracker).get_run(first.run_id).info
    assert found[0].started == stored.start_time / 1000
    assert tracker.find({**wanted, "lavise.checkpoint": "nothing"}) == []


def test_runs_are_found_page_by_page_the_oldest_first(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven runs, started in another order than they were made, in pages of two."""
    runs = []
    for started in (5, 3, 6, 1, 4, 2, 7):
        run = client_of(tracker).create_run(
            client_of(tracker).get_run(tracker.start("x", {}).run_id).info.experiment_id,
            start_time=started * 1000,
            tags={"in pages": "yes"},
        )
        runs.append((started, run.info.run_id))
    search, asked = tracker._client.search_runs, []

    def search_small_pages(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["page_token"])
        return search(*args, **{**kwargs, "max_results": 2})

    monkeypatch.setattr(tracker._client, "search_runs", search_small_pages)
    found = tracker.find({"in pages": "yes"})
    assert [(r.started, r.run_id) for r in found] == [(float(s), i) for s, i in sorted(runs)]
    assert len(asked) >= 4
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("value", ["it's", "back\\slash", "' or tags.`a` != '"])
def test_tag_that_could_end_its_quotes_is_refused(tracker: MlflowTracker, value: str) -> None:
    with pytest.raises(ValueError, match="must not hold quotes"):
        tracker.find({"lavise.identity": value})


def test_run_by_its_id(tracker: MlflowTracker, state_root: Path) -> None:
    """Of any experiment."""
    other = open_tracker(TrackingSettings(experiment="another"), state_root).start("elsewhere", {"a": "b"})
    found = tracker.get(other.run_id)
    assert found is not None
    assert (found.run_id, found.name, found.status, found.tags["a"]) == (other.run_id, "elsewhere", "RUNNING", "b")
    other.end("FAILED")
    assert (again := tracker.get(other.run_id)) is not None
    assert again.status == "FAILED"
    assert again.started == found.started
    client_of(tracker).delete_run(other.run_id)
    assert tracker.get(other.run_id) is None


@pytest.mark.parametrize("run_id", ["0" * 32, "nonsense", "../up", "' or 1=1"])
def test_no_run_of_this_id(tracker: MlflowTracker, run_id: str) -> None:
    assert tracker.get(run_id) is None


def test_run_that_has_ended_is_added_to(tracker: MlflowTracker) -> None:
    run = tracker.start("audit", {"a": "b"})
    run.end()
    again = tracker.resume(run.run_id)
    again.set_tags({"lavise.gate": "passed"})
    again.log_metrics({"late": 0.5})
    stored = client_of(tracker).get_run(run.run_id)
    assert (stored.info.status, stored.data.metrics["late"]) == ("FINISHED", 0.5)
    assert (stored.data.tags["a"], stored.data.tags["lavise.gate"]) == ("b", "passed")


def test_files_at_the_top_of_a_run_are_fetched(tracker: MlflowTracker, tmp_path: Path) -> None:
    run = tracker.start("audit", {})
    made, fetched = tmp_path / "made", tmp_path / "fetched"
    (made / "model").mkdir(parents=True)
    for name in ("config.yaml", "metrics.json", "model/weights.bin"):
        (made / name).write_bytes(name.encode() + b"\x00\xff")
    run.log_folder(made)
    run.end()
    fetched.mkdir()
    tracker.download(run.run_id, fetched)
    assert sorted(p.name for p in fetched.iterdir()) == ["config.yaml", "metrics.json"]
    assert (fetched / "config.yaml").read_bytes() == b"config.yaml\x00\xff"


def test_single_file(tracker: MlflowTracker, tmp_path: Path) -> None:
    """At the top of the run; the same name again replaces it."""
    run = tracker.start("audit", {})
    for text in ("old", "new"):
        (tmp_path / "gate.json").write_text(text)
        run.log_file(tmp_path / "gate.json")
    client = client_of(tracker)
    assert [f.path for f in client.list_artifacts(run.run_id)] == ["gate.json"]
    (tmp_path / "fetched").mkdir()
    assert Path(client.download_artifacts(run.run_id, "gate.json", str(tmp_path / "fetched"))).read_text() == "new"


def test_table(tracker: MlflowTracker, tmp_path: Path) -> None:
    """As MLflow's own are. Lists become text; another table of the same name replaces the first."""
    run = tracker.start("audit", {})
    run.log_table([{"filter": 7, "words": ["old"]}], "tables/changes.json")
    rows = [
        {"filter": 3, "words": ["dog", "<b>cat</b>"], "similarity": 0.25, "new": None},
        {"filter": 4, "words": [], "similarity": None, "new": 1},
    ]
    run.log_table(rows, "tables/changes.json")
    run.log_table([{"a": "ü"}], "other.json")
    client = client_of(tracker)
    content = client.download_artifacts(run.run_id, "tables/changes.json", str(tmp_path))
    assert json.loads(Path(content).read_text("utf-8")) == {
        "columns": ["filter", "words", "similarity", "new"],
        "data": [[3, "dog, <b>cat</b>", 0.25, None], [4, "", None, 1]],
    }
    assert json.loads(client.get_run(run.run_id).data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "tables/changes.json", "type": "table"},
        {"path": "other.json", "type": "table"},
    ]
    assert sorted(f.path for f in client.list_artifacts(run.run_id)) == ["other.json", "tables"]
    run.log_table([], "other.json")
    emptied = client.download_artifacts(run.run_id, "other.json", str(tmp_path))
    assert json.loads(Path(emptied).read_text("utf-8"))["data"] == []


def test_more_tables_than_mlflow_lists(tracker: MlflowTracker) -> None:
    """Its tag of them is cut at 8,000 characters, and then is no JSON; they are files of the run all the same."""
    run, client = tracker.start("audit", {}), client_of(tracker)
    for number in range(40):
        run.log_table([{"a": 1}], f"{number}-{'x' * 200}.json")
    listed = client.get_run(run.run_id).data.tags["mlflow.loggedArtifacts"]
    assert 20 < len(json.loads(listed)) < 40
    client.set_tag(run.run_id, "mlflow.loggedArtifacts", listed[:5000])
    run.log_table([{"a": 1}], "after.json")
    assert "after.json" in [f.path for f in client.list_artifacts(run.run_id)]


def test_a_state_folder_that_would_be_options(tmp_path: Path, no_tracking_uri: None) -> None:
    """MLflow's file would lie beside the folder, under the first part of its name."""
    with pytest.raises(UserError, match=r"^storage\.root: found '.*why\?'; .*allowed: a folder without `\?`"):
        open_tracker(TrackingSettings(), tmp_path / "why?")
    assert list(tmp_path.iterdir()) == []


def test_number_that_json_lacks_is_no_table(tracker: MlflowTracker) -> None:
    run = tracker.start("audit", {})
    with pytest.raises(ValueError, match=r"nan|JSON"):
        run.log_table([{"a": math.nan}], "table.json")
    assert client_of(tracker).list_artifacts(run.run_id) == []


def test_store_without_a_server_has_no_pages(tracker: MlflowTracker) -> None:
    run = tracker.start("audit", {})
    assert tracker.link(run.run_id) is None
    assert str(tracker.place(run.run_id)).endswith(f"/runs/{run.run_id}")


def test_page_of_a_run(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracker.start("audit", {})
    experiment = client_of(tracker).get_run(run.run_id).info.experiment_id
    monkeypatch.setattr(tracker, "uri", "https://host:5000/mlflow/")
    assert tracker.link(run.run_id) == f"https://host:5000/mlflow/#/experiments/{experiment}/runs/{run.run_id}"


def test_model_of_a_run(tracker: MlflowTracker, tmp_path: Path) -> None:
    """Where it is registered, each run's model is the next version under the same name."""
    (tmp_path / "weights.bin").write_bytes(b"\x00\xff")
    client, versions = client_of(tracker), []
    for register_as in (None, "lavise-explainer", "lavise-explainer"):
        run = tracker.start("audit", {})
        tags = {"lavise.run": run.run_id}
        version = run.log_model(tmp_path, "explainer", tags, register_as)
        outputs = client.get_run(run.run_id).outputs
        assert outputs is not None
        (made,) = outputs.model_outputs
        model = client.get_logged_model(made.model_id)
        assert (model.name, model.status, model.source_run_id) == ("explainer", "READY", run.run_id)
        assert model.tags["lavise.run"] == run.run_id
        folder = Path(urllib.request.url2pathname(urllib.parse.urlparse(model.artifact_location).path))
        assert [(p.name, p.read_bytes()) for p in folder.iterdir()] == [("weights.bin", b"\x00\xff")]
        assert (version is None) == (register_as is None)
        if version is not None:
            stored = client.get_model_version("lavise-explainer", version)
            assert (stored.run_id, stored.source, stored.tags) == (run.run_id, model.artifact_location, tags)
            versions.append(int(version))
    assert versions == [1, 2]


def test_what_models_of_a_store_have_in_common_is_kept_once(tracker: MlflowTracker, tmp_path: Path) -> None:
    content = {"matrix.npy": b"v" * 200_000, "explainer.safetensors": b"a" * 200_000, "explainer.json": b"{}"}
    kept = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in {**content, "explainer.safetensors": b"abb"[number : number + 1] * 200_000}.items():
            (folder / name).write_bytes(data)
        run = tracker.start("audit", {})
        run.log_model(folder, "explainer", {}, None)
        outputs = client_of(tracker).get_run(run.run_id).outputs
        assert outputs is not None
        (made,) = outputs.model_outputs
        location = client_of(tracker).get_logged_model(made.model_id).artifact_location
        kept.append(Path(urllib.request.url2pathname(urllib.parse.urlparse(location).path)))
        there, given = ({p.name: p.read_bytes() for p in place.iterdir()} for place in (kept[-1], folder))
        assert there == given
    inodes = {name: [(folder / name).stat().st_ino for folder in kept] for name in content}
    assert [len(set(found)) for found in inodes.values()] == [1, 2, 3]
    shutil.rmtree(kept[0])
    assert (kept[1] / "matrix.npy").read_bytes() == content["matrix.npy"]


def test_watched_run_has_metrics_of_the_machine(tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the block runs, and no longer: the thread that watches goes, also after an error."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    run = tracker.start("audit", {})
    client = client_of(tracker)
    with suppress(KeyboardInterrupt), run.watch_system():
        deadline = time.monotonic() + 60
        while not client.get_run(run.run_id).data.metrics and time.monotonic() < deadline:
            time.sleep(0.05)
        raise KeyboardInterrupt
    found = client.get_run(run.run_id).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= found.keys()
    assert not [t for t in threading.enumerate() if t.name == "SystemMetricsMonitor"]
    run.end()


def test_a_store_that_cannot_be_read_is_told_of_in_a_line(tmp_path: Path) -> None:
    """As after a disk that failed."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"no database" * 2000)
    with pytest.raises(UserError, match=r"^tracking\.uri: sqlite:.* does not work \(") as caught:
        MlflowTracker(f"sqlite:///{path}", "lavise", None)
    assert len(str(caught.value).splitlines()) == 1


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


def test_runs_need_no_process_wide_state(tracker: MlflowTracker) -> None:
    import mlflow

    run = tracker.start("audit", {})
    assert isinstance(run, MlflowRun)
    assert mlflow.active_run() is None
    run.end()


def test_a_run_is_discarded_with_those_below_it(tracker: MlflowTracker) -> None:
    kept, parent = tracker.start("kept", {}), tracker.start("parent", {})
    child = tracker.start("child", {}, parent.run_id)
    tracker.discard(parent.run_id)
    assert tracker.get(parent.run_id) is None
    assert tracker.get(child.run_id) is None
    assert tracker.get(kept.run_id) is not None
