"""Servers on this machine, where a proxy stands between it and all others."""

from __future__ import annotations

import os

_PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def reach_loopback_directly() -> None:
    """Servers on this machine are not asked through a proxy, whoever asks: urllib, requests and httpx all go by this
    environment, and a proxy's own 127.0.0.1 is another machine's."""
    if not any(os.environ.get(name) for name in _PROXIES):
        return
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host for host in (part.strip() for part in given.split(",")) if host]
    if "*" not in hosts:
        hosts += [host for host in _LOOPBACK if host not in hosts]
    os.environ.update(dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(hosts)))
