"""Servers that do not answer or want a password, and what is never told of it."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lavise.configs.errors import UserError
from lavise.configs.loading import load_config
from lavise.configs.schema import TrackingSettings
from lavise.storage.loopback import reach_loopback_directly
from lavise.storage.tracking import open_tracker
from lavise.storage.tracking_addresses import (
    hide_credentials,
    pass_credentials,
    require_answer,
    without_credentials,
)

pytestmark = pytest.mark.usefixtures("no_tracking_uri")


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


@pytest.mark.parametrize("given", ["", "example.org, 127.0.0.1", "*"])
def test_a_server_of_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """By none of the three libraries that ask: urllib here, requests in MLflow, httpx in Prefect."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, given)
    with socket.socket() as held, answering(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n") as uri:
        held.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{held.getsockname()[1]}"  # bound and not listening: refused
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, nobody)
        reach_loopback_directly()
        for address in (uri, uri.replace("127.0.0.1", "localhost")):
            require_answer(address)
            assert requests.get(address, timeout=5).status_code == httpx.get(address).status_code == 200
        if given != "*":
            with pytest.raises(UserError, match="does not answer"):
                require_answer("http://mlflow.invalid")
            assert os.environ["NO_PROXY"].startswith(given.partition(",")[0])


def test_without_a_proxy_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    reach_loopback_directly()
    assert "NO_PROXY" not in os.environ


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "cert.pem", folder / "key.pem"


def test_a_certificate_that_mlflows_client_alone_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLFLOW_TRACKING_SERVER_CERT_PATH is for it; without, its own refusal is one line."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), NoExperiments)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"https://127.0.0.1:{server.server_port}"
    try:
        require_answer(uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(UserError, match=rf"^tracking\.uri: {uri} does not work \(.*certificate") as caught:
            open_tracker(TrackingSettings(uri=uri), tmp_path)
        assert "\n" not in str(caught.value)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        with pytest.raises(UserError, match=rf"^tracking\.uri: {uri} does not work \(.*nothing here"):
            open_tracker(TrackingSettings(uri=uri), tmp_path)
    finally:
        server.shutdown()
        server.server_close()


class NoExperiments(BaseHTTPRequestHandler):
    """Answers everything in the way of MLflow's server, with an error of its own."""

    def do_GET(self) -> None:
        answer = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "nothing here"}).encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


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


# Behind a password


PASSWORD = "s/e@c ret"
ENCODED = "me:s%2Fe%40c%20ret@"


@contextmanager
def serving_behind_a_password(answers: Mapping[str, tuple[int, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Address of a server that answers these paths to `me`, and what it was asked for: `CODE PATH`."""
    wanted = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            path = self.path.partition("?")[0]
            code, content = answers.get(path, (404, {})) if self.headers["Authorization"] == wanted else (401, "no")
            asked.append(f"{code} {path}")
            self.send_response(code)
            if code in (301, 302):
                self.send_header("Location", content)
            body = json.dumps(content).encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


API = "/api/2.0/mlflow"
EXPERIMENT = {"experiment_id": "7", "name": "lavise", "lifecycle_stage": "active", "artifact_location": "file:///x"}
RUN = {"info": {"run_id": "ab", "run_uuid": "ab", "experiment_id": "7", "status": "FINISHED", "start_time": 0}}
MLFLOW = {
    "/": (200, "hello"),
    f"{API}/experiments/get-by-name": (200, {"experiment": EXPERIMENT}),
    f"{API}/runs/search": (200, {}),
    f"{API}/runs/get": (200, {"run": RUN}),
}


def test_user_and_password_of_the_address_reach_the_server(tmp_path: Path) -> None:
    with serving_behind_a_password(MLFLOW) as (address, asked):
        tracker = open_tracker(TrackingSettings(uri=address.replace("://", f"://{ENCODED}")), tmp_path)
        assert tracker.uri == address
        assert tracker.link("ab") == f"{address}/#/experiments/7/runs/ab"
        assert {line[:3] for line in asked} == {"200"}
        assert asked[:2] == ["200 /", f"200 {API}/experiments/get-by-name"]


def test_user_and_password_of_the_environment_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with serving_behind_a_password(MLFLOW) as (address, asked):
        assert open_tracker(TrackingSettings(uri=address), tmp_path).uri == address
        # The first request only asks whether anything is there.
        assert asked == ["401 /", f"200 {API}/experiments/get-by-name", f"200 {API}/runs/search"]


def test_wrong_password_is_not_told(tmp_path: Path) -> None:
    with serving_behind_a_password(MLFLOW) as (address, asked):
        uri = address.replace("://", "://me:hush@")
        with pytest.raises(UserError, match=rf"^tracking\.uri: {address} does not work \(.*401.*\); start") as caught:
            open_tracker(TrackingSettings(uri=uri), tmp_path)
        assert asked == ["401 /", f"401 {API}/experiments/get-by-name"]
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("password", ["hush", "h/ush", "h@ush"], ids=["plain", "slash", "at"])
def test_password_is_not_told_where_nothing_answers(password: str, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        uri = f"http://me:{password}@127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(UserError, match=r"^tracking\.uri: http://127\.0\.0\.1:\d+ does not answer \(") as caught:
            open_tracker(TrackingSettings(uri=uri), tmp_path)
    assert "ush" not in str(caught.value)


def test_password_is_not_told_to_where_the_server_points() -> None:
    with serving_behind_a_password({"/": (200, "")}) as (other, told):
        with serving_behind_a_password({"/": (302, f"{other}/")}) as (address, asked):
            require_answer(address.replace("://", f"://{ENCODED}"))
        assert (asked, told) == (["302 /"], ["401 /"])


def test_database_keeps_its_credentials_and_does_not_tell_them(tmp_path: Path) -> None:
    assert pass_credentials("postgresql://me:hush@host/db") == "postgresql://me:hush@host/db"
    assert "MLFLOW_TRACKING_USERNAME" not in os.environ
    with pytest.raises(UserError, match=r"^tracking\.uri: nonsense://host/db does not work") as caught:
        open_tracker(TrackingSettings(uri="nonsense://me:hush@host/db"), tmp_path)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@host:5000/mlflow", "https://host:5000/mlflow"),
        ("https://me@host", "https://host"),
        ("http://me:p@ss@[::1]:5000/", "http://[::1]:5000/"),
        ("postgresql+psycopg2://me:p/a?s#s@host/db", "postgresql+psycopg2://host/db"),
        ("no answer from http://me:pass@host (http://host:5000)", "no answer from http://host (http://host:5000)"),
        ("'http://me:pass@host/a', 'http://me:pass@host/b'", "'http://host/a', 'http://host/b'"),
    ],
)
def test_credentials_are_hidden(text: str, shown: str) -> None:
    assert hide_credentials(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me@work/mlflow.db",
        "http://host:5000/a@b",
        "http://host/?mail=me@host",
        "http://host:5000?mail=me@host",
        "databricks://profile",
        "./mlruns",
        "see http://host: me@host",
    ],
)
def test_what_holds_no_credentials_stays(text: str) -> None:
    assert hide_credentials(text) == text


def test_settings_to_write_down() -> None:
    config = load_config("demo", ["tracking.uri=http://me:hush@host:5000", "tracking.experiment=mine"])
    shown = without_credentials(config)
    assert shown.tracking == TrackingSettings(uri="http://host:5000", experiment="mine")
    assert shown.model_copy(update={"tracking": config.tracking}) == config
    assert without_credentials(load_config("demo")) == load_config("demo")
