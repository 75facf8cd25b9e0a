"""Pascal VOC: boxes in XML files, segmentations in PNG files, lists of pictures; and XML files beside the pictures,
where tools also write polygons and turned boxes (voc_outlines.py).

Of a segmentation an object is what has one number in SegmentationObject; its class is the one that most of its pixels
have in SegmentationClass. Where there is only SegmentationClass, all of a class in a picture is one mask.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from lavise.configs.errors import UserError
from lavise.configs.reference_formats import PascalVocReference
from lavise.storage.array_types import DoubleArray
from lavise.storage.datasets.base import Annotation, ImageRecord, Reference, require_folder, resolve_inside
from lavise.storage.datasets.formats import Format, register_format
from lavise.storage.datasets.readers.coco_frames import Frame
from lavise.storage.datasets.readers.coco_masks import MaskError, decode_mask, make_rle
from lavise.storage.datasets.readers.label_maps import (
    IntArray,
    LabelPicture,
    join_colour,
    read_label_picture,
    split_labels,
)
from lavise.storage.datasets.readers.layout_files import find_size, list_by_stem, make_record, make_reference, read_text
from lavise.storage.datasets.readers.voc_outlines import OutlineError, read_polygons, read_turned_box, to_number
from lavise.storage.datasets.readers.xml_files import Element, XmlError, read_xml
from lavise.storage.images.images import IMAGE_SUFFIXES, BrokenImageError
from lavise.storage.images.picture_files import find_pictures

log = logging.getLogger("lavise")

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_VOID = 255
_VOID_COLOUR = int(join_colour(np.array([224, 224, 192])))
# Of ImageSets, what is looked for first.
_LISTS = {"segmentation": ("Segmentation", "Main"), "auto": ("Main", "Segmentation"), "box": ("Main", "Segmentation")}
_PARTS = (("train", "val"), ("train", "valid"), ("train", "test"))
_WHOLE = ("trainval", "default", "train")
_WITHOUT_XML = "picture without an XML file"
_PICTURE_FOLDERS = ("JPEGImages", "images", ".")


@dataclass(frozen=True)
class _Item:
    """A picture: its name in the lists, its XML file and itself; None where these are not there."""

    name: str
    xml: Path | None
    picture: Path | None


@dataclass
class _Reader:
    """A data set while it is read: also what was left out, and boxes that begin before the first pixel."""

    root: Path
    settings: PascalVocReference
    skipped: Counter[str] = field(default_factory=Counter)
    num_at_zero: int = 0
    listed: dict[Path, dict[str, Path]] = field(default_factory=dict)

    def find_picture(self, folder: Path, stem: str) -> Path | None:
        """The picture of a folder that has this name, whatever its ending."""
        if folder not in self.listed:
            inside = folder.resolve().is_relative_to(self.root.resolve())
            self.listed[folder] = list_by_stem(folder) if inside else {}
        return self.listed[folder].get(stem)

    @cached_property
    def names(self) -> _Names:
        return _read_names(self.root / "labelmap.txt")


@dataclass(frozen=True)
class _Names:
    """Of classes: by their number in a PNG file and by their colour. `by_colour`: a palette's colours count, too."""

    numbers: Mapping[int, str]
    colours: Mapping[int, str]
    by_colour: bool


def load_pascal_voc(settings: PascalVocReference, seed: int) -> Reference:
    """Both parts: of lists in ImageSets, of folders, or split by picture.

    Raises:
        UserError: a folder, list or file is missing or not Pascal VOC's, or no picture has a label.
    """
    reader = _Reader(require_folder(settings.root, "reference.root"), settings)
    parts: dict[str, list[ImageRecord]] = {}
    for name, items in _list_parts(reader).items():
        found = [_read_item(reader, item) for item in items[: settings.max_images]]
        parts[name] = [record for record in found if record is not None]
    if reader.num_at_zero and settings.coordinates == "voc":
        log.warning(
            "%d boxes of %s begin before the first pixel, which is 1 in Pascal VOC: if they are of LabelImg, CVAT or "
            "Datumaro, --set reference.coordinates=zero_based reads them as they are meant",
            reader.num_at_zero,
            reader.root,
        )
    return make_reference(reader.root, parts, reader.skipped, settings.evaluation_share, seed)


def _list_parts(reader: _Reader) -> dict[str, list[_Item]]:
    root, settings = reader.root, reader.settings
    if settings.train is not None and settings.evaluation is not None:
        return {
            name: _list_named(reader, name, f"reference.{which}")
            for which, name in (("train", settings.train), ("evaluation", settings.evaluation))
        }
    for folder in _LISTS[settings.masks]:
        for names in (*_PARTS, *((name,) for name in _WHOLE)):
            lists = {f"{folder}/{name}": root / "ImageSets" / folder / f"{name}.txt" for name in names}
            if all(path.is_file() for path in lists.values()):
                return {name: _list_by_file(reader, path) for name, path in lists.items()}
    for names in _PARTS:
        if all((root / name).is_dir() for name in names):
            return {name: _list_by_folder(reader, root / name) for name in names}
    # As it lies in the archive: one folder further down.
    below = sorted(p for p in (*root.glob("VOC*"), *root.glob("VOCdevkit/VOC*")) if (p / "Annotations").is_dir())
    items = [] if below else _list_by_folder(reader, root)
    if not items:
        advice = f"; set reference.root to {str(below[0])!r}" if below else ""
        raise UserError(
            f"reference.root: found {str(root)!r}, with no ImageSets/Main/train.txt and no XML files of its own; "
            f"allowed: a folder with Annotations, JPEGImages and ImageSets, or XML files beside pictures{advice}"
        )
    return {root.name: items}


def _list_named(reader: _Reader, name: str, setting: str) -> list[_Item]:
    path = resolve_inside(reader.root, f"ImageSets/{name.removesuffix('.txt')}.txt")
    folder = resolve_inside(reader.root, name)
    if path.is_file():
        return _list_by_file(reader, path)
    if folder.is_dir():
        return _list_by_folder(reader, folder)
    raise UserError(
        f"{setting}: found {name!r}; neither {path} nor the folder {folder} is there; allowed: a list below "
        "ImageSets, such as Main/train, or a folder with XML files"
    )


def _list_by_file(reader: _Reader, path: Path) -> list[_Item]:
    """Of a list: a picture's name in each line; what stands behind it (1, 0 or -1 of a class) is not read."""
    names = {line.split()[0] for line in read_text(path).splitlines() if line.strip()}
    items = []
    for name in sorted(names):
        xml = resolve_inside(reader.root, f"Annotations/{name}.xml")
        picture = resolve_inside(reader.root, f"JPEGImages/{name}")
        found = reader.find_picture(picture.parent, picture.name)
        items.append(_Item(name, xml if xml.is_file() else None, found))
    return items


def _list_by_folder(reader: _Reader, folder: Path) -> list[_Item]:
    """Of a folder: every XML file below it; the picture lies beside it or in a folder of pictures."""
    inside = reader.root.resolve()
    paths = [p for p in folder.rglob("*") if p.suffix.lower() == ".xml" and p.resolve().is_relative_to(inside)]
    items = []
    for path in sorted(paths, key=lambda p: p.as_posix()):
        places = [path.parent, *(folder / name for name in _PICTURE_FOLDERS), path.parent.parent / "images"]
        found = [p for place in places if (p := reader.find_picture(place, path.stem)) is not None]
        if not found:
            # <path> and <folder> are of the machine that wrote the file; of <filename> the last part is taken.
            name = (_read_annotation(path).findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
            stem, dot, ending = name.rpartition(".")
            if f"{dot}{ending}".lower() in IMAGE_SUFFIXES:
                found = [p for place in places if (p := reader.find_picture(place, stem)) is not None]
        name = path.relative_to(reader.root).with_suffix("").as_posix()
        items.append(_Item(name, path, found[0] if found else None))
    if bare := len(set(find_pictures(folder, "reference").paths) - {item.picture for item in items}):
        reader.skipped[_WITHOUT_XML] += bare
    return items


def _read_item(reader: _Reader, item: _Item) -> ImageRecord | None:
    """The picture with its pairs; None, counted, where it is left out."""
    masks = reader.settings.masks
    if item.picture is None:
        reader.skipped["picture that is not there"] += 1
        return None
    size = find_size(item.picture)
    if size is None:
        return make_record(reader.root, item.picture)  # counted when it is decoded
    segmentation = reader.root / "SegmentationClass" / f"{item.name.removeprefix('Annotations/')}.png"
    if masks != "box" and segmentation.is_file():
        return _read_segmentation(reader, item.picture, segmentation, size)
    if masks == "segmentation" and (item.xml is None or not _has_outlines(item.xml)):
        reader.skipped["picture without a segmentation"] += 1
        return None
    if item.xml is None:
        reader.skipped[_WITHOUT_XML] += 1
        return None
    return _read_boxes(reader, item.picture, item.xml, size)


def _has_outlines(xml: Path) -> bool:
    tree = _read_annotation(xml)
    return any(tree.find(f"object/{name}") is not None for name in ("polygon", "robndbox"))


def _read_segmentation(reader: _Reader, picture: Path, class_file: Path, size: tuple[int, int]) -> ImageRecord | None:
    """Pairs of a picture's PNG files."""
    object_file = reader.root / "SegmentationObject" / class_file.relative_to(reader.root / "SegmentationClass")
    class_hw, names = _read_classes(reader, class_file)
    object_hw = _read_objects(resolve_inside(reader.root, str(object_file))) if object_file.is_file() else None
    if class_hw.shape != size or (object_hw is not None and object_hw.shape != size):
        reader.skipped["picture of another size than its segmentation"] += 1
        return None
    annotations: list[Annotation] = []
    if object_hw is None:
        for number, rle in split_labels(class_hw, without=(0,)).items():
            _add_mask(reader, annotations, names.get(number), rle)
    else:
        for number, rle in split_labels(object_hw, without=(0,)).items():
            classes = class_hw[object_hw == number]
            found, counts = np.unique(classes[classes != 0], return_counts=True)
            _add_mask(reader, annotations, names.get(int(found[counts.argmax()])) if len(found) else None, rle)
    return make_record(reader.root, picture, annotations)


def _add_mask(reader: _Reader, annotations: list[Annotation], name: str | None, rle: Mapping[str, object]) -> None:
    if name is None:
        reader.skipped["mask of no known class"] += 1
    else:
        annotations.append(Annotation(name, rle=rle))


def _read_classes(reader: _Reader, path: Path) -> tuple[IntArray, Mapping[int, str]]:
    """Class of each pixel, 0 for none and for void, and the names of what is in it."""
    picture = _read_png(resolve_inside(reader.root, str(path)))
    names = reader.names
    if picture.values.ndim == 3 or (names.by_colour and picture.palette is not None):
        colours = picture.colours()
        return np.where(colours == _VOID_COLOUR, 0, colours), names.colours
    return np.where(picture.values == _VOID, 0, picture.values), names.numbers


def _read_objects(path: Path) -> IntArray:
    """Object of each pixel, 0 for none and for void."""
    picture = _read_png(path)
    if picture.values.ndim == 3:
        colours = picture.colours()
        return np.where(colours == _VOID_COLOUR, 0, colours)
    return np.where(picture.values == _VOID, 0, picture.values)


def _read_png(path: Path) -> LabelPicture:
    try:
        return read_label_picture(path)
    except BrokenImageError as err:
        raise UserError(f"{path}: {err}; allowed: a PNG file of labels, as Pascal VOC has them") from None


def _read_names(path: Path) -> _Names:
    """VOC's twenty classes, or those of a labelmap.txt: `name:red,green,blue:parts:actions` in each line."""
    if not path.is_file():
        colours = {_voc_colour(i): name for i, name in enumerate(VOC_CLASSES, start=1)}
        return _Names(dict(enumerate(VOC_CLASSES, start=1)), colours, by_colour=False)
    numbers: dict[int, str] = {}
    colours = {}
    lines = [line.strip() for line in read_text(path).splitlines()]
    for number, line in enumerate(line for line in lines if line and not line.startswith("#")):
        try:
            name, colour = line.split(":")[:2]
            rgb = [int(part) for part in colour.split(",")] if colour else None
            if not name or (rgb is not None and (len(rgb) != 3 or not all(0 <= v <= 255 for v in rgb))):
                raise ValueError
        except ValueError:
            raise UserError(
                f"{path}: found {line!r}; allowed: name:red,green,blue:parts:actions in each line, colours of 0 to 255"
            ) from None
        value = _voc_colour(number) if rgb is None else int(join_colour(np.array(rgb)))
        if value not in (0, _VOID_COLOUR) and name != "background":
            numbers[number] = name
            colours[value] = name
    return _Names(numbers, colours, by_colour=True)


def _voc_colour(number: int) -> int:
    """The colour of a number in Pascal VOC's palette: its bits are dealt to red, green and blue, high ones first."""
    rgb = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            rgb[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return int(join_colour(np.array(rgb)))


def _read_boxes(reader: _Reader, picture: Path, xml: Path, size: tuple[int, int]) -> ImageRecord | None:
    """Pairs of a picture's XML file."""
    tree = _read_annotation(xml)
    said = [to_number(tree.findtext(f"size/{side}")) for side in ("height", "width")]
    # Some tools leave the size out, or write 0.
    if all(said) and tuple(said) != size:
        reader.skipped["picture of another size than its XML file says"] += 1
        return None
    annotations: list[Annotation] = []
    for thing in tree.findall("object"):
        if reader.settings.difficult == "skip" and (thing.findtext("difficult") or "").strip() == "1":
            reader.skipped["difficult object"] += 1
            continue
        if (thing.findtext("deleted") or "").strip() == "1":
            reader.skipped["object that is marked as deleted"] += 1
            continue
        _add_object(reader, annotations, thing, size, xml)
        for part in thing.findall("part"):
            if reader.settings.parts == "skip":
                reader.skipped["part of an object"] += 1
            else:
                _add_object(reader, annotations, part, size, xml)
    return make_record(reader.root, picture, annotations)


def _add_object(
    reader: _Reader, annotations: list[Annotation], thing: Element, size: tuple[int, int], xml: Path
) -> None:
    """Its outline or its box, as the settings ask."""
    name = (thing.findtext("name") or "").strip()
    if not name:
        reader.skipped["object without a name"] += 1
        return
    outlines = _read_outlines(reader, thing, xml)
    masks = reader.settings.masks
    if masks == "segmentation" and not outlines:
        reader.skipped["object without an outline"] += 1
    elif outlines and (masks != "box" or thing.find("bndbox") is None):
        _add_outlines(reader, annotations, name, outlines, size)
    else:
        _add_box(reader, annotations, name, thing, size)


def _read_outlines(reader: _Reader, thing: Element, xml: Path) -> list[DoubleArray]:
    """Corners in pixels from 0 of its turned box or, else, its polygons."""
    try:
        turned = read_turned_box(thing)
    except OutlineError as err:
        raise UserError(f"{xml}: {err}") from None
    if turned is not None:
        return [turned]
    try:
        polygons = read_polygons(thing)
    except OutlineError:
        reader.skipped["polygon in a form that is not read (the box counts)"] += 1
        return []
    if polygons:
        reader.num_at_zero += min(float(corners.min()) for corners in polygons) < 1
    return [corners - 1 for corners in polygons] if reader.settings.coordinates == "voc" else polygons


def _add_outlines(
    reader: _Reader, annotations: list[Annotation], name: str, outlines: list[DoubleArray], size: tuple[int, int]
) -> None:
    try:
        rle = make_rle([corners.ravel().tolist() for corners in outlines], Frame(size, size))
    except MaskError:
        reader.skipped["outline far outside its picture"] += 1
        return
    if rle is None or not (mask_HW := decode_mask(rle)).any():
        reader.skipped["outline without a pixel"] += 1
    elif reader.settings.masks == "box":
        rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
        left, top, right, bottom = (float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        annotations.append(Annotation(name, boxes=((left, top, right - left, bottom - top),)))
    else:
        annotations.append(Annotation(name, rle=rle))


def _add_box(reader: _Reader, annotations: list[Annotation], name: str, thing: Element, size: tuple[int, int]) -> None:
    left, top, right, bottom = (to_number(thing.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax"))
    if left is None or top is None or right is None or bottom is None:
        reader.skipped["object without a box"] += 1
        return
    reader.num_at_zero += min(left, top) < 1
    if reader.settings.coordinates == "voc":
        left, top = left - 1, top - 1
    if right <= left or bottom <= top:
        reader.skipped["object with an empty box"] += 1
    elif left >= size[1] or top >= size[0] or right <= 0 or bottom <= 0:
        reader.skipped["object outside its picture"] += 1
    elif not (math.isfinite(right - left) and math.isfinite(bottom - top)):
        reader.skipped["box that is endless"] += 1
    else:
        annotations.append(Annotation(name, boxes=((left, top, right - left, bottom - top),)))


def _read_annotation(path: Path) -> Element:
    try:
        tree = read_xml(path)
    except XmlError as err:
        raise UserError(f"{path}: {err}; allowed: an XML file of Pascal VOC") from None
    if tree.tag != "annotation":
        raise UserError(f"{path}: found <{tree.tag}>; allowed: an XML file of Pascal VOC, which begins <annotation>")
    return tree


register_format("pascal_voc", Format(load_pascal_voc))
