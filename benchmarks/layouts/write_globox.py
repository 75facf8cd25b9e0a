"""globox: COCO of boxes, with no mask."""

from __future__ import annotations

from pathlib import Path

from globox import Annotation, AnnotationSet, BoundingBox

from benchmarks.layouts.shared import make_label, run_script, write_images, write_truth


def write(folder: Path) -> None:
    target = folder / "boxes"
    shapes = write_images(target / "images")
    made = AnnotationSet(
        Annotation(
            name,
            (128, 96),
            [
                BoundingBox(
                    label=s.category, xmin=s.box[0], ymin=s.box[1], xmax=s.box[0] + s.box[2], ymax=s.box[1] + s.box[3]
                )
                for s in own
            ],
        )
        for name, own in shapes.items()
    )
    made.save_coco(target / "annotations.json", auto_ids=True)
    read = AnnotationSet.from_coco(target / "annotations.json")
    labels = [make_label(a.image_id, box.label, box.ltwh) for a in read for box in a.boxes]
    write_truth(target, list(read.image_ids), labels)


if __name__ == "__main__":
    run_script(write)
