"""COCO panoptic: things and stuff as segments of a PNG per picture; the number of a segment is R + 256 G + 256² B.

Shape legend: H, W pixels of a PNG.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lavise.configs.errors import UserError
from lavise.configs.schema import CocoPanopticReference
from lavise.storage.array_types import IntArray
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord, Reference, require_folder, resolve_inside
from lavise.storage.datasets.formats import Format, register_format
from lavise.storage.datasets.readers.coco import Source, list_split_files, open_pictures, read_both_parts
from lavise.storage.datasets.readers.coco_crowds import is_marked
from lavise.storage.datasets.readers.coco_file import CocoFile, Entry, read_coco_file
from lavise.storage.datasets.readers.coco_frames import Frame
from lavise.storage.datasets.readers.coco_masks import encode_mask
from lavise.storage.images.images import DECODER_ERRORS
from lavise.storage.state.progress import log_progress
from lavise.storage.state.text import one_line, printable

WHAT = "COCO panoptic"
_THREADS = 4
_VOID = 0


def load_coco_panoptic_reference(settings: CocoPanopticReference, seed: int = 0) -> Reference:
    """Both splits; of one file, by picture.

    Raises:
        UserError: a folder or file is missing or not COCO panoptic, or a picture is in both splits.
    """
    folders = [settings.train_masks, settings.evaluation_masks]

    def read(sources: Sequence[Source], names: Sequence[str]) -> list[Dataset]:
        found = []
        for source, name, given, part in zip(sources, names, folders, ("train", "evaluation"), strict=False):
            masks = source.annotations.with_suffix("") if given is None else settings.root / given
            masks = require_folder(masks, f"reference.{part}_masks")
            found.append(load_coco_panoptic(source, masks, name, settings.crowds == "use", settings.max_images))
        return found

    return read_both_parts(settings, seed, read)


def load_coco_panoptic(
    source: Source, masks: Path, name: str, use_crowds: bool = False, max_images: int | None = None
) -> Dataset:
    """Read one file and its PNGs.

    Args:
        masks: folder of the PNGs.

    Raises:
        UserError: not COCO panoptic, an id that stands twice or points nowhere, a name that leaves its folder, or a PNG
            that is none or of another size.
    """
    file = read_coco_file(source.annotations, WHAT)
    concepts = file.name_categories()
    ids = [i["id"] for i in file.images][:max_images]
    if not ids:
        raise UserError(f"{file.path}: no images; allowed: {WHAT} with at least one")
    by_image = _index_annotations(file, concepts)
    opened = open_pictures(file, source.images, ids, frozenset(by_image))
    skipped: Counter[str] = Counter()
    missing = []
    jobs: list[tuple[Any, Entry, Path, Frame]] = []
    for i in (i for i in ids if i in by_image):
        path = resolve_inside(masks, _name_png(by_image[i], opened.keys[i]))
        if not path.is_file():
            missing.append(path.name)
        elif i in opened.frames:
            jobs.append((i, by_image[i], path, opened.frames[i]))
    if missing and not jobs:
        raise UserError(
            f"{file.path}: none of its {len(missing)} PNGs is in {masks}, for example {printable(missing[0])!r}; set "
            "reference.train_masks and reference.evaluation_masks"
        )
    if missing:
        skipped["picture without its PNG"] = len(missing)
    segments: dict[Any, tuple[Annotation, ...]] = {}

    def read(job: tuple[Any, Entry, Path, Frame]) -> tuple[tuple[Annotation, ...], dict[str, int]]:
        return _read_segments(job[1], job[2], job[3], concepts, use_crowds, file.path)

    with log_progress("panoptic masks", len(jobs)) as bar, ThreadPoolExecutor(_THREADS) as pool:
        for job, (found, left_out) in zip(jobs, pool.map(read, jobs), strict=True):
            bar.advance()
            segments[job[0]] = found
            skipped.update(left_out)
    records = tuple(ImageRecord(opened.keys[i], opened.paths[i], segments.get(i, ())) for i in ids)
    notes = [*opened.notes]
    if skipped["crowd"]:
        notes.append(f"{skipped['crowd']:,} segments are crowds and left out; reference.crowds=use reads them")
    left_out = {reason: number for reason, number in skipped.items() if number}
    return Dataset(name, records, tuple(concepts.values()), left_out, notes=tuple(notes), noted=frozenset({"crowd"}))


def find_segment_ids(path: Path) -> IntArray:
    """Numbers of the segments, int64 [H, W]; 0 where there is none.

    Raises:
        UserError: no PNG of 8 bits in three colours.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in {"RGB", "RGBA"}:
                raise ValueError(f"its mode is {picture.mode}")
            colours = np.asarray(picture, dtype=np.int64)
    except DECODER_ERRORS as err:
        raise UserError(f"{path}: not a PNG of segments ({one_line(err)}); allowed: RGB with 8 bits") from None
    return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]


def _index_annotations(file: CocoFile, concepts: Mapping[Any, str]) -> dict[Any, Entry]:
    """The annotation of each picture, by the picture's id."""
    known = {i["id"] for i in file.images}
    found: dict[Any, Entry] = {}
    for entry in file.annotations:
        image = entry["image_id"]
        if image not in known or image in found:
            raise UserError(f"{file.path}: image_id {image!r} stands twice in annotations, or in no image of the file")
        segments = entry.get("segments_info")
        try:
            numbers = [int(s["id"]) for s in segments]  # type: ignore[union-attr]
            lost = [s["category_id"] for s in segments if s["category_id"] not in concepts]  # type: ignore[union-attr]
        except (TypeError, KeyError, ValueError, OverflowError) as err:
            raise UserError(
                f"{file.path}: not {WHAT}: image_id {image!r} has no usable segments_info ({one_line(err)}); allowed: "
                "a list of id and category_id"
            ) from None
        if lost or len(set(numbers)) != len(numbers):
            fault = f"the category {lost[0]!r}, which the file does not have" if lost else "a segment's id twice"
            raise UserError(f"{file.path}: image_id {image!r} has {fault}; allowed: each segment once")
        found[image] = entry
    return found


def _name_png(entry: Entry, key: str) -> str:
    name = entry.get("file_name")
    return name if isinstance(name, str) and name else Path(key).with_suffix(".png").name


def _read_segments(
    entry: Entry, path: Path, frame: Frame, concepts: Mapping[Any, str], use_crowds: bool, where: Path
) -> tuple[tuple[Annotation, ...], dict[str, int]]:
    """Masks of one picture, in the file's order; and what is left out, by reason."""
    ids_HW = find_segment_ids(path)
    if ids_HW.shape != frame.labelled:
        raise UserError(
            f"{where}: {printable(path.name)!r} has {ids_HW.shape[1]} x {ids_HW.shape[0]} pixels, its picture "
            f"{frame.labelled[1]} x {frame.labelled[0]} (width x height); allowed: the same"
        )
    there = frozenset(np.unique(ids_HW).tolist())
    skipped: Counter[str] = Counter()
    if not frame.is_same:
        ids_HW = frame.move_pixels(ids_HW)
    found = []
    for segment in entry["segments_info"]:
        number = int(segment["id"])
        if number not in there or number == _VOID:
            skipped["segment without pixels"] += 1
        elif is_marked(segment, where) and not use_crowds:
            skipped["crowd"] += 1
        else:
            found.append(Annotation(concepts[segment["category_id"]], rle=encode_mask(ids_HW == number)))
    listed = {int(s["id"]) for s in entry["segments_info"]}
    if unlisted := len(there - listed - {_VOID}):
        skipped["segment that the JSON does not list"] += unlisted
    return tuple(found), dict(skipped)


def _list_files(settings: CocoPanopticReference) -> dict[str, tuple[str, ...]]:
    needed = list_split_files(settings)
    for part in ("train", "evaluation"):
        if (key := f"{part}_annotations") in needed:
            given = getattr(settings, f"{part}_masks")
            needed[f"{part}_masks"] = (given or str(Path(needed[key][0]).with_suffix("")),)
    return needed


register_format("coco_panoptic", Format(load_coco_panoptic_reference, _list_files))
