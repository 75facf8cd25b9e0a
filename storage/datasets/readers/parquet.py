"""Parquet files with a column of pictures, as a target."""

from __future__ import annotations

from lavise.configs.container_formats import ParquetTarget
from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Dataset, ImageRecord, require_folder
from lavise.storage.datasets.formats import TargetFormat, register_target_format
from lavise.storage.datasets.readers.name_patterns import find_files, list_missing
from lavise.storage.datasets.readers.picture_rows import read_keyed_rows
from lavise.storage.datasets.readers.picture_tables import ParquetTable


def load_parquet_target(settings: ParquetTarget) -> Dataset:
    """All pictures, in the order of files and rows.

    Raises:
        UserError: a file or column is missing or cannot be read, or there is no row.
    """
    root = require_folder(settings.root, "target.root")
    files = find_files(root, settings.files, "target.files")
    tables = [(file.relative_to(root).as_posix(), ParquetTable(file)) for file in files]
    rows = read_keyed_rows(tables, "target", settings.image, settings.key, max_rows=settings.max_images)
    records = tuple(ImageRecord(row.key, row.image) for row in rows)
    if not records:
        raise UserError(f"target.files: no rows in {settings.files} below {root}; allowed: at least one")
    return Dataset(root.name, records)


register_target_format(
    "parquet",
    TargetFormat(
        load_parquet_target,
        lambda settings: {"files": list_missing(settings.root, settings.files, "files")},
    ),
)
