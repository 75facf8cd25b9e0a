"""Visual Genome objects: boxes, categories merged by synset, instances of one category in one picture merged."""

from __future__ import annotations

import json
from collections import Counter
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

Box = tuple[float, float, float, float]


def load_visual_genome_reference(settings: VisualGenomeReference, seed: int) -> Reference:
    """Read objects.json, split by picture, drop the categories that are rare in the training part.

    A category is a synset; its name is the synset's lemma with spaces (`fire_hydrant.n.01` -> `fire hydrant`). Synsets
    that share a lemma share a word vector, so they are one category. Objects without a synset are skipped and counted.

    Raises:
        UserError: a folder or file is missing, not Visual Genome's, or no category is frequent enough.
    """
    root = require_folder(settings.root, "reference.root")
    file = require_file(root / settings.objects, "reference.objects")
    folders = [require_folder(root / f, "reference.image_folders") for f in settings.image_folders]
    skipped: Counter[str] = Counter()
    records = []
    for entry in sorted(_read(file), key=lambda e: int(e["image_id"]))[: settings.max_images]:
        try:
            boxes = _collect_boxes(entry, skipped)
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise UserError(
                f"{file}: not Visual Genome objects: image_id {entry['image_id']} has an object without "
                f"usable x, y, w, h or synsets ({err})"
            ) from None
        path = _find_image(folders, int(entry["image_id"]))
        if path is None:
            skipped["image without a file"] += 1
            continue
        annotations = tuple(Annotation(name, boxes=tuple(boxes[name])) for name in sorted(boxes))
        records.append(ImageRecord(path.relative_to(root).as_posix(), path, annotations))
    train, evaluation = split_by_image(records, settings.evaluation_share, seed)
    images_with = Counter(a.concept for r in train for a in r.annotations)
    concepts = tuple(sorted(c for c, n in images_with.items() if n >= settings.min_images))
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


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(file.read_text("utf-8"))
        ids = [int(e["image_id"]) for e in entries]
        if not all(isinstance(e["objects"], list) for e in entries):
            raise TypeError("objects is no list")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as err:
        raise UserError(f"{file}: not Visual Genome objects ({err}); allowed: a list of image_id and objects") from None
    if len(set(ids)) != len(ids):
        raise UserError(f"{file}: an image_id stands twice")
    return list(entries)


def _collect_boxes(entry: dict[str, Any], skipped: Counter[str]) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    for item in entry["objects"]:
        synsets = item.get("synsets") or []
        if not synsets:
            skipped["object without a synset"] += 1
            continue
        box = (float(item["x"]), float(item["y"]), float(item["w"]), float(item["h"]))
        if box[2] < 1 or box[3] < 1:
            skipped["object with an empty box"] += 1
            continue
        name = str(synsets[0]).rsplit(".", 2)[0].replace("_", " ")
        boxes.setdefault(name, []).append(box)
    return boxes


def _find_image(folders: list[Path], image_id: int) -> Path | None:
    return next((p for folder in folders if (p := folder / f"{image_id}.jpg").is_file()), None)


def _keep(records: list[ImageRecord], concepts: tuple[str, ...]) -> tuple[ImageRecord, ...]:
    kept = set(concepts)
    return tuple(ImageRecord(r.key, r.path, tuple(a for a in r.annotations if a.concept in kept)) for r in records)


def _list_files(settings: VisualGenomeReference) -> dict[str, tuple[str, ...]]:
    return {"objects": (settings.objects,), "image_folders": settings.image_folders}


register_format("visual_genome", Format(load_visual_genome_reference, _list_files))
