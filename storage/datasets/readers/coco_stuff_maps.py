"""COCO stuff as pixel maps: a PNG file for each picture, whose values are categories.

Two forms are in use, and nothing in a file says which it is:

- ids (stuff_*_pixelmaps of the challenge of 2017, and what cocostuffapi and panopticapi write): values are the
  categories' ids, 0 is no label; where only stuff is told apart, 183 stands for all things;
- ids minus 1 (stuffthingmaps, made for Caffe): 0 is person, whose id is 1, and so on; 255 is no label.

Shape legend: h x w pixels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import CocoStuffMapsReference
from lavise.storage.datasets.base import (
    Annotation,
    ImageRecord,
    Reference,
    require_file,
    require_folder,
    resolve_inside,
)
from lavise.storage.datasets.formats import Format, register_format
from lavise.storage.datasets.readers.label_maps import Rle, read_label_picture, split_labels
from lavise.storage.datasets.readers.layout_files import find_size, make_record, make_reference, read_json, read_text
from lavise.storage.images.images import BrokenImageError
from lavise.storage.images.picture_files import find_pictures
from lavise.storage.state.progress import log_progress
from lavise.storage.state.text import printable

Form = Literal["ids", "ids_minus_1"]
_VOID: Mapping[Form, int] = {"ids": 0, "ids_minus_1": 255}
_MEANING: Mapping[Form, str] = {
    "ids": "ids of categories, 0 is no label",
    "ids_minus_1": "ids of categories minus 1, 255 is no label",
}
_ALL_THINGS = 183
# Categories that stand in COCO's lists, and that no picture of COCO is labelled with.
_NEVER_LABELLED = {
    12: "street sign",
    26: "hat",
    29: "shoe",
    30: "eye glasses",
    45: "plate",
    66: "mirror",
    68: "window",
    69: "desk",
    71: "door",
    83: "blender",
    91: "hair brush",
}
_LINE = re.compile(r"\s*(\d{1,9})\s*:\s*(\S.*?)\s*")
_THREADS = 4
_SHOWN = 10


@dataclass(frozen=True)
class _Map:
    """A picture and the masks of its map, by value; None where the picture cannot be read, which decoding counts."""

    record: ImageRecord
    masks: Mapping[int, Rle] | None


@dataclass
class _Reader:
    root: Path
    settings: CocoStuffMapsReference
    skipped: Counter[str] = field(default_factory=Counter)

    def read_part(self, images: Path, masks: Path) -> list[_Map]:
        paths = find_pictures(images, "reference").paths[: self.settings.max_images]
        with log_progress("pixel maps", len(paths)) as bar, ThreadPoolExecutor(_THREADS) as pool:
            found = []
            for made in pool.map(lambda path: self._read_map(path, masks, path.relative_to(images)), paths):
                bar.advance()
                if isinstance(made, _Map):
                    found.append(made)
                else:
                    self.skipped[made] += 1
        return found

    def _read_map(self, path: Path, masks: Path, below: Path) -> _Map | str:
        """The map of a picture, or why it has none."""
        file = resolve_inside(masks, below.with_suffix(".png").as_posix())
        if not file.is_file():
            return "picture without a map"
        record = make_record(self.root, path)
        size = find_size(path)
        if size is None:
            return _Map(record, None)
        try:
            values = read_label_picture(file).values
        except BrokenImageError as err:
            raise UserError(f"{file}: {err}; allowed: a PNG file of labels") from None
        if values.ndim == 3:
            if (values != values[..., :1]).any():
                raise UserError(f"{file}: found colours; allowed: a PNG file with indices or grey values as categories")
            values = values[..., 0]
        if values.shape != size:
            return "picture of another size than its map"
        return _Map(record, split_labels(values, without=()))


def load_coco_stuff_maps(settings: CocoStuffMapsReference, seed: int) -> Reference:
    """Both parts; of one folder, split by picture.

    Raises:
        UserError: a folder or file is missing or not what it ought to be, no picture has a label, or the maps fit both
            forms or neither and no setting says which it is.
    """
    root = require_folder(settings.root, "reference.root")
    names = read_category_names(require_file(resolve_inside(root, settings.categories), "reference.categories"))
    reader = _Reader(root, settings)
    maps: dict[str, list[_Map]] = {}
    for part in ("train", "evaluation"):
        images, masks = getattr(settings, f"{part}_images"), getattr(settings, f"{part}_masks")
        if images is not None:
            pictures = require_folder(resolve_inside(root, images), f"reference.{part}_images")
            name = images if images not in maps else f"{images} for evaluation"
            maps[name] = reader.read_part(
                pictures, require_folder(resolve_inside(root, masks), f"reference.{part}_masks")
            )
    values = {value for part in maps.values() for own in part for value in own.masks or ()}
    notes = []
    form: Form = "ids"  # of no maps, which is refused below
    if settings.values != "auto":
        form = settings.values
    elif values:
        form = find_form(values, names)
        notes.append(f"values of the maps are {_MEANING[form]}, which alone fits them; reference.values says otherwise")
    if unknown := sorted(v for v in values if v != _VOID[form] and _find_id(v, form) not in names):
        notes.append(f"values of the maps that are no category: {_list(unknown)}")
    parts = {name: [_label(own, form, names, reader.skipped) for own in part] for name, part in maps.items()}
    found = make_reference(root, parts, reader.skipped, settings.evaluation_share, seed)
    return replace(found, train=replace(found.train, notes=tuple(notes)))


def read_category_names(path: Path) -> dict[int, str]:
    """Names by id, of JSON with categories, a JSON list of them, or lines as `1: person`.

    Raises:
        UserError: it is none of these, or an id or a name stands twice or is none.
    """
    text = read_text(path)
    pairs = _read_json_names(path) if text.lstrip()[:1] in {"{", "["} else _read_line_names(path, text)
    for number, what in ((0, "id"), (1, "name")):
        if twice := [value for value, count in Counter(pair[number] for pair in pairs).items() if count > 1]:
            raise UserError(f"{path}: the {what} {printable(str(twice[0]))!r} stands twice; allowed: each once")
    names = {number: name for number, name in pairs if (number, name) != (0, "unlabeled")}
    if 0 in names or not names:
        found = f"the category {printable(names[0])!r} with id 0" if names else "no category"
        raise UserError(f"{path}: found {found}; allowed: categories with ids from 1 on, since 0 is no label")
    return names


def find_form(values: Collection[int], names: Mapping[int, str]) -> Form:
    """The only form in which all values are categories that there are labels of.

    Args:
        values: of all maps.
        names: of categories, by id.

    Raises:
        UserError: both forms fit, or neither.
    """
    labelled = {number for number, name in names.items() if _NEVER_LABELLED.get(number) != name}
    allowed: dict[Form, set[int]] = {
        "ids": labelled | {_VOID["ids"], _ALL_THINGS},
        "ids_minus_1": {number - 1 for number in labelled} | {_VOID["ids_minus_1"]},
    }
    strange = {form: sorted(set(values) - those) for form, those in allowed.items()}
    fitting = [form for form, those in strange.items() if not those]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        found = f"the maps' values ({_list(sorted(values))}) may be ids of categories, and ids minus 1"
    else:
        found = "; ".join(f"{_list(those)} cannot be {_MEANING[form]}" for form, those in strange.items())
        found = f"values of the maps: {found}"
    raise UserError(
        f"reference.values: {found}; set it to "
        + " or ".join(f"{form} ({meaning})" for form, meaning in _MEANING.items())
    )


def _find_id(value: int, form: Form) -> int:
    return value if form == "ids" else value + 1


def _label(own: _Map, form: Form, names: Mapping[int, str], skipped: Counter[str]) -> ImageRecord:
    annotations = []
    for value, rle in (own.masks or {}).items():
        if value == _VOID[form]:
            continue
        name = names.get(_find_id(value, form))
        if name is None:
            skipped["mask of a value that is no category"] += 1
        else:
            annotations.append(Annotation(name, rle=rle))
    return replace(own.record, annotations=tuple(annotations))


def _read_json_names(path: Path) -> list[tuple[int, str]]:
    content: Any = read_json(path, "JSON with categories")
    entries = content.get("categories") if isinstance(content, dict) else content
    pairs: list[tuple[int, str]] = []
    for entry in entries if isinstance(entries, list) and entries else [None]:
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if type(number) is not int or number < 0 or not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: no categories; allowed: a list of categories, each with id (a number) and name")
        pairs.append((number, name.strip()))
    return pairs


def _read_line_names(path: Path, text: str) -> list[tuple[int, str]]:
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f"{path}: line {number} is {printable(line)[:60]!r}; allowed: `ID: NAME` in each line, or JSON with "
                "categories"
            )
        pairs.append((int(match[1]), match[2]))
    return pairs


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")


def _list_files(settings: CocoStuffMapsReference) -> dict[str, tuple[str, ...]]:
    needed: dict[str, tuple[str, ...]] = {
        "train_images": (settings.train_images,),
        "train_masks": (settings.train_masks,),
        "categories": (settings.categories,),
    }
    if settings.evaluation_images is not None:
        needed["evaluation_images"] = (settings.evaluation_images,)
        needed["evaluation_masks"] = (settings.evaluation_masks,)
    return needed


register_format("coco_stuff_maps", Format(load_coco_stuff_maps, _list_files))
