"""Masks as pictures whose values are indices of classes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation
from lavise.storage.datasets.readers.entry_labels import Classes
from lavise.storage.images.images import read_values
from lavise.storage.images.inner_files import PictureFile


def read_index_masks(
    source: PictureFile, classes: Classes, ignored: Collection[int], place: str
) -> tuple[Annotation, ...]:
    """A mask for each class that is in the picture, by index.

    Args:
        ignored: values that are no class.
        place: opens the line of an error.

    Raises:
        UserError: a value that is no class.
        BrokenImageError: it cannot be read, or has colours.
    """
    from pycocotools import mask as coco_mask

    values_hw = read_values(source)
    found = []
    for value in np.unique(values_hw).tolist():
        if value in ignored:
            continue
        if classes.names is None or not 0 <= value < len(classes.names):
            raise UserError(
                f"{place}: found value {value} in a mask; allowed: 0 to {len(classes.names or ()) - 1}; set "
                "reference.classes, or reference.mask_ignored for values that are no class"
            )
        rle = coco_mask.encode(np.asfortranarray(values_hw == value).astype(np.uint8))
        found.append(Annotation(classes.names[value], rle={"size": list(rle["size"]), "counts": rle["counts"]}))
    return tuple(found)
