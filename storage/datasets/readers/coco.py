"""COCO instances: polygons, run lengths, boxes, crowds, category ids with gaps; LVIS and what other tools export."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lavise.configs.coco_references import CocoFiles, CocoReference
from lavise.configs.errors import UserError
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
from lavise.storage.datasets.readers.coco_crowds import is_marked, marks_are_habit
from lavise.storage.datasets.readers.coco_file import (
    CocoFile,
    Entry,
    find_root_categories,
    name_image,
    read_coco_file,
    read_labelled_size,
)
from lavise.storage.datasets.readers.coco_frames import Frame, Size, find_frames
from lavise.storage.datasets.readers.coco_masks import MaskError, is_unit, list_rings, make_rle, read_box
from lavise.storage.datasets.readers.coco_names import ImageFinder
from lavise.storage.packed_list import PackedList
from lavise.storage.state.text import printable

_DEFAULT_SHARE = 0.2
_MAX_UNIT_SHARE = 0.05


@dataclass(frozen=True)
class CocoOptions:
    """What is taken of a file.

    Attributes:
        use_crowds: take crowds, too.
        believe_marks: iscrowd=1 is a crowd, whatever the file looks like.
        masks: auto, segmentation or box.
        max_images: the first so many pictures, in the order of their ids.
    """

    use_crowds: bool = False
    believe_marks: bool = False
    masks: str = "auto"
    max_images: int | None = None


@dataclass(frozen=True)
class Source:
    """A file of labels and the folder of its pictures."""

    images: Path
    annotations: Path


@dataclass(frozen=True)
class Opened:
    """The pictures of a file that are taken, each with its record's key, its path, and how its labels lie on it.

    Attributes:
        keys, paths: by the picture's id, in the order of the ids.
        frames: of those pictures for which they were asked, and whose size is known.
        notes: what was done to read them, for people.
    """

    keys: Mapping[Any, str]
    paths: Mapping[Any, Path]
    frames: Mapping[Any, Frame]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Shared:
    """What is found out from all files of a data set together."""

    left_out: Mapping[Any, str]
    marks_are_habit: bool


def load_coco_reference(settings: CocoReference, seed: int = 0) -> Reference:
    """Both splits of a COCO data set; of one file, by picture.

    Raises:
        UserError: a folder or file is missing or not COCO, or a picture is in both splits.
    """
    options = CocoOptions(
        settings.crowds == "use", settings.crowd_marks == "believe", settings.masks, settings.max_images
    )

    def read(sources: Sequence[Source], names: Sequence[str]) -> list[Dataset]:
        files = [read_coco_file(source.annotations) for source in sources]
        shared = _find_shared(files, options)
        return [
            _load(file, s.images, name, options, shared) for file, s, name in zip(files, sources, names, strict=True)
        ]

    return read_both_parts(settings, seed, read)


def load_coco_instances(
    images: Path,
    annotations: Path,
    name: str,
    use_crowds: bool = False,
    max_images: int | None = None,
    masks: str = "auto",
) -> Dataset:
    """Read one instances file.

    Args:
        images: folder of the pictures.
        annotations: instances JSON; pictures are taken in the order of their ids, categories likewise.
        use_crowds: take crowds too.
        masks: auto, segmentation or box.

    Raises:
        UserError: not COCO instances, an id that stands twice or points nowhere, a file name that leaves `images`, or
            a mask or box that is none.
    """
    options = CocoOptions(use_crowds, masks=masks, max_images=max_images)
    file = read_coco_file(annotations)
    return _load(file, images, name, options, _find_shared([file], options))


def read_both_parts(
    settings: CocoFiles, seed: int, read: Callable[[Sequence[Source], Sequence[str]], list[Dataset]]
) -> Reference:
    """Both parts: of two files, or of one that is split by picture.

    Args:
        read: the files and the data sets' names -> the data sets.

    Raises:
        UserError: a folder or file is missing, or a picture is in both parts.
    """
    root = require_folder(settings.root, "reference.root")
    train = _find_source(settings, root, "train")
    evaluation = None if settings.is_split else _find_source(settings, root, "evaluation")
    if evaluation is None or _resolve(evaluation) == _resolve(train):
        (whole,) = read([train], [f"{root.name}/{train.images.name}"])
        share = settings.evaluation_share or _DEFAULT_SHARE
        parts = split_by_image(whole.records, share, seed)
        return Reference(
            replace(whole, name=f"{root.name}/train", records=tuple(parts[0])),
            Dataset(f"{root.name}/evaluation", tuple(parts[1]), whole.concepts),
        )
    two = read([train, evaluation], [f"{root.name}/{s.images.name}" for s in (train, evaluation)])
    both = {r.file.resolve() for r in two[0].records} & {r.file.resolve() for r in two[1].records}
    if both:
        raise UserError(
            f"reference: {len(both)} pictures are in both splits, for example {printable(sorted(both)[0].name)}; "
            "allowed: disjoint splits; set reference.evaluation_images and reference.evaluation_annotations, or "
            "reference.evaluation_share to split one file by picture"
        )
    return Reference(*two)


def open_pictures(file: CocoFile, images: Path, ids: Sequence[Any], labelled: frozenset[Any]) -> Opened:
    """Find the pictures of the ids, and how the labels of some of them lie on them.

    Args:
        labelled: ids of pictures whose size is asked for.

    Raises:
        UserError: a name leads out of the folder, two are of one file, or none is there; a picture has another shape
            than its labels.
    """
    finder = ImageFinder(images)
    asked_for, found, sizes = set(ids), dict[Any, tuple[str, Path]](), dict[Any, Size | None]()
    for image in file.images:
        if image["id"] in asked_for:
            found[image["id"]] = finder.find(name_image(image))
        if image["id"] in labelled:
            sizes[image["id"]] = read_labelled_size(image, file.path)
    keys = {i: key for i, (key, _) in found.items()}
    if twice := [n for n, k in Counter(keys.values()).items() if k > 1]:
        raise UserError(f"{file.path}: {twice[0]!r} stands under two image ids; allowed: a file once")
    if ids and len(finder.missing) == len(ids):
        raise UserError(
            f"{file.path}: none of its {len(ids)} pictures is below {images}, for example "
            f"{printable(finder.missing[0])!r}; set the folder of the pictures (reference.train_images, "
            "reference.evaluation_images) to the one that this is below"
        )
    paths = [found[i][1] for i in sizes]
    frames = dict(zip(sizes, find_frames(paths, list(sizes.values()), file.path), strict=True))
    known = {i: frame for i, frame in frames.items() if frame is not None}
    return Opened(keys, {i: path for i, (_, path) in found.items()}, known, tuple(_describe(finder, known, keys)))


def list_split_files(settings: CocoFiles) -> dict[str, tuple[str, ...]]:
    """What is needed below root, by setting."""
    needed: dict[str, tuple[str, ...]] = {
        "train_images": (settings.train_images,),
        "train_annotations": (settings.train_annotations,),
    }
    if not settings.is_split and settings.evaluation_annotations is not None:
        needed["evaluation_images"] = (settings.evaluation_images or settings.train_images,)
        needed["evaluation_annotations"] = (settings.evaluation_annotations,)
    return needed


def _find_source(settings: CocoFiles, root: Path, part: str) -> Source:
    images = getattr(settings, f"{part}_images") or settings.train_images
    annotations = getattr(settings, f"{part}_annotations")
    return Source(
        require_folder(root / images, f"reference.{part}_images"),
        require_file(root / annotations, f"reference.{part}_annotations"),
    )


def _resolve(source: Source) -> tuple[Path, Path]:
    return source.images.resolve(), source.annotations.resolve()


def _find_shared(files: Sequence[CocoFile], options: CocoOptions) -> _Shared:
    habit = not options.use_crowds and not options.believe_marks and marks_are_habit(files)
    return _Shared(find_root_categories(files), habit)


def _load(file: CocoFile, images: Path, name: str, options: CocoOptions, shared: _Shared) -> Dataset:
    concepts = file.name_categories(frozenset(shared.left_out))
    ids = [i["id"] for i in file.images]
    if not ids:
        raise UserError(f"{file.path}: no images; allowed: COCO instances with at least one")
    taken, known = ids[: options.max_images], set(ids)
    kept = set(taken)
    for entry in file.annotations:
        for pointer, those in ((entry["category_id"], concepts), (entry["image_id"], known)):
            if pointer not in those:
                raise UserError(
                    f"{file.path}: annotation {entry['id']} points to {pointer!r}, which is no image or category of "
                    "the file"
                )
    entries = file.annotations if len(kept) == len(known) else [e for e in file.annotations if e["image_id"] in kept]
    opened = open_pictures(file, images, taken, frozenset(e["image_id"] for e in entries))
    reader = _AnnotationReader(file, options, shared, entries)
    by_image: dict[Any, list[tuple[Any, Annotation]]] = defaultdict(list)
    for entry in entries:
        if (
            found := reader.read(entry, concepts[entry["category_id"]], opened.frames.get(entry["image_id"]))
        ) is not None:
            by_image[entry["image_id"]].append((entry["id"], found))
    records = PackedList(
        ImageRecord(opened.keys[i], opened.paths[i], tuple(a for _, a in sorted(by_image.pop(i, ()), key=_get_id)))
        for i in taken
    )
    notes = (*opened.notes, *reader.describe())
    return Dataset(
        name, records, tuple(concepts.values()), dict(reader.skipped), notes=notes, noted=frozenset({"crowd"})
    )


def _get_id(found: tuple[Any, Annotation]) -> Any:
    return found[0]


class _AnnotationReader:
    """Reads the annotations of one file, and counts what it leaves out and what it reads otherwise."""

    def __init__(self, file: CocoFile, options: CocoOptions, shared: _Shared, entries: Sequence[Entry]) -> None:
        self._file, self._options, self._shared = file, options, shared
        self._unit_polygons = _are_units(p for e in entries for p in list_rings(e.get("segmentation")))
        self._unit_boxes = _are_units(e["bbox"] for e in entries if isinstance(e.get("bbox"), list))
        self.skipped: Counter[str] = Counter()
        self._done: Counter[str] = Counter()

    def read(self, entry: Entry, concept: str, frame: Frame | None) -> Annotation | None:
        """None where it is left out.

        Raises:
            UserError: the mask or the box is none.
        """
        if is_marked(entry, self._file.path) and not self._options.use_crowds:
            if not self._shared.marks_are_habit:
                self.skipped["crowd"] += 1
                return None
            self._done["marked"] += 1
        if frame is None:
            self.skipped["mask on a picture of unknown size"] += 1
            return None
        try:
            found = self._read_mask(entry, concept, frame)
        except MaskError as err:
            raise UserError(f"{self._file.path}: annotation {entry['id']}: {printable(str(err))}") from None
        self._done["all"] += found is not None
        return found

    def _read_mask(self, entry: Entry, concept: str, frame: Frame) -> Annotation | None:
        if self._options.masks != "box":
            if not self._unit_polygons and any(is_unit(p) for p in list_rings(entry.get("segmentation"))):
                self._leave_unit(entry)
                return None
            rle = make_rle(entry.get("segmentation"), frame, self._unit_polygons)
            if rle is not None and tuple(rle["size"]) != frame.shown:
                self.skipped["mask of another size"] += 1
                return None
            if rle is not None:
                return Annotation(concept, rle=rle)
        if self._options.masks == "segmentation":
            self.skipped["no mask"] += 1
            return None
        box = read_box(entry.get("bbox"), frame, self._unit_boxes)
        if box is None:
            self.skipped["no mask"] += 1
        elif box[2] == 0 or box[3] == 0:
            self.skipped["box of size 0"] += 1
        elif not (box[0] < frame.shown[1] and box[1] < frame.shown[0] and box[0] + box[2] > 0 and box[1] + box[3] > 0):
            self.skipped["box outside of the picture"] += 1
        else:
            self._done["boxes"] += 1
            return Annotation(concept, boxes=(box,))
        return None

    def _leave_unit(self, entry: Entry) -> None:
        self.skipped["mask within the first pixel"] += 1
        num_masks = sum(1 for e in self._file.annotations if e.get("segmentation"))
        if self.skipped["mask within the first pixel"] > max(_MAX_UNIT_SHARE * num_masks, 1):
            raise UserError(
                f"{self._file.path}: annotation {entry['id']}: all coordinates are in 0..1, as are those of others, "
                "but not of all; allowed: pixels, or shares of the picture's size in the whole file"
            )

    def describe(self) -> Iterator[str]:
        """What was read otherwise than it stands there, or left out though a setting reads it."""
        if num := self.skipped["crowd"]:
            yield f"{num:,} annotations are marked iscrowd=1 and left out; reference.crowds=use reads them"
        if num := self._done["marked"]:
            yield (
                f"{num:,} annotations are marked iscrowd=1 and read as objects, since the file marks run lengths, not "
                "crowds; reference.crowd_marks=believe leaves them out"
            )
        if num := self._done["boxes"]:
            yield f"{num:,} of {self._done['all']:,} masks are boxes"
        if self._unit_polygons or (self._unit_boxes and self._done["boxes"]):
            yield "coordinates are shares of the picture's size"
        for name in self._shared.left_out.values():
            yield f"the category {printable(name)!r} is the data set's name, with no object, and left out"


def _are_units(coordinates: Iterable[Iterable[Any]]) -> bool:
    """All of them are shares of the picture's size, as far as they tell."""
    found = False
    for numbers in coordinates:
        answer = is_unit(numbers)
        if answer is False:
            return False
        found = found or bool(answer)
    return found


def _describe(finder: ImageFinder, frames: Mapping[Any, Frame], keys: Mapping[Any, str]) -> Iterator[str]:
    if finder.num_searched:
        yield f"{finder.num_searched:,} pictures were found by the last parts of their names"
    if finder.missing:
        example = printable(finder.missing[0])
        yield f"{len(finder.missing):,} of {len(keys):,} pictures are not there, for example {example!r}"
    turned = [i for i, f in frames.items() if f.turn != 1]
    scaled = [i for i, f in frames.items() if f.turn == 1 and not f.is_same]
    for those, done in ((turned, "turned as EXIF turns these"), (scaled, "scaled to these")):
        if those:
            yield f"labels of {len(those):,} pictures were {done}, for example {printable(keys[those[0]])!r}"


register_format("coco", Format(load_coco_reference, list_split_files))
