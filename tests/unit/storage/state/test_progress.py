from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lavise.storage.state.progress import _LogBar, log_progress, no_progress

ROOT = Path(__file__).resolve().parents[4]


def test_no_progress_shows_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), no_progress("work", 2) as bar:
        bar.advance()
        bar.advance(5)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


def test_log_lines_come_only_every_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lavise"), log_progress("read", 100) as bar:
        for _ in range(100):
            bar.advance()
    assert caplog.messages == []


def test_log_line_says_how_far_and_how_long(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lavise"):
        bar = _LogBar("read", 100)
        bar._start -= 20
        bar._last -= 20  # as if twenty seconds had gone by
        bar.advance(40)
        bar.advance(1)
    assert len(caplog.messages) == 1
    # 40 in 20 s are 2 a second; 60 are left, which takes 30 s.
    assert re.fullmatch(r"  read: 40 of 100 \(2\.0/s, 30 s left\)", caplog.messages[0])


def test_without_a_terminal_there_are_log_lines() -> None:
    code = "from lavise.storage.state.progress import default_progress; print(default_progress().__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "log_progress"


def test_on_a_terminal_there_is_a_bar_on_standard_error_only() -> None:
    code = (
        "from lavise.storage.state.progress import default_progress\n"
        "with default_progress()('drawing', 3) as bar:\n"
        "    [bar.advance() for _ in range(3)]\n"
    )
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=slave,
            check=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        shown = os.read(master, 1 << 16).decode("utf-8")
    finally:
        os.close(slave)
        os.close(master)
    assert done.stdout == b""
    assert "drawing" in shown
    assert "3/3" in shown
