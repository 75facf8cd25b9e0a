"""The terminal: a console on standard output, tables, and text from data that stays text."""

from __future__ import annotations

import re

from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH_NO_TERMINAL = 120
# Backslashes, a bracket, and what makes it a tag for rich (rich.markup.RE_TAGS).
_BRACKETS = re.compile(r"(\\*)\[([a-z#/@][^[]*?])?")


def escape(text: str) -> str:
    """Names from data as plain text: no markup, and no control characters that a terminal would obey.

    No markup of ours may follow at once: a backslash at the end would take it for text.
    """
    return _BRACKETS.sub(_escape_bracket, "".join(c if c.isprintable() else "\ufffd" for c in text))


def _escape_bracket(found: re.Match[str]) -> str:
    """rich halves the backslashes before what looks like a tag, and takes one from those before any other bracket.

    Its own `escape` leaves the others alone, and doubles a backslash at the end, which is then shown twice.
    """
    backslashes, tag = found[1], found[2] or ""
    return f"{backslashes * (2 if tag else 1)}\\[{tag}"


def make_table(title: str) -> Table:
    """An empty table under its title, without a frame."""
    return Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def make_console() -> Console:
    """Standard output; as wide as the terminal, or 120 columns where there is none."""
    console = _Console(emoji=False)
    return console if console.is_terminal else _Console(emoji=False, width=_WIDTH_NO_TERMINAL)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Told to whoever prints; rich would end the process here, with the exit code of a fault."""
        raise BrokenPipeError
