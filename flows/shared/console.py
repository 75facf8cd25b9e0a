"""The terminal: a console on standard output, tables, and text from data that stays text."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

_WIDTH_NO_TERMINAL = 120


def escape(text: str) -> str:
    """Names from data as plain text: no markup, and no control characters that a terminal would obey."""
    return escape_markup("".join(c if c.isprintable() else "\ufffd" for c in text))


def make_table(title: str) -> Table:
    """An empty table under its title, without a frame."""
    return Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def make_console() -> Console:
    """Standard output; as wide as the terminal, or 120 columns where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_NO_TERMINAL)
