#!/bin/sh
# datumaro 1.13.12, pycocotools 2.0.11, numpy 2.4.6 (Python 3.11 or later)
#
# Seen: objects that are pixel masks are exported to COCO with iscrowd=1, each of them; as polygons the same objects have
# iscrowd=0. pycocotools' COCOeval passes over crowds, so that detections which repeat the masks exactly get an average
# precision of -1 (no ground truth) from the first file, and 1 from the second. Neither library says a word.
#
# Expected by most: iscrowd stays 0, since each mask is one object, and both files are the same ground truth.
#
# Why it matters to whoever audits a network: whatever skips crowds, as trainers and evaluations do, sees no object in
# such a file; where masks and polygons are mixed, it sees only some kinds of objects, and nothing looks broken.
#
# guess before the run: -1 and 1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check datumaro==1.13.12 pycocotools==2.0.11 numpy==2.4.6 \
    2> pip.log
cat > run.py <<'PY'
import contextlib
import io
import json
import logging
import pathlib

import numpy as np
from datumaro.components.annotation import Mask, Polygon
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

logging.disable(logging.CRITICAL)


def make_mask(number):
    mask = np.zeros((60, 80), dtype=bool)
    mask[10 : 40 + number, 20:50] = True
    return Mask(mask, label=0, id=number + 1, group=number + 1)


def make_polygon(number):
    return Polygon([20, 10, 50, 10, 50, 40 + number, 20, 40 + number], label=0, id=number + 1, group=number + 1)


def judge(name, make):
    """iscrowd of all annotations, and the average precision of detections that repeat them."""
    items = [
        DatasetItem(f"{n}", media=Image.from_numpy(np.zeros((60, 80, 3), np.uint8), size=(60, 80)), annotations=[make(n)])
        for n in range(3)
    ]
    Dataset.from_iterable(items, categories=["cup"]).export(name, "coco_instances", save_media=True)
    file = next(pathlib.Path(name).glob("annotations/*.json"))
    entries = json.loads(file.read_text())["annotations"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        same = [
            {"image_id": e["image_id"], "category_id": e["category_id"], "segmentation": truth.annToRLE(e), "score": 1.0}
            for e in entries
        ]
        evaluation = COCOeval(truth, truth.loadRes(same), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return sorted({e["iscrowd"] for e in entries}), round(float(evaluation.stats[0]), 3)


masks, polygons = judge("masks", make_mask), judge("polygons", make_polygon)
print(f"pixel masks: iscrowd {masks[0]}, average precision of the masks themselves {masks[1]}")
print(f"polygons:    iscrowd {polygons[0]}, average precision of the polygons themselves {polygons[1]}")
raise SystemExit(0 if (masks, polygons) == (([1], -1.0), ([0], 1.0)) else "this has changed")
PY
venv/bin/python run.py
