"""Pictures and networks whose input is not square, or has bands instead of colours: filters are planted in them.

Each concept is a bright rectangle in a channel of its own, on a dark ground of noise; each of the first filters is the
mean of one channel over a cell, less a level that the ground does not reach.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

CONCEPTS = ("cat", "car", "tree")
CELL_PX = 4
_LEVEL = 0.5
_SIZES = ((60, 90), (100, 70), (64, 64), (48, 120))


class Planted(nn.Module):
    """Filter c is where channel c is bright; two more are sums of channels with weights of either sign."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.cells = nn.Conv2d(channels, channels + 2, CELL_PX, stride=CELL_PX)
        weight = torch.zeros(channels + 2, channels, 1, 1)
        weight[torch.arange(channels), torch.arange(channels)] = 1
        weight[channels:] = torch.linspace(-1, 1, 2 * channels).view(2, channels, 1, 1)
        self.cells.weight.data = (weight / CELL_PX**2).expand_as(self.cells.weight).contiguous()
        self.cells.bias = nn.Parameter(torch.full((channels + 2,), -_LEVEL))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.cells(images))


def write_planted_coco(root: Path, num: int, channels: int = 3, seed: int = 0) -> Path:
    """Pictures with their annotations in COCO's form: PNG in colours, or TIFF where there are other channels.

    With bands, the concepts are in the last of them.
    """
    for number, part in enumerate(("train2017", "val2017")):
        rng = np.random.default_rng(seed + number)
        (root / part).mkdir(parents=True)
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for i in range(num):
            height, width = _SIZES[i % len(_SIZES)]
            picture = rng.integers(0, 60, size=(height, width, channels)).astype(np.uint8)
            name = f"{i:03d}.{'png' if channels == 3 else 'tif'}"
            chosen = sorted(rng.permutation(len(CONCEPTS))[: rng.integers(1, 3)])
            for concept in chosen:
                high, wide = int(height * rng.uniform(0.25, 0.45)), int(width * rng.uniform(0.25, 0.45))
                top, left = (int(rng.integers(0, whole - own)) for whole, own in ((height, high), (width, wide)))
                picture[top : top + high, left : left + wide, channels - len(CONCEPTS) + concept] = rng.integers(
                    200, 256, (high, wide)
                )
                corners = [left, top, left + wide, top, left + wide, top + high, left, top + high]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": i, "category_id": int(concept) + 1, "iscrowd": 0,
                     "segmentation": [corners], "bbox": [left, top, wide, high], "area": high * wide}
                )  # fmt: skip
            images.append({"id": i, "file_name": name, "height": height, "width": width})
            write_picture(root / part / name, picture, planar=bool(i % 2))
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CONCEPTS)],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def write_picture(path: Path, picture_hwC: npt.NDArray[np.uint8], planar: bool = False) -> None:
    """PNG in colours; TIFF of bands in 16 bit, interleaved or planar."""
    if picture_hwC.shape[2] == 3:
        Image.fromarray(picture_hwC).save(path)
        return
    bands = picture_hwC.astype(np.uint16) * 257
    content = np.moveaxis(bands, 2, 0) if planar else bands
    tifffile.imwrite(path, content, photometric="minisblack", planarconfig="separate" if planar else "contig")
