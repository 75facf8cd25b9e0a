"""Where the servers of `lavise up` listen, with real sockets of real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from lavise.flows.doctor import Check
from lavise.flows.doctor.listening import check_listening
from tests.unit.flows.doctor.helpers import look
from tests.unit.flows.helpers import held

# A process whose child listens.
SERVER = """
import subprocess, sys
code = (
    "import socket, sys; s = socket.socket(); s.bind((sys.argv[1], 0)); s.listen();"
    "print(s.getsockname()[1], flush=True); sys.stdin.read()"
)
subprocess.run([sys.executable, "-c", code, sys.argv[1]])
"""


def look_at(root: Path) -> Check:
    return look(partial(check_listening, root))


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("127.0.0.1", "ok", "listens on loopback only: 127.0.0.1:"),
        ("0.0.0.0", "warning", "open beyond this machine: 0.0.0.0:"),
    ],
)
def test_where_it_listens_is_said(tmp_path: Path, address: str, status: str, said: str) -> None:
    command = [sys.executable, "-c", SERVER, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        (tmp_path / "up.json").write_text(json.dumps({"process": process.pid}))
        assert look_at(tmp_path).found.startswith("`lavise up` does not run")  # nobody holds the lock
        with held(tmp_path / "locks" / "up.lock"):
            check = look_at(tmp_path)
        assert process.stdin is not None
        process.stdin.close()
    assert check.status == status
    assert f"{said}{port}" in check.found
    assert bool(check.advice) is (status != "ok")


def test_a_process_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text(json.dumps({"process": 2**22 + 1}))
    with held(tmp_path / "locks" / "up.lock"):
        check = look_at(tmp_path)
    assert check.status == "warning"
    assert "cannot be told" in check.found


def test_half_a_file_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text("{")
    with held(tmp_path / "locks" / "up.lock"):
        assert look_at(tmp_path).status == "ok"
