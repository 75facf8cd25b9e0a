"""Small archives and tables, written by tarfile and pyarrow."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image
from pyarrow import ipc, parquet
from pydantic import TypeAdapter

from lavise.configs.schema import ReferenceSettings, TargetSettings
from lavise.storage.datasets.base import Dataset, Reference
from lavise.storage.datasets.formats import find_format, find_target_format

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def encode_image(shade: int, height: int = 20, width: int = 30, form: str = "PNG") -> bytes:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade % 256, 90, 120)).save(buffer, form)
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_table(
    columns: Mapping[str, pyarrow.DataType], rows: Sequence[Mapping[str, Any]], features: Any = None
) -> pyarrow.Table:
    """With the note that `datasets` puts into the schema."""
    table = pyarrow.Table.from_pylist(list(rows), pyarrow.schema(list(columns.items())))
    note = {"huggingface": json.dumps({"info": {"features": features}})} if features is not None else None
    return table.replace_schema_metadata(note)


def save_to_disk(folder: Path, *parts: pyarrow.Table) -> Path:
    """As `datasets` does: arrow streams of small batches, and a list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, table in zip(names, parts, strict=True):
        with ipc.new_stream(folder / name, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def write_parquet(path: Path, table: pyarrow.Table, rows: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=rows)
    return path


def read_reference(**settings: Any) -> Reference:
    found: Any = TypeAdapter(ReferenceSettings).validate_python(settings)
    return find_format(found.kind).read(found, 0)


def read_target(**settings: Any) -> Dataset:
    found: Any = TypeAdapter(TargetSettings).validate_python(settings)
    return find_target_format(found.kind).read(found)
