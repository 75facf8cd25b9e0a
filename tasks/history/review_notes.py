"""What reviewers say of an audit's filters: a verdict and a note on each word, as CSV that the report's page saves."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError
from lavise.storage.datasets.csv_tables import CsvTable, clean_name, read_table

VERDICTS = ("fits", "partly", "no")
COLUMNS = ("layer", "filter", "word", "verdict", "note", "reviewer")
_NEEDED = COLUMNS[:5]
# What a spreadsheet would take for a formula, and the same behind the quotes that guard it; as in report_gallery.js.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class ReviewNote:
    """What one reviewer says of one filter; the verdict is empty where there is only a note.

    Attributes:
        word: what is judged, see `find_judged_word`.
    """

    layer: str
    filter: int
    word: str
    verdict: str
    note: str
    reviewer: str


def find_judged_word(row: Row) -> str:
    """The first word of an explained filter, else its best guess; empty where it has neither.

    Args:
        row: of filters.parquet.
    """
    return str(row["words"][0] if row["explained"] else row.get("guess") or "")


def read_notes(paths: Sequence[Path], filters: Sequence[Row]) -> list[ReviewNote]:
    """The notes of all files, by layer, filter and reviewer.

    A reviewer without a name is called after the file where there are several.

    Args:
        filters: rows of filters.parquet.

    Raises:
        UserError: a file is no such CSV, or a line of it does not fit the audit; two lines say something of one filter
            in one reviewer's name.
    """
    known = {(row["layer"], row["filter"]): row for row in filters}
    found: dict[tuple[str, int, str], ReviewNote] = {}
    for path in paths:
        table = read_table(path, "notes", "filter")
        _require_columns(table)
        if not table.rows:
            raise UserError(f"notes: {path} has no notes; allowed: a line for each filter below the header")
        for line, cells in table.rows:
            note = _read_note(f"notes: line {line} of {path}", _take_cells(table, cells), known)
            if not note.reviewer and len(paths) > 1:
                note = ReviewNote(**{**vars(note), "reviewer": clean_name(path.stem)})
            key = (note.layer, note.filter, note.reviewer)
            if key in found:
                whose = f"of {note.reviewer!r} " if note.reviewer else ""
                raise UserError(
                    f"notes: line {line} of {path} is a second note {whose}on filter {note.filter} of layer "
                    f"{clean_name(note.layer)!r}; allowed: one of each reviewer; name them in the column reviewer"
                )
            found[key] = note
    layers = {row["layer"]: place for place, row in reversed(list(enumerate(filters)))}
    return sorted(found.values(), key=lambda note: (layers[note.layer], note.filter, note.reviewer))


def write_notes(notes: Sequence[ReviewNote]) -> str:
    """The same as CSV, which can be read again, and in which a spreadsheet finds no formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([[_guard(str(getattr(note, column))) for column in COLUMNS] for note in notes])
    return text.getvalue()


def _require_columns(table: CsvTable) -> None:
    missing = [name for name in _NEEDED if name not in table.header]
    if missing:
        hint = "; separate the cells by commas" if len(table.header) == 1 and ";" in table.header[0] else ""
        raise UserError(
            f"notes: {table.path} has no column {missing[0]!r}; allowed: {', '.join(_NEEDED)} and reviewer, as the "
            f"report's page saves them{hint}"
        )


def _take_cells(table: CsvTable, cells: Sequence[str]) -> dict[str, str]:
    return {name: _bare(cells[table.header.index(name)]) if name in table.header else "" for name in COLUMNS}


def _read_note(where: str, cells: Mapping[str, str], known: Mapping[tuple[str, int], Row]) -> ReviewNote:
    layer, number = cells["layer"], cells["filter"].strip()
    layers = list(dict.fromkeys(name for name, _ in known))
    if layer not in layers:
        raise UserError(f"{where}: found layer {clean_name(layer)!r}; allowed: {', '.join(map(clean_name, layers))}")
    row = known.get((layer, int(number))) if re.fullmatch(r"[0-9]{1,9}", number) else None
    if row is None:
        last = max(unit for name, unit in known if name == layer)
        raise UserError(
            f"{where}: found filter {clean_name(number)!r}; layer {clean_name(layer)!r} has the filters 0 to {last}"
        )
    verdict, note = cells["verdict"].strip(), cells["note"].strip()
    if verdict not in VERDICTS and (verdict or not note):
        raise UserError(
            f"{where}: found verdict {clean_name(verdict)!r}; allowed: {', '.join(VERDICTS)}, or empty beside a note"
        )
    word = find_judged_word(row)
    if cells["word"] != word:
        raise UserError(
            f"{where}: found word {clean_name(cells['word'])!r}, but filter {number} of this audit is called "
            f"{clean_name(word)!r}; are the notes another audit's? Read them into this one's page, which keeps those "
            "that hold here, and save them there"
        )
    return ReviewNote(layer, int(number), word, verdict, note, clean_name(cells["reviewer"]))


def _guard(text: str) -> str:
    return "'" + text if _FORMULA.match(text) else text


def _bare(text: str) -> str:
    """Without the quote that `_guard` put there."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
