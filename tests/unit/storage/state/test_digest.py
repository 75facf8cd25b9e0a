from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lavise.storage.state.digest import (
    canonical_json,
    digest_file,
    digest_files,
    digest_of,
    digest_of_each,
    digest_tensors,
    short,
)
from lavise.storage.state.progress import Bar


def test_digest_is_the_sha256_of_sorted_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2.5],"b":"\\u00fc"}').hexdigest()
    assert digest_of({"b": "ü", "a": (1, 2.5)}) == expected


def test_order_of_keys_does_not_matter_and_order_of_lists_does() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])


@pytest.mark.parametrize(
    ("plain", "with_none"),
    [
        ({"a": 1}, {"a": 1, "new": None}),
        ({"a": {"b": 1}}, {"a": {"b": 1, "new": None}, "also": None}),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "new": None}]}),
    ],
)
def test_new_optional_setting_does_not_change_old_digests(plain: Any, with_none: Any) -> None:
    assert digest_of(plain) == digest_of(with_none)


@pytest.mark.parametrize("other", [{"a": 0}, {"a": False}, {"a": ""}, {"a": []}, {"a": {}}, {}, {"a": "1"}, {"b": 1}])
def test_values_that_differ_have_other_digests(other: Any) -> None:
    assert digest_of(other) != digest_of({"a": 1})


def test_none_in_a_list_keeps_its_place() -> None:
    assert digest_of([None, 1]) != digest_of([1])


def test_paths_count_as_text() -> None:
    assert canonical_json({"p": Path("a") / "b"}) == '{"p":"a/b"}'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        digest_of({"a": value})


def test_canonical_json_can_be_read_back() -> None:
    value = {"b": [1, {"c": "x"}], "a": True}
    assert json.loads(canonical_json(value)) == value


def test_digest_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "a").write_bytes(data)
    assert digest_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_digest_files_changes_with_content_and_with_name(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two"), ("c", "one")):
        (tmp_path / name).write_text(text)
    base = digest_files({"a": tmp_path / "a", "b": tmp_path / "b"})
    assert digest_files({"b": tmp_path / "b", "a": tmp_path / "a"}, threads=1) == base
    # The name is the one in the data set, not where the file lies.
    assert digest_files({"a": tmp_path / "c", "b": tmp_path / "b"}) == base
    assert digest_files({"x": tmp_path / "a", "b": tmp_path / "b"}) != base
    assert digest_files({"a": tmp_path / "b", "b": tmp_path / "a"}) != base
    (tmp_path / "b").write_text("twO")
    assert digest_files({"a": tmp_path / "a", "b": tmp_path / "b"}) != base


def test_digest_files_reads_the_content_even_if_time_and_size_stay(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    stamp = path.stat()
    base = digest_files({"a": path})
    path.write_text("two")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert digest_files({"a": path}) != base


def test_missing_file_counts_as_absent(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    absent = digest_files({"a": tmp_path / "none"})
    assert absent == digest_of([["a", "absent"]])
    assert absent != digest_files({"a": tmp_path / "empty"})


def test_digest_files_shows_its_progress(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    class Counting:
        def advance(self, steps: int = 1) -> None:
            seen.append(("step", steps))

    @contextmanager
    def progress(title: str, total: int) -> Iterator[Bar]:
        seen.append((title, total))
        yield Counting()

    (tmp_path / "a").write_text("x")
    digest_files({"a": tmp_path / "a", "b": tmp_path / "b"}, progress)
    assert seen == [("hash files", 2), ("step", 1), ("step", 1)]


def test_digest_tensors_vs_by_hand() -> None:
    tensors = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.int64)}
    sha = hashlib.sha256()
    sha.update(b"a\0torch.int64\0()\0" + (3).to_bytes(8, "little"))
    sha.update(b"b\0torch.float32\0(2,)\0" + bytes.fromhex("0000803f00000040"))
    assert digest_tensors(tensors) == sha.hexdigest()


def test_digest_tensors_sees_every_difference() -> None:
    base = {"w": torch.arange(6.0).reshape(2, 3)}
    others = [
        {"v": base["w"]},
        {"w": base["w"].reshape(3, 2)},
        {"w": base["w"].double()},
        {"w": base["w"] + torch.eye(2, 3) * 1e-6},
        {"w": base["w"], "b": torch.zeros(0)},
        {},
    ]
    assert len({digest_tensors(t) for t in [base, *others]}) == 7


def test_digest_tensors_does_not_see_how_a_tensor_is_held() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    column_major = tensor.T.contiguous().T
    assert not column_major.is_contiguous()
    same = {"w": tensor, "b": torch.ones(2, dtype=torch.bfloat16)}
    held = OrderedDict(b=torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), w=column_major)
    assert digest_tensors(held) == digest_tensors(same)


def test_short() -> None:
    assert short("0123456789abcdef") == "0123456789ab"


@pytest.mark.parametrize("values", [[], [1], [["a", None], {"b": None, "c": [0.5]}, "é"]])
def test_a_list_has_the_same_digest_value_by_value(values: list[object]) -> None:
    assert digest_of_each(iter(values)) == digest_of(values)
