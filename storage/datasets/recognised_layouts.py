"""Which kinds of labelled data sets a folder may be, by the names of what lies in it; no picture is decoded.

These are guesses, one after the other: whoever asks reads the data set with each of them and keeps the first that can
be read. Names are listed once, to some depth and so many at most; JSON files of COCO's form are parsed once.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError
from lavise.storage.datasets.csv_tables import read_table
from lavise.storage.datasets.readers.coco_file import name_image
from lavise.storage.images.images import IMAGE_SUFFIXES

Settings = dict[str, Any]
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
# Folders that other layouts have, and no classes.
_LAYOUT_WORDS = frozenset(
    "images annotations labels masks jpegimages imagesets segmentationclass segmentationobject".split()
)
_TRAIN, _EVALUATION = ("train",), ("val", "test")
_MAX_DEPTH, _MAX_ENTRIES, _PICTURES_KEPT = 4, 500_000, 20
_MAX_JSONS, _MAX_JSON_BYTES = 32, 2 * 10**9
_MAX_TABLES, _ROWS_TRIED, _FOLDERS_TRIED = 8, 50, 50
_LABEL_COLUMNS = ("label", "labels", "class", "classes", "class_name", "category", "categories", "tag", "tags")
_YES_OR_NO = frozenset("1 1.0 0 0.0 -1 -1.0 true false yes no".split()) | {""}
_SEPARATORS = ("|", ";")
_LIKELY_JSON = ("instances", "coco", "train", "val", "annotations", "panoptic", "lvis")


def guess_layouts(root: Path) -> Iterator[Settings]:
    """Settings of a reference, each with its `kind` and `root`, the surest guess first.

    Raises:
        UserError: root is no folder.
    """
    if not root.is_dir():
        raise UserError(f"labels: found {str(root)!r}, which is no folder; give the folder of the labelled data set")
    folder, found = _Folder(root), False
    for kind, guess in _GUESSES.items():
        for settings in guess(folder):
            found = True
            yield {"kind": kind, "root": str(root), **settings}
    if not found:  # folders of pictures are classes only where nothing else says what is in them
        for settings in _guess_image_folder(folder):
            yield {"kind": "image_folder", "root": str(root), **settings}


@dataclass(frozen=True)
class _CocoFile:
    """Of a JSON file of COCO's form: its first picture and its first annotation."""

    path: str
    image: Any
    annotation: Mapping[str, Any]


class _Folder:
    """Names below a folder, as paths with slashes: all files but pictures, and a few pictures of each folder.

    What cannot be looked into is left out.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[str] = []
        self.pictures: list[str] = []
        self.folders: list[str] = []
        waiting, num = deque([("", 0)]), 0
        while waiting and num < _MAX_ENTRIES:
            inside, depth = waiting.popleft()
            pictures = 0
            try:
                with os.scandir(root / inside) as entries:
                    for entry in entries:
                        num += 1
                        name = f"{inside}{entry.name}"
                        if entry.name.startswith((".", "__MACOSX")):
                            continue
                        if entry.is_dir():
                            self.folders.append(name)
                            if depth < _MAX_DEPTH:
                                waiting.append((f"{name}/", depth + 1))
                        elif Path(entry.name).suffix.lower() not in IMAGE_SUFFIXES:
                            self.files.append(name)
                        elif entry.name.endswith("_seg.png") or pictures < _PICTURES_KEPT:
                            pictures += 1
                            self.pictures.append(name)
                        if num >= _MAX_ENTRIES:
                            break
            except OSError:
                continue
        for names in (self.files, self.pictures, self.folders):
            names.sort()
        self._known = frozenset(self.files)
        self._known_folders = frozenset(self.folders)

    def has(self, name: str) -> bool:
        return name in self._known

    def has_folder(self, name: str) -> bool:
        return name in self._known_folders

    def has_picture(self, cell: str) -> bool:
        """Whether a cell of a table names a picture below the folder, with or without its path and ending."""
        inside, _, name = cell.strip().replace("\\", "/").rpartition("/")
        if not name or "\0" in name:
            return False
        endings = ("",) if Path(name).suffix.lower() in IMAGE_SUFFIXES else tuple(sorted(IMAGE_SUFFIXES))
        tries = [name, *(f"{folder}/{name}" for folder in self.folders[:_FOLDERS_TRIED])]
        tries += [f"{inside}/{name}"] if self.has_folder(inside) else []
        with suppress(OSError, ValueError):  # a name that no file can have
            return any((self.root / f"{place}{ending}").is_file() for place in tries for ending in endings)
        return False

    def match(self, *patterns: str, depth: int = 2) -> list[str]:
        """Files whose own name is like one of the patterns, in so many folders at most."""
        near = (name for name in self.files if name.count("/") < depth)
        return [name for name in near if any(fnmatchcase(name.rpartition("/")[2], p) for p in patterns)]

    @cached_property
    def coco_files(self) -> list[_CocoFile]:
        """At the top and one folder below; those with a likely name first, of many only so many."""
        names = self.match("*.json")
        names.sort(key=lambda name: (not any(word in name.lower() for word in _LIKELY_JSON), name))
        found = []
        for name in names[:_MAX_JSONS]:
            path = self.root / name
            try:
                if path.stat().st_size > _MAX_JSON_BYTES:
                    continue
                content = json.loads(path.read_text("utf-8-sig"))
                image, annotation = content["images"][0], content["annotations"][0]
            except (ValueError, OSError, RecursionError, LookupError, TypeError):
                continue
            if isinstance(annotation, dict):
                found.append(_CocoFile(name, image, annotation))
        return sorted(found, key=lambda file: file.path)


def _guess_coco(folder: _Folder, is_panoptic: bool = False) -> Iterator[Settings]:
    files = {}
    for file in folder.coco_files:
        if ("segments_info" in file.annotation) == is_panoptic and (is_panoptic or "category_id" in file.annotation):
            images = _find_images(folder, file)
            if images is not None:
                files[file.path] = images
    if not files:
        return
    train = _choose(list(files), _TRAIN) or next(iter(files))
    evaluation = _choose([name for name in files if name != train], _EVALUATION)
    yield {
        "train_annotations": train,
        "train_images": files[train],
        "evaluation_annotations": evaluation,
        "evaluation_images": files[evaluation] if evaluation else None,
    }


def _choose(files: Sequence[str], words: tuple[str, ...]) -> str | None:
    """The first file that has one of the words in its name, or its folder's."""
    return next((name for word in words for name in files if word in "/".join(name.lower().split("/")[-2:])), None)


def _find_images(folder: _Folder, file: _CocoFile) -> str | None:
    """Folder, below root, in which the first picture of a JSON file lies."""
    try:
        name = name_image(file.image)
    except (KeyError, TypeError, AttributeError):
        return None
    if ".." in name.replace("\\", "/").split("/"):
        return None
    near = [file.path.rpartition("/")[0], "", *(f for f in folder.folders if f.count("/") < 2)]
    for inside in dict.fromkeys(near):
        with suppress(OSError):  # a name that no file can have
            if (folder.root / inside / name).is_file():
                return inside or "."
    return None


def _guess_coco_stuff_maps(folder: _Folder) -> Iterator[Settings]:
    names = ("labels.txt", "annotations/labels.txt", "annotations/stuff_train2017.json", "stuff_train2017.json")
    categories = [name for name in names if folder.has(name)]
    for masks in ("stuffthingmaps/{}", "annotations/stuff_{}_pixelmaps", "stuff_{}_pixelmaps", "annotations/{}"):
        own: Settings = {}
        for part, split in (("train", "train2017"), ("evaluation", "val2017")):
            images = [f for f in (split, f"images/{split}") if folder.has_folder(f)]
            inside = f"{masks.format(split)}/"
            if images and any(name.startswith(inside) and name.endswith(".png") for name in folder.pictures):
                own |= {f"{part}_images": images[0], f"{part}_masks": masks.format(split)}
        if categories and "train_images" in own:
            yield {"evaluation_images": None, **own, "categories": categories[0]}
            return


def _guess_visual_genome(folder: _Folder) -> Iterator[Settings]:
    if folder.has("objects.json"):
        yield {name: f"{name}.json" for name in ("image_data",) if folder.has(f"{name}.json")}


def _guess_broden(folder: _Folder) -> Iterator[Settings]:
    if folder.has("index.csv") and folder.has("label.csv"):
        yield {}


def _guess_ade20k(folder: _Folder) -> Iterator[Settings]:
    named = ("objectInfo150.txt", "sceneCategories.txt", "index_ade20k.mat", "index_ade20k.pkl")
    if any(map(folder.has, named)) or any(name.endswith("_seg.png") for name in folder.pictures):
        yield {}


def _guess_open_images(folder: _Folder) -> Iterator[Settings]:
    classes = folder.match("*class-descriptions*.csv")
    if not classes or not folder.match("*train-annotations-bbox.csv"):
        return
    own: Settings = {"classes": classes[0]}
    for setting, words in (("train", ("train",)), ("evaluation", ("validation", "val"))):
        for file, ending in (("boxes", "annotations-bbox"), ("masks", "annotations-object-segmentation")):
            found = [name for word in words for name in folder.match(f"*{word}-{ending}.csv")]
            own[f"{setting}_{file}"] = found[0] if found else None
        folders = [f for word in words for f in (word, f"images/{word}") if folder.has_folder(f)]
        own[f"{setting}_images"] = folders[0] if folders and own[f"{setting}_boxes"] else None
    if own["train_images"]:
        yield own


def _guess_pascal_voc(folder: _Folder) -> Iterator[Settings]:
    devkits = [f for f in folder.folders if f.rpartition("/")[2] == "JPEGImages"]
    if devkits:
        yield {"root": str(folder.root / devkits[0].rpartition("/")[0])}
    elif folder.match("*.xml", depth=3):
        yield {}


def _guess_yolo(folder: _Folder) -> Iterator[Settings]:
    if folder.match("*.yaml", "*.yml", "*.data", "classes.txt") and _has_texts_of_pictures(folder):
        yield {}


def _has_texts_of_pictures(folder: _Folder) -> bool:
    """Whether a text file is called as a picture is, or lies in a folder `labels`, or lists pictures."""
    texts = folder.match("*.txt", depth=_MAX_DEPTH)
    stems = {name.rpartition("/")[2].rpartition(".")[0] for name in folder.pictures}
    return any(
        "labels" in name.split("/")[:-1]
        or (stem := name.rpartition("/")[2].removesuffix(".txt")) in stems
        or _is_split(stem)
        for name in texts
    )


def _guess_huggingface(folder: _Folder) -> Iterator[Settings]:
    if folder.match("dataset_dict.json", "state.json", "dataset_info.json", "*.parquet"):
        yield from ({}, {"label": "labels"}, {"objects": "objects"}, {"mask": "annotation"}, {"mask": "mask"})


def _guess_webdataset(folder: _Folder) -> Iterator[Settings]:
    if folder.match("*.tar", depth=1):
        yield from ({"labels": ending} for ending in ("cls", "txt", "json"))


def _guess_csv(folder: _Folder) -> Iterator[Settings]:
    """A table of which a column names pictures; its labels are columns of 1 and 0, or in a column that is called so."""
    for name in folder.match("*.csv", depth=1)[:_MAX_TABLES]:
        path = (folder.root / name).absolute()
        try:
            table = read_table(path, "reference.file")
        except UserError:
            yield {"file": str(path)}  # its reader says why
            continue
        rows = [cells for _, cells in table.rows[:_ROWS_TRIED]]
        named = [sum(folder.has_picture(cells[column]) for cells in rows) for column in range(len(table.header))]
        if not any(named):
            continue
        image = named.index(max(named))
        own: Settings = {"file": str(path)} | ({"image_column": table.header[image]} if table.header[image] else {})
        others = [column for column, title in enumerate(table.header) if column != image and title]
        likely = [column for column in others if table.header[column].lower() in _LABEL_COLUMNS]
        if all(cells[column].strip().lower() in _YES_OR_NO for cells in rows for column in others):
            yield own
        elif likely or len(others) == 1:
            column = (likely or others)[0]
            texts = [cells[column] for cells in rows]
            separator = next((mark for mark in _SEPARATORS if any(mark in text for text in texts)), None)
            yield {**own, "label_column": table.header[column], **({"separator": separator} if separator else {})}
        else:
            yield own


def _guess_image_folder(folder: _Folder) -> Iterator[Settings]:
    classes = set()
    for name in folder.pictures:
        below = name.split("/")
        if len(below) > 1:
            classes.add(below[1] if _is_split(below[0]) and len(below) > 2 else below[0])
    if len({name for name in classes if name.lower() not in _LAYOUT_WORDS and not _is_split(name)}) > 1:
        yield {}


def _is_split(name: str) -> bool:
    """train, val2017, ..."""
    return name.lower().rstrip("0123456789_-") in _SPLITS


_GUESSES: dict[str, Callable[[_Folder], Iterator[Settings]]] = {
    "coco": _guess_coco,
    "coco_panoptic": lambda folder: _guess_coco(folder, is_panoptic=True),
    "coco_stuff_maps": _guess_coco_stuff_maps,
    "visual_genome": _guess_visual_genome,
    "broden": _guess_broden,
    "ade20k": _guess_ade20k,
    "open_images": _guess_open_images,
    "pascal_voc": _guess_pascal_voc,
    "yolo": _guess_yolo,
    "huggingface": _guess_huggingface,
    "webdataset": _guess_webdataset,
    "csv_labels": _guess_csv,
}
