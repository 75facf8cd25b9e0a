from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from lavise.storage.datasets.base import Dataset, ImageRecord
from lavise.storage.images import inner_files
from lavise.storage.images.images import BrokenImageError, open_image, read_size, read_values
from lavise.storage.images.inner_files import ParquetCell, TarMember
from tests.unit.storage.datasets.readers.containers import (
    IMAGE,
    encode_image,
    make_table,
    read_target,
    save_to_disk,
    write_parquet,
    write_tar,
)

NAMES = tuple(f"{folder}/{i}.png" for folder in ("a", "b") for i in range(3))
CONTENTS = {name: encode_image(40 * i, 20 + i, 30) for i, name in enumerate(NAMES)}


def make_all(root: Path) -> dict[str, Dataset]:
    """The same pictures under the same names in the same order, laid in four ways."""
    for name, content in CONTENTS.items():
        (root / "plain" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "plain" / name).write_bytes(content)
    write_tar(root / "tar" / "0.tar", [(n, CONTENTS[n]) for n in NAMES[:4]])
    write_tar(root / "tar" / "1.tar", [(n, CONTENTS[n]) for n in NAMES[4:]])
    rows = [{"name": n, "image": {"bytes": CONTENTS[n], "path": None}} for n in NAMES]
    table = make_table({"name": pyarrow.string(), "image": IMAGE}, rows)
    save_to_disk(root / "arrow", table.slice(0, 3), table.slice(3))
    write_parquet(root / "parquet" / "all.parquet", table)
    return {
        "plain": read_target(kind="image_folder", root=root / "plain"),
        "tar": read_target(kind="webdataset", root=root / "tar"),
        "arrow": read_target(kind="huggingface", root=root / "arrow", key="name"),
        "parquet": read_target(kind="parquet", root=root / "parquet", key="name"),
    }


def test_digest_is_of_contents_and_order_wherever_they_lie(tmp_path: Path) -> None:
    found = make_all(tmp_path)
    digests = {kind: data.digest_images() for kind, data in found.items()}
    assert len(set(digests.values())) == 1
    records = found["tar"].records
    assert Dataset("other order", records[::-1]).digest_images() != digests["plain"]
    changed = [ImageRecord(records[0].key, records[1].path), *records[1:]]
    assert Dataset("other content", tuple(changed)).digest_images() != digests["plain"]


def test_pictures_are_the_same_wherever_they_lie(tmp_path: Path) -> None:
    found = make_all(tmp_path)
    for kind, data in found.items():
        for record, plain in zip(data.records, found["plain"].records, strict=True):
            np.testing.assert_array_equal(open_image(record.path), open_image(plain.path), err_msg=kind)
            assert read_size(record.path) == read_size(plain.path)


def test_records_go_to_other_processes_and_are_read_by_threads(tmp_path: Path) -> None:
    for data in make_all(tmp_path).values():
        records = pickle.loads(pickle.dumps(data.records))
        assert records == data.records
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda r: r.path.read_bytes(), [*records] * 5)) == list(CONTENTS.values()) * 5


def test_only_pictures_of_safe_formats_are_decoded(tmp_path: Path) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    path = write_tar(tmp_path / "a.tar", [("x.png", postscript)])
    (record,) = read_target(kind="webdataset", root=path.parent).records
    with pytest.raises(BrokenImageError, match="no picture of a known format"):
        open_image(record.path)


def test_a_file_inside_another_has_no_file_of_its_own(tmp_path: Path) -> None:
    record = ImageRecord("x", TarMember(tmp_path / "a.tar", 0, 1))
    with pytest.raises(ValueError, match="'x' is no file of its own"):
        _ = record.file


def test_what_is_away_is_said_as_of_any_picture(tmp_path: Path) -> None:
    gone = TarMember(tmp_path / "a.tar", 0, 9)
    with pytest.raises(BrokenImageError, match="not found"):
        open_image(gone)
    with pytest.raises(BrokenImageError, match="not readable"):
        read_size(gone)
    (tmp_path / "a.tar").write_bytes(b"12345")
    with pytest.raises(BrokenImageError, match="5 bytes of 9"):
        open_image(gone)
    absent = Dataset("d", (ImageRecord("x", tmp_path / "none.png"),)).digest_images()
    assert Dataset("d", (ImageRecord("x", gone),)).digest_images() == absent


def test_an_empty_cell_is_a_picture_that_is_not_there(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image": {"bytes": encode_image(1), "path": None}},
        {"image": {"bytes": None, "path": "x"}},
        {"image": None},
    ]
    write_parquet(tmp_path / "p" / "all.parquet", make_table({"image": IMAGE}, rows))
    save_to_disk(tmp_path / "a", make_table({"image": IMAGE}, rows))
    for data in (
        read_target(kind="parquet", root=tmp_path / "p"),
        read_target(kind="huggingface", root=tmp_path / "a"),
    ):
        assert open_image(data.records[0].path).size == (30, 20)
        for record in data.records[1:]:
            with pytest.raises(BrokenImageError, match="not found"):
                open_image(record.path)


def test_a_table_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    for shade in (10, 200):
        content = encode_image(shade)
        write_parquet(path, make_table({"image": IMAGE}, [{"image": {"bytes": content, "path": None}}]))
        assert ParquetCell(path, "image.bytes", 0, 0).read_bytes() == content


def test_parts_kept_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_all(tmp_path)["parquet"]
    parts = inner_files._Parts()
    monkeypatch.setattr(inner_files, "_PARTS", parts)
    monkeypatch.setattr(inner_files, "_KEPT_BYTES", 2 * len(CONTENTS[NAMES[0]]) + 40)
    for record in (*data.records, *data.records):
        assert not isinstance(record.path, Path)
        assert record.path.read_bytes() == CONTENTS[record.key]
        assert len(parts._parts) == 1


def test_a_row_group_that_unpacks_to_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inner_files, "MAX_PART_BYTES", 100_000)
    rows = [{"image": {"bytes": bytes(1000), "path": None}}] * 500  # packed into a few hundred bytes
    path = write_parquet(tmp_path / "all.parquet", make_table({"image": IMAGE}, rows), rows=500)
    assert path.stat().st_size < 20_000
    with pytest.raises(OSError, match="unpacks to more than 100000 bytes"):
        ParquetCell(path, "image.bytes", 0, 3).read_bytes()


def test_values_of_a_picture_inside_another_file(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("x.png", encode_image(3))])
    (record,) = read_target(kind="webdataset", root=path.parent).records
    with pytest.raises(BrokenImageError, match="its mode is RGB"):
        read_values(record.path)
