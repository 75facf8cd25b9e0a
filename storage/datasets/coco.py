"""COCO instances, through pycocotools: polygons, run lengths, crowds, category ids with gaps."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from lavise.configs.errors import UserError
from lavise.configs.schema import CocoReference
from lavise.storage.datasets.base import (
    Annotation,
    Dataset,
    ImageRecord,
    Reference,
    require_file,
    require_folder,
    resolve_inside,
)
from lavise.storage.datasets.formats import Format, register_format


def load_coco_reference(settings: CocoReference) -> Reference:
    """Both splits of a COCO data set.

    Raises:
        UserError: a folder or file is missing or not COCO, or a picture is in both splits.
    """
    root = require_folder(settings.root, "reference.root")
    use_crowds = settings.crowds == "use"
    parts = []
    for split in ("train", "evaluation"):
        images = require_folder(root / getattr(settings, f"{split}_images"), f"reference.{split}_images")
        annotations = require_file(root / getattr(settings, f"{split}_annotations"), f"reference.{split}_annotations")
        name = f"{root.name}/{images.name}"
        parts.append(load_coco_instances(images, annotations, name, use_crowds, settings.max_images))
    both = {r.file.resolve() for r in parts[0].records} & {r.file.resolve() for r in parts[1].records}
    if both:
        raise UserError(
            f"reference: {len(both)} pictures are in both splits, for example {sorted(both)[0].name}; "
            "allowed: disjoint splits; set reference.evaluation_images and reference.evaluation_annotations"
        )
    return Reference(*parts)


def load_coco_instances(
    images: Path, annotations: Path, name: str, use_crowds: bool = False, max_images: int | None = None
) -> Dataset:
    """Read one instances file.

    Args:
        images: folder of the pictures.
        annotations: instances JSON; pictures are taken in the order of their ids, categories likewise.
        use_crowds: take iscrowd=1 annotations too.

    Raises:
        UserError: not COCO instances, an id that stands twice or points nowhere, or a file name that leaves `images`.
    """
    coco = _read(annotations)
    concepts = {c["id"]: str(c["name"]) for c in sorted(coco.dataset["categories"], key=lambda c: c["id"])}
    if len(set(concepts.values())) != len(concepts):
        twice = [n for n, k in Counter(concepts.values()).items() if k > 1]
        raise UserError(f"{annotations}: category names stand twice: {', '.join(map(repr, twice[:3]))}")
    ids = sorted(coco.imgs)[:max_images]
    kept = set(ids)
    skipped: Counter[str] = Counter()
    by_image: dict[Any, list[Annotation]] = defaultdict(list)
    for entry in sorted(coco.dataset["annotations"], key=lambda a: a["id"]):
        try:
            concept = concepts[entry["category_id"]]
            image = coco.imgs[entry["image_id"]]
        except KeyError as err:
            raise UserError(
                f"{annotations}: annotation {entry['id']} points to {err}, which is no image or category of the file"
            ) from None
        if entry["image_id"] not in kept:
            continue
        if entry.get("iscrowd", 0) and not use_crowds:
            skipped["crowd"] += 1
            continue
        rle = _to_rle(coco, entry, image)
        if rle is None:
            skipped["no mask"] += 1
            continue
        by_image[entry["image_id"]].append(Annotation(concept, rle=rle))
    if twice := [n for n, k in Counter(coco.imgs[i]["file_name"] for i in ids).items() if k > 1]:
        raise UserError(f"{annotations}: {twice[0]!r} stands under two image ids; allowed: a file once")
    records = tuple(
        ImageRecord(coco.imgs[i]["file_name"], resolve_inside(images, coco.imgs[i]["file_name"]), tuple(by_image[i]))
        for i in ids
    )
    if not records:
        raise UserError(f"{annotations}: no images; allowed: COCO instances with at least one")
    return Dataset(name, records, tuple(concepts.values()), dict(skipped))


def _read(path: Path) -> Any:
    from pycocotools.coco import COCO

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
        for key, required in (
            ("images", ("id", "file_name", "height", "width")),
            ("annotations", ("id", "image_id", "category_id")),
            ("categories", ("id", "name")),
        ):
            entries = coco.dataset[key]
            if lacking := [k for e in entries for k in required if k not in e]:
                raise KeyError(f"{lacking[0]} in {key}")
            if key == "images" and (wrong := [e for e in entries if not isinstance(e["file_name"], str)]):
                raise TypeError(f"file_name {wrong[0]['file_name']!r} is no text")
            if len({type(e["id"]) for e in entries}) > 1:
                raise TypeError(f"ids of several types in {key}")
            if len({e["id"] for e in entries}) != len(entries):
                raise UserError(f"{path}: an id stands twice in {key}")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AssertionError, TypeError) as err:
        raise UserError(
            f"{path}: not COCO instances ({err}); allowed: JSON with images, annotations, categories"
        ) from None
    return coco


def _to_rle(coco: Any, entry: dict[str, Any], image: dict[str, Any]) -> dict[str, Any] | None:
    """Compressed run lengths of an annotation, or None where it has no usable mask."""
    segmentation = entry.get("segmentation")
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, list):
            polygons = [p for p in ([float(v) for v in p] for p in segmentation) if len(p) >= 6]
            if not polygons:
                return None
            entry = {**entry, "segmentation": polygons}
        rle = coco.annToRLE(entry)
        size = tuple(rle["size"])
    except Exception as err:  # noqa: BLE001 - pycocotools raises whatever comes on senseless masks
        raise UserError(
            f"annotation {entry['id']}: segmentation is neither polygons nor run lengths ({' '.join(str(err).split())})"
        ) from None
    if size != (image["height"], image["width"]):
        return None
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts if isinstance(counts, bytes) else str(counts).encode("ascii")}


def _list_files(settings: CocoReference) -> dict[str, tuple[str, ...]]:
    return {
        "train_images": (settings.train_images,),
        "train_annotations": (settings.train_annotations,),
        "evaluation_images": (settings.evaluation_images,),
        "evaluation_annotations": (settings.evaluation_annotations,),
    }


register_format("coco", Format(lambda settings, seed: load_coco_reference(settings), _list_files))
