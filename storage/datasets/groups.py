"""Which group each picture is in: by folder, by columns of a CSV file, or by what is annotated in it."""

from __future__ import annotations

import csv
import difflib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from lavise.configs.errors import UserError
from lavise.configs.groups import AnnotationGroups, CsvGroups, FolderGroups
from lavise.storage.array_types import IntArray
from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.datasets.predicates import parse_predicate

MAX_GROUPS = 20
MAX_NAME = 80
_SHOWN = 8
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
Values = tuple[str, ...]


@dataclass(frozen=True)
class Grouping:
    """Pictures in groups.

    Attributes:
        title: what they are grouped by, for people.
        names: of the groups, all different; no control characters, at most 80 characters.
        of_image: int64 [N], position in `names` of each picture's group; -1: in none.
    """

    title: str
    names: tuple[str, ...]
    of_image: IntArray

    @property
    def num_images(self) -> tuple[int, ...]:
        """Pictures of each group."""
        return tuple(np.bincount(self.of_image[self.of_image >= 0], minlength=len(self.names)).tolist())


def make_grouping(
    settings: FolderGroups | CsvGroups | AnnotationGroups, field: str, dataset: Dataset, keys: Sequence[str]
) -> Grouping:
    """Groups of the pictures `keys`.

    Args:
        field: setting that asks for them, for example `bias.groups`; opens the lines of an error.
        dataset: has the pictures, and their annotations for a predicate.
        keys: N pictures, all of the data set.

    Returns:
        groups that have pictures, by name; of a predicate first those that fulfil it.

    Raises:
        UserError: a CSV file or a predicate that cannot be read, fewer than two groups, or too many.
    """
    if isinstance(settings, FolderGroups):
        title = "folder" if settings.level == 1 else f"folder, level {settings.level}"
        return _make_groups(title, [_folder_of(key, settings.level) for key in keys], field)
    if isinstance(settings, CsvGroups):
        title = clean_name(" & ".join(settings.columns))
        return _make_groups(title, _read_values(settings, field, dataset, keys), field)
    return _group_by_predicate(settings.predicate, field, dataset, keys)


def clean_name(text: str) -> str:
    """Text from data as a name: spaces made one, invisible characters cut, at most 80 characters."""
    return _shorten(_clean(text))


def _clean(text: str) -> str:
    spaced = "".join(" " if c.isspace() else c for c in text)
    return " ".join("".join(c for c in spaced if unicodedata.category(c) not in _UNSEEN).split())


def _shorten(text: str, room: int = MAX_NAME) -> str:
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"


def _folder_of(key: str, level: int) -> Values:
    folders = PurePosixPath(key).parts[:-1]
    return (_clean(folders[level - 1]),) if len(folders) >= level else ()


def _make_groups(title: str, values: Sequence[Values], field: str) -> Grouping:
    """Groups of equal values; a picture without a value, or with an empty one, is in none."""
    known = [v if v and all(v) else None for v in values]
    found = sorted({v for v in known if v is not None})
    counts = Counter(v for v in known if v is not None)
    if len(found) > MAX_GROUPS:
        shown = ", ".join(_shorten(" & ".join(v)) for v in found[:_SHOWN])
        raise UserError(
            f"{field}: found {len(found)} groups by {title} ({shown}, ...); allowed: 2 to {MAX_GROUPS}; "
            "is it an id? choose a column or folder with few different values"
        )
    names = _tell_apart([" & ".join(v) for v in found])
    position = {v: i for i, v in enumerate(found)}
    of_image = np.array([-1 if v is None else position[v] for v in known], dtype=np.int64)
    _require_two(title, names, [counts[v] for v in found], len(values), field)
    return Grouping(title, names, of_image)


def _require_two(title: str, names: Sequence[str], counts: Sequence[int], num_images: int, field: str) -> None:
    filled = [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count]
    if len(filled) < 2:
        rest = num_images - sum(counts)
        listed = ", ".join([*filled, f"{rest} pictures in none"] if rest or not filled else filled)
        raise UserError(f"{field}: found {len(filled)} groups by {title}: {listed}; allowed: 2 to {MAX_GROUPS}")


def _tell_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Shortened names, numbered where they would be the same."""
    chosen: list[str] = []
    for name in names:
        short, number = _shorten(name), 1
        while short in chosen:
            number += 1
            ending = f" ({number})"
            short = _shorten(name, MAX_NAME - len(ending)) + ending
        chosen.append(short)
    return tuple(chosen)


def _group_by_predicate(predicate: str, field: str, dataset: Dataset, keys: Sequence[str]) -> Grouping:
    if not dataset.concepts:
        raise UserError(
            f"{field}: found a predicate on annotations, but the pictures ({dataset.name}) have none; "
            "allowed: annotated pictures; set bias.images=evaluation or bias.images=train"
        )
    fulfils = parse_predicate(predicate, dataset.concepts, field)
    records: dict[str, ImageRecord] = {record.key: record for record in dataset.records}
    of_image = np.array([0 if fulfils(records[key]) else 1 for key in keys], dtype=np.int64)
    text = _clean(predicate)
    names = (_shorten(text), f"not ({_shorten(text, MAX_NAME - len('not ()'))})")
    grouping = Grouping(_shorten(text), names, of_image)
    _require_two(grouping.title, names, grouping.num_images, len(keys), field)
    return grouping


# ---------------------------------------------------------------- CSV


def _read_values(settings: CsvGroups, field: str, dataset: Dataset, keys: Sequence[str]) -> list[Values]:
    """Cells of each picture, cleaned; none where no line names the picture."""
    path = settings.file
    lines = _read_lines(path, field)
    _, header = next(lines, (0, []))
    header = [cell.strip() for cell in header]
    if not any(header):
        raise UserError(f"{field}: {path} is empty; allowed: a header line and a line for each picture")
    twice = [_clean(name) for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise UserError(f"{field}: the header of {path} has {twice[0]!r} twice; allowed: columns with different names")
    if len(set(settings.columns)) < len(settings.columns):
        raise UserError(f"{field}: found column {settings.columns[0]!r} twice; allowed: one column, or two different")
    image = _find_column(settings.image_column, header, path, field) if settings.image_column else 0
    columns = [_find_column(name, header, path, field) for name in settings.columns]
    names = _FileNames([record.key for record in dataset.records], keys)
    found: dict[str, tuple[Values, int]] = {}
    num_lines = 0
    for line, cells in lines:
        if any(cell.strip() for cell in cells[len(header) :]):
            raise UserError(
                f"{field}: line {line} of {path} has {len(cells)} cells; allowed: {len(header)}, as in the header; "
                "put cells with commas into quotes"
            )
        cells += [""] * (len(header) - len(cells))
        num_lines += 1
        key = names.find(cells[image].strip())
        if key is None:
            continue
        values = tuple(_clean(cells[column]) for column in columns)
        before, first = found.setdefault(key, (values, line))
        if before != values:
            raise UserError(
                f"{field}: {path} has {_clean(key)!r} in lines {first} and {line}, as "
                f"{_shorten(' & '.join(before))!r} and {_shorten(' & '.join(values))!r}; allowed: one value a picture"
            )
    if not found.keys() & set(keys):
        raise UserError(
            f"{field}: none of the {num_lines} lines of {path} names a picture of {dataset.name} in column "
            f"{_clean(header[image])!r}; allowed: paths below the data set's root such as {keys[0] if keys else ''!r}, "
            "or file names that only one picture has; set image_column if it is another one"
        )
    return [found[key][0] if key in found else () for key in keys]


def _read_lines(path: Path, field: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise UserError(
            f"{field}: cannot read {path} ({err}); allowed: a CSV file in UTF-8 with a header line, cells separated "
            "by commas"
        ) from None


def _find_column(name: str, header: Sequence[str], path: Path, field: str) -> int:
    if name in header:
        return header.index(name)
    close = difflib.get_close_matches(name, header, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    if len(header) == 1 and any(c in header[0] for c in ";\t"):
        hint = "; separate the cells by commas"
    shown = ", ".join(clean_name(column) for column in header if column)
    raise UserError(f"{field}: {path} has no column {name!r}; allowed: {shown}{hint}")


class _FileNames:
    """Finds pictures by key, else by a file name that only one picture of the data set has."""

    def __init__(self, all_keys: Sequence[str], keys: Sequence[str]) -> None:
        self._keys = {*all_keys, *keys}
        bare = Counter(PurePosixPath(key).name for key in self._keys)
        self._of_name = {n: k for k in self._keys if bare[n := PurePosixPath(k).name] == 1}

    def find(self, cell: str) -> str | None:
        if cell in self._keys:
            return cell
        path = cell.replace("\\", "/").removeprefix("./")
        return path if path in self._keys else self._of_name.get(path)
