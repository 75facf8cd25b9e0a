"""Text from data stays text on a terminal: no markup, no control characters, whatever there is."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from lavise.flows.shared.console import escape, make_console, make_table


def print_plain(*things: object) -> str:
    """As on a colour terminal, without the colours."""
    console = Console(width=100, record=True, file=io.StringIO(), force_terminal=True, emoji=False)
    for thing in things:
        console.print(thing)
    return console.export_text()


@pytest.mark.parametrize(
    "text",
    [
        *("[bold]dog[/bold]", "[/]", "[red", "a [link=http://x]b[/link]", r"back\[slash]", r"C:\new", "[", "[[red]]"),
        *("C:\\", "a\\\\", "\\\\\\", "\\[red]\\", ":dog: :smile:"),
    ],
)
def test_markup_is_shown_as_it_stands(text: str) -> None:
    assert Text.from_markup(escape(text), emoji=False).plain == text
    assert print_plain(f"<{escape(text)}>").strip() == f"<{text}>"


@pytest.mark.parametrize(
    "control",
    ["\x1b", "\x07", "\x08", "\r", "\n", "\t", "\x00", "\x7f", "\x9b", "\u2028", "\u202e", "\ufeff", "\ud800"],
    ids=lambda c: f"U+{ord(c):04X}",
)
def test_control_characters_are_replaced(control: str) -> None:
    """Also what turns the direction of writing, and half a character."""
    assert escape(f"a{control}b") == "a\ufffdb"


@pytest.mark.parametrize("text", ["Größe", "犬", "naïve café", "a b", "🐕", "½ × ²", "'\"&<>"])
def test_what_can_be_printed_is_left_as_it_is(text: str) -> None:
    assert escape(text) == text


@given(st.text() | st.text("[]/\\#@=ab \x1b\n"))
def test_whatever_comes_goes_through_rich_unchanged_but_for_controls(text: str) -> None:
    shown = Text.from_markup(escape(text), emoji=False).plain
    assert len(shown) == len(text)
    assert all(new in (old, "\ufffd") for new, old in zip(shown, text, strict=True))


@given(st.text("[]/\\#@=ab \x1b\n"))
def test_whatever_comes_is_neither_style_nor_control(text: str) -> None:
    shown = Text.from_markup(escape(text))
    assert shown.spans == []
    assert shown.plain.isprintable()


def test_titles_of_tables_are_escaped() -> None:
    table = make_table("[red]run[/red]\x1b[2J")
    table.add_column("filter")
    table.add_row("a cell that is wider than the title")
    text = print_plain(table)
    assert "[red]run[/red]\ufffd[2J" in text
    assert "\x1b" not in text


def test_tables_begin_at_the_margin() -> None:
    """Title and cells one below the other, without a frame."""
    table = make_table("of run 1")
    for heading in ("filter", "word"):
        table.add_column(heading)
    table.add_row("3", "dog")
    lines = [line.rstrip() for line in print_plain(table).splitlines() if line.strip()]
    assert lines[0] == "of run 1"
    assert [line.split() for line in (lines[1], lines[-1])] == [["filter", "word"], ["3", "dog"]]
    assert not set("│┃┌└|") & set("".join(lines))


def test_without_a_terminal_lines_have_120_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    make_console().print("word " * 100, style="red")
    printed = capsys.readouterr().out
    assert 110 < max(map(len, printed.splitlines())) <= 120
    assert "\x1b" not in printed


def test_a_terminal_has_its_own_width(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "64")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert make_console().width == 64


def test_our_console_leaves_colons_alone(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print(escape(":dog:"))
    assert capsys.readouterr().out == ":dog:\n"
