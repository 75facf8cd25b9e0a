"""Open Images, V4 to V7: CSV files of boxes, masks and labels of whole pictures; a picture's name is its id.

Boxes are shares of the picture's sides. A mask is a PNG file that is not 0 where the object is; one of another size is
stretched to the picture's.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import OpenImagesReference
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
    list_by_stem,
    make_record,
    make_reference,
    read_json,
    read_rows,
    read_text,
)
from lavise.storage.images.images import BrokenImageError

_BOX = ("XMin", "XMax", "YMin", "YMax")
_MARKS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
# Of coordinates: a mask's row repeats its box with six digits.
_SAME_BOX = 2e-6
Shares = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Object:
    """A row: the label's id; shares (left, right, top, bottom), or none where it is of the whole picture; its mask."""

    label: str
    shares: Shares | None = None
    mask: Path | None = None


@dataclass
class _Reader:
    root: Path
    settings: OpenImagesReference
    names: Mapping[str, str]
    parents: Mapping[str, Sequence[str]]
    skipped: Counter[str] = field(default_factory=Counter)

    @cached_property
    def masks(self) -> dict[str, Path]:
        """PNG files below the folders of masks, by name."""
        found: dict[str, Path] = {}
        for name in self.settings.mask_folders:
            resolve_inside(self.root, name)
            folder = require_folder(self.root / name, "reference.mask_folders")
            for place, _, files in sorted(os.walk(folder)):
                found.update({file: Path(place) / file for file in files if file.lower().endswith(".png")})
        return found


def load_open_images(settings: OpenImagesReference, seed: int) -> Reference:
    """Both parts, or a split by picture of the only one. Pictures that no row is of are left out.

    Raises:
        UserError: a folder or file is missing or not Open Images'.
    """
    root = require_folder(settings.root, "reference.root")
    names = _read_names(_find_file(root, settings.classes, "reference.classes"))
    parents: Mapping[str, Sequence[str]] = {}
    if settings.parents == "use" and settings.hierarchy is not None:
        parents = _read_parents(_find_file(root, settings.hierarchy, "reference.hierarchy"))
    reader = _Reader(root, settings, names, parents)
    parts = {settings.train_images: _read_part(reader, "train", settings.train_images)}
    if settings.evaluation_images is not None:
        if settings.evaluation_images == settings.train_images:
            raise UserError(
                f"reference.evaluation_images: found {settings.evaluation_images!r}, which is reference.train_images; "
                "allowed: another folder, or null"
            )
        parts[settings.evaluation_images] = _read_part(reader, "evaluation", settings.evaluation_images)
    return make_reference(root, parts, reader.skipped, settings.evaluation_share, seed)


def _find_file(root: Path, name: str, setting: str) -> Path:
    return require_file(resolve_inside(root, name), setting)


def _read_names(path: Path) -> dict[str, str]:
    """What labels are called; the first line may be a heading."""
    rows = [row for row in csv.reader(io.StringIO(read_text(path))) if row]
    if rows and rows[0][0] == "LabelName":
        del rows[0]
    if not rows or any(len(row) < 2 for row in rows):
        raise UserError(f"{path}: not a table of names; allowed: LabelName,DisplayName in each line")
    return {row[0]: row[1].strip() for row in rows if row[1].strip()}


def _read_parents(path: Path) -> dict[str, tuple[str, ...]]:
    """All labels above each, in the order of their ids."""
    above: dict[str, set[str]] = defaultdict(set)
    waiting: list[tuple[object, frozenset[str]]] = [(read_json(path, "Open Images' hierarchy of classes"), frozenset())]
    while waiting:
        entry, over = waiting.pop()
        label = entry.get("LabelName") if isinstance(entry, dict) else None
        below = entry.get("Subcategory", []) if isinstance(entry, dict) else None
        if not isinstance(label, str) or not isinstance(below, list):
            raise UserError(f"{path}: found an entry without LabelName; allowed: Open Images' hierarchy of classes")
        above[label] |= over
        waiting.extend((one, over | {label}) for one in below)
    return {label: tuple(sorted(over - {label})) for label, over in above.items()}


def _read_part(reader: _Reader, part: str, folder: str) -> list[ImageRecord]:
    """Pictures of a folder, with what the part's files say of them."""
    settings, root = reader.settings, reader.root
    resolve_inside(root, folder)
    pictures = list_by_stem(require_folder(root / folder, f"reference.{part}_images"))
    taken = {name: pictures[name] for name in sorted(pictures)[: settings.max_images]}
    found: dict[str, list[_Object]] = {name: [] for name in taken}
    seen: set[str] = set()
    named = {kind: getattr(settings, f"{part}_{kind}") for kind in ("boxes", "masks", "labels")}
    paths = {
        kind: _find_file(root, name, f"reference.{part}_{kind}") for kind, name in named.items() if name is not None
    }
    if "masks" in paths and settings.masks != "box":
        _read_masks(reader, paths["masks"], pictures, found, seen)
    if "boxes" in paths and settings.masks != "segmentation":
        _read_boxes(reader, paths["boxes"], pictures, found, seen)
    if "labels" in paths:
        _read_labels(reader, paths["labels"], pictures, found, seen)
    if unseen := len(found.keys() - seen):
        reader.skipped["picture that no row is of"] += unseen
    return [_make_record(reader, taken[name], found[name]) for name in sorted(seen & found.keys())]


def _is_wanted(
    reader: _Reader, image: str, label: str, pictures: Mapping[str, Path], found: Mapping[str, object], seen: set[str]
) -> bool:
    """Whether a row's picture is taken and its label has a name; the picture is one that rows are of, then."""
    if image not in found:
        reader.skipped["row of a picture that is not there"] += image not in pictures
        return False
    seen.add(image)
    if label not in reader.names:
        reader.skipped["label without a name"] += 1
        return False
    return True


def _read_masks(
    reader: _Reader, path: Path, pictures: Mapping[str, Path], found: Mapping[str, list[_Object]], seen: set[str]
) -> None:
    columns = ("MaskPath", "ImageID", "LabelName")
    for line, row in read_rows(path, columns, tuple(f"Box{name}" for name in _BOX)):
        name, image, label, *numbers = row
        if not _is_wanted(reader, image, label, pictures, found, seen):
            continue
        mask = reader.masks.get(name)
        if mask is None:
            reader.skipped["mask without a file"] += 1
            continue
        shares = _to_shares(path, line, numbers) if all(numbers) else None
        found[image].append(_Object(label, shares, mask))


def _read_boxes(
    reader: _Reader, path: Path, pictures: Mapping[str, Path], found: Mapping[str, list[_Object]], seen: set[str]
) -> None:
    """Boxes of objects that have no mask, but those that are not wanted."""
    left_out = {f"Is{mark.capitalize()}" for mark in reader.settings.leave_out}
    for line, row in read_rows(path, ("ImageID", "LabelName", *_BOX), _MARKS):
        image, label = row[:2]
        if not _is_wanted(reader, image, label, pictures, found, seen):
            continue
        marks = {name for name, cell in zip(_MARKS, row[6:], strict=True) if cell.strip() == "1"}
        if "IsGroupOf" in marks and reader.settings.crowds == "skip":
            reader.skipped["crowd"] += 1
            continue
        if marks & left_out:
            reader.skipped[f"box with {min(marks & left_out)}"] += 1
            continue
        shares = _to_shares(path, line, row[2:6])
        same = (o.shares for o in found[image] if o.mask is not None and o.label == label and o.shares is not None)
        if not any(all(abs(a - b) <= _SAME_BOX for a, b in zip(shares, other, strict=True)) for other in same):
            found[image].append(_Object(label, shares))


def _read_labels(
    reader: _Reader, path: Path, pictures: Mapping[str, Path], found: Mapping[str, list[_Object]], seen: set[str]
) -> None:
    for line, (image, label, text) in read_rows(path, ("ImageID", "LabelName", "Confidence")):
        if not _is_wanted(reader, image, label, pictures, found, seen):
            continue
        try:
            confidence = float(text)
        except ValueError:
            raise UserError(f"{path}: line {line}: Confidence: found {text!r}; allowed: a number of 0 to 1") from None
        if confidence == 0:
            reader.skipped["label that is not in its picture (Confidence 0)"] += 1
        elif not confidence >= reader.settings.min_confidence:
            reader.skipped["label of less confidence than reference.min_confidence"] += 1
        else:
            found[image].append(_Object(label))


def _to_shares(path: Path, line: int, cells: Sequence[str]) -> Shares:
    try:
        left, right, top, bottom = (float(cell) for cell in cells)
        if not all(math.isfinite(v) and -0.01 <= v <= 1.01 for v in (left, right, top, bottom)):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{path}: line {line}: found {', '.join(map(repr, cells))} as a box; allowed: XMin, XMax, YMin and YMax of "
            "0 to 1"
        ) from None
    return left, right, top, bottom


def _make_record(reader: _Reader, path: Path, objects: Sequence[_Object]) -> ImageRecord:
    size = find_size(path) if any(o.shares is not None or o.mask is not None for o in objects) else (0, 0)
    if size is None:
        return make_record(reader.root, path)  # counted when it is decoded
    annotations: list[Annotation] = []
    for one in objects:
        made = _make_annotation(reader, one, *size)
        if made is None:
            continue
        labels = (one.label, *(label for label in reader.parents.get(one.label, ()) if label in reader.names))
        for name in dict.fromkeys(reader.names[label] for label in labels):
            annotations.append(Annotation(name, made.rle, made.boxes))
    return make_record(reader.root, path, annotations)


def _make_annotation(reader: _Reader, one: _Object, height: int, width: int) -> Annotation | None:
    name = reader.names[one.label]
    if one.mask is not None:
        try:
            picture = read_label_picture(resolve_inside(reader.root, str(one.mask)))
        except BrokenImageError as err:
            raise UserError(f"{one.mask}: {err}; allowed: a PNG file of a mask") from None
        values = picture.colours() if picture.values.ndim == 3 else picture.values
        rle = split_labels(resize_labels((values != 0).astype("int64"), height, width)).get(1)
        if rle is None:
            reader.skipped["mask without a pixel"] += 1
            return None
        return Annotation(name, rle=rle)
    if one.shares is None:
        return Annotation(name)
    left, right, top, bottom = (min(max(v, 0.0), 1.0) for v in one.shares)
    if right <= left or bottom <= top:
        reader.skipped["object with an empty box"] += 1
        return None
    return Annotation(name, boxes=((left * width, top * height, (right - left) * width, (bottom - top) * height),))


def _list_files(settings: OpenImagesReference) -> dict[str, tuple[str, ...]]:
    names: tuple[str, ...] = ("train_images", "evaluation_images", "classes", "hierarchy")
    names += tuple(f"{part}_{kind}" for part in ("train", "evaluation") for kind in ("boxes", "masks", "labels"))
    return {name: (value,) for name in names if (value := getattr(settings, name)) is not None}


register_format("open_images", Format(load_open_images, _list_files))
