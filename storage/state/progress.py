"""How long work shows that it moves: bars on a terminal, log lines otherwise, nothing in tests."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

_LOG_EVERY_SECONDS = 10.0
log = logging.getLogger("lavise")


class Bar(Protocol):
    def advance(self, steps: int = 1) -> None: ...


class Progress(Protocol):
    """Called with what is done and how many steps it has; gives a bar to advance."""

    def __call__(self, title: str, total: int) -> AbstractContextManager[Bar]: ...


class _SilentBar:
    def advance(self, steps: int = 1) -> None:
        pass


@contextmanager
def no_progress(title: str, total: int) -> Iterator[Bar]:
    """Shows nothing."""
    yield _SilentBar()


class _LogBar:
    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._start = self._last = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._last >= _LOG_EVERY_SECONDS:
            self._last = now
            rate = self._done / (now - self._start)
            left = f", {(self._total - self._done) / rate:.0f} s left" if rate > 0 else ""
            log.info("  %s: %d of %d (%.1f/s%s)", self._title, self._done, self._total, rate, left)


@contextmanager
def log_progress(title: str, total: int) -> Iterator[Bar]:
    """A log line every ten seconds."""
    yield _LogBar(title, total)


class _RichBar:
    def __init__(self, bars: object, task: object) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._task, steps)  # type: ignore[attr-defined]


@contextmanager
def bar_progress(title: str, total: int) -> Iterator[Bar]:
    """A bar on the terminal (standard error); it goes away when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _RichBar(bars, bars.add_task(title, total=total))


def default_progress() -> Progress:
    """Bars where standard error is a terminal, log lines otherwise."""
    return bar_progress if sys.stderr.isatty() else log_progress
