"""Which audits can be opened, and what is said of the others."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lavise.configs.errors import UserError
from lavise.configs.roles import Role
from lavise.configs.schema import StorageSettings, TrackingSettings
from lavise.flows.notebook import open_audit
from lavise.flows.past_audits.past_runs import open_past_run, open_stores
from lavise.storage.state.artefacts import ArtefactStore
from lavise.storage.state.files import write_json
from lavise.storage.tracking import MlflowRun, MlflowTracker, NullTracker
from lavise.tasks.engine.stage import Stage
from tests.unit.flows.helpers import UNKNOWN_RUN, client_of, make_config, make_tracker, write_run_folder

NONE = NullTracker()
FILES = ("artefacts.json", "inputs.json", "environment.json", "metrics.json", "filters.parquet")


@pytest.fixture
def tracker(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> MlflowTracker:
    return make_tracker(tmp_path_factory, tmp_path)


def start(tracker: MlflowTracker, status: str = "FINISHED") -> MlflowRun:
    run = tracker.start("tiny", {})
    if status != "RUNNING":
        run.end(status)
    return run


# By id


def test_an_audit_with_its_folder_here(tracker: MlflowTracker, tmp_path: Path) -> None:
    run = start(tracker)
    config = make_config(tmp_path, seed=7)
    words: dict[str, list[str | None]] = {"tail": ["dog", None], "body.0": ["cat"]}
    folder = write_run_folder(tmp_path / "runs" / run.run_id, config, words, checkpoint_name="epoch1.pth")
    past = open_past_run(run.run_id, tracker, tmp_path)
    assert (past.run_id, past.folder, past.layers) == (run.run_id, folder, ("tail", "body.0"))
    assert past.config == config
    assert past.title == "tiny, epoch1.pth"
    assert [(r["filter"], r["words"]) for r in past.read_filters("tail")] == [(0, ["dog"]), (1, [])]
    assert past.read_metrics()["layers"]["body.0"]["num_filters"] == 1
    assert not (tmp_path / "fetched").exists()


def test_a_stage_is_no_audit(tracker: MlflowTracker, tmp_path: Path) -> None:
    parent = start(tracker)
    stage = tracker.start("train tail", {"lavise.stage": "train"}, parent.run_id)
    stage.end()
    with pytest.raises(UserError, match=f"{stage.run_id} is a stage .* its parent"):
        open_past_run(stage.run_id, tracker, tmp_path)


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_an_audit_that_has_not_ended_well(tracker: MlflowTracker, tmp_path: Path, status: str) -> None:
    """Even where a folder of that name is here."""
    run = start(tracker, status)
    write_run_folder(tmp_path / "runs" / run.run_id, make_config(tmp_path))
    with pytest.raises(UserError, match=f"is {status}; allowed: an audit that has FINISHED"):
        open_past_run(run.run_id, tracker, tmp_path)


def test_an_unknown_id_names_both_places(tracker: MlflowTracker, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_past_run(UNKNOWN_RUN, tracker, tmp_path)
    assert str(tracker.uri) in str(caught.value)
    assert str(tmp_path / "runs") in str(caught.value)
    with pytest.raises(UserError, match="neither in None nor in"):
        open_past_run(UNKNOWN_RUN, NONE, tmp_path)


def test_an_id_that_only_the_folder_knows(tracker: MlflowTracker, tmp_path: Path) -> None:
    """Deleted in MLflow, or tracked elsewhere."""
    run = start(tracker)
    write_run_folder(tmp_path / "runs" / run.run_id, make_config(tmp_path))
    client_of(tracker).delete_run(run.run_id)
    assert open_past_run(run.run_id, tracker, tmp_path).run_id == run.run_id
    assert open_past_run(run.run_id, NONE, tmp_path).run_id == run.run_id


# Fetched


def test_what_is_gone_here_is_fetched_once(tracker: MlflowTracker, tmp_path: Path) -> None:
    run = start(tracker)
    folder = write_run_folder(tmp_path / "first" / "runs" / run.run_id, make_config(tmp_path))
    run.log_folder(folder)
    run.log_table([{"a": 1}], "tables/filters.json")
    shutil.rmtree(folder)
    root = tmp_path / "second"
    past = open_past_run(run.run_id, tracker, root)
    assert past.folder == root / "fetched" / run.run_id
    assert past.read_filters("tail")[0]["words"] == ["dog"]
    assert sorted(p.name for p in past.folder.iterdir()) == [
        "artefacts.json",
        "config.yaml",
        "environment.json",
        "filters.parquet",
        "inputs.json",
        "metrics.json",
    ]
    assert [p.name for p in past.folder.parent.iterdir()] == [run.run_id]
    (past.folder / "metrics.json").write_text('{"layers": {"fetched": "before"}}', "utf-8")
    assert open_past_run(run.run_id, tracker, root).read_metrics() == {"layers": {"fetched": "before"}}


def test_a_run_of_something_else(tracker: MlflowTracker, tmp_path: Path) -> None:
    run = start(tracker)
    with pytest.raises(UserError, match=r"has no config\.yaml, artefacts\.json, .*filters\.parquet; allowed: a whole"):
        open_past_run(run.run_id, tracker, tmp_path)


# By path


def test_a_folder_needs_no_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run_folder(tmp_path / "copied", make_config(tmp_path))
    assert open_past_run(str(folder), NONE, tmp_path / "root").run_id == "copied"
    monkeypatch.chdir(folder)
    assert open_past_run(".", NONE, tmp_path / "root").folder == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_past_run("~/copied", NONE, tmp_path / "root").folder == folder


@pytest.mark.parametrize("run", ["runs/nowhere", "ABCDEF" + "0" * 26, "0" * 31, "a\0b", "latest"])
def test_neither_an_id_nor_a_folder(tmp_path: Path, run: str) -> None:
    with pytest.raises(UserError, match=r"allowed: the id of an MLflow run .* or the path of a run folder"):
        open_past_run(run, NONE, tmp_path)


def test_the_home_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no home folder here"):
        open_past_run("~nobody-of-this-name/run", NONE, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_run_folder(tmp_path / "run", make_config(tmp_path))
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"run has no {name}; allowed: a whole audit"):
        open_past_run(str(folder), NONE, tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"stages": ', b"\xff\xfe", b"nothing"])
@pytest.mark.parametrize("name", FILES[:3])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write_run_folder(tmp_path / "run", make_config(tmp_path))
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} of run is damaged .*; audit again") as caught:
        open_past_run(str(folder), NONE, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "missing"),
    [
        ("artefacts.json", {}, "stages"),
        ("artefacts.json", [], "stages"),
        ("inputs.json", {"arch": "a", "layers": [], "data": {}}, "checkpoint, checkpoint_name, pictures, vectors"),
        ("environment.json", None, "device, packages, git"),
    ],
)
def test_a_file_of_another_version(tmp_path: Path, name: str, content: Any, missing: str) -> None:
    folder = write_run_folder(tmp_path / "run", make_config(tmp_path))
    (folder / name).write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match=f"{name} of run has no {missing}; audit again with this version"):
        open_past_run(str(folder), NONE, tmp_path)


def test_settings_of_another_version(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run", make_config(tmp_path))
    with (folder / "config.yaml").open("a") as file:
        file.write("colour: red\n")
    with pytest.raises(UserError, match="colour: unknown key"):
        open_past_run(str(folder), NONE, tmp_path)


# Artefacts

TRAIN = Stage("train", 1)


def test_artefacts_are_found_by_stage_and_layer(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    handles = []
    for digest in ("a" * 64, "b" * 64):
        (store.partial_folder("train", digest, keep=False) / "file").write_text(digest)
        handles.append(store.publish("train", 1, digest, {}, {}, {}))
    entries = [{"stage": "train", "role": "", "subject": "", "digest": h.digest, "files": {}} for h in handles]
    twin = [{**entries[0], "subject": "random network", "digest": "c" * 64}]
    stages = {"random network: train": twin, "whatever the log says": entries}
    past = open_past_run(str(write_run_folder(tmp_path / "run", make_config(tmp_path), stages=stages)), NONE, tmp_path)
    assert past.find_artefact(store, TRAIN) == handles[0]
    assert past.find_artefact(store, TRAIN, position=1) == handles[1]
    assert past.find_artefact(store, TRAIN, position=2) is None
    assert past.find_artefact(store, TRAIN, "target") is None
    assert past.find_artefact(store, Stage("extract", 1), "target") is None
    shutil.rmtree(handles[1].folder)
    assert past.find_artefact(store, TRAIN, position=1) is None


def test_artefacts_of_audits_that_wrote_titles_only(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path)
    (store.partial_folder("extract", "a" * 64, keep=False) / "file").write_text("maps")
    handle = store.publish("extract", 1, "a" * 64, {}, {}, {})
    entries = [{"stage": "extract", "digest": handle.digest, "files": {}}]
    stages = {"random network: extract target": [{**entries[0], "digest": "c" * 64}], "extract target": entries}
    past = open_past_run(str(write_run_folder(tmp_path / "run", make_config(tmp_path), stages=stages)), NONE, tmp_path)
    assert past.find_artefact(store, Stage("extract", 1), Role.TARGET) == handle
    assert past.find_artefact(store, Stage("extract", 1), Role.TRAIN) is None


def test_files_that_are_away_are_fetched_when_they_are_back(tracker: MlflowTracker, tmp_path: Path) -> None:
    run = start(tracker)
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        open_past_run(run.run_id, tracker, tmp_path / "state")
    run.log_folder(write_run_folder(tmp_path / "elsewhere" / run.run_id, make_config(tmp_path)))
    assert open_past_run(run.run_id, tracker, tmp_path / "state").run_id == run.run_id


# Where an audit is kept


def test_stores_are_those_of_the_audits_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the folder that the command happens to be started in."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("LAVISE_HOME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path / 'own.db'}"
    (tmp_path / "state").mkdir()
    config = make_config(tmp_path / "state", tracking={"uri": uri})
    tracker, root = open_stores(str(write_run_folder(tmp_path / "anywhere" / "run", config)))
    assert (tracker.uri, root) == (uri, (tmp_path / "state").resolve())
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_run_folder_lies_in_its_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAVISE_HOME", str(tmp_path / "here"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = make_config(tmp_path).model_copy(update={"storage": StorageSettings()})
    folder = write_run_folder(tmp_path / "there" / "runs" / "abc", config)
    assert open_stores(str(folder))[1] == tmp_path / "there"
    assert open_stores("0" * 32)[1] == tmp_path / "here"
    known = "1" * 32
    write_run_folder(
        tmp_path / "here" / "runs" / known, config.model_copy(update={"tracking": TrackingSettings(enabled=False)})
    )
    tracker, root = open_stores(known)
    assert isinstance(tracker, NullTracker)
    assert root == tmp_path / "here"


def test_a_state_folder_of_another_machine_is_not_made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAVISE_HOME", str(tmp_path / "here"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = make_config(tmp_path / "there", tracking={"enabled": False})
    assert open_stores(str(write_run_folder(tmp_path / "brought", config)))[1] == tmp_path / "here"
    assert not (tmp_path / "there").exists()


def test_opening_a_folder_in_a_notebook_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("LAVISE_HOME", raising=False)
    folder = write_run_folder(tmp_path / "run", make_config(tmp_path))
    assert open_audit(folder).folder == folder
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Whom credentials are for


def test_the_copy_of_a_checkpoint_is_found_where_the_state_folder_is_now(tmp_path: Path) -> None:
    """The settings name it by the place where the folder was."""
    before, now, name = tmp_path / "before", tmp_path / "now", f"{'a' * 64}.pt"
    config = make_config(before, model={"weights": str(before / "checkpoints" / name)})
    folder = write_run_folder(before / "runs" / UNKNOWN_RUN, config)
    write_json(folder / "artefacts.json", {"stages": {}, "checkpoint_file": name})
    (before / "checkpoints").mkdir()
    (before / "checkpoints" / name).write_bytes(b"weights")
    found = open_past_run(str(folder), NullTracker(), tmp_path)
    assert found.config.model.weights == str(before / "checkpoints" / name)
    before.rename(now)
    moved = open_past_run(str(now / "runs" / UNKNOWN_RUN), NullTracker(), tmp_path)
    assert moved.config.model.weights == str(now / "checkpoints" / name)
    (now / "checkpoints" / name).unlink()
    gone = open_past_run(str(now / "runs" / UNKNOWN_RUN), NullTracker(), tmp_path)
    assert gone.config.model.weights == str(before / "checkpoints" / name)


def test_a_copys_name_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(b"weights")
    config = make_config(tmp_path, model={"weights": "/away/x.pt"})
    folder = write_run_folder(tmp_path / "state" / "runs" / UNKNOWN_RUN, config)
    (tmp_path / "state" / "checkpoints").mkdir()
    for name in ("../../other.pt", str(tmp_path / "other.pt"), 5):
        write_json(folder / "artefacts.json", {"stages": {}, "checkpoint_file": name})
        assert open_past_run(str(folder), NullTracker(), tmp_path).config.model.weights == "/away/x.pt"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[str, list[str | None]]]:
    """A server that lets nobody in: its address, and the credentials of every request."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "LAVISE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAVISE_HOME", str(tmp_path / "here"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def write_run_at(tmp_path: Path, uri: str, place: str = "brought") -> str:
    return str(write_run_folder(tmp_path / place, make_config(tmp_path, tracking={"uri": uri})))


@pytest.mark.parametrize(
    ("name", "value"),
    [("MLFLOW_TRACKING_USERNAME", "me"), ("MLFLOW_TRACKING_PASSWORD", "secret"), ("MLFLOW_TRACKING_TOKEN", "secret")],
)
def test_credentials_do_not_follow_a_run_folder_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, list[str | None]], name: str, value: str
) -> None:
    address, seen = asked
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    folder = write_run_at(tmp_path, address)
    with pytest.raises(UserError) as caught:
        open_stores(folder)
    assert str(caught.value) == (
        f"run: config.yaml in {folder!r} has the tracking server {address!r}, and {name} would be sent there; set "
        "MLFLOW_TRACKING_URI to that address if it is to have them, else unset them"
    )
    assert seen == []


def test_nor_do_those_of_mlflows_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, list[str | None]]
) -> None:
    address, seen = asked
    (tmp_path / "home" / ".mlflow").mkdir(parents=True)
    (tmp_path / "home" / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = secret\n"
    )
    with pytest.raises(UserError, match=r"and ~/\.mlflow/credentials would be sent there"):
        open_stores(write_run_at(tmp_path, address))
    assert seen == []


@pytest.mark.parametrize("named", ["by the environment", "in the own state folder"])
def test_a_server_that_the_user_named_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, list[str | None]], named: str
) -> None:
    address, seen = asked
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    place = "brought"
    if named == "by the environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    else:
        place = f"here/runs/{'1' * 32}"
    with pytest.raises(UserError, match=r"tracking\.uri: .* does not work"):
        open_stores(write_run_at(tmp_path, address, place))
    assert "Bearer secret" in seen


def test_without_credentials_there_is_nothing_to_keep(tmp_path: Path, asked: tuple[str, list[str | None]]) -> None:
    address, seen = asked
    with pytest.raises(UserError, match=r"tracking\.uri: .* does not work"):
        open_stores(write_run_at(tmp_path, address))
    assert set(seen) == {None}
