#!/bin/sh
# datumaro 1.13.12, numpy 2.4.6 (Python 3.11 or later)
#
# Seen: a data set of pixel masks that datumaro exports to Open Images comes back from its own reader with all pictures
# and no mask at all; the CSV file, the PNG files of the masks and the pictures are there. With boxes beside the masks all
# masks come back: only then the exporter writes images.meta with the sizes of the pictures, without which the reader
# passes over masks. Its log says "missing image file" of pictures that are not missing; the exit code is 0.
#
# Expected by most: what is exported is read again, or an error says what is lacking.
#
# Why it matters to whoever audits a network: the labelled pictures lose every label on the way through a tool that is
# made to convert them, and pictures without labels are valid data.
#
# guess before the run: 0 of 3 masks without boxes, 3 of 3 with them.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check datumaro==1.13.12 numpy==2.4.6 2> pip.log
cat > run.py <<'PY'
import pathlib

import numpy as np
from datumaro.components.annotation import AnnotationType, Bbox, Mask
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image


def make(number, with_box):
    mask = np.zeros((60, 80), dtype=bool)
    mask[10 : 40 + number, 20:50] = True
    same = {"label": 0, "id": number + 1, "group": number + 1}
    objects = [Mask(mask, attributes={"box_id": f"{number:08x}"}, **same)]
    return [*objects, Bbox(20, 10, 30, 30 + number, **same)] if with_box else objects


def pass_through(name, with_box):
    """Masks in the written table, pictures and masks that are read again, and whether there are sizes."""
    items = [
        DatasetItem(
            f"{n}",
            subset="train",
            media=Image.from_numpy(np.zeros((60, 80, 3), np.uint8), size=(60, 80)),
            annotations=make(n, with_box),
        )
        for n in range(3)
    ]
    Dataset.from_iterable(items, categories=["cup"]).export(name, "open_images", save_media=True)
    table = next(pathlib.Path(name).rglob("*segmentation.csv")).read_text().splitlines()
    read = list(Dataset.import_from(name, "open_images"))
    masks = sum(a.type == AnnotationType.mask for item in read for a in item.annotations)
    files = sum(pathlib.Path(item.media.path).is_file() for item in read)
    return len(table) - 1, files, masks, any(pathlib.Path(name).rglob("images.meta"))


found = {}
for name, with_box in (("masks alone", False), ("masks and boxes", True)):
    found[name] = written, files, masks, has_sizes = pass_through(name.replace(" ", "_"), with_box)
    print(f"{name}: {written} masks written, {masks} masks read; {files} files of pictures, images.meta: {has_sizes}")
as_seen = {"masks alone": (3, 3, 0, False), "masks and boxes": (3, 3, 3, True)}
raise SystemExit(0 if found == as_seen else "this has changed")
PY
venv/bin/python run.py
