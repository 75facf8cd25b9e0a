"""CSV files that say something about pictures, and how their lines name pictures."""

from __future__ import annotations

import csv
import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lavise.configs.errors import UserError

MAX_NAME = 80
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_INDEX = re.compile(r"(Unnamed: \d+)?")
_DRIVE = re.compile(r"^[A-Za-z]:/")
_SHOWN = 3
_ROWS_TRIED = 1000


def clean_name(text: str) -> str:
    """Text from data as a name: spaces made one, invisible characters cut, at most 80 characters."""
    return shorten(clean(text))


def clean(text: str) -> str:
    """Spaces made one, invisible characters cut."""
    spaced = "".join(" " if c.isspace() else c for c in text)
    return " ".join("".join(c for c in spaced if unicodedata.category(c) not in _UNSEEN).split())


def shorten(text: str, room: int = MAX_NAME) -> str:
    """At most `room` characters."""
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"


@dataclass(frozen=True)
class CsvTable:
    """A CSV file.

    Attributes:
        header: names of the columns, without spaces around them.
        rows: number of the line and cells, as many as the header has.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    def find_column(self, name: str, setting: str) -> int:
        """Position of a column.

        Raises:
            UserError: no such column.
        """
        if name in self.header:
            return self.header.index(name)
        close = difflib.get_close_matches(name, self.header, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        shown = ", ".join(clean_name(column) for column in self.header if column)
        raise UserError(f"{setting}: {self.path} has no column {name!r}; allowed: {shown}{hint}")

    def find_image_column(self, names: PictureNames) -> int:
        """Position of the column that names pictures, where nobody says which: the first; where that is an index that
        pandas wrote, without a name, the one with the most names of pictures in the first lines."""
        if len(self.header) == 1 or not _INDEX.fullmatch(self.header[0]):
            return 0
        rows = self.rows[:_ROWS_TRIED]
        named = [names.count(cells[column] for _, cells in rows) for column in range(len(self.header))]
        return named.index(max(named)) if any(named) else 1


def read_table(path: Path, setting: str, thing: str = "picture") -> CsvTable:
    """Read a CSV file.

    Args:
        setting: that names it; opens the lines of an error.
        thing: what a line is about.

    Raises:
        UserError: no CSV in UTF-8 with a header line, or a line with more cells than that.
    """
    lines = _read_lines(path, setting)
    _, found = next(lines, (0, []))
    header = tuple(cell.strip() for cell in found)
    if not any(header):
        raise UserError(f"{setting}: {path} is empty; allowed: a header line and a line for each {thing}")
    if len(header) == 1 and (mark := next((c for c in ";\t" if c in header[0]), None)):
        called = "semicolons" if mark == ";" else "tabs"
        raise UserError(f"{setting}: the cells of {path} are separated by {called}; allowed: commas")
    twice = [clean(name) for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise UserError(
            f"{setting}: the header of {path} has {twice[0]!r} twice; allowed: columns with different names"
        )
    rows = []
    for line, cells in lines:
        if any(cell.strip() for cell in cells[len(header) :]):
            raise UserError(
                f"{setting}: line {line} of {path} has {len(cells)} cells; allowed: {len(header)}, as in the header; "
                "put cells with commas into quotes"
            )
        rows.append((line, tuple(cells[: len(header)] + [""] * (len(header) - len(cells)))))
    return CsvTable(path, header, tuple(rows))


def _read_lines(path: Path, setting: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise UserError(
            f"{setting}: cannot read {path} ({err}); allowed: a CSV file in UTF-8 with a header line, cells separated "
            "by commas"
        ) from None


class PictureNames:
    """Finds the picture that a cell names.

    By its key; else by the end of it (`1.png` of `a/1.png`), or where the cell is longer than a key, as the path on
    another machine is, by the end of that; with or without the file's ending. Only if one picture fits.

    Attributes:
        ambiguous: cells that fit several pictures, with two of them.
        contested: keys that two longer paths end with, with these paths.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self.ambiguous: dict[str, tuple[str, ...]] = {}
        self.contested: dict[str, tuple[str, str]] = {}
        self._keys = frozenset(keys)
        self._whole: dict[str, tuple[str, ...]] = {}
        self._ends: dict[str, tuple[str, ...]] = {}
        self._longer: dict[str, str] = {}
        for key in sorted(self._keys):
            parts = PurePosixPath(key).parts
            for start in range(len(parts)):
                end = "/".join(parts[start:])
                for name in {end, _cut_ending(end)}:
                    self._ends[name] = (*self._ends.get(name, ()), key)[:2]
                    if not start:
                        self._whole[name] = (*self._whole.get(name, ()), key)[:2]

    def find(self, cell: str) -> str | None:
        """The key, or None where no picture fits, or several do."""
        path, fitting, is_longer = self._look(cell)
        if len(fitting) > 1:
            self.ambiguous[cell] = fitting
        if len(fitting) != 1:
            return None
        key = fitting[0]
        if is_longer and (first := self._longer.setdefault(key, path)) != path:
            self.contested.setdefault(key, (first, path))
        return key

    def count(self, cells: Iterable[str]) -> int:
        """How many cells name a picture."""
        return sum(len(self._look(cell)[1]) == 1 for cell in cells)

    def require_clear(self, setting: str, path: Path) -> None:
        """No two paths of the file mean the same picture.

        Raises:
            UserError: with an example.
        """
        for key, (one, other) in self.contested.items():
            raise UserError(
                f"{setting}: {path} names {clean_name(one)!r} and {clean_name(other)!r}, which would both be the "
                f"picture {clean_name(key)!r}; allowed: paths below the data set's root, a picture each"
            )

    def describe_ambiguous(self) -> str:
        """A line with examples; empty where every name was clear."""
        if not self.ambiguous:
            return ""
        shown = "; ".join(
            f"{clean_name(cell)!r} fits {' and '.join(repr(clean_name(key)) for key in fitting)}"
            for cell, fitting in list(self.ambiguous.items())[:_SHOWN]
        )
        return f"{len(self.ambiguous)} names fit several pictures: {shown}"

    def _look(self, cell: str) -> tuple[str, tuple[str, ...], bool]:
        """(the cell as a path, pictures that fit, whether it is longer than they)."""
        cell = cell.strip()
        path = _DRIVE.sub("/", cell.replace("\\", "/"), count=1).removeprefix("./")
        for name in (cell, path):
            if name in self._keys:
                return name, (name,), False
        if fitting := self._ends.get(path):
            return path, fitting, False
        parts = PurePosixPath(path).parts
        for start in range(1, len(parts)):
            if fitting := self._whole.get("/".join(parts[start:])):
                return path, fitting, True
        return path, (), False


def _cut_ending(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix else name
