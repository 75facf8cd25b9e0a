"""A file that is read bit by bit says what it says when it is read at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lavise.storage.datasets.readers import json_lists
from lavise.storage.datasets.readers.json_lists import read_json_lists
from lavise.storage.packed_list import PackedList

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lists, "_CHUNK", 5)  # so that every value is cut somewhere


def read(path: Path, text: str, encoding: str = "utf-8") -> Any:
    path.write_text(text, encoding)
    return {k: list(v) if isinstance(v, PackedList) else v for k, v in read_json_lists(path).items()}


@_FIXTURE
@given(st.dictionaries(st.text(max_size=4), _VALUES, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_values_are_those_of_json(tmp_path: Path, value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert read(tmp_path / "a.json", text) == value
    assert read(tmp_path / "b.json", f"\n {text}\t", "utf-8-sig") == value


@_FIXTURE
@given(st.text(alphabet='{}[]:,"a1 -.eNn\n', max_size=14))
def test_refuses_what_json_refuses(tmp_path: Path, text: str) -> None:
    reason = ""
    try:
        expected = json.loads(text)
    except ValueError as err:
        reason = str(err)
    if reason:
        with pytest.raises(ValueError) as found:
            read(tmp_path / "a.json", text)
        assert str(found.value) == reason
    elif isinstance(expected, dict):
        assert read(tmp_path / "a.json", text) == expected
    else:
        with pytest.raises(TypeError, match="found " + type(expected).__name__):
            read(tmp_path / "a.json", text)


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [{"id": 1}, {"id": 2}',
        '{"images": [{"id": 1} {"id": 2}]}',
        '{"images": [1,]}',
        '{"images": [1], }',
        '{"images" [1]}',
        '{"images": [1]} x',
        "{images: []}",
        '{"a": 1, "b": tru}',
        "",
    ],
)
def test_a_fault_is_told_by_its_place_in_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(json.JSONDecodeError) as found:
        read(tmp_path / "a.json", text)
    assert str(found.value) == str(expected.value)


def test_the_last_of_two_lists_counts_and_other_bytes_are_refused(tmp_path: Path) -> None:
    assert read(tmp_path / "a.json", '{"a": [1, NaN], "a": [2, -Infinity, 1e3]}') == {"a": [2, -float("inf"), 1e3]}
    (tmp_path / "b.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UnicodeDecodeError):
        read_json_lists(tmp_path / "b.json")
