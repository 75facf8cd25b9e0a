"""Broden, the data set of Network Dissection: index.csv has a line for each picture, a column for each kind of label.

A cell holds, separated by semicolons, numbers of labels of the whole picture or PNG files in which a pixel's label is
red + 256 · green. The numbers are those of label.csv. PNG files may be smaller than the picture (half its sides in the
published versions): a pixel of the picture has the label that lies at its centre.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import BrodenReference
from lavise.storage.datasets.base import (
    Annotation,
    ImageRecord,
    Reference,
    require_file,
    require_folder,
    resolve_inside,
)
from lavise.storage.datasets.formats import Format, register_format
from lavise.storage.datasets.readers.label_maps import read_label_picture, resize_labels, split_labels
from lavise.storage.datasets.readers.layout_files import (
    find_size,
    is_number,
    make_record,
    make_reference,
    read_rows,
)
from lavise.storage.images.images import BrokenImageError

# Behind names of these kinds in label.csv, which tell them from objects of the same name: `black-c`, `street-s`.
_ENDINGS = {"color": "-c", "scene": "-s"}
_PARTS = ("train", "val")


@dataclass
class _Reader:
    root: Path
    names: Mapping[str, Mapping[int, str]]
    skipped: Counter[str] = field(default_factory=Counter)


def load_broden(settings: BrodenReference, seed: int) -> Reference:
    """Both parts as index.csv has them (train, val), or a split by picture where it has one only.

    Pictures that have no label of the kinds that are read are left out.

    Raises:
        UserError: a folder or file is missing or not Broden's, or no picture has a label of these kinds.
    """
    root = require_folder(settings.root, "reference.root")
    index = require_file(root / "index.csv", "reference.root")
    names = _read_names(require_file(root / "label.csv", "reference.root"))
    kinds = tuple(dict.fromkeys(settings.kinds))
    reader = _Reader(root, {kind: _read_kind(root, kind, names) for kind in kinds})
    lines: dict[str, dict[str, dict[str, str]]] = {}
    for line, (image, split, *cells) in read_rows(index, ("image", "split", *kinds)):
        own: dict[str, str] = {kind: cell for kind, cell in zip(kinds, cells, strict=True) if cell.strip()}
        if not own:
            reader.skipped["picture without a label of these kinds"] += 1
            continue
        part = lines.setdefault(split, {})
        if image in part:
            raise UserError(f"{index}: line {line}: {image!r} stands twice; allowed: a picture once")
        part[image] = own
    parts = {}
    for split in _PARTS if all(split in lines for split in _PARTS) else sorted(lines):
        taken = sorted(lines[split])[: settings.max_images]
        found = [_read_picture(reader, image, lines[split][image]) for image in taken]
        parts[split] = [record for record in found if record is not None]
    unread = {split: len(own) for split, own in lines.items() if split not in parts}
    for split, number in unread.items():
        reader.skipped[f"picture of the part {split!r}"] += number
    if len(parts) > 2:
        raise UserError(f"{index}: split: found {', '.join(map(repr, parts))}; allowed: train and val")
    return make_reference(root, parts or {"index.csv": ()}, reader.skipped, settings.evaluation_share, seed)


def _read_names(path: Path) -> dict[int, str]:
    """Names of labels by number."""
    return {_to_number(path, line, number): name for line, (number, name) in read_rows(path, ("number", "name"))}


def _read_kind(root: Path, kind: str, names: Mapping[int, str]) -> dict[int, str]:
    """Names of the labels of a kind, those of c_KIND.csv, by number; without the kind's ending."""
    path = require_file(root / f"c_{kind}.csv", "reference.kinds")
    found = {}
    for line, (text,) in read_rows(path, ("number",)):
        number = _to_number(path, line, text)
        if number not in names:
            raise UserError(f"{path}: line {line}: number {number} is not in label.csv; allowed: numbers of label.csv")
        found[number] = names[number].strip().removesuffix(_ENDINGS.get(kind, ""))
    return found


def _to_number(path: Path, line: int, text: str) -> int:
    if not is_number(text.strip()):
        raise UserError(f"{path}: line {line}: number: found {text!r}; allowed: a whole number")
    return int(text)


def _read_picture(reader: _Reader, image: str, cells: Mapping[str, str]) -> ImageRecord | None:
    path = resolve_inside(reader.root / "images", image)
    if not path.is_file():
        reader.skipped["picture that is not there"] += 1
        return None
    size = find_size(path)
    if size is None:
        return make_record(reader.root, path)  # counted when it is decoded
    annotations: list[Annotation] = []
    for kind, cell in cells.items():
        for entry in filter(None, map(str.strip, cell.split(";"))):
            if is_number(entry):
                _add(reader, annotations, kind, int(entry), None)
                continue
            file = resolve_inside(reader.root / "images", entry)
            try:
                values = read_label_picture(file).values
            except BrokenImageError as err:
                raise UserError(f"{file}: {err}; allowed: a PNG file of labels, as index.csv names it") from None
            if values.ndim != 3:
                raise UserError(f"{file}: no coloured PNG file; allowed: labels as red + 256 · green")
            labels = resize_labels(values[..., 0] + 256 * values[..., 1], *size)
            for number, rle in split_labels(labels).items():
                _add(reader, annotations, kind, number, rle)
    return make_record(reader.root, path, annotations)


def _add(
    reader: _Reader, annotations: list[Annotation], kind: str, number: int, rle: Mapping[str, object] | None
) -> None:
    name = reader.names[kind].get(number)
    if name:
        annotations.append(Annotation(name, rle=rle))
    elif number:
        reader.skipped[f"label without a name in c_{kind}.csv"] += 1


register_format(
    "broden",
    Format(load_broden, lambda settings: {"root": ("index.csv", "label.csv"), "kinds": _list_kinds(settings)}),
)


def _list_kinds(settings: BrodenReference) -> tuple[str, ...]:
    return tuple(f"c_{kind}.csv" for kind in settings.kinds)
