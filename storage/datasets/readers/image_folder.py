"""Image folders: a class per folder with the whole picture as the mask, or no labels at all."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lavise.configs.errors import UserError
from lavise.configs.schema import ImageFolderReference, ImageFolderTarget
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord, Reference, require_folder, split_by_image
from lavise.storage.datasets.formats import Format, TargetFormat, register_format, register_target_format
from lavise.storage.images.images import IMAGE_SUFFIXES
from lavise.storage.images.picture_files import FoundPictures, describe_left_out, find_pictures
from lavise.storage.state.text import printable
from lavise.storage.words.wordnet import load_wordnet, offset_of

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_PART_OF_NAME = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}
_WNID = re.compile(r"n\d{8}", re.ASCII)
_SHOWN = 3


@dataclass(frozen=True)
class _Placed:
    """A picture in folders.

    Attributes:
        part: TRAIN, VALIDATION or TEST; empty where the folders are not split.
        folders: those that may be its class; none where it lies beside them.
    """

    path: Path
    part: str
    folders: tuple[str, ...]


def load_image_folder_reference(settings: ImageFolderReference, seed: int) -> Reference:
    """A folder below root is the class; `_` in its name reads as a space, an ImageNet number as its name.

    Where all folders below root are called train, val and the like, these are the parts, and classes are below them.

    Raises:
        UserError: no folder, no picture in a class folder, or a picture that is in both parts.
    """
    root = require_folder(settings.root, "reference.root")
    found = find_pictures(root, "reference", settings.follow_links)
    placed = _place(root, found.paths)
    left_out, notes = Counter(found.left_out), []
    if num_loose := sum(not p.folders for p in placed):
        left_out["picture in no class folder"] = num_loose
    inside = [p for p in placed if p.folders]
    if not inside:
        raise UserError(_say_nothing_found(root, placed, found))
    if settings.class_from is None and (note := _note_depth(inside)):
        notes.append(note)
    names = _ClassNames(settings.class_from or "first")
    records = {p.path: _make_record(root, p, names) for p in inside}
    concepts = tuple(sorted({r.annotations[0].concept for r in records.values()}))
    notes += names.list_notes()
    by_part: dict[str, list[ImageRecord]] = defaultdict(list)
    for picture in inside:
        by_part[picture.part].append(records[picture.path])
    kept = VALIDATION if by_part[VALIDATION] else TEST
    if by_part[TRAIN] and by_part[kept]:
        train, evaluation = by_part[TRAIN], by_part[kept]
        notes.append(f"the parts are the folders of root: {TRAIN} to train on, {kept} to evaluate on")
        if kept == VALIDATION and by_part[TEST]:
            left_out[f"picture of the folder {TEST}, beside one for validation"] = len(by_part[TEST])
        _require_disjoint(train, evaluation)
    else:
        train, evaluation = split_by_image(list(records.values()), settings.evaluation_share, seed)
    return Reference(
        Dataset(f"{root.name}/train", tuple(train), concepts, left_out=dict(left_out), notes=tuple(notes)),
        Dataset(f"{root.name}/evaluation", tuple(evaluation), concepts),
    )


def load_image_folder_target(settings: ImageFolderTarget) -> Dataset:
    """All pictures below root, without any label.

    Raises:
        UserError: no folder, or no picture in it.
    """
    root = require_folder(settings.root, "target.root")
    found = find_pictures(root, "target", settings.follow_links)
    if not found.paths:
        raise UserError(
            f"target.root: no pictures below {root}{_describe_rest(found)}; allowed: "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}, or no ending"
        )
    records = tuple(ImageRecord(p.relative_to(root).as_posix(), p) for p in found.paths[: settings.max_images])
    return Dataset(root.name, records, left_out=found.left_out)


def list_class_folders(root: Path) -> dict[str, str]:
    """The class of each folder that the reader takes for one, in the order in which trainers number their outputs:
    that of the folders' own names (torchvision's ImageFolder). Of a split data set, those of the training part."""
    placed = _place(root, find_pictures(root, "reference").paths)
    names = _ClassNames("first")
    return {f: names.name((f,)) for f in sorted({p.folders[0] for p in placed if p.folders and p.part in ("", TRAIN)})}


def _place(root: Path, paths: Sequence[Path]) -> list[_Placed]:
    parts_of = {path: path.relative_to(root).parts[:-1] for path in paths}
    tops = {folders[0] for folders in parts_of.values() if folders}
    is_split = bool(tops) and all(top.lower() in _PART_OF_NAME for top in tops)
    # A single folder `train` with pictures in it may as well be a class of vehicles.
    if is_split and (len(tops) > 1 or any(len(folders) > 1 for folders in parts_of.values())):
        return [
            _Placed(path, _PART_OF_NAME[folders[0].lower()] if folders else "", folders[1:])
            for path, folders in parts_of.items()
        ]
    return [_Placed(path, "", folders) for path, folders in parts_of.items()]


def _make_record(root: Path, placed: _Placed, names: _ClassNames) -> ImageRecord:
    concept = names.name(placed.folders)
    return ImageRecord(placed.path.relative_to(root).as_posix(), placed.path, (Annotation(concept),))


class _ClassNames:
    """Names of classes from folders, and what has to be said about them."""

    def __init__(self, class_from: Literal["first", "last", "path"]) -> None:
        self._class_from = class_from
        self._folders_of: dict[str, set[str]] = defaultdict(set)  # by name, those that are ImageNet numbers
        self._unknown: set[str] = set()

    def name(self, folders: tuple[str, ...]) -> str:
        if self._class_from == "path":
            return " ".join(self._read(folder) for folder in folders)
        return self._read(folders[0] if self._class_from == "first" else folders[-1])

    def _read(self, folder: str) -> str:
        if not _WNID.fullmatch(folder):
            return folder.replace("_", " ")
        synset = load_wordnet().synsets.get(offset_of(folder))
        if synset is None:
            self._unknown.add(folder)
            return folder
        name = synset.lemmas[0].lower()
        self._folders_of[name].add(folder)
        return name

    def list_notes(self) -> list[str]:
        """A line each: numbers that got names, those that share one, and those that have none."""
        lines = []
        if self._folders_of:
            number = sum(len(folders) for folders in self._folders_of.values())
            first = min((folder, name) for name, folders in self._folders_of.items() for folder in folders)
            lines.append(f"{number} folders are ImageNet's numbers and got WordNet's names: {first[0]} is {first[1]!r}")
        if shared := {name: sorted(own) for name, own in sorted(self._folders_of.items()) if len(own) > 1}:
            shown = "; ".join(f"{' and '.join(own)} are {name!r}" for name, own in list(shared.items())[:_SHOWN])
            lines.append(
                f"{len(shared)} categories are several of ImageNet's classes that have one name, since a category is a "
                f"word: {shown}"
            )
        if self._unknown:
            lines.append(
                f"{len(self._unknown)} folders look like ImageNet's numbers, but WordNet 3.0 has no such noun, for "
                f"example {min(self._unknown)}; they keep their names"
            )
        return lines


def _note_depth(inside: Sequence[_Placed]) -> str:
    deep = [p for p in inside if len(p.folders) > 1]
    if not deep:
        return ""
    first, *_, last = (printable(name) for name in deep[0].folders)
    return (
        f"{len(deep)} of {len(inside)} pictures lie deeper than one folder: the class is the first ({first!r}, not "
        f"{last!r}); set reference.class_from to first, last or path"
    )


def _say_nothing_found(root: Path, placed: Sequence[_Placed], found: FoundPictures) -> str:
    if any(p.part for p in placed):
        return (
            f"reference.root: no pictures in class folders below the folders "
            f"{', '.join(sorted({p.path.relative_to(root).parts[0] for p in placed if p.part}))} of "
            f"{root}{_describe_rest(found)}; allowed: ROOT/train/CLASS/picture.jpg"
        )
    return (
        f"reference.root: no pictures in class folders below {root}{_describe_rest(found)}; "
        "allowed: ROOT/CLASS/picture.jpg"
    )


def _describe_rest(found: FoundPictures) -> str:
    return f" ({describe_left_out(found.left_out)})" if found.left_out else ""


def _require_disjoint(train: Sequence[ImageRecord], evaluation: Sequence[ImageRecord]) -> None:
    own: Mapping[Path, str] = {record.file.resolve(): record.key for record in train}
    both = [(own[real], record.key) for record in evaluation if (real := record.file.resolve()) in own]
    if both:
        one, other = (printable(key) for key in both[0])
        raise UserError(
            f"reference.root: {len(both)} pictures are in both parts, for example {one} and {other} are one file; "
            "allowed: parts without a common picture"
        )


register_format("image_folder", Format(load_image_folder_reference))
register_target_format("image_folder", TargetFormat(load_image_folder_target))
