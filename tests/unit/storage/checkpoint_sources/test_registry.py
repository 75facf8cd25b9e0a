"""Registered models on a real MLflow: versions, aliases, origins, and servers that cannot be trusted."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from lavise.configs.errors import UserError
from lavise.configs.sources import RegisteredModelSource
from lavise.storage.checkpoint_sources.base import CheckpointChangedError, Scan
from lavise.storage.checkpoint_sources.registry import _is_below
from lavise.storage.checkpoint_sources.scan import fetch_checkpoint, scan_checkpoints
from lavise.storage.checkpoint_sources.snapshots import take_snapshot
from lavise.storage.models.checkpoint_files import read_checkpoint
from lavise.storage.models.weight_files import WEIGHT_SUFFIXES
from tests.unit.storage.checkpoint_sources.helpers import found_at, listing, names, sha256, write


class Registry:
    """A real MLflow store: SQLite, and artifacts in a local folder."""

    def __init__(self, root: Path) -> None:
        self.database = root / "mlflow.db"
        self.client = MlflowClient(tracking_uri=f"sqlite:///{self.database}")
        self.experiment = self.client.create_experiment("e", artifact_location=(root / "artifacts").as_uri())

    def start_run(self, files: dict[str, bytes], tmp_path: Path) -> str:
        """A run that logged these artifacts; gives its id."""
        run_id: str = self.client.create_run(self.experiment).info.run_id
        self.client.log_artifacts(run_id, str(fill(tmp_path / run_id, files)))
        return run_id

    def log_model(self, name: str, files: dict[str, bytes], tmp_path: Path, run_id: str | None = None) -> str:
        """A logged model (MLflow 3) with these artifacts; gives its id."""
        model_id: str = self.client.create_logged_model(self.experiment, name=name, source_run_id=run_id).model_id
        self.client.log_model_artifacts(model_id, str(fill(tmp_path / model_id, files)))
        self.client.finalize_logged_model(model_id, "READY")
        return model_id

    def register(self, model: str, source: str) -> str:
        """A version of a model; gives its number."""
        if not [m for m in self.client.search_registered_models() if m.name == model]:
            self.client.create_registered_model(model)
        return str(self.client.create_model_version(model, source).version)

    def set_status(self, model: str, version: str, status: str, message: str | None = None) -> None:
        with sqlite3.connect(self.database) as connection:
            changed = connection.execute(
                "UPDATE model_versions SET status = ?, status_message = ? WHERE name = ? AND version = ?",
                (status, message, model, int(version)),
            )
            assert changed.rowcount == 1

    def artifacts_of(self, run_id: str) -> Path:
        uri: str = self.client.get_run(run_id).info.artifact_uri
        return Path(uri.removeprefix("file://").replace("%20", " "))


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("a store"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "state" / "cache"


def scan_model(registry: Registry, cache: Path, model: str, **settings: Any) -> Scan:
    return scan_checkpoints(RegisteredModelSource(model=model, **settings), lambda: registry.client, cache, time.time())


def contents(scan: Scan) -> list[bytes]:
    return [found.path.read_bytes() for found in scan.found]


@pytest.fixture
def eleven(registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A model with eleven versions, named like the test."""
    model: str = request.node.name
    run_id = registry.start_run({f"{n}/weights.pt": f"weights {n}".encode() for n in range(1, 12)}, tmp_path)
    for number in range(1, 12):
        registry.register(model, f"runs:/{run_id}/{number}")
    return model


def test_all_versions_in_the_order_of_their_numbers(registry: Registry, cache: Path, eleven: str) -> None:
    result = scan_model(registry, cache, eleven)
    assert names(result) == [f"{eleven} version {n}" for n in range(1, 12)]
    assert contents(result) == [f"weights {n}".encode() for n in range(1, 12)]
    assert [f.path for f in result.found] == [cache / f"{sha256(c)}.pt" for c in contents(result)]
    assert (result.waiting, result.unusable) == ((), ())
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.path.stat().st_mode) for f in result.found} == {0o600}


def test_versions_over_several_pages(
    registry: Registry, cache: Path, eleven: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = registry.client.search_model_versions
    monkeypatch.setattr(
        registry.client, "search_model_versions", lambda text, page_token: search(text, 4, page_token=page_token)
    )
    assert names(scan_model(registry, cache, eleven)) == [f"{eleven} version {n}" for n in range(1, 12)]


def test_latest_is_the_highest_number(registry: Registry, cache: Path, eleven: str) -> None:
    registry.client.update_model_version(eleven, "3", "touched last")
    assert names(scan_model(registry, cache, eleven, select="latest")) == [f"{eleven} version 11"]


def test_versions_by_alias(registry: Registry, cache: Path, eleven: str) -> None:
    for alias, number in (("champion", "10"), ("challenger", "9"), ("best", "10"), ("old", "1")):
        registry.client.set_registered_model_alias(eleven, alias, number)
    result = scan_model(registry, cache, eleven, select="aliases", aliases=("champion", "best", "challenger"))
    assert names(result) == [f"{eleven} version 9", f"{eleven} version 10"]
    with pytest.raises(UserError) as error:
        scan_model(registry, cache, eleven, select="aliases", aliases=("champion", "winner"))
    assert str(error.value) == "source.aliases: found 'winner'; allowed: best, challenger, champion, old"
    with pytest.raises(UserError, match=r"source\.aliases: found 'no alias!'"):
        scan_model(registry, cache, eleven, select="aliases", aliases=("no alias!",))


def test_a_model_that_does_not_exist(registry: Registry, cache: Path, tmp_path: Path) -> None:
    run_id = registry.start_run({"a.pt": b"a"}, tmp_path)
    registry.register("resnet-scenes", f"runs:/{run_id}")
    with pytest.raises(
        UserError, match=r"source\.model: found 'resnet-scene'; allowed: .*; did you mean resnet-scenes"
    ):
        scan_model(registry, cache, "resnet-scene")


def test_a_registry_without_models(registry: Registry, tmp_path: Path, cache: Path) -> None:
    shutil.copy(registry.database, tmp_path / "empty.db")
    with sqlite3.connect(tmp_path / "empty.db") as connection:
        for table in ("registered_model_aliases", "registered_model_tags", "model_versions", "registered_models"):
            connection.execute(f"DELETE FROM {table}")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(UserError, match="allowed: none, since no model is registered"):
        scan_checkpoints(RegisteredModelSource(model="cnn"), lambda: client, cache, 0)


def test_a_model_without_versions(registry: Registry, cache: Path) -> None:
    registry.client.create_registered_model("empty")
    assert scan_model(registry, cache, "empty") == Scan((), (), ())
    assert scan_model(registry, cache, "empty", select="latest") == Scan((), (), ())
    with pytest.raises(UserError, match="allowed: none, since 'empty' has no aliases"):
        scan_model(registry, cache, "empty", select="aliases", aliases=("champion",))


@pytest.mark.parametrize("model", ["it's", 'say "cheese"', "50% `off`", "x' OR name != '"])
def test_names_with_quotes(registry: Registry, cache: Path, tmp_path: Path, model: str) -> None:
    run_id = registry.start_run({"a.pt": b"a"}, tmp_path)
    registry.register(model, f"runs:/{run_id}")
    assert names(scan_model(registry, cache, model)) == [f"{model} version 1"]


def test_a_registry_that_does_not_answer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = MlflowClient(tracking_uri="http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"source\.model: the model registry does not work"):
        scan_checkpoints(RegisteredModelSource(model="cnn"), lambda: client, cache, 0)


def test_a_registered_model_needs_a_client(cache: Path) -> None:
    with pytest.raises(UserError, match="needs MLflow"):
        scan_checkpoints(RegisteredModelSource(model="cnn"), lambda: None, cache, 0)


def test_every_kind_of_source(registry: Registry, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = registry.start_run(
        {
            "folder/last.pt": b"run",
            "folder/notes.txt": b"-",
            "deep/er/model.pth": b"deep",
            "one/epoch 3.safetensors": b"one",
            "one/other.pt": b"other",
        },
        tmp_path,
    )
    model_id = registry.log_model("net", {"MLmodel": b"-", "data/model.safetensors": b"logged"}, tmp_path)
    registry.log_model("inner", {"data/weights.pth": b"of the run"}, tmp_path, run_id)
    registry.log_model("inner", {"data/weights.pth": b"of another run"}, tmp_path)
    artifacts = registry.artifacts_of(run_id)
    assert " " in str(artifacts)
    sources = [
        f"runs:/{run_id}/folder",
        f"runs:/{run_id}/deep",
        f"runs:/{run_id}/one/epoch 3.safetensors",
        (artifacts / "folder").as_uri(),
        str(artifacts / "deep"),
        (artifacts / "one" / "epoch 3.safetensors").as_uri(),
        str(artifacts / "one" / "epoch 3.safetensors"),
        f"runs:/{run_id}/inner",
        f"runs:/{run_id}/inner/data",
    ]
    for source in sources:
        registry.register("kinds", source)
    with monkeypatch.context() as patch:
        # Only to register: MLflow's store looks a logged model up where the process points to.
        patch.setenv("MLFLOW_TRACKING_URI", registry.client.tracking_uri)
        registry.register("kinds", f"models:/{model_id}")
        registry.register("kinds", "models:/kinds/1")
    result = scan_model(registry, cache, "kinds")
    assert result.unusable == ()
    assert contents(result) == [
        b"run",
        b"deep",
        b"one",
        b"run",
        b"deep",
        b"one",
        b"one",
        b"of the run",
        b"of the run",
        b"logged",
        b"run",
    ]


def test_a_logged_model_whose_place_the_registry_does_not_know(registry: Registry, cache: Path, tmp_path: Path) -> None:
    model_id = registry.log_model("net", {"data/model.pt": b"logged"}, tmp_path)
    run_id = registry.start_run({}, tmp_path)
    for _ in range(3):
        registry.register("unresolved", f"runs:/{run_id}")
    with sqlite3.connect(registry.database) as connection:
        set_place = "UPDATE model_versions SET storage_location = ? WHERE name = 'unresolved' AND version = ?"
        connection.execute(set_place, (f"models:/{model_id}", 1))
        connection.execute(set_place, ("models:/unresolved/2", 2))
        connection.execute(set_place, ("models:/unresolved/1", 3))
    result = scan_model(registry, cache, "unresolved")
    assert contents(result) == [b"logged", b"logged"]
    assert result.unusable == (("unresolved version 2", "its source leads from model to model without an end"),)


def test_a_state_dict_logged_as_mlflow_does_can_be_audited(registry: Registry, cache: Path, tmp_path: Path) -> None:
    import mlflow.pytorch

    network = torch.nn.Conv2d(3, 2, 3)
    mlflow.pytorch.save_state_dict(network.state_dict(), str(tmp_path / "state"))
    run_id = registry.start_run({}, tmp_path)
    registry.client.log_artifacts(run_id, str(tmp_path / "state"), "checkpoint")
    registry.register("states", f"runs:/{run_id}/checkpoint")
    (found,) = scan_model(registry, cache, "states").found
    tensors = read_checkpoint(take_snapshot(found, tmp_path / "snapshots"))
    assert tensors.keys() == network.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in network.state_dict().items())


def test_a_model_logged_in_mlflows_default_format_can_be_audited(
    registry: Registry, cache: Path, tmp_path: Path
) -> None:
    """An exported program, with examples of its input beside it: its weights are read, its graph is not."""
    import mlflow.pytorch

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2)).eval()
    example = np.zeros((1, 3, 8, 8), np.float32)
    mlflow.pytorch.save_model(network, str(tmp_path / "model"), input_example=example)
    assert (tmp_path / "model" / "data" / "model.pt2").is_file()
    run_id = registry.start_run({}, tmp_path)
    registry.client.log_artifacts(run_id, str(tmp_path / "model"), "net")
    registry.register("exported", f"runs:/{run_id}/net")
    (found,) = scan_model(registry, cache, "exported").found
    tensors = read_checkpoint(take_snapshot(found, tmp_path / "snapshots"))
    assert {k: v.tolist() for k, v in tensors.items()} == {k: v.tolist() for k, v in network.state_dict().items()}


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.witness),)


def test_a_pickled_module_is_found_but_never_loaded(registry: Registry, cache: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    torch.save(Evil(witness), tmp_path / "model.pth")
    run_id = registry.start_run(
        {
            "net/MLmodel": b"flavors: {pytorch: {model_data: data}}",
            "net/data/model.pth": (tmp_path / "model.pth").read_bytes(),
            "net/data/pickle_module_info.txt": b"mlflow.pytorch.pickle_module",
            "net/python_model.pkl": pickle.dumps(1),
        },
        tmp_path,
    )
    registry.register("pickled", f"runs:/{run_id}/net")
    (found,) = scan_model(registry, cache, "pickled").found
    snapshot = take_snapshot(found, tmp_path / "snapshots")
    with pytest.raises(UserError, match=r"holds an object of the class posix\.mkdir"):
        read_checkpoint(snapshot)
    assert not witness.exists()


def test_one_bad_version_does_not_stop_the_others(registry: Registry, cache: Path, tmp_path: Path) -> None:
    run_id = registry.start_run(
        {
            "good/a.pt": b"good",
            "none/model.h5": b"-",
            "none/model.onnx": b"-",
            "two/a.pt": b"a",
            "two/b/c.pth": b"c",
            "empty/a.pt": b"",
            "last/z.pt": b"last",
        },
        tmp_path,
    )
    for source in ("good", "none", "two", "empty", "absent", "last"):
        registry.register("mixed", f"runs:/{run_id}/{source}")
    registry.register("mixed", "runs:/0123456789abcdef0123456789abcdef/a")
    registry.register("mixed", "nosuchscheme://bucket/a")
    result = scan_model(registry, cache, "mixed")
    assert names(result) == ["mixed version 1", "mixed version 6"]
    reasons = {name.removeprefix("mixed version "): reason for name, reason in result.unusable}
    assert reasons["2"] == reasons["5"] == f"has no file that ends in {', '.join(WEIGHT_SUFFIXES)}"
    assert reasons["3"] == "has 2 weights files (a.pt, b/c.pth); set source.file to one of them"
    assert "is empty" in reasons["4"]
    assert "0123456789abcdef0123456789abcdef" in reasons["7"]
    assert "nosuchscheme" in reasons["8"]
    assert len(reasons) == 6


def test_the_file_of_a_version_is_chosen(registry: Registry, cache: Path, tmp_path: Path) -> None:
    run_id = registry.start_run({"m/last.pt": b"last", "m/best/w.pth": b"best", "n/last.pt": b"only"}, tmp_path)
    registry.register("chosen", f"runs:/{run_id}/m")
    registry.register("chosen", f"runs:/{run_id}/n")
    assert contents(scan_model(registry, cache, "chosen", file="last.pt")) == [b"last", b"only"]
    best = scan_model(registry, cache, "chosen", file="./best/w.pth")
    assert contents(best) == [b"best"]
    assert best.unusable == (("chosen version 2", "has no weights file 'best/w.pth'; it has last.pt"),)
    assert contents(scan_model(registry, cache, "chosen")) == [b"only"]


def test_versions_that_are_not_ready(registry: Registry, cache: Path, tmp_path: Path) -> None:
    run_id = registry.start_run({"a.pt": b"a"}, tmp_path)
    for _ in range(3):
        registry.register("pending", f"runs:/{run_id}")
    registry.set_status("pending", "2", "PENDING_REGISTRATION")
    registry.set_status("pending", "3", "FAILED_REGISTRATION", "disk\n\x1b[31mfull")
    result = scan_model(registry, cache, "pending")
    assert names(result) == ["pending version 1"]
    assert result.waiting == ("pending version 2",)
    assert result.unusable == (("pending version 3", "its registration failed: disk \\x1b[31mfull"),)
    registry.set_status("pending", "2", "READY")
    assert names(scan_model(registry, cache, "pending")) == ["pending version 1", "pending version 2"]


def test_a_known_version_is_not_downloaded_again(registry: Registry, cache: Path, tmp_path: Path) -> None:
    run_id = registry.start_run({"a.pt": b"a"}, tmp_path)
    registry.register("known", f"runs:/{run_id}")
    first = scan_model(registry, cache, "known")
    shutil.rmtree(registry.artifacts_of(run_id))
    assert scan_model(registry, cache, "known") == first
    assert contents(first) == [b"a"]
    first.found[0].path.unlink()
    second = scan_model(registry, cache, "known")
    assert second == first
    with pytest.raises(UserError, match="cannot download known version 1"):
        fetch_checkpoint(second.found[0], lambda: registry.client)
    with pytest.raises(CheckpointChangedError, match="gone"):
        take_snapshot(second.found[0], tmp_path / "snapshots")


@pytest.mark.parametrize("damage", [Path.unlink, lambda p: p.write_bytes(b"")], ids=["deleted", "damaged"])
def test_a_file_missing_in_the_cache_is_fetched_again(
    registry: Registry, cache: Path, tmp_path: Path, damage: Callable[[Path], object], request: pytest.FixtureRequest
) -> None:
    model = request.node.name
    run_id = registry.start_run({"m/a.pt": b"a"}, tmp_path)
    registry.register(model, f"runs:/{run_id}/m")
    (found,) = scan_model(registry, cache, model).found
    damage(found.path)
    assert fetch_checkpoint(found, lambda: registry.client) == found
    assert found.path.read_bytes() == b"a"
    before = found.path.stat().st_ino
    fetch_checkpoint(found, lambda: registry.client)
    assert found.path.stat().st_ino == before
    found.path.unlink()
    (registry.artifacts_of(run_id) / "m" / "a.pt").write_bytes(b"changed")
    with pytest.raises(CheckpointChangedError, match="was changed after it was registered"):
        fetch_checkpoint(found, lambda: registry.client)


def test_a_file_of_a_folder_needs_no_fetching(folder: Path) -> None:
    found = found_at(write(folder / "a.pt"))
    assert fetch_checkpoint(found, lambda: None) is found


def test_a_damaged_memory_is_made_anew(registry: Registry, cache: Path, tmp_path: Path) -> None:
    run_id = registry.start_run({"a.pt": b"a"}, tmp_path)
    registry.register("memory", f"runs:/{run_id}")
    (found,) = scan_model(registry, cache, "memory").found
    (memory,) = cache.glob("*.json")
    intact = memory.read_text()
    hostile = [{"sha256": "../../../etc/x"}, {"file": "x/../../passwd"}, {"sha256": "A" * 64}, {"more": "1"}]
    for text in ("", "{", "[]", *(json.dumps({**json.loads(intact), **change}) for change in hostile)):
        memory.write_text(text)
        assert scan_model(registry, cache, "memory").found == (found,)
        assert memory.read_text() == intact


def test_a_version_made_anew_is_another(registry: Registry, cache: Path, tmp_path: Path) -> None:
    run_id = registry.start_run({"m/a.pt": b"one", "n/a.pt": b"three"}, tmp_path)
    registry.register("again", f"runs:/{run_id}/m")
    assert contents(scan_model(registry, cache, "again")) == [b"one"]
    registry.client.delete_registered_model("again")
    (registry.artifacts_of(run_id) / "m" / "a.pt").write_bytes(b"two")
    registry.register("again", f"runs:/{run_id}/m")
    assert contents(scan_model(registry, cache, "again")) == [b"two"]
    with sqlite3.connect(registry.database) as connection:
        place = f"runs:/{run_id}/n"
        change = "UPDATE model_versions SET source = ?, storage_location = ? WHERE name = 'again'"
        connection.execute(change, (place, place))
    assert contents(scan_model(registry, cache, "again")) == [b"three"]


def test_snapshots_may_lie_in_the_cache(registry: Registry, cache: Path, tmp_path: Path) -> None:
    run_id = registry.start_run({"a.pt": b"a"}, tmp_path)
    registry.register("together", f"runs:/{run_id}")
    (found,) = scan_model(registry, cache, "together").found
    before = found.path.stat().st_ino
    assert take_snapshot(found, cache) == found.path
    assert found.path.stat().st_ino == before


def test_an_artifact_that_links_out_is_not_read(registry: Registry, cache: Path, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret" / "weights.pt", b"secret")
    run_id = registry.start_run({"file/x.txt": b"-", "folder/x.txt": b"-"}, tmp_path)
    (registry.artifacts_of(run_id) / "file" / "a.pt").symlink_to(secret)
    (registry.artifacts_of(run_id) / "folder" / "a").symlink_to(secret.parent)
    for source in ("file", "folder"):
        registry.register("links", f"runs:/{run_id}/{source}")
    result = scan_model(registry, cache, "links")
    assert result.found == ()
    assert [name for name, _ in result.unusable] == ["links version 1", "links version 2"]
    assert listing(cache) == []


def test_hostile_names_of_artifacts(registry: Registry, cache: Path, tmp_path: Path) -> None:
    run_id = registry.start_run(
        {"m/-rf 'x' [red] $(y).pt": b"odd", "n/a\u202e.pt": b"1", "n/b.pt": b"2", "o/two\nlines\x1b[31m.pt": b"-"},
        tmp_path,
    )
    for source in ("m", "n", "o"):
        registry.register("odd", f"runs:/{run_id}/{source}")
    result = scan_model(registry, cache, "odd")
    assert [(f.name, f.path) for f in result.found] == [("odd version 1", cache / f"{sha256(b'odd')}.pt")]
    two, lines = result.unusable
    assert two == ("odd version 2", "has 2 weights files (a\\u202e.pt, b.pt); set source.file to one of them")
    assert lines[0] == "odd version 3"  # MLflow itself refuses control characters
    assert lines[1].isprintable()


@contextmanager
def artifact_server(listed: str) -> Iterator[str]:
    """An artifact server that names one file, and hands out the same bytes whatever is asked for; gives a location."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asks_for_list = self.path.startswith("/mlflow-artifacts/artifacts?")
            entry = {"path": listed, "is_dir": False, "file_size": 4}
            body = json.dumps({"files": [entry]}).encode() if asks_for_list else b"evil"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/mlflow-artifacts/artifacts/1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("listed", ["../../evil.pt", "/tmp/evil.pt", "a/../../evil.pt", "%2e%2e/%2e%2e/evil.pt"])
def test_a_server_cannot_place_files(registry: Registry, cache: Path, listed: str) -> None:
    model = f"evil {listed.replace('/', '|')}"
    with artifact_server(listed) as location:
        registry.register(model, location)
        result = scan_model(registry, cache, model)
    assert result.found == ()
    assert len(result.unusable) == 1
    assert listing(cache) == []
    assert [p for p in cache.parent.rglob("*") if p.is_file() and p.name != ".lock"] == []


def test_a_server_that_behaves(registry: Registry, cache: Path) -> None:
    with artifact_server("good.pt") as location:
        registry.register("served", location)
        assert contents(scan_model(registry, cache, "served")) == [b"evil"]


@pytest.mark.parametrize(
    ("path", "parent", "expected"),
    [
        ("a.pt", "", True),
        ("m/a.pt", "m", True),
        ("m/n/a.pt", "m/n", True),
        ("m", "m", False),
        ("other/a.pt", "m", False),
        ("mm/a.pt", "m", False),
        ("m/../a.pt", "m", False),
        ("../a.pt", "", False),
        ("/m/a.pt", "m", False),
        ("a\0.pt", "", False),
    ],
)
def test_listed_paths_must_be_below_what_was_listed(path: str, parent: str, expected: bool) -> None:
    assert _is_below(path, parent) is expected
