"""What the readers of published layouts share: files of text, tables and JSON, and the two parts of a reference."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord, Reference, split_by_image
from lavise.storage.images.images import IMAGE_SUFFIXES, BrokenImageError, read_size

_MAX_DIGITS = 18


def read_text(path: Path) -> str:
    """UTF-8, with or without a byte-order mark.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as err:
        raise UserError(f"{path}: no text in UTF-8 ({err}); allowed: text in UTF-8") from None
    except OSError as err:
        raise UserError(f"{path}: cannot be read ({err.strerror})") from None


def read_json(path: Path, is_what: str, encodings: Sequence[str] = ("utf-8-sig",)) -> Any:
    """What a JSON file holds; the first encoding that its bytes are right in is taken.

    Raises:
        UserError: the file cannot be read, or holds no JSON.
    """
    try:
        content = path.read_bytes()
        for number, encoding in enumerate(encodings):
            try:
                text = content.decode(encoding)
                break
            except UnicodeDecodeError:
                if number == len(encodings) - 1:
                    raise
        return json.loads(text)
    except OSError as err:
        raise UserError(f"{path}: cannot be read ({err.strerror})") from None
    except (ValueError, RecursionError) as err:
        raise UserError(f"{path}: no JSON ({err}); allowed: {is_what}") from None


def read_rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, list[str]]]:
    """Of a CSV file with a line of headings: (number of the line, the cells of the named columns), line by line.

    Args:
        columns: that must be there.
        optional: that may be absent; their cells are empty then.

    Raises:
        UserError: no such columns, or a line that is shorter.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            headings = [h.strip() for h in next(reader, [])]
            if lacking := [c for c in columns if c not in headings]:
                found = ", ".join(map(repr, headings[:12])) or "an empty file"
                raise UserError(
                    f"{path}: no column {lacking[0]!r}, found {found}; "
                    f"allowed: a table with the columns {', '.join(columns)}"
                )
            places = [headings.index(c) if c in headings else -1 for c in (*columns, *optional)]
            last = max(places)
            for row in reader:
                if not row:
                    continue
                if len(row) <= last:
                    raise UserError(f"{path}: line {reader.line_num} has {len(row)} cells; allowed: {len(headings)}")
                yield reader.line_num, [row[p] if p >= 0 else "" for p in places]
    except UnicodeDecodeError as err:
        raise UserError(f"{path}: no text in UTF-8 ({err}); allowed: text in UTF-8") from None
    except OSError as err:
        raise UserError(f"{path}: cannot be read ({err.strerror})") from None
    except csv.Error as err:
        raise UserError(f"{path}: not a CSV table ({err})") from None


def is_number(text: str) -> bool:
    """Whether a text is a whole number that a label may have, without a sign."""
    return text.isdecimal() and len(text) <= _MAX_DIGITS


def list_by_stem(folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Files of a folder by name without ending; of several with one name the first in the order of names."""
    known = frozenset(suffixes)
    found: dict[str, Path] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir(), key=lambda p: p.name):
            if path.suffix.lower() in known and path.is_file():
                found.setdefault(path.stem, path)
    return found


def find_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of a picture; None where it cannot be read, which is counted when it is decoded."""
    try:
        return read_size(path)
    except BrokenImageError:
        return None


def make_reference(
    root: Path, parts: Mapping[str, Sequence[ImageRecord]], skipped: Mapping[str, int], share: float, seed: int
) -> Reference:
    """Both parts; those that the layout has, or a split by picture of its only one.

    Args:
        parts: one or two, the part to train on first; records in any order.
        skipped: what was left out of all of them, by reason.

    Raises:
        UserError: a part is empty, no picture has a label, or a picture is in both parts.
    """
    left_out = "; left out: " + ", ".join(f"{n} {what}" for what, n in sorted(skipped.items())) if skipped else ""
    whole = {name: sorted(records, key=lambda r: r.key) for name, records in parts.items()}
    for name, records in whole.items():
        if not records:
            raise UserError(f"reference: no pictures in {name} of {root}{left_out}")
    names = list(whole)
    if len(names) == 1:
        train, evaluation = split_by_image(whole[names[0]], share, seed)
        names = ["train", "evaluation"]
    else:
        train, evaluation = whole.values()
        both = {r.file.resolve() for r in train} & {r.file.resolve() for r in evaluation}
        if both:
            raise UserError(
                f"reference: {len(both)} pictures are in both parts, for example {min(both).name}; "
                "allowed: disjoint parts"
            )
    concepts = tuple(sorted({a.concept for part in (train, evaluation) for r in part for a in r.annotations}))
    if not concepts:
        raise UserError(f"reference: no picture of {root} has a label that is read{left_out}")
    return Reference(
        Dataset(f"{root.name}/{names[0]}", tuple(train), concepts, dict(skipped)),
        Dataset(f"{root.name}/{names[1]}", tuple(evaluation), concepts),
    )


def make_record(root: Path, path: Path, annotations: Iterable[Annotation] = ()) -> ImageRecord:
    """A picture below root."""
    return ImageRecord(path.relative_to(root).as_posix(), path, tuple(annotations))
