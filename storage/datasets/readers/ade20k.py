"""ADE20K with objects and parts (2016, 2021), and SceneParse150, where all of a class in a picture is one mask.

In `PICTURE_seg.png` a pixel's class is red / 10 · 256 + green, and blue tells the objects of a class apart; so do
`PICTURE_parts_1.png` and following with parts, parts of these, and so on. What classes are called says

- 2021: PICTURE.json (`name_ndx`, `name`);
- 2016: index*.mat; without it PICTURE_atr.txt, where objects have numbers: the rank of their blue among all of it;
- SceneParse150: objectInfo150.txt, for the grey values of annotations/PART/PICTURE.png.

Names stay as they are, with synonyms behind commas. Pickled indices (index_ade20k.pkl) are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import Ade20kReference
from lavise.storage.datasets.base import Annotation, ImageRecord, Reference, require_folder, resolve_inside
from lavise.storage.datasets.formats import Format, register_format
from lavise.storage.datasets.readers.label_maps import IntArray, read_label_picture, split_labels
from lavise.storage.datasets.readers.layout_files import (
    find_size,
    is_number,
    make_record,
    make_reference,
    read_json,
    read_text,
)
from lavise.storage.images.images import BrokenImageError
from lavise.storage.images.picture_files import find_pictures

_FOLDERS = (("images/training", "images/validation"), ("images/ADE/training", "images/ADE/validation"))
_SCENE_NAMES = "objectInfo150.txt"
_MAX_LEVELS = 9


@dataclass
class _Reader:
    root: Path
    settings: Ade20kReference
    skipped: Counter[str] = field(default_factory=Counter)

    @cached_property
    def index(self) -> dict[int, str] | None:
        """Names by class, of the index of 2016; None where there is none."""
        paths = sorted(self.root.glob("index*.mat"))
        return _read_index(paths[0]) if paths else None


def load_ade20k(settings: Ade20kReference, seed: int) -> Reference:
    """Both parts: training and validation, or a split by picture.

    Raises:
        UserError: a folder or file is missing or not ADE20K's, or no picture has a label.
    """
    root = require_folder(settings.root, "reference.root")
    reader = _Reader(root, settings)
    folders = _find_folders(root, settings)
    scenes = _read_scene_names(root / _SCENE_NAMES) if (root / _SCENE_NAMES).is_file() else None
    parts: dict[str, list[ImageRecord]] = {}
    for name, folder in folders.items():
        pictures = [p for p in find_pictures(folder, "reference").paths if p.suffix.lower() in {".jpg", ".jpeg"}]
        if scenes is not None:
            found = [_read_scene(reader, path, scenes) for path in pictures[: settings.max_images]]
        else:
            found = [_read_picture(reader, path) for path in pictures[: settings.max_images]]
        parts[name] = [record for record in found if record is not None]
    return make_reference(root, parts, reader.skipped, settings.evaluation_share, seed)


def _find_folders(root: Path, settings: Ade20kReference) -> dict[str, Path]:
    """Folders of the pictures, by name."""
    if settings.train is not None and settings.evaluation is not None:
        named = {"train": settings.train, "evaluation": settings.evaluation}
        return {name: require_folder(resolve_inside(root, name), f"reference.{part}") for part, name in named.items()}
    for names in _FOLDERS:
        if all((root / name).is_dir() for name in names):
            return {name: root / name for name in names}
    if (root / "images").is_dir():
        return {"images": root / "images"}
    return {root.name: root}


def _read_picture(reader: _Reader, path: Path) -> ImageRecord | None:
    """Of 2016 and 2021: pairs of the objects and, where these are wanted, of parts."""
    first = path.with_name(f"{path.stem}_seg.png")
    if not first.is_file():
        reader.skipped["picture without a _seg.png"] += 1
        return None
    size = find_size(path)
    if size is None:
        return make_record(reader.root, path)  # counted when it is decoded
    annotations: list[Annotation] = []
    said = _read_names(reader, path)
    for level in range(_MAX_LEVELS + 1):
        file = path.with_name(f"{path.stem}_parts_{level}.png") if level else first
        if not file.is_file():
            break
        if level and reader.settings.parts == "skip":
            reader.skipped["file of parts"] += 1
            continue
        values = _read_png(reader, file)
        if values.ndim != 3:
            raise UserError(f"{file}: no coloured PNG file; allowed: classes as red / 10 · 256 + green")
        if values.shape[:2] != size:
            reader.skipped["picture of another size than its labels"] += 1
            return None
        for name, rle in _split_objects(values, said, level):
            if name is None:
                reader.skipped["object of a class without a name"] += 1
            else:
                annotations.append(Annotation(name, rle=rle))
    return make_record(reader.root, path, annotations)


@dataclass(frozen=True)
class _Names:
    """Of classes by number, or, where there is nothing else, of objects by (level, number)."""

    classes: Mapping[int, str] | None
    objects: Mapping[tuple[int, int], str]


def _split_objects(values: IntArray, said: _Names, level: int) -> list[tuple[str | None, Mapping[str, object]]]:
    """(name, run lengths) of each object; None where its class has no name."""
    classes = values[..., 0] // 10 * 256 + values[..., 1]
    blue = values[..., 2]
    # What has no class is no object, whatever its blue.
    both = np.where(classes == 0, 0, classes * 256 + blue)
    # Numbers of objects begin at 1; a picture may have no pixel without one.
    used = np.bincount(blue.ravel(), minlength=256) > 0
    used[0] = True
    ranks = np.cumsum(used) - 1
    found: list[tuple[str | None, Mapping[str, object]]] = []
    for number, rle in split_labels(both).items():
        if said.classes is not None:
            name = said.classes.get(number // 256)
        else:
            name = said.objects.get((level, int(ranks[number % 256])))
        found.append((name, rle))
    return found


def _read_names(reader: _Reader, path: Path) -> _Names:
    described = path.with_suffix(".json")
    if described.is_file():
        return _Names(_read_described(described), {})
    if reader.index is not None:
        return _Names(reader.index, {})
    attributes = path.with_name(f"{path.stem}_atr.txt")
    if attributes.is_file():
        return _Names(None, _read_attributes(attributes))
    raise UserError(
        f"{path}: nothing says what its classes are called; allowed: {described.name}, {attributes.name}, or an "
        f"index*.mat in {reader.root}"
    )


def _read_described(path: Path) -> dict[int, str]:
    """Names by class, of a picture's JSON file of 2021 (some of these are in Latin-1)."""
    content = read_json(path, "a picture's description in ADE20K 2021", ("utf-8", "latin-1"))
    try:
        objects = content["annotation"]["object"]
        # A single object, or none, is not always in a list.
        entries = objects if isinstance(objects, list) else [objects]
        found = {int(entry["name_ndx"]): str(entry["name"]).strip() for entry in entries}
    except (KeyError, TypeError, ValueError, OverflowError) as err:
        raise UserError(
            f"{path}: not ADE20K's ({type(err).__name__}: {err}); allowed: annotation.object, each with name and "
            "name_ndx"
        ) from None
    return {number: name for number, name in found.items() if name}


def _read_attributes(path: Path) -> dict[tuple[int, int], str]:
    """Names by (level, number), of `number # level # occluded # class # name # "attributes"` in each line."""
    found = {}
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        cells = [cell.strip() for cell in text.split("#")]
        if len(cells) < 5 or not (is_number(cells[0]) and is_number(cells[1]) and cells[3]):
            raise UserError(
                f"{path}: line {line}: found {text[:80]!r}; allowed: number # level # occluded # class # name # "
                '"attributes"'
            )
        found[int(cells[1]), int(cells[0])] = cells[3]
    return found


def _read_index(path: Path) -> dict[int, str]:
    """Names by class, of the index in MATLAB's format: `index.objectnames`, from 1."""
    from scipy.io import loadmat

    try:
        content: Any = loadmat(str(path), squeeze_me=True, variable_names=["index"])
        names = np.atleast_1d(content["index"]["objectnames"][()])
        found = {number: str(name).strip() for number, name in enumerate(names.tolist(), start=1)}
    except Exception as err:  # noqa: BLE001 - scipy raises whatever comes on files that are none of MATLAB's
        said = f"{type(err).__name__}: {' '.join(str(err).split())}"
        raise UserError(f"{path}: not ADE20K's index ({said}); allowed: index.objectnames in MATLAB's format") from None
    return {number: name for number, name in found.items() if name}


def _read_scene_names(path: Path) -> dict[int, str]:
    """Names by grey value, of objectInfo150.txt: cells between tabs, under headings with Idx and Name."""
    lines = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    try:
        headings = [cell.strip() for cell in lines[0]]
        index, name = headings.index("Idx"), headings.index("Name")
        return {int(line[index]): line[name].strip() for line in lines[1:]}
    except (IndexError, ValueError):
        raise UserError(
            f"{path}: not SceneParse150's; allowed: a table with tabs, with the columns Idx and Name"
        ) from None


def _read_scene(reader: _Reader, path: Path, names: Mapping[int, str]) -> ImageRecord | None:
    """Of SceneParse150: a pair for each class of the picture."""
    below = path.relative_to(reader.root / "images") if path.is_relative_to(reader.root / "images") else None
    file = reader.root / "annotations" / below.with_suffix(".png") if below is not None else None
    if file is None or not file.is_file():
        reader.skipped["picture without a file in annotations"] += 1
        return None
    size = find_size(path)
    if size is None:
        return make_record(reader.root, path)  # counted when it is decoded
    values = _read_png(reader, file)
    if values.ndim != 2:
        raise UserError(f"{file}: no grey PNG file; allowed: the classes' numbers as grey values")
    if values.shape != size:
        reader.skipped["picture of another size than its labels"] += 1
        return None
    annotations: list[Annotation] = []
    for number, rle in split_labels(values).items():
        if number in names:
            annotations.append(Annotation(names[number], rle=rle))
        else:
            reader.skipped["object of a class without a name"] += 1
    return make_record(reader.root, path, annotations)


def _read_png(reader: _Reader, path: Path) -> IntArray:
    try:
        return read_label_picture(resolve_inside(reader.root, str(path))).values
    except BrokenImageError as err:
        raise UserError(f"{path}: {err}; allowed: a PNG file of labels") from None


register_format("ade20k", Format(load_ade20k))
