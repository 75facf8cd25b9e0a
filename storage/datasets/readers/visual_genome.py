"""Visual Genome objects: boxes, categories merged by synset, instances of one category in one picture merged."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError
from lavise.configs.schema import VisualGenomeReference
from lavise.storage.datasets.base import (
    Annotation,
    Dataset,
    ImageRecord,
    Reference,
    require_file,
    require_folder,
    split_by_image,
)
from lavise.storage.datasets.formats import Format, register_format
from lavise.storage.images.images import BrokenImageError, read_size

Box = tuple[float, float, float, float]
Words = dict[str, list[Box]]

_NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)
# What comes of JSON that is something else, of numbers that are none, and of endless nesting.
_NOT_OF_THIS_FORM = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
_ONE_OF = {"objects": "object", "attributes": "attribute", "relationships": "relationship"}
_LACKING = {"objects": "a synset", "attributes": "a text", "relationships": "a predicate"}


def load_visual_genome_reference(settings: VisualGenomeReference, seed: int) -> Reference:
    """Read objects.json, split by picture, drop the categories that are rare in the training part.

    A category is a synset; its name is the synset's lemma with spaces (`fire_hydrant.n.01` -> `fire hydrant`). Synsets
    that share a lemma share a word vector, so they are one category. What is left out is counted.

    Raises:
        UserError: a folder or file is missing, not Visual Genome's, or no category is frequent enough.
    """
    root = require_folder(settings.root, "reference.root")
    folders = [require_folder(root / f, "reference.image_folders") for f in settings.image_folders]
    skipped: Counter[str] = Counter()
    entries = _read(root, settings.objects, "objects")
    kept_ids = sorted(entries)[: settings.max_images]
    words: dict[int, Words] = {number: {} for number in kept_ids}
    by_name = settings.without_synset == "name"
    _collect(root / settings.objects, "objects", entries, words, lambda item: _read_object(item, by_name), skipped)
    if settings.attributes is not None:
        found = _read(root, settings.attributes, "attributes")
        _collect(root / settings.attributes, "attributes", found, words, _read_attributes, skipped)
    if settings.relationships is not None:
        found = _read(root, settings.relationships, "relationships")
        _collect(root / settings.relationships, "relationships", found, words, _read_relationship, skipped)
    sizes = {} if settings.image_data is None else _read_sizes(root / settings.image_data)
    words = {number: _keep_inside(own, number, sizes, skipped) for number, own in words.items()}
    records = []
    for number, own in words.items():
        path = _find_image(folders, number)
        if path is None:
            skipped["image without a file"] += 1
            continue
        _check_size(path, number, sizes)
        annotations = tuple(Annotation(name, boxes=tuple(own[name])) for name in sorted(own))
        records.append(ImageRecord(path.relative_to(root).as_posix(), path, annotations))
    train, evaluation = split_by_image(records, settings.evaluation_share, seed)
    images_with = Counter(a.concept for r in train for a in r.annotations)
    concepts = tuple(sorted(c for c, n in images_with.items() if n >= settings.min_images))
    if not concepts and not images_with and skipped["object without a synset"]:
        raise UserError(
            f"{root / settings.objects}: none of {skipped['object without a synset']} objects has a synset; "
            "set reference.without_synset=name to take their names"
        )
    if not concepts:
        raise UserError(
            f"reference.min_images: found {settings.min_images}; no category is in so many of the {len(train)} "
            f"training pictures; allowed here: at most {max(images_with.values(), default=0)}"
        )
    rare = [len(a.boxes) for r in records for a in r.annotations if a.concept not in set(concepts)]
    if rare:
        skipped["object of a rare category"] = sum(rare)
    name = root.name
    return Reference(
        Dataset(f"{name}/train", _keep(train, concepts), concepts, dict(skipped)),
        Dataset(f"{name}/evaluation", _keep(evaluation, concepts), concepts, {}),
    )


def _read(root: Path, name: str, part: str) -> dict[int, list[Any]]:
    """The entries of a file by the picture's id, which is `image_id`, or `id` in version 1.0.

    Raises:
        UserError: it is missing, or not of this form.
    """
    file = require_file(root / name, f"reference.{part}")
    try:
        entries = json.loads(file.read_text("utf-8-sig"))
        found = {_read_id(entry): entry[part] for entry in entries}
        if not all(isinstance(items, list) for items in found.values()):
            raise TypeError(f"{part} is no list")
    except _NOT_OF_THIS_FORM as err:
        raise UserError(f"{file}: not Visual Genome {part} ({err}); allowed: a list of image_id and {part}") from None
    if len(found) != len(entries):
        raise UserError(f"{file}: an image_id stands twice")
    return found


def _read_id(entry: Mapping[str, Any]) -> int:
    return int(entry["image_id"] if "image_id" in entry else entry["id"])


def _collect(
    file: Path,
    part: str,
    entries: Mapping[int, list[Any]],
    words: Mapping[int, Words],
    read: Callable[[Mapping[str, Any]], Iterator[tuple[str | None, Box]]],
    skipped: Counter[str],
) -> None:
    """Add the words with their boxes to those of the pictures that are taken.

    Raises:
        UserError: an entry is not of its form.
    """
    for number, own in words.items():
        try:
            for item in entries.get(number, ()):
                for name, box in read(item):
                    if name is None:
                        skipped[f"{_ONE_OF[part]} without {_LACKING[part]}"] += 1
                    elif box[2] < 1 or box[3] < 1:
                        skipped[f"{_ONE_OF[part]} with an empty box"] += 1
                    else:
                        own.setdefault(name, []).append(box)
        except _NOT_OF_THIS_FORM as err:
            raise UserError(
                f"{file}: not Visual Genome {part}: image_id {number}: {_ONE_OF[part]} without usable x, y, w, h or "
                f"{_LACKING[part]} ({err})"
            ) from None


def _read_object(item: Mapping[str, Any], by_name: bool) -> Iterator[tuple[str | None, Box]]:
    synset = _find_synset(item)
    if synset is not None:
        yield synset.rsplit(".", 2)[0].replace("_", " "), _read_box(item)
        return
    names = item.get("names") or ([item["name"]] if item.get("name") else [])
    name = _clean(names[0]) if by_name and names else ""
    yield (name, _read_box(item)) if name else (None, _NO_BOX)


def _find_synset(item: Mapping[str, Any]) -> str | None:
    """`dog.n.01`, which version 1.0 has in an object of its own in some files."""
    synsets = item.get("synsets") or []
    if not synsets:
        return None
    first = synsets[0]
    return str(first["synset_name"] if isinstance(first, Mapping) else first)


def _read_box(item: Mapping[str, Any]) -> Box:
    width = item["w"] if "w" in item else item["width"]
    height = item["h"] if "h" in item else item["height"]
    box = (float(item["x"]), float(item["y"]), float(width), float(height))
    if not all(map(math.isfinite, box)):
        raise ValueError(f"box {box}")
    return box


def _read_attributes(item: Mapping[str, Any]) -> Iterator[tuple[str | None, Box]]:
    for attribute in dict.fromkeys(_clean(text) for text in item.get("attributes") or ()):
        yield attribute or None, _read_box(item)


def _read_relationship(item: Mapping[str, Any]) -> Iterator[tuple[str | None, Box]]:
    predicate = _clean(item["predicate"]) or None
    for end in ("subject", "object"):
        yield predicate, _read_box(item[end])


def _clean(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    return " ".join(text.casefold().split()).strip(".")


def _read_sizes(file: Path) -> dict[int, tuple[int, int]]:
    """(height, width) by the picture's id."""
    require_file(file, "reference.image_data")
    try:
        entries = json.loads(file.read_text("utf-8-sig"))
        return {_read_id(e): (int(e["height"]), int(e["width"])) for e in entries}
    except _NOT_OF_THIS_FORM as err:
        raise UserError(
            f"{file}: not Visual Genome image data ({err}); allowed: a list of image_id, width and height"
        ) from None


def _check_size(path: Path, number: int, sizes: Mapping[int, tuple[int, int]]) -> None:
    """The boxes are in pixels of the picture that was annotated.

    Raises:
        UserError: the file has another size; one that cannot be read is the extraction's to count.
    """
    if number not in sizes:
        return
    try:
        found = read_size(path)
    except BrokenImageError:
        return
    if found != sizes[number]:
        height, width = sizes[number]
        raise UserError(
            f"{path}: found {found[1]} x {found[0]} pixels, but the boxes are for {width} x {height}; "
            "allowed: the pictures as Visual Genome has them"
        )


def _keep_inside(own: Words, number: int, sizes: Mapping[int, tuple[int, int]], skipped: Counter[str]) -> Words:
    """Without boxes of which nothing lies in the picture."""
    if number not in sizes:
        return own
    height, width = sizes[number]
    kept: Words = {}
    for name, boxes in own.items():
        inside = [(x, y, w, h) for x, y, w, h in boxes if x < width and y < height and x + w > 0 and y + h > 0]
        if len(inside) < len(boxes):
            skipped["box outside its picture"] += len(boxes) - len(inside)
        if inside:
            kept[name] = inside
    return kept


def _find_image(folders: list[Path], image_id: int) -> Path | None:
    return next((p for folder in folders if (p := folder / f"{image_id}.jpg").is_file()), None)


def _keep(records: list[ImageRecord], concepts: tuple[str, ...]) -> tuple[ImageRecord, ...]:
    kept = set(concepts)
    return tuple(ImageRecord(r.key, r.path, tuple(a for a in r.annotations if a.concept in kept)) for r in records)


def _list_files(settings: VisualGenomeReference) -> dict[str, tuple[str, ...]]:
    optional = {name: getattr(settings, name) for name in ("attributes", "relationships", "image_data")}
    return {
        "objects": (settings.objects,),
        "image_folders": settings.image_folders,
        **{name: (file,) for name, file in optional.items() if file is not None},
    }


register_format("visual_genome", Format(load_visual_genome_reference, _list_files))
