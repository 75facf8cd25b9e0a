"""Large JSON files: an object whose lists are read one entry after the other, and kept packed.

A file of COCO's labels for 118,000 pictures has 450 MB; read at once, its objects take some gigabytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from sys import intern
from typing import Any, TextIO

from lavise.storage.packed_list import PackedList

_CHUNK = 1 << 20
_CUT = 3
_SPACE = " \t\n\r"


def read_json_lists(path: Path) -> dict[str, Any]:
    """What `json.loads` gives of the file, but that each list right below the top is a PackedList.

    Raises:
        ValueError: no JSON, or not UTF-8 (a byte order mark may stand before it).
        TypeError: something other than an object.
        RecursionError: nested too deeply.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _read_object(_Text(file))
    except json.JSONDecodeError:
        whole = json.loads(path.read_text("utf-8-sig"))  # says at which line of the file
        if isinstance(whole, dict):
            raise
        raise TypeError(f"found {type(whole).__name__}") from None


class _Text:
    """A text that is read bit by bit; what was passed over is forgotten."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._read_on():
                return ""

    def take(self, allowed: str) -> str:
        """The next character, which is one of these."""
        found = self.peek()
        if not found or found not in allowed:
            raise json.JSONDecodeError(f"Expecting one of {allowed}", self._text, self._at)
        self._at += 1
        return found

    def take_value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._read_on():
                    raise
                continue
            # A number that ends where the text does, or before an `e+` there, may go on.
            if end > len(self._text) - _CUT and self._read_on():
                continue
            self._at = end
            return value

    def _read_on(self) -> bool:
        """More of the file, as much again as what is left over, so that a long value is not tried over and over."""
        more = self._file.read(max(_CHUNK, len(self._text) - self._at))
        if more:
            self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)


def _read_object(text: _Text) -> dict[str, Any]:
    text.take("{")
    found: dict[str, Any] = {}
    if text.peek() == "}":
        text.take("}")
    else:
        while True:
            if text.peek() != '"':
                text.take('"')
            key = text.take_value()
            text.take(":")
            found[key] = PackedList(_read_list(text)) if text.peek() == "[" else text.take_value()
            if text.take(",}") == "}":
                break
    if text.peek():
        raise json.JSONDecodeError("Extra data", text.peek(), 0)
    return found


def _read_list(text: _Text) -> Iterator[Any]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        value = text.take_value()
        # Names of keys are the same in all entries; as one object each they are packed once.
        yield {intern(k): v for k, v in value.items()} if type(value) is dict else value
        if text.take(",]") == "]":
            return
