"""Data sets of Hugging Face's `datasets`: folders of save_to_disk, or parquet files as on its hub. Code that comes with
a data set is never run, and nothing is fetched.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lavise.configs.container_formats import HuggingFaceReference, HuggingFaceTarget
from lavise.configs.errors import UserError
from lavise.storage.datasets.base import (
    Annotation,
    Dataset,
    ImageRecord,
    Reference,
    require_folder,
    resolve_inside,
    split_by_image,
)
from lavise.storage.datasets.formats import Format, TargetFormat, register_format, register_target_format
from lavise.storage.datasets.readers.entry_labels import NO_LABEL, Classes, read_classes, read_objects, show
from lavise.storage.datasets.readers.index_masks import read_index_masks
from lavise.storage.datasets.readers.picture_rows import KeyedRow, read_keyed_rows
from lavise.storage.datasets.readers.picture_tables import ArrowTable, ParquetTable, PictureTable
from lavise.storage.images.images import BrokenImageError, read_size

_SPLITS_FILE, _STATE_FILE = "dataset_dict.json", "state.json"
_PART = re.compile(r"-\d+-of-\d+$")
_NUMBER = re.compile(r"\d+")
_EXPECTED = "a folder of save_to_disk (state.json, dataset_dict.json) or parquet files"


def load_huggingface_reference(settings: HuggingFaceReference, seed: int) -> Reference:
    """Both parts: splits of their own, or one split by picture.

    Raises:
        UserError: no such data set, split or column, or labels that make no sense.
    """
    root = require_folder(settings.root, "reference.root")
    splits = find_splits(root, "reference.root")
    train = _choose_split(splits, settings.train_split, "reference.train_split", "train")
    if settings.evaluation_split is None:
        records, classes, skipped = _read_part(splits, train, settings)
        rest, chosen = split_by_image(records, settings.evaluation_share, seed)
        parts = [(rest, skipped), (chosen, Counter[str]())]
        all_classes = [classes]
    else:
        other = _choose_split(splits, settings.evaluation_split, "reference.evaluation_split")
        if other == train:
            raise UserError(
                f"reference.evaluation_split: found {other!r}, which is the training split; allowed: another one of "
                f"{', '.join(splits)}; or leave it out for reference.evaluation_share"
            )
        parts, all_classes = [], []
        for split in (train, other):
            records, classes, skipped = _read_part(splits, split, settings)
            parts.append((records, skipped))
            all_classes.append(classes)
        if all_classes[0] != all_classes[1]:
            raise UserError(f"reference: {train!r} and {other!r} of {root} have other classes; set reference.classes")
    annotations = [a for records, _ in parts for r in records for a in r.annotations]
    if not annotations:
        left_out = ", ".join(f"{n} {reason}" for reason, n in sorted((parts[0][1] + parts[1][1]).items()))
        raise UserError(f"reference: no row of {root} has a label ({left_out}); set reference.label, objects or mask")
    concepts = all_classes[0].list_concepts(annotations)
    names = (f"{root.name}/train", f"{root.name}/evaluation")
    return Reference(*(Dataset(n, tuple(r), concepts, dict(+s)) for n, (r, s) in zip(names, parts, strict=True)))


def load_huggingface_target(settings: HuggingFaceTarget) -> Dataset:
    """All pictures of a split, without any label.

    Raises:
        UserError: no such data set, split or column, or no row.
    """
    root = require_folder(settings.root, "target.root")
    splits = find_splits(root, "target.root")
    split = _choose_split(splits, settings.split, "target.split")
    tables = [(split, table) for table in splits[split]]
    rows = read_keyed_rows(tables, "target", settings.image, settings.key, max_rows=settings.max_images)
    records = tuple(ImageRecord(row.key, row.image) for row in rows)
    if not records:
        raise UserError(f"target.split: {split!r} of {root} has no rows; allowed: at least one")
    return Dataset(root.name, records)


# ---------------------------------------------------------------- files


def find_splits(root: Path, field: str) -> dict[str, list[PictureTable]]:
    """Tables of each split, by name; a folder of a single one is `train`.

    Raises:
        UserError: nothing of this kind is there, or a file that it names.
    """
    if (root / _SPLITS_FILE).is_file():
        names = _read_json(root / _SPLITS_FILE).get("splits")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"{root / _SPLITS_FILE}: found no list of splits; allowed: as save_to_disk writes it")
        return {name: _find_saved(resolve_inside(root, name)) for name in names}
    if (root / _STATE_FILE).is_file():
        return {"train": _find_saved(root)}
    return _find_parquet(root, field)


def _find_saved(folder: Path) -> list[PictureTable]:
    state = _read_json(folder / _STATE_FILE)
    if state.get("_indices_data_files"):
        raise UserError(f"{folder}: rows are chosen by a table of indices; allowed: as flatten_indices leaves them")
    try:
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (KeyError, TypeError):
        raise UserError(f"{folder / _STATE_FILE}: found no _data_files; allowed: as save_to_disk writes it") from None
    return [ArrowTable(resolve_inside(folder, name)) for name in names]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise UserError(f"{path}: cannot be read ({err}); allowed: as save_to_disk writes it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found no mapping; allowed: as save_to_disk writes it")
    return content


def _find_parquet(root: Path, field: str) -> dict[str, list[PictureTable]]:
    """By the names of files (train-00000-of-00002.parquet), or of folders (train/0000.parquet)."""
    files: dict[str, list[Path]] = defaultdict(list)
    inside = _find_boundary(root)
    for path in sorted(root.absolute().rglob("*.parquet"), key=lambda p: p.as_posix()):
        name = path.relative_to(root.absolute()).as_posix()
        stem = _PART.sub("", path.stem)
        split = path.parent.name if _NUMBER.fullmatch(stem) and "/" in name else stem
        files[split].append(resolve_inside(inside, path.relative_to(inside.absolute()).as_posix()))
    if not files:
        raise UserError(f"{field}: found no data set in {root}; allowed: {_EXPECTED}")
    for split, own in files.items():
        if len(folders := sorted({path.parent.relative_to(root.absolute()).as_posix() for path in own})) > 1:
            raise UserError(
                f"{field}: split {split!r} lies in several folders of {root} ({', '.join(folders[:5])}); "
                f"allowed: one configuration of the data set; set {field} to its folder"
            )
    return {split: [ParquetTable(path) for path in own] for split, own in files.items()}


def _find_boundary(root: Path) -> Path:
    """The folder that links may not lead out of: of a snapshot in the hub's cache, whose files are links, the cache of
    that data set."""
    for folder in root.absolute().parents:
        if folder.name == "snapshots" and (folder.parent / "blobs").is_dir():
            return folder.parent
    return root


def _choose_split(
    splits: Mapping[str, list[PictureTable]], chosen: str | None, field: str, usual: str | None = None
) -> str:
    if chosen is None and len(splits) == 1:
        return next(iter(splits))
    name = usual if chosen is None else chosen
    if name is None or name not in splits:
        found = "several splits" if chosen is None else show(chosen)
        raise UserError(f"{field}: found {found}; allowed: one of {', '.join(map(show, splits))}; set {field}")
    return name


# ---------------------------------------------------------------- labels


def _read_part(
    splits: Mapping[str, list[PictureTable]], split: str, settings: HuggingFaceReference
) -> tuple[list[ImageRecord], Classes, Counter[str]]:
    tables = splits[split]
    labels = settings.mask or settings.objects or settings.label
    assert labels is not None, "the settings ask for one of them"
    category = settings.object_fields.category if settings.mask is None and settings.objects is not None else None
    said = [_find_names(table.read_features().get(labels), category) for table in tables]
    if settings.classes is None and any(names != said[0] for names in said):
        raise UserError(f"reference: files of {split!r} in {settings.root} have other classes; set reference.classes")
    classes = read_classes(settings.classes, said[0] if said else None)
    if settings.mask is not None and classes.names is None:
        raise UserError("reference.classes: missing; a mask needs the names of its values; give a list or a text file")
    skipped: Counter[str] = Counter()
    records = []
    for row in read_keyed_rows(
        [(split, table) for table in tables],
        "reference",
        settings.image,
        settings.key,
        [settings.mask] if settings.mask is not None else [],
        [] if settings.mask is not None else [labels],
        settings.max_images,
    ):
        try:
            annotations = _read_labels(row, labels, settings, classes, skipped)
        except BrokenImageError:
            annotations = ()
            skipped["labels of a picture that cannot be read"] += 1
        skipped[NO_LABEL] += not annotations
        records.append(ImageRecord(row.key, row.image, annotations))
    return records, classes, skipped


def _read_labels(
    row: KeyedRow, labels: str, settings: HuggingFaceReference, classes: Classes, skipped: Counter[str]
) -> tuple[Annotation, ...]:
    place = f"{row.place}, {labels}"
    if settings.mask is not None:
        return read_index_masks(row.cells[settings.mask], classes, settings.mask_ignored, place)
    value = row.values[labels]
    if settings.objects is None:
        return classes.find_all(value, place)
    return read_objects(value, settings.object_fields, classes, lambda: read_size(row.image), place, skipped)


def _find_names(feature: Any, category: str | None) -> list[str] | None:
    """Names of a ClassLabel, below lists; of a column of boxes, below the categories."""
    for _ in range(8):
        if isinstance(feature, list) and len(feature) == 1:  # how older versions write a list
            feature = feature[0]
        elif isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            return [str(name) for name in names] if isinstance(names, list) else None
        elif isinstance(feature, dict) and "feature" in feature and "_type" in feature:
            feature = feature["feature"]
        elif isinstance(feature, dict) and category is not None and category in feature:
            feature, category = feature[category], None
        else:
            return None
    return None


def _list_files(settings: HuggingFaceReference | HuggingFaceTarget) -> dict[str, tuple[str, ...]]:
    names = [_SPLITS_FILE, _STATE_FILE]
    found = [name for name in names if (settings.root / name).is_file()]
    if not found and next(settings.root.rglob("*.parquet"), None) is None:
        found = [names[1]]
    return {"root": tuple(found or ["."])}


register_format("huggingface", Format(load_huggingface_reference, _list_files))
register_target_format("huggingface", TargetFormat(load_huggingface_target, _list_files))
