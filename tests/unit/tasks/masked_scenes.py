"""Pictures with masks, and the oracle for masks on the grid of a map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord
from tests.unit.tasks.helpers import AnyArray, encode_mask, write_image

CONCEPTS = ("cat", "dog", "sky")


def make_scene(folder: Path, num: int = 6, seed: int = 0) -> Dataset:
    """Pictures of 32 x 48 with masks of all kinds; the last picture has none."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(num):
        path = write_image(folder / f"{i:03d}.png", 32, 48, seed=i)
        annotations: list[Annotation] = []
        if i < num - 1:
            mask = np.zeros((32, 48), bool)
            top, left = rng.integers(0, 16), rng.integers(0, 24)
            mask[top : top + rng.integers(8, 16), left : left + rng.integers(8, 24)] = True
            annotations = [encode_mask("cat", mask), encode_mask("dog", rng.random((32, 48)) < 0.6), Annotation("sky")]
        if i == 1:
            annotations.append(encode_mask("dog", np.zeros((32, 48), bool)))
            annotations.append(encode_mask("cat", np.ones((48, 32), bool)))
            annotations.append(Annotation("cat", boxes=((3.0, 2.0, 10.0, 12.0), (20.0, 10.0, 8.0, 8.0))))
        records.append(ImageRecord(f"{i:03d}.png", path, tuple(annotations)))
    return Dataset("scene", tuple(records), CONCEPTS, {"crowd": 2})


def shrink_by_area(mask: AnyArray, height: int, width: int) -> AnyArray:
    """Share of each cell that the mask covers, pixel by pixel; the cells of these tests hold whole pixels."""
    high, wide = mask.shape[0] // height, mask.shape[1] // width
    return np.array(
        [
            [mask[y * high : (y + 1) * high, x * wide : (x + 1) * wide].mean() for x in range(width)]
            for y in range(height)
        ]
    )
