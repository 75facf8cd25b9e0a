"""A tracking store that is lost in the middle is told of in one line, and asked no longer than it takes."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lavise.storage import tracking_client
from lavise.storage.tracking_client import LastingClient, TrackingLostError

_ANSWER = {"experiment": {"experiment_id": "1", "name": "lavise", "lifecycle_stage": "active"}}


class Server:
    """Answers as it is told to, and counts."""

    def __init__(self) -> None:
        self.status, self.content, self.num_requests = 200, json.dumps(_ANSWER), 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.num_requests += 1
                body = owner.content.encode()
                self.send_response(owner.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def test_a_server_that_fails_is_told_of_and_asked_once_each_from_then_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    client = LastingClient(MlflowClient(tracking_uri=server.url), server.url.replace("//", "//me:hush@"))
    assert client.get_experiment("1").name == "lavise"
    assert client.tracking_uri == server.url
    server.status, server.num_requests = 500, 0
    for expected in (2, 3, 4):
        with pytest.raises(
            TrackingLostError, match=rf"^tracking\.uri: {server.url} does not work any more \(API request"
        ) as e:
            client.get_experiment("1")
        assert server.num_requests == expected
        assert "hush" not in str(e.value)
        assert len(str(e.value).splitlines()) == 1
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    server.status = 200
    assert client.get_experiment("1").name == "lavise"
    assert not client.is_lost


def test_a_server_that_is_gone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = LastingClient(MlflowClient(tracking_uri=server.url), server.url)
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(TrackingLostError, match="what was finished is kept"):
        client.get_experiment("1")


def test_an_answer_that_says_no_is_no_loss(server: Server) -> None:
    server.status, server.content = 404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such"})
    client = LastingClient(MlflowClient(tracking_uri=server.url), server.url)
    with pytest.raises(MlflowException, match="no such"):
        client.get_experiment("1")
    assert not client.is_lost


class Database:
    """In the place of MLflow's client: one write, which does not wait for a lock."""

    def __init__(self, path: Path) -> None:
        self.path, self.num_tries = path, 0

    def write(self) -> None:
        self.num_tries += 1
        with sqlite3.connect(self.path, timeout=0) as database:
            database.execute("CREATE TABLE IF NOT EXISTS runs (id)")
        database.close()


def test_a_locked_database_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_client, "_ASK_AGAIN_SECONDS", 0.02)
    path = tmp_path / "mlflow.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    database = Database(path)
    client = LastingClient(database, "sqlite:///mlflow.db")
    threading.Timer(0.3, lambda: other.execute("ROLLBACK")).start()
    client.write()
    assert database.num_tries > 1
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(tracking_client, "_LOCKED_SECONDS", 0.1)
    with pytest.raises(TrackingLostError, match="database is locked"):
        client.write()
    tries = database.num_tries
    with pytest.raises(TrackingLostError):
        client.write()
    assert database.num_tries == tries + 1
    other.close()


def test_a_full_disk_is_left_to_those_who_tell_of_it(tmp_path: Path) -> None:
    class Full:
        def write(self) -> None:
            raise MlflowException("(sqlite3.OperationalError) database or disk is full")

    with pytest.raises(MlflowException, match="full"):
        LastingClient(Full(), "sqlite:///mlflow.db").write()
