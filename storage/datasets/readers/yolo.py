"""YOLO: a text file for each picture with a row for each object, all of it as shares of the picture's sides.

A row is a class and a box (middle, width, height), or a class and the corners of a polygon, of which four are an
oriented box. Where data.yaml says that there are keypoints, they stand behind the box and are left out. Predictions may
have their confidence, and the number of a track, at the end of each row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import YoloReference
from lavise.configs.yaml_text import YamlError, read_yaml
from lavise.storage.datasets.base import Annotation, ImageRecord, Reference, require_folder, resolve_inside
from lavise.storage.datasets.formats import Format, register_format
from lavise.storage.datasets.readers.label_maps import draw_polygon
from lavise.storage.datasets.readers.layout_files import (
    find_size,
    is_number,
    make_record,
    make_reference,
    read_text,
)
from lavise.storage.images.images import IMAGE_SUFFIXES
from lavise.storage.images.picture_files import find_pictures

# Where pictures are looked for if no file says it.
_PARTS = (
    ("images/train", "images/val"),
    ("images/train", "images/valid"),
    ("train/images", "valid/images"),
    ("train/images", "val/images"),
    ("train.txt", "val.txt"),
    ("train.txt", "valid.txt"),
)
_WHOLE = ("train.txt", "images", ".")
_VALIDATION = ("val", "validation", "valid")
# How far out of the picture a corner may be (rounding); what is out is cut off.
_TOLERANCE = 0.01
_NOT_LABELS = ("classes", "obj", "names", "readme", "notes")


@dataclass(frozen=True)
class _Data:
    """What data.yaml says (or obj.data): names by number, entries of both parts, numbers of a row's keypoints."""

    names: Mapping[int, str]
    train: Sequence[str] | None = None
    evaluation: Sequence[str] | None = None
    path: str = ""
    num_keypoint_values: int = 0


class _Extra(Enum):
    """What stands behind the object in every row."""

    NOTHING = "nothing"
    CONFIDENCE = "a confidence"
    TRACK = "the number of a track"
    BOTH = "a confidence and the number of a track"

    @property
    def has_track(self) -> bool:
        return self in (_Extra.TRACK, _Extra.BOTH)

    @property
    def length(self) -> int:
        return {_Extra.NOTHING: 0, _Extra.BOTH: 2}.get(self, 1)


@dataclass
class _Reader:
    root: Path
    settings: YoloReference
    data: _Data
    extra: _Extra = _Extra.NOTHING
    num_rows: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def load_yolo(settings: YoloReference, seed: int) -> Reference:
    """Both parts: of data.yaml, of the usual folders, or split by picture.

    Raises:
        UserError: a folder or file is missing or not YOLO's, a row cannot be read, or a class has no name.
    """
    root = require_folder(settings.root, "reference.root")
    reader = _Reader(root, settings, _read_data(root, settings))
    parts = _list_parts(reader)
    pictures = {path for paths in parts.values() for path in paths}
    labels = {path: _find_labels(root, path) for path in pictures}
    if not any(path.is_file() for path in labels.values()):
        example = labels[min(labels)] if labels else root / "labels"
        raise UserError(
            f"reference.root: none of {len(labels)} pictures of {root} has a file of labels; looked for {example} and "
            "others like it; allowed: labels in place of the folder images, or beside the pictures"
        )
    reader.skipped.update(_count_strays(pictures, labels))
    reader.extra = _find_extra(labels.values(), reader.data.num_keypoint_values)
    records: dict[str, list[ImageRecord]] = {}
    for name, paths in parts.items():
        taken = sorted(paths, key=lambda p: p.relative_to(root).as_posix())[: settings.max_images]
        records[name] = [make_record(root, path, _read_labels(reader, path, labels[path])) for path in taken]
    found = make_reference(root, records, reader.skipped, settings.evaluation_share, seed)
    if reader.extra is _Extra.NOTHING:
        return found
    note = f"all {reader.num_rows:,} rows end with {reader.extra.value}, as of predictions; all are taken"
    return replace(found, train=replace(found.train, notes=(note,)))


def _read_data(root: Path, settings: YoloReference) -> _Data:
    path = _find_data(root, settings.data)
    if path is None and settings.names is None:
        raise UserError(
            f"reference.names: missing; {root} has no data.yaml that names the classes; set reference.data or "
            "reference.names"
        )
    names = dict(enumerate(settings.names)) if settings.names is not None else None
    if path is None:
        return _Data(names or {})
    return _read_darknet(root, path, names) if path.suffix.lower() == ".data" else _read_yaml(path, names)


def _find_data(root: Path, name: str | None) -> Path | None:
    if name is not None:
        path = resolve_inside(root, name)
        if not path.is_file():
            raise UserError(f"reference.data: found {name!r}, which is no file below {root}; set reference.data")
        return path
    for usual in ("data.yaml", "data.yml", "dataset.yaml"):
        if (root / usual).is_file():
            return root / usual
    others = sorted(p for p in root.iterdir() if p.suffix.lower() in {".yaml", ".yml"} and p.is_file())
    if len(others) > 1:
        found = ", ".join(repr(p.name) for p in others[:3])
        raise UserError(f"reference.data: missing; {root} has several YAML files ({found}); set reference.data to one")
    if others:
        return others[0]
    return root / "obj.data" if (root / "obj.data").is_file() else None


def _read_yaml(path: Path, names: Mapping[int, str] | None) -> _Data:
    try:
        content = read_yaml(read_text(path), allow_doubles=True)
    except YamlError as err:
        raise UserError(f"{path}: no YAML ({err}); allowed: data.yaml of YOLO") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found no keys; allowed: data.yaml of YOLO, with names, train and val")
    said: dict[str, Any] = content
    evaluation = next((said[key] for key in _VALIDATION if said.get(key)), None)
    base = said.get("path") or ""
    if not isinstance(base, str):
        raise UserError(f"{path}: path: found {base!r}; allowed: a folder")
    return _Data(
        _read_names(path, said.get("names")) if names is None else names,
        _to_entries(path, "train", said.get("train")),
        _to_entries(path, "val", evaluation),
        base,
        _count_keypoints(path, said.get("kpt_shape")),
    )


def _read_names(path: Path, found: object) -> dict[int, str]:
    if isinstance(found, list):
        pairs: list[tuple[Any, Any]] = list(enumerate(found))
    elif isinstance(found, dict):
        pairs = list(found.items())
    else:
        raise UserError(f"{path}: names: found {found!r}; allowed: a list of names, or names by number")
    names: dict[int, str] = {}
    for number, name in pairs:
        # Some write the numbers as text; a name such as `no` or `7` is none in YAML.
        if not is_number(str(number)) or not isinstance(name, str | int | float) or isinstance(name, bool):
            raise UserError(f"{path}: names: found {number!r}: {name!r}; allowed: a number and a name, in quotes")
        if not str(name).strip():
            raise UserError(f"{path}: names: the name of {number} is empty")
        names[int(number)] = str(name).strip()
    return names


def _to_entries(path: Path, key: str, found: object) -> tuple[str, ...] | None:
    if not found:
        return None
    entries = found if isinstance(found, list) else [found]
    if not all(isinstance(entry, str) for entry in entries):
        raise UserError(f"{path}: {key}: found {found!r}; allowed: a folder, a list of folders, or a text file")
    return tuple(entries)


def _count_keypoints(path: Path, found: object) -> int:
    if found is None:
        return 0
    if not isinstance(found, list) or len(found) != 2 or not all(isinstance(n, int) and 0 < n < 10_000 for n in found):
        raise UserError(f"{path}: kpt_shape: found {found!r}; allowed: [number of keypoints, numbers of each]")
    return int(found[0] * found[1])


def _read_darknet(root: Path, path: Path, names: Mapping[int, str] | None) -> _Data:
    """obj.data: `key = value` in each line; its paths begin with `data/`, which is the data set's root."""
    said: dict[str, str] = {}
    for line in read_text(path).splitlines():
        key, equals, value = line.partition("=")
        if equals:
            said[key.strip()] = value.strip()
    if names is None:
        file = _resolve(root, root, said.get("names", "obj.names"))
        if file is None or not file.is_file():
            raise UserError(f"{path}: names: found {said.get('names')!r}, which is no file below {root}")
        lines = [line.strip() for line in read_text(file).splitlines()]
        names = {number: line for number, line in enumerate(lines) if line}
    train, evaluation = ((said[key],) if said.get(key) else None for key in ("train", "valid"))
    return _Data(names, train, evaluation)


def _list_parts(reader: _Reader) -> dict[str, list[Path]]:
    """Pictures of each part, by what names it."""
    root, settings, data = reader.root, reader.settings, reader.data
    if settings.train is not None and settings.evaluation is not None:
        named = {"train": (settings.train,), "evaluation": (settings.evaluation,)}
        return {part: _list_pictures(reader, root, own, f"reference.{part}") for part, own in named.items()}
    if data.train is not None:
        base = _resolve(root, root, data.path) if data.path else root
        base = base if base is not None and base.is_dir() else root
        train = _list_pictures(reader, base, data.train, "train of reference.data")
        if data.evaluation is None:
            return {"train": train}
        evaluation = _list_pictures(reader, base, data.evaluation, "val of reference.data")
        # Small examples name the same pictures twice: that is no split.
        if set(train) == set(evaluation):
            return {"train": train}
        return {"train": train, "evaluation": evaluation}
    for names in _PARTS:
        if all((root / name).exists() for name in names):
            both = (_list_pictures(reader, root, (name,), "reference.root") for name in names)
            return dict(zip(("train", "evaluation"), both, strict=True))
    first = next(name for name in _WHOLE if (root / name).exists())
    return {"train": _list_pictures(reader, root, (first,), "reference.root")}


def _list_pictures(reader: _Reader, base: Path, entries: Sequence[str], setting: str) -> list[Path]:
    """Pictures of folders, and of text files with a picture in each line."""
    found: dict[Path, None] = {}
    for entry in entries:
        path = _resolve(reader.root, base, entry)
        if path is None:
            raise UserError(
                f"{setting}: found {entry!r}, which is not there below {reader.root}; allowed: folders or text files "
                "below reference.root; set reference.train and reference.evaluation"
            )
        if path.is_dir():
            found.update(dict.fromkeys(find_pictures(path, "reference").paths))
            continue
        for line in filter(None, map(str.strip, read_text(path).splitlines())):
            picture = _resolve(reader.root, path.parent, line) or _resolve(reader.root, base, line)
            if picture is None or picture.suffix.lower() not in IMAGE_SUFFIXES:
                reader.skipped["listed picture that is not there"] += 1
            else:
                found[picture] = None
    return list(found)


def _resolve(root: Path, base: Path, entry: str) -> Path | None:
    """What an entry names, below root: as it stands, without a leading `../`, or without `data/`; None: nothing."""
    tries = [entry]
    for start in ("../", "data/"):
        if entry.startswith(start):
            tries.append(entry.removeprefix(start))
    for place in (base, root):
        for name in tries:
            try:
                path = resolve_inside(root, str(place / name))
            except UserError:
                continue
            if path.exists():
                # Without `..` and links in between, so that it lies below root as it is written.
                return root / path.resolve().relative_to(root.resolve())
    return None


def _find_labels(root: Path, picture: Path) -> Path:
    """Where a picture's labels are: the last folder `images` is called `labels`; without one, beside it."""
    parts = list(picture.relative_to(root).parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return resolve_inside(root, str(PurePosixPath(*parts).with_suffix(".txt")))


def _count_strays(pictures: set[Path], labels: Mapping[Path, Path]) -> Counter[str]:
    """Files of labels in the folders of labels, whose picture is in none of the folders of pictures."""
    folders: dict[Path, set[Path]] = {}
    for picture, path in labels.items():
        folders.setdefault(path.parent, set()).add(picture.parent)
    number = 0
    for folder, places in folders.items():
        if not folder.is_dir():
            continue
        stems = {p.stem for place in places for p in place.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}
        for path in folder.iterdir():
            number += path.suffix == ".txt" and path.stem not in stems and path.stem.lower() not in _NOT_LABELS
    return Counter({"file of labels without a picture": number} if number else {})


def _find_extra(paths: Iterable[Path], num_keypoint_values: int) -> _Extra:
    """What stands behind the object in every row of all files, as in predictions: its confidence, its track, or both.

    A row has an odd number of them more than an object takes, or its last is the number of a track, which is no share.
    A polygon that lost a number stands among rows that did not.
    """
    fitting = [extra for extra in _Extra if extra.length]
    past_first_track = False
    for path in paths:
        rows = [line.split() for line in read_text(path).splitlines()] if path.is_file() else []
        for row in filter(None, rows):
            fitting = [extra for extra in fitting if _may_end_with(extra, row, num_keypoint_values)]
            if not fitting:
                return _Extra.NOTHING
            past_first_track = past_first_track or float(row[-1]) > 1
    if not past_first_track:  # 1 may be a confidence or a share, too
        fitting = [extra for extra in fitting if extra is _Extra.CONFIDENCE]
    return fitting[0] if fitting else _Extra.NOTHING


def _may_end_with(extra: _Extra, row: Sequence[str], num_keypoint_values: int) -> bool:
    number = len(row) - 1 - extra.length
    if number != 4 + num_keypoint_values if num_keypoint_values else number < 4 or number % 2:
        return False
    try:
        last = [float(text) for text in row[-extra.length :]]
    except ValueError:
        return False
    if extra.has_track:
        track = last.pop()
        if track < 1 or track % 1:
            return False
    return all(0 <= confidence <= 1 for confidence in last)


def _read_labels(reader: _Reader, picture: Path, path: Path) -> list[Annotation]:
    """Pairs of a picture; none where it has no file of labels."""
    if not path.is_file():
        return []
    rows = [line.split() for line in read_text(path).splitlines()]
    size = find_size(picture) if any(rows) else None
    if size is None:
        return []  # counted when it is decoded
    annotations = []
    seen: set[tuple[str, ...]] = set()
    for number, row in enumerate(rows, start=1):
        if not row:
            continue
        if tuple(row) in seen:
            reader.skipped["row that stands twice"] += 1
            continue
        seen.add(tuple(row))
        where = f"{path}: line {number}"
        concept, values = _read_row(reader.data, where, row)
        reader.num_rows += 1
        values = values[: len(values) - reader.extra.length]
        if len(values) == 4 + reader.data.num_keypoint_values and reader.data.num_keypoint_values:
            reader.skipped["keypoints of an object (its box is taken)"] += 1
            values = values[:4]
        annotation = _to_annotation(reader, where, concept, values, size)
        if annotation is not None:
            annotations.append(annotation)
    return annotations


def _read_row(data: _Data, where: str, row: Sequence[str]) -> tuple[str, list[float]]:
    """The name of its class, and its numbers."""
    try:
        values = [float(text) for text in row]
        index = int(values[0])
        if index != values[0] or not all(map(math.isfinite, values)):
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(
            f"{where}: found {' '.join(row)[:80]!r}; allowed: a class's number and the object's numbers of 0 to 1"
        ) from None
    if index not in data.names:
        raise UserError(
            f"{where}: class {index} has no name; allowed: {_describe_numbers(data.names)}; see reference.data and "
            "reference.names"
        )
    return data.names[index], values[1:]


def _describe_numbers(names: Mapping[int, str]) -> str:
    return f"{min(names)} to {max(names)}" if names else "none, since there are no names"


def _to_annotation(
    reader: _Reader, where: str, concept: str, values: Sequence[float], size: tuple[int, int]
) -> Annotation | None:
    height, width = size
    masks = reader.settings.masks
    if len(values) == 4:
        x, y, w, h = values
        corners = np.array([[x - w / 2, y - h / 2], [x + w / 2, y + h / 2]])
        if masks == "segmentation":
            reader.skipped["object with a box only"] += 1
            return None
        if w <= 0 or h <= 0:
            reader.skipped["object with an empty box"] += 1
            return None
        is_outside = not (-_TOLERANCE <= x <= 1 + _TOLERANCE and -_TOLERANCE <= y <= 1 + _TOLERANCE)
    elif len(values) >= 6 and len(values) % 2 == 0:
        corners = np.array(values, dtype=np.float64).reshape(-1, 2)
        is_outside = bool((corners < -_TOLERANCE).any() or (corners > 1 + _TOLERANCE).any())
    else:
        raise UserError(
            f"{where}: found {len(values)} numbers behind the class; allowed: 4 (a box), 6 or more in pairs (a "
            "polygon); keypoints behind a box need kpt_shape in data.yaml; what predictions have behind "
            "it has to end every row of the data set"
        )
    if is_outside:
        reader.skipped["object outside its picture (numbers are not shares of 0 to 1)"] += 1
        return None
    pixels = np.clip(corners, 0, 1) * (width, height)
    if len(values) == 4 or masks == "box":
        (left, top), (right, bottom) = pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist()
        if right <= left or bottom <= top:
            reader.skipped["object with an empty box"] += 1
            return None
        return Annotation(concept, boxes=((left, top, right - left, bottom - top),))
    rle = draw_polygon(pixels, height, width)
    if rle is None:
        reader.skipped["polygon without a pixel"] += 1
        return None
    return Annotation(concept, rle=rle)


register_format("yolo", Format(load_yolo))
