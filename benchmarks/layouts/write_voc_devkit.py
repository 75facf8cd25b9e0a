"""Pascal VOC in its true form, written here: XML files, PNG files with a palette, lists; torchvision reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import VOCDetection, VOCSegmentation

from benchmarks.layouts.shared import Shape, draw_polygon, make_label, run_script, write_images, write_truth

# Two of the twenty classes, in the place of those that the pictures have.
_NAMES = {"dog": ("dog", 12), "cup": ("bottle", 5), "traffic light": ("tvmonitor", 20)}
_YEAR = "VOCdevkit/VOC2012"


def write(folder: Path) -> None:
    """Twice the same files: one is read with masks, the other with boxes."""
    for case, of in (("boxes", "Main"), ("masks", "Segmentation")):
        _write_devkit(folder / case / _YEAR)
        _note(folder / case, of)


def _write_devkit(root: Path) -> None:
    pictures = write_images(root / "JPEGImages", suffix=".jpg")
    for name in ("Annotations", "SegmentationClass", "SegmentationObject", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True, exist_ok=True)
    stems = [Path(name).stem for name in pictures]
    for of in ("Main", "Segmentation"):
        for part, own in (("train", stems[:4]), ("val", stems[4:]), ("trainval", stems)):
            (root / "ImageSets" / of / f"{part}.txt").write_text("".join(f"{stem}\n" for stem in own), "utf-8")
    for name, shapes in pictures.items():
        stem = Path(name).stem
        (root / "Annotations" / f"{stem}.xml").write_text(_describe(name, shapes), "utf-8")
        classes, objects = np.zeros((96, 128), dtype=np.uint8), np.zeros((96, 128), dtype=np.uint8)
        for number, shape in enumerate(shapes, start=1):
            mask = draw_polygon(shape.polygon)
            # As in VOC: a band of no class around each object.
            around = np.pad(mask, 1)
            near = around[2:, 1:-1] | around[:-2, 1:-1] | around[1:-1, 2:] | around[1:-1, :-2]
            for pixels, value in ((classes, _NAMES[shape.category][1]), (objects, number)):
                pixels[near & ~mask & (pixels == 0)] = 255
                pixels[mask] = value
        for place, pixels in (("SegmentationClass", classes), ("SegmentationObject", objects)):
            picture = Image.fromarray(pixels, mode="P")
            picture.putpalette(_make_palette())
            picture.save(root / place / f"{stem}.png")


def _make_palette() -> list[int]:
    """Of the devkit: bits of the number, dealt to red, green and blue."""
    values = []
    for number in range(256):
        for channel in range(3):
            values.append(sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)))
    return values


def _describe(name: str, shapes: tuple[Shape, ...]) -> str:
    parts = [
        f"<annotation><folder>VOC2012</folder><filename>{name}</filename>"
        "<size><width>128</width><height>96</height><depth>3</depth></size><segmented>1</segmented>"
    ]
    for shape in shapes:
        x, y, width, height = (int(v) for v in shape.box)
        parts.append(
            f"<object><name>{_NAMES[shape.category][0]}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax>"
            f"<ymax>{y + height}</ymax></bndbox></object>"
        )
    return "".join([*parts, "</annotation>"])


def _note(case: Path, of: str) -> None:
    """What torchvision reads: boxes as the text of the XML files, masks as numbers of objects."""
    images, labels = [], []
    for part in ("train", "val"):
        boxes = VOCDetection(str(case), year="2012", image_set=part)
        masks = VOCSegmentation(str(case), year="2012", image_set=part)
        for place in range(len(boxes)):
            name = Path(boxes.images[place]).name
            images.append(name)
            _, described = boxes[place]
            things = described["annotation"]["object"]
            objects = np.asarray(Image.open(masks.targets[place].replace("SegmentationClass", "SegmentationObject")))
            for number, thing in enumerate(things, start=1):
                left, top, right, bottom = (int(thing["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax"))
                if of == "Main":
                    box = (left - 1.0, top - 1.0, right - left + 1.0, bottom - top + 1.0)
                    labels.append(make_label(name, thing["name"], box))
                else:
                    labels.append(make_label(name, thing["name"], objects == number))
            _, classes = masks[place]
            known = {number for _, number in _NAMES.values()} | {0, 255}
            if not set(np.unique(np.asarray(classes)).tolist()) <= known:
                raise ValueError(f"{name}: other classes than were written")
    write_truth(case / _YEAR, images, labels)


if __name__ == "__main__":
    run_script(write)
