"""Pictures with a table of labels: a column of labels, or a column of 1 and 0 for each. Masks are whole pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from lavise.configs.errors import UserError
from lavise.configs.pictures import CsvLabelsReference
from lavise.storage.datasets.base import (
    Annotation,
    Dataset,
    ImageRecord,
    Reference,
    require_file,
    require_folder,
    split_by_image,
)
from lavise.storage.datasets.csv_tables import CsvTable, PictureNames, clean_name, read_table
from lavise.storage.datasets.formats import Format, register_format
from lavise.storage.images.picture_files import describe_left_out, find_pictures

_YES = frozenset({"1", "1.0", "true", "yes"})
_NO = frozenset({"0", "0.0", "false", "no", ""})
_UNCERTAIN = frozenset({"-1", "-1.0"})
_FIELD = "reference.file"


def load_csv_labels_reference(settings: CsvLabelsReference, seed: int) -> Reference:
    """Both parts, split by picture. Labels of all lines of a picture are its own; `_` in them reads as a space.

    A picture that a line names and gives no label is kept, without any. Others are left out and counted.

    Raises:
        UserError: no such folder or file, a table that cannot be read, no picture with a label, or cells of a column of
            1 and 0 that are something else.
    """
    root = require_folder(settings.root, "reference.root")
    path = require_file(settings.file, _FIELD)
    found = find_pictures(root, "reference", settings.follow_links)
    if not found.paths:
        rest = f" ({describe_left_out(found.left_out)})" if found.left_out else ""
        raise UserError(f"reference.root: no pictures below {root}{rest}; allowed: the pictures that {path} names")
    path_of = {p.relative_to(root).as_posix(): p for p in found.paths}
    table, names = read_table(path, _FIELD), PictureNames(path_of)
    chosen = settings.image_column
    image = table.find_column(chosen, "reference.image_column") if chosen else table.find_image_column(names)
    skipped, left_out = Counter[str](), Counter(found.left_out)
    read_labels = _choose_reader(settings, table, image, skipped)
    labels_of: dict[str, set[str]] = {}
    strangers: list[str] = []
    for line, cells in table.rows:
        key = names.find(cells[image])
        if key is None:
            strangers.append(cells[image])
        else:
            labels_of.setdefault(key, set()).update(read_labels(line, cells))
    names.require_clear(_FIELD, path)
    doubts = names.describe_ambiguous()
    if not any(labels_of.values()):
        said = f" ({doubts})" if doubts else ""
        example = f", for example {clean_name(strangers[0])!r}" if strangers else ""
        raise UserError(
            f"{_FIELD}: the {len(table.rows)} lines of {path} name {len(labels_of)} pictures below {root} in column "
            f"{clean_name(table.header[image])!r}{example}, and give them no label{said}; allowed: paths such as "
            f"{clean_name(min(path_of))!r}, with labels; set reference.image_column if it is another column"
        )
    if strangers:
        skipped["line that names no picture, or several"] = len(strangers)
    if unnamed := len(path_of) - len(labels_of):
        left_out[f"picture that no line of {clean_name(path.name)} names"] = unnamed
    records = [
        ImageRecord(key, path_of[key], tuple(map(Annotation, sorted(labels_of[key]))))
        for key in path_of
        if key in labels_of
    ]
    concepts = tuple(sorted(set().union(*labels_of.values())))
    train, evaluation = split_by_image(records, settings.evaluation_share, seed)
    notes = (doubts,) if doubts else ()
    return Reference(
        Dataset(f"{root.name}/train", tuple(train), concepts, dict(skipped), dict(left_out), notes),
        Dataset(f"{root.name}/evaluation", tuple(evaluation), concepts),
    )


def _choose_reader(
    settings: CsvLabelsReference, table: CsvTable, image: int, skipped: Counter[str]
) -> Callable[[int, Sequence[str]], list[str]]:
    """A function that takes a line's number and cells and gives its labels."""
    if settings.label_column:
        column, separator = table.find_column(settings.label_column, "reference.label_column"), settings.separator
        return lambda line, cells: _split(cells[column], separator)
    columns = [table.find_column(name, "reference.label_columns") for name in settings.label_columns]
    columns = columns or [i for i, name in enumerate(table.header) if i != image and name]
    if not columns:
        raise UserError(f"{_FIELD}: {table.path} has no column besides the pictures'; allowed: columns of labels")

    def read(line: int, cells: Sequence[str]) -> list[str]:
        labels = []
        for column in columns:
            cell = cells[column].strip().lower()
            if cell in _YES:
                labels.append(_name(table.header[column]))
            elif cell in _UNCERTAIN:
                skipped["uncertain label (-1)"] += 1
            elif cell not in _NO:
                raise UserError(
                    f"{_FIELD}: line {line} of {table.path} has {clean_name(cells[column])!r} in column "
                    f"{clean_name(table.header[column])!r}; allowed: 1, 0, -1 (uncertain) or nothing; set "
                    "reference.label_columns to the columns of 1 and 0, or reference.label_column to one with names"
                )
        return labels

    return read


def _split(cell: str, separator: str | None) -> list[str]:
    parts = cell.split(separator) if separator else [cell]
    return [name for part in parts if (name := _name(part))]


def _name(text: str) -> str:
    return clean_name(text.replace("_", " "))


register_format(
    "csv_labels", Format(load_csv_labels_reference, lambda settings: {"file": (str(settings.file.absolute()),)})
)
