"""What comes from data reaches the terminal as plain text."""

from __future__ import annotations

from rich.text import Text

from flows.show import escape


def test_names_are_neither_markup_nor_escape_sequences() -> None:
    shown = escape("[red]dog[/red]\x1b[2J\x07")
    assert Text.from_markup(shown).plain == "[red]dog[/red]\ufffd[2J\ufffd"
