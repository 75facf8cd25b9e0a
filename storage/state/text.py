"""Text from outside, fit to be shown."""

from __future__ import annotations


def printable(text: str) -> str:
    """A name from outside, fit for a terminal and a log: control characters and broken UTF-8 are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(error: BaseException) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split())
