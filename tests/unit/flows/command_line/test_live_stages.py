"""What stands on a real terminal while an audit runs, and what is left there afterwards."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

CODE = """
import logging, sys, tempfile
from pathlib import Path
from lavise.flows.command_line.commands import _log_to_stderr
from lavise.flows.command_line.live_stages import show_stages
from lavise.storage.state.artefacts import ArtefactStore
from lavise.tasks.engine.stage import Stage, StageRunner
from lavise.tasks.engine.stage_inputs import Request

_log_to_stderr()
runner = StageRunner(ArtefactStore(Path(tempfile.mkdtemp())))
with show_stages(details=sys.argv[1] == "details") as progress:
    def compute(folders):
        with progress("boxes", 3) as bar:
            for _ in range(3):
                bar.advance()
        logging.getLogger("lavise").warning("  one picture is broken: [red]x")
        return {0: {"num": 1}}
    for _ in range(2):
        runner.run(Stage("work", 1), "work on it", [Request({"a": 1}, {})], compute)
logging.getLogger("lavise").info("afterwards")
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_on_terminal(option: str) -> str:
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE, option],
            stdout=subprocess.PIPE,
            stderr=slave,
            check=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            cwd=Path(__file__).resolve().parents[4],
        )
        assert done.stdout == b""
    finally:
        os.close(slave)
    parts = []
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # Linux says so at the end
            break
        if not part:
            break
        parts.append(part)
    os.close(master)
    return b"".join(parts).decode("utf-8")


def test_stages_come_and_go_in_one_line() -> None:
    said = run_on_terminal("plain")
    lines = [CONTROL.sub("", line).strip() for line in said.split("\n")]
    assert any("one picture is broken: [red]x" in line for line in lines)
    assert any("1. work on it" in line for line in lines)
    assert not any("done" in line or "started" in line or "cached" in line for line in lines)
    assert re.fullmatch(r"\d\d:\d\d:\d\d afterwards", [line for line in lines if line][-1].rpartition("\r")[2])
    assert "\x1b[2K" in said  # what stood there was erased


def test_details_are_lines_of_log() -> None:
    said = CONTROL.sub("", run_on_terminal("details"))
    for event in ("started", "done", "cached"):
        assert re.search(rf"work on it +{event}", said)
