"""What the tests of the doctor share."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lavise.configs.schema import Config, ModelSettings, OpenMojiReference, OpenMojiTarget
from lavise.flows.doctor import Check, Report, Status, run_check


def make_config(**sections: Any) -> Config:
    sections.setdefault("model", ModelSettings(arch="torchvision:squeezenet1_1"))
    sections.setdefault("reference", OpenMojiReference(kind="openmoji"))
    sections.setdefault("target", OpenMojiTarget(kind="openmoji"))
    return Config(name="small", **sections)


def look(check: Callable[[], Report]) -> Check:
    """The result of a check that has but one."""
    (found,) = run_check("check", check)
    return found


def look_all(check: Callable[[], Report]) -> dict[str, Check]:
    """The results of a check, by name."""
    return {c.name: c for c in run_check("check", check)}


def states(checks: Mapping[str, Check]) -> dict[str, Status]:
    return {name: c.status for name, c in checks.items()}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(answers: Mapping[str, tuple[int, str]], password: str | None = None) -> Iterator[str]:
    """The address of a server that knows these paths; with a password, only for who gives it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = f"Basic {base64.b64encode((password or '').encode()).decode()}"
            refused = password is not None and self.headers["Authorization"] != wanted
            code, body = (401, "") if refused else answers.get(self.path, (404, "{}"))
            self.send_response(code)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
