"""WebDataset: tar archives in which the files of a picture follow each other under one name with several endings.

Nothing is unpacked: a picture is read at its place in the archive. Links, devices and names that lead out of the
archive are passed over, and counted.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lavise.configs.container_formats import WebDatasetReference, WebDatasetTarget
from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord, Reference, require_folder, split_by_image
from lavise.storage.datasets.formats import Format, TargetFormat, register_format, register_target_format
from lavise.storage.datasets.readers.entry_labels import NO_LABEL, Classes, read_classes, read_objects, show
from lavise.storage.datasets.readers.index_masks import read_index_masks
from lavise.storage.datasets.readers.name_patterns import find_files, list_missing
from lavise.storage.images.images import BrokenImageError, read_size
from lavise.storage.images.inner_files import TarMember

_META = re.compile(r"__[^/]*__($|/)")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MAX_LABEL_BYTES = 16 << 20


@dataclass
class Sample:
    """The files of a picture.

    Attributes:
        images: by ending: name in the archive, and place.
        labels: None: there are none.
    """

    images: dict[str, tuple[str, TarMember]] = field(default_factory=dict)
    labels: TarMember | None = None


def load_webdataset_reference(settings: WebDatasetReference, seed: int) -> Reference:
    """Both parts: archives of their own, or split by picture.

    Raises:
        UserError: an archive that is missing, compressed or cut off, or labels that make no sense.
    """
    root = require_folder(settings.root, "reference.root")
    classes = read_classes(settings.classes)
    if classes.names is None and _find_kind(settings) == "png":
        raise UserError("reference.classes: missing; a mask needs the names of its values; give a list or a text file")
    shards = find_files(root, settings.shards, "reference.shards")
    if settings.evaluation_shards is None:
        train, skipped = _read_records(root, shards, settings, classes, "reference.shards")
        rest, chosen = split_by_image(train, settings.evaluation_share, seed)
        parts = [(rest, skipped), (chosen, Counter[str]())]
    else:
        others = find_files(root, settings.evaluation_shards, "reference.evaluation_shards")
        if both := sorted({p.resolve() for p in shards} & {p.resolve() for p in others}):
            raise UserError(
                f"reference.evaluation_shards: {both[0].name} is in reference.shards, too; allowed: other archives"
            )
        parts = [
            _read_records(root, shards, settings, classes, "reference.shards"),
            _read_records(root, others, settings, classes, "reference.evaluation_shards"),
        ]
    annotations = [a for records, _ in parts for r in records for a in r.annotations]
    if not annotations:
        left_out = ", ".join(f"{n} {reason}" for reason, n in sorted((parts[0][1] + parts[1][1]).items()))
        raise UserError(
            f"reference.labels: no picture of {root} has a label .{settings.labels} ({left_out}); set reference.labels"
        )
    concepts = classes.list_concepts(annotations)
    names = (f"{root.name}/train", f"{root.name}/evaluation")
    return Reference(*(Dataset(n, tuple(r), concepts, dict(s)) for n, (r, s) in zip(names, parts, strict=True)))


def load_webdataset_target(settings: WebDatasetTarget) -> Dataset:
    """All pictures of the archives, without any label.

    Raises:
        UserError: an archive that is missing, compressed or cut off, or no picture in them.
    """
    root = require_folder(settings.root, "target.root")
    shards = find_files(root, settings.shards, "target.shards")
    records, skipped = _read_records(root, shards, settings, Classes(None), "target.shards")
    return Dataset(root.name, tuple(records), (), dict(skipped))


def _read_records(
    root: Path,
    shards: Sequence[Path],
    settings: WebDatasetReference | WebDatasetTarget,
    classes: Classes,
    setting: str,
) -> tuple[list[ImageRecord], Counter[str]]:
    """Records in the order of the archives, and what was left out."""
    skipped: Counter[str] = Counter()
    found: list[tuple[Path, str, TarMember, TarMember | None]] = []
    label_ending = settings.labels if isinstance(settings, WebDatasetReference) else None
    for shard in shards:
        for sample in scan_shard(shard, settings.images, label_ending, skipped):
            chosen = next((sample.images[e] for e in settings.images if e in sample.images), None)
            if chosen is None:
                skipped["labels without a picture"] += 1
                continue
            skipped["further picture of a sample"] += len(sample.images) - 1
            found.append((shard, *chosen, sample.labels))
        if settings.max_images is not None and len(found) >= settings.max_images:
            break
    found = found[: settings.max_images]
    if not found:
        endings = ", ".join(f".{e}" for e in settings.images)
        raise UserError(f"{setting}: no pictures in {len(shards)} archives of {root}; allowed: {endings}")
    # A name that stands in several archives is told apart by the archive's.
    by_archive = len({name for _, name, _, _ in found}) < len(found)
    records = []
    for shard, name, place, labels in found:
        key = f"{shard.relative_to(root).as_posix()}/{name}" if by_archive else name
        annotations: tuple[Annotation, ...] = ()
        if isinstance(settings, WebDatasetReference):
            annotations = _read_labels(f"{shard}: {show(name)}", place, labels, settings, classes, skipped)
            skipped[NO_LABEL] += not annotations
        records.append(ImageRecord(key, place, annotations))
    return records, +skipped


# ---------------------------------------------------------------- archives


def scan_shard(
    path: Path, image_endings: Sequence[str], label_ending: str | None, skipped: Counter[str]
) -> list[Sample]:
    """What is in an archive, in its order; whatever is passed over is counted.

    Raises:
        UserError: no tar archive, compressed, or cut off.
    """
    samples: dict[str, Sample] = {}
    for member in _list_members(path):
        if member.isdir():
            continue
        name = member.name.removeprefix("./")
        if reason := _find_fault(member, name):
            skipped[reason] += 1
            continue
        folder, slash, own = name.rpartition("/")
        stem, _, ending = own.partition(".")
        key, ending = f"{folder}{slash}{stem}", ending.lower()
        place = TarMember(path, member.offset_data, member.size)
        if not stem or _META.match(name):  # as WebDataset itself
            skipped["member without an ending that is read"] += 1
        elif ending in image_endings:
            sample = samples.setdefault(key, Sample())
            if ending in sample.images:
                skipped["name twice in an archive"] += 1
            else:
                sample.images[ending] = (name, place)
        elif ending == label_ending:
            sample = samples.setdefault(key, Sample())
            if sample.labels is not None:
                skipped["name twice in an archive"] += 1
            else:
                sample.labels = place
        else:
            skipped["member without an ending that is read"] += 1
    return list(samples.values())


def _find_fault(member: tarfile.TarInfo, name: str) -> str | None:
    """Why a member is passed over."""
    if not member.isreg() or member.issparse():
        return "member that is no plain file"
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return "member whose name leads out of the archive"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "member whose name is not UTF-8"
    return None


def _list_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """All members of an archive, up to its end mark."""
    try:
        with path.open("rb") as file:
            start, size = file.read(8), path.stat().st_size
            if kind := next((k for magic, k in _COMPRESSED.items() if start.startswith(magic)), None):
                raise UserError(
                    f"{path}: compressed ({kind}), so that no picture can be read by itself; allowed: plain .tar; "
                    "decompress it once"
                )
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
                reached = -1
                while (member := archive.next()) is not None:
                    end = member.offset_data + member.size
                    if member.size < 0 or archive.offset <= reached or (member.isreg() and end > size):
                        raise _cut_off(path, member.offset)
                    reached = archive.offset
                    yield member
                # tarfile takes a damaged header for the end.
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                    raise _cut_off(path, archive.offset)
    except tarfile.ReadError as err:
        reason = "it is cut off" if "unexpected end" in str(err) else str(err)
        raise UserError(
            f"{path}: no whole tar archive ({reason}); allowed: plain .tar; write or copy it anew"
        ) from None
    except (OSError, ValueError, OverflowError, tarfile.TarError) as err:
        raise UserError(f"{path}: cannot be read ({err}); allowed: plain .tar") from None


def _cut_off(path: Path, offset: int) -> UserError:
    return UserError(f"{path}: cut off or damaged at byte {offset}; allowed: a whole archive; write or copy it anew")


# ---------------------------------------------------------------- labels


def _read_labels(
    place: str,
    image: TarMember,
    labels: TarMember | None,
    settings: WebDatasetReference,
    classes: Classes,
    skipped: Counter[str],
) -> tuple[Annotation, ...]:
    if labels is None:
        return ()
    place = f"{place}, .{settings.labels}"
    kind = _find_kind(settings)
    if kind == "png":
        try:
            return read_index_masks(labels, classes, settings.mask_ignored, place)
        except BrokenImageError:
            skipped["mask that cannot be read"] += 1
            return ()
    text = _read_text(labels, place)
    if kind == "txt":
        return classes.find_all(text, place)
    if kind == "cls":
        try:
            index = int(text)
        except ValueError:
            raise UserError(
                f"{place}: found {show(text)}; allowed: the index of a class; set reference.labels=txt for names"
            ) from None
        return classes.find_all(index, place)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise UserError(f"{place}: no JSON ({' '.join(str(err).split())})") from None
    if settings.json_objects is None:
        return classes.find_all(_look_up(content, settings.json_label, place, "json_label"), place)
    found = _look_up(content, settings.json_objects, place, "json_objects")
    try:
        return read_objects(found, settings.object_fields, classes, lambda: read_size(image), place, skipped)
    except BrokenImageError:
        skipped["boxes of a picture that cannot be read"] += 1
        return ()


def _find_kind(settings: WebDatasetReference) -> str:
    """cls, txt, json or png."""
    return settings.labels.rpartition(".")[2]


def _read_text(labels: TarMember, place: str) -> str:
    if labels.size > _MAX_LABEL_BYTES:
        raise UserError(f"{place}: {labels.size:,} bytes of labels; allowed: up to {_MAX_LABEL_BYTES:,}")
    try:
        return labels.read_bytes().decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise UserError(f"{place}: cannot be read ({err}); allowed: UTF-8 text") from None


def _look_up(content: Any, path: str, place: str, setting: str) -> Any:
    """The value at a path with dots."""
    for name in path.split("."):
        if not isinstance(content, dict) or name not in content:
            listed = ", ".join(show(k) for k in list(content)[:10]) if isinstance(content, dict) else show(content)
            raise UserError(f"{place}: found no {path!r}; allowed: {listed}; set reference.{setting}")
        content = content[name]
    return content


def _list_shards(settings: WebDatasetReference | WebDatasetTarget) -> dict[str, tuple[str, ...]]:
    needed = {"shards": list_missing(settings.root, settings.shards, "shards")}
    if isinstance(settings, WebDatasetReference) and settings.evaluation_shards is not None:
        needed["evaluation_shards"] = list_missing(settings.root, settings.evaluation_shards, "evaluation_shards")
    return needed


register_format("webdataset", Format(load_webdataset_reference, _list_shards))
register_target_format("webdataset", TargetFormat(load_webdataset_target, _list_shards))
