"""Which group each picture is in: by folder, by columns of a CSV file, or by what is annotated in it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from lavise.configs.errors import UserError
from lavise.configs.groups import AnnotationGroups, CsvGroups, FolderGroups
from lavise.storage.array_types import IntArray
from lavise.storage.datasets.base import Dataset
from lavise.storage.datasets.csv_tables import MAX_NAME, PictureNames, clean, clean_name, read_table, shorten
from lavise.storage.datasets.predicates import parse_predicate

log = logging.getLogger("lavise")
MAX_GROUPS = 20
_SHOWN = 8
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


def _folder_of(key: str, level: int) -> Values:
    folders = PurePosixPath(key).parts[:-1]
    return (clean(folders[level - 1]),) if len(folders) >= level else ()


def _make_groups(title: str, values: Sequence[Values], field: str) -> Grouping:
    """Groups of equal values; a picture without a value, or with an empty one, is in none."""
    known = [v if v and all(v) else None for v in values]
    found = sorted({v for v in known if v is not None})
    counts = Counter(v for v in known if v is not None)
    if len(found) > MAX_GROUPS:
        shown = ", ".join(shorten(" & ".join(v)) for v in found[:_SHOWN])
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
        short, number = shorten(name), 1
        while short in chosen:
            number += 1
            ending = f" ({number})"
            short = shorten(name, MAX_NAME - len(ending)) + ending
        chosen.append(short)
    return tuple(chosen)


def _group_by_predicate(predicate: str, field: str, dataset: Dataset, keys: Sequence[str]) -> Grouping:
    if not dataset.concepts:
        raise UserError(
            f"{field}: found a predicate on annotations, but the pictures ({dataset.name}) have none; "
            "allowed: annotated pictures; set bias.images=evaluation or bias.images=train"
        )
    fulfils = parse_predicate(predicate, dataset.concepts, field)
    number = {True: 0, False: 1, None: -1}
    of_image = np.array([number[fulfils(dataset.by_key[key])] for key in keys], dtype=np.int64)
    text = clean(predicate)
    names = (shorten(text), f"not ({shorten(text, MAX_NAME - len('not ()'))})")
    grouping = Grouping(shorten(text), names, of_image)
    _require_two(grouping.title, names, grouping.num_images, len(keys), field)
    return grouping


# ---------------------------------------------------------------- CSV


def _read_values(settings: CsvGroups, field: str, dataset: Dataset, keys: Sequence[str]) -> list[Values]:
    """Cells of each picture, cleaned; none where no line names the picture."""
    path = settings.file
    table = read_table(path, field)
    if len(set(settings.columns)) < len(settings.columns):
        raise UserError(f"{field}: found column {settings.columns[0]!r} twice; allowed: one column, or two different")
    names = PictureNames([*dataset.by_key, *keys])
    chosen = settings.image_column
    image = table.find_column(chosen, field) if chosen else table.find_image_column(names)
    columns = [table.find_column(name, field) for name in settings.columns]
    found: dict[str, tuple[Values, int]] = {}
    for line, cells in table.rows:
        key = names.find(cells[image])
        if key is None:
            continue
        values = tuple(clean(cells[column]) for column in columns)
        before, first = found.setdefault(key, (values, line))
        if before != values:
            raise UserError(
                f"{field}: {path} has {clean(key)!r} in lines {first} and {line}, as "
                f"{shorten(' & '.join(before))!r} and {shorten(' & '.join(values))!r}; allowed: one value a picture"
            )
    names.require_clear(field, path)
    doubts = names.describe_ambiguous()
    if not found.keys() & set(keys):
        said = f" ({doubts})" if doubts else ""
        raise UserError(
            f"{field}: none of the {len(table.rows)} lines of {path} names a picture of {dataset.name} in column "
            f"{clean(table.header[image])!r}{said}; allowed: paths below the data set's root such as "
            f"{keys[0] if keys else ''!r}, or file names that only one picture has; set image_column if it is another "
            "one"
        )
    if doubts:
        log.warning("%s: %s; their lines of %s are left out", field, doubts, path.name)
    return [found[key][0] if key in found else () for key in keys]
