"""On a terminal: the stage that runs, with its bar, in one place; other lines of log stand above it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Display

from lavise.flows.shared.console import escape
from lavise.storage.state.progress import Bar, Progress, default_progress
from lavise.storage.state.text import printable
from lavise.tasks.engine.stage import STAGE_EVENT, STAGE_TITLE

if TYPE_CHECKING:
    from logging import LogRecord


@contextmanager
def show_stages(details: bool) -> Iterator[Progress]:
    """Progress for an audit: on a terminal stages come and go in one line, elsewhere each has its lines of log.

    Args:
        details: lines of log on a terminal, too.
    """
    if details or not sys.stderr.isatty():
        yield default_progress()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    log = logging.getLogger("lavise")
    before = log.handlers[:]
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        log.handlers[:] = [_LinesAbove(display)]
        try:
            yield _Bars(display)
        finally:
            log.handlers[:] = before


class _Bars:
    """A further bar for each piece of work, which goes with it."""

    def __init__(self, display: Display) -> None:
        self._display = display

    @contextmanager
    def __call__(self, title: str, total: int) -> Iterator[Bar]:
        task = self._display.add_task(f"  {escape(title)}", total=total)
        try:
            yield _Bar(self._display, task)
        finally:
            self._display.remove_task(task)


class _Bar:
    def __init__(self, display: Display, task: TaskID) -> None:
        self._display, self._task = display, task

    def advance(self, steps: int = 1) -> None:
        self._display.advance(self._task, steps)


class _LinesAbove(logging.Handler):
    """Stages become the display's first line; whatever else is logged is printed above it."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.INFO)
        self._display = display
        self._stage: TaskID | None = None
        self._num_ended = 0

    def emit(self, record: LogRecord) -> None:
        event = getattr(record, STAGE_EVENT, None)
        if event is None:
            text = "\n".join(printable(line) for line in self.format(record).splitlines())
            self._display.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        if self._stage is not None:
            self._display.remove_task(self._stage)
            self._stage = None
        if event == "started":
            title = str(getattr(record, STAGE_TITLE))
            self._stage = self._display.add_task(f"{self._num_ended + 1}. {escape(title)}", total=None)
        else:
            self._num_ended += 1
