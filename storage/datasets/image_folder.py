"""Image folders: a class per folder with the whole picture as the mask, or no labels at all."""

from __future__ import annotations

from lavise.configs.errors import UserError
from lavise.configs.schema import ImageFolderReference, ImageFolderTarget
from lavise.storage.datasets.base import Annotation, Dataset, ImageRecord, Reference, require_folder, split_by_image
from lavise.storage.datasets.formats import Format, TargetFormat, register_format, register_target_format
from lavise.storage.datasets.images import IMAGE_SUFFIXES, list_images


def load_image_folder_reference(settings: ImageFolderReference, seed: int) -> Reference:
    """The first folder below root is the class; `_` in its name reads as a space.

    Raises:
        UserError: no folder, or no picture in a class folder.
    """
    root = require_folder(settings.root, "reference.root")
    records = []
    for path in list_images(root):
        parts = path.relative_to(root).parts
        if len(parts) > 1:
            concept = parts[0].replace("_", " ")
            records.append(ImageRecord(path.relative_to(root).as_posix(), path, (Annotation(concept),)))
    if not records:
        raise UserError(f"reference.root: no pictures in class folders below {root}; allowed: ROOT/CLASS/picture.jpg")
    concepts = tuple(sorted({r.annotations[0].concept for r in records}))
    train, evaluation = split_by_image(records, settings.evaluation_share, seed)
    return Reference(
        Dataset(f"{root.name}/train", tuple(train), concepts),
        Dataset(f"{root.name}/evaluation", tuple(evaluation), concepts),
    )


def load_image_folder_target(settings: ImageFolderTarget) -> Dataset:
    """All pictures below root, without any label.

    Raises:
        UserError: no folder, or no picture in it.
    """
    root = require_folder(settings.root, "target.root")
    paths = list_images(root)[: settings.max_images]
    if not paths:
        raise UserError(f"target.root: no pictures below {root}; allowed: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return Dataset(root.name, tuple(ImageRecord(p.relative_to(root).as_posix(), p) for p in paths))


register_format("image_folder", Format(load_image_folder_reference))
register_target_format("image_folder", TargetFormat(load_image_folder_target))
