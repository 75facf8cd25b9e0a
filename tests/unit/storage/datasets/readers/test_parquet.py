from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest

from lavise.configs.errors import UserError
from lavise.storage.datasets.readers import picture_tables
from lavise.storage.images.images import open_image
from tests.unit.storage.datasets.readers.containers import IMAGE, encode_image, make_table, read_target, write_parquet

TEXT = pyarrow.string()


def test_columns_of_bytes_in_files_and_row_groups(tmp_path: Path) -> None:
    rows = [{"picture": encode_image(20 * i), "id": f"p{i}"} for i in range(5)]
    columns = {"picture": pyarrow.large_binary(), "id": TEXT}
    write_parquet(tmp_path / "b-1.parquet", make_table(columns, rows[3:]))
    write_parquet(tmp_path / "b-0.parquet", make_table(columns, rows[:3]))
    found = read_target(kind="parquet", root=tmp_path, image="picture")
    assert [r.key for r in found.records] == [
        *(f"b-0.parquet/{i:06d}" for i in range(3)),
        *(f"b-1.parquet/{i:06d}" for i in range(2)),
    ]
    assert [open_image(r.path).getpixel((0, 0)) for r in found.records] == [(20 * i, 90, 120) for i in range(5)]
    named = read_target(kind="parquet", root=tmp_path, image="picture", key="id", files="b-{1,0}.parquet")
    assert [r.key for r in named.records] == ["p3", "p4", "p0", "p1", "p2"]
    assert len(read_target(kind="parquet", root=tmp_path, image="picture", max_images=4).records) == 4


def test_faults(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": encode_image(1), "path": None}, "id": "a", "n": 1}] * 2
    write_parquet(tmp_path / "a.parquet", make_table({"image": IMAGE, "id": TEXT, "n": pyarrow.int64()}, rows))
    for settings, message in (
        ({"image": "img"}, r"^target: .*a\.parquet has no column 'img'; allowed: image, id, n$"),
        ({"image": "id"}, r"^target: column 'id' of .*a\.parquet is string; allowed: pictures, which are binary"),
        ({"key": "id"}, r"a\.parquet, row 1: found name 'a' twice; allowed: different names; set target\.key"),
        ({"key": "n"}, r"a\.parquet, row 0: found name 1 in 'n'; allowed: text; set target\.key"),
        ({"files": "x.parquet"}, r"^target\.files: found no file 'x\.parquet'"),
    ):
        with pytest.raises(UserError, match=message):
            read_target(kind="parquet", root=tmp_path, **settings)
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no parquet", whole[:40] + bytes(20) + whole[60:-8] + bytes(8)):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.parquet: cannot be read \(.*\); allowed: a whole file; write or copy"):
            read_target(kind="parquet", root=tmp_path)


def test_paths_instead_of_pictures(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": None, "path": "/etc/passwd"}}] * 2
    write_parquet(tmp_path / "a.parquet", make_table({"image": IMAGE}, rows))
    with pytest.raises(
        UserError, match=r"row 0: the cell of 'image' is empty or has only the path of a picture; allowed"
    ):
        read_target(kind="parquet", root=tmp_path)


def test_row_groups_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": {"bytes": encode_image(i), "path": None}} for i in range(9)]
    write_parquet(tmp_path / "a.parquet", make_table({"image": IMAGE}, rows), rows=9)
    monkeypatch.setattr(picture_tables, "MAX_PART_BYTES", 500)
    with pytest.raises(
        UserError, match=r"row group 0 has .* MB, of which the pictures are read together; .*row_group_size=100"
    ):
        read_target(kind="parquet", root=tmp_path)


def test_no_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", make_table({"image": IMAGE}, []))
    with pytest.raises(UserError, match=r"^target\.files: no rows in \*\.parquet"):
        read_target(kind="parquet", root=tmp_path)
