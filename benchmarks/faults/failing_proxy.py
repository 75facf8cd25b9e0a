"""Stands before an MLflow server and, when told to, answers 500 or nothing at all."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

_HOST = "127.0.0.1"
_NOT_PASSED_ON = {"transfer-encoding", "content-length", "connection", "server", "date"}


class FailingProxy:
    """Attributes:
    how: `well`, `500` or `silent`; may be changed at any time.
    num_failed: requests that were not passed on.
    """

    def __init__(self, port: int) -> None:
        self.how, self.num_failed = "well", 0
        handler = type("Handler", (_Handler,), {"proxy": self, "port": port})
        self._server = ThreadingHTTPServer((_HOST, 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://{_HOST}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fail_for(self, how: str, seconds: float) -> None:
        """From now on, in the background."""
        self.how = how

        def mend() -> None:
            time.sleep(seconds)
            self.how = "well"

        threading.Thread(target=mend, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    proxy: ClassVar[FailingProxy]
    port: ClassVar[int]

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.proxy.how != "well":
            self.proxy.num_failed += 1
        if self.proxy.how == "500":
            self.send_error(500, "made to fail")
            return
        while self.proxy.how == "silent":
            time.sleep(0.2)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=120)
        connection.request(self.command, self.path, body, {**headers, "Host": f"{_HOST}:{self.port}"})
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _NOT_PASSED_ON:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        pass
