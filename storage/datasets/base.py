"""What every data set is once it is read: pictures with pairs (concept t, mask M)."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from lavise.configs.errors import UserError
from lavise.storage.array_types import BoolArray
from lavise.storage.images.inner_files import PictureFile
from lavise.storage.packed_list import PackedList
from lavise.storage.state.digest import digest_files, digest_of, digest_of_each
from lavise.storage.state.progress import Progress, no_progress

_MAX_NAME_BYTES = 255  # of a file, on all that Linux has


@dataclass(frozen=True, slots=True)
class Annotation:
    """One pair (concept, mask). The mask is kept small and made when asked for.

    Attributes:
        concept: name of the category.
        rle: COCO run lengths ({size: [h, w], counts}), or None.
        boxes: (x, y, width, height) in pixels, filled with 1; several are united. Empty with no rle: whole picture.
    """

    concept: str
    rle: Mapping[str, Any] | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()

    def make_mask(self, height: int, width: int) -> BoolArray:
        """bool [height, width].

        Raises:
            ValueError: the run lengths are for a picture of another size.
        """
        if self.rle is not None:
            if tuple(self.rle["size"]) != (height, width):
                raise ValueError(f"mask is for {tuple(self.rle['size'])}, picture is {(height, width)} (height, width)")
            from pycocotools import mask as coco_mask

            return np.asarray(coco_mask.decode(dict(self.rle)), dtype=bool)
        if not self.boxes:
            return np.ones((height, width), dtype=bool)
        mask = np.zeros((height, width), dtype=bool)
        for x, y, box_width, box_height in self.boxes:
            # Half up, not to even: a box of one pixel stays one pixel wherever it lies. A sum may be infinite.
            left, right = (math.floor(min(max(v, 0), width) + 0.5) for v in (x, x + box_width))
            top, bottom = (math.floor(min(max(v, 0), height) + 0.5) for v in (y, y + box_height))
            mask[top:bottom, left:right] = True
        return mask


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One picture.

    Attributes:
        key: its path below the data set's root, or its name in what it lies in; unique in the data set.
        path: where it lies: a file of its own, or a place inside one.
        value_range: of a grey picture with more than 8 bits: the values that become black and white. None: by format.
        looked_for: concepts whose absence is known: without a label they are not on the picture. Of others nothing is
            known. None: all of the data set.
    """

    key: str
    path: PictureFile
    annotations: tuple[Annotation, ...] = ()
    value_range: tuple[float, float] | None = None
    looked_for: frozenset[str] | None = None

    @property
    def file(self) -> Path:
        """A file of its own; ValueError where it lies inside another one."""
        if not isinstance(self.path, Path):
            raise ValueError(f"{self.key!r} is no file of its own")
        return self.path


@dataclass(frozen=True)
class Dataset:
    """Pictures in a fixed order.

    Attributes:
        name: for people, for example `coco/train2017`.
        records: in the data set's own order; whatever is given is kept packed.
        concepts: the category names, in the data set's own order; empty where there are no labels.
        skipped: masks and labels that were left out while reading, by reason.
        left_out: files that were left out while reading, by reason.
        notes: what was read otherwise than it stands in the files, or is worth knowing of them; a line each.
        noted: reasons of `skipped` of which a note says everything already, with their number.
    """

    name: str
    records: Sequence[ImageRecord]
    concepts: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    noted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.records, PackedList):
            object.__setattr__(self, "records", PackedList(self.records))

    @cached_property
    def by_key(self) -> Mapping[str, ImageRecord]:
        """The records by their keys, each made when it is asked for."""
        return _RecordsByKey(self.records)

    def list_left_out(self) -> list[tuple[str, int]]:
        """Files, masks and labels that were left out: reason and number, without those that notes tell."""
        return [*self.left_out.items(), *((r, n) for r, n in self.skipped.items() if r not in self.noted)]

    def digest_images(self, progress: Progress = no_progress) -> str:
        """sha256 over the pictures' names, sizes and contents, their order, and ranges of values that are not their
        format's; labels do not matter."""
        contents = digest_files({r.key: r.path for r in self.records}, progress)
        ranges = [r.value_range for r in self.records]
        facts = {"contents": contents, "order": [r.key for r in self.records]}
        return digest_of({**facts, "value_ranges": [list(r) if r else 0 for r in ranges] if any(ranges) else None})

    def compute_digest(self, pictures: str | None = None) -> str:
        """sha256 over the pictures (their digest, where it is known already), the pairs and the concepts."""
        pairs = ([r.key, [_describe(a) for a in r.annotations]] for r in self.records)
        return digest_of(
            {
                "pictures": pictures or self.digest_images(),
                "pairs": digest_of_each(pairs),
                "concepts": list(self.concepts),
                "looked_for": self._describe_looked_for(),
            }
        )

    def _describe_looked_for(self) -> dict[str, Any] | None:
        """The different sets, and of each picture the number of its set, -1 for all; None where it is all of them."""
        number: dict[frozenset[str], int] = {}
        of_record = [-1 if r.looked_for is None else number.setdefault(r.looked_for, len(number)) for r in self.records]
        return {"sets": [sorted(own) for own in number], "of": of_record} if number else None

    def count_images_with(self) -> Counter[str]:
        """Number of pictures that each concept is in."""
        return Counter(c for r in self.records for c in {a.concept for a in r.annotations})

    def without_labels(self) -> Dataset:
        """The same pictures, with no pairs and no concepts: what a target domain is."""
        records = PackedList(replace(r, annotations=(), looked_for=None) for r in self.records)
        return Dataset(self.name, records, left_out=self.left_out, notes=self.notes)


class _RecordsByKey(Mapping[str, ImageRecord]):
    """Positions by key are kept, records are not."""

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        self._records = records
        self._position = {record.key: at for at, record in enumerate(records)}

    def __getitem__(self, key: str) -> ImageRecord:
        return self._records[self._position[key]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._position)

    def __len__(self) -> int:
        return len(self._position)


def mark_looked_for(records: Sequence[ImageRecord], concepts: Sequence[str]) -> BoolArray | None:
    """bool [N, K]: of which concepts it is known whether they are on a picture; None where of all on all pictures.

    What has a label is known to be there, whether it was looked for or not.
    """
    if all(r.looked_for is None for r in records):
        return None
    columns: dict[frozenset[str] | None, BoolArray] = {None: np.ones(len(concepts), dtype=bool)}
    number = {concept: k for k, concept in enumerate(concepts)}
    known = np.empty((len(records), len(concepts)), dtype=bool)
    for row, record in enumerate(records):
        asked = record.looked_for
        if asked not in columns:
            columns[asked] = np.array([asked is None or c in asked for c in concepts], dtype=bool)
        known[row] = columns[asked]
        known[row, [number[a.concept] for a in record.annotations if a.concept in number]] = True
    return known


@dataclass(frozen=True)
class Reference:
    """The reference data set B: a part to train on and a part to evaluate on, with no picture in both."""

    train: Dataset
    evaluation: Dataset


def split_by_image(
    records: Sequence[ImageRecord], share: float, seed: int
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """(rest, chosen): a share of the pictures drawn without replacement; both keep the given order, neither is empty.

    Raises:
        UserError: fewer than two pictures.
    """
    if len(records) < 2:
        raise UserError(f"reference: found {len(records)} pictures; a split by picture needs at least 2")
    num_chosen = min(max(round(share * len(records)), 1), len(records) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(records))[:num_chosen].tolist())
    return (
        [r for i, r in enumerate(records) if i not in chosen],
        [r for i, r in enumerate(records) if i in chosen],
    )


class TooLongNameError(UserError):
    """No file can be called so."""


def resolve_inside(root: Path, name: str) -> Path:
    """The path of `name` below `root`.

    Raises:
        UserError: the name leads out of the root (absolute, `..`, or a link), or no file can have it.
    """
    path = root / name
    try:
        inside = "\0" not in name and path.resolve().is_relative_to(root.resolve())
        if any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in PurePath(name).parts):
            raise TooLongNameError(
                f"data set: found the file name {name[:80]!r}... of {len(name):,} characters; allowed: names of up to "
                f"{_MAX_NAME_BYTES} bytes between slashes"
            )
    except (OSError, RuntimeError, UnicodeError):  # a link that leads to itself; half a character
        inside = False
    if not inside:
        raise UserError(f"data set: file name {name!r} leads out of {root}; allowed: names below that folder")
    return path


def require_folder(path: Path, setting: str) -> Path:
    """The folder, or a clear error that names the setting."""
    if not path.is_dir():
        raise UserError(
            f"{setting}: found {str(path)!r}, which is no folder; set it, for example with --set {setting}=PATH"
        )
    return path


def require_file(path: Path, setting: str) -> Path:
    """The file, or a clear error that names the setting."""
    if not path.is_file():
        raise UserError(
            f"{setting}: found {str(path)!r}, which is no file; set it, for example with --set {setting}=PATH"
        )
    return path


def _describe(annotation: Annotation) -> list[Any]:
    rle = annotation.rle
    counts = None
    if rle is not None:
        raw = rle["counts"]
        counts = [list(rle["size"]), raw.decode("ascii") if isinstance(raw, bytes) else raw]
    return [annotation.concept, counts, [list(b) for b in annotation.boxes]]
