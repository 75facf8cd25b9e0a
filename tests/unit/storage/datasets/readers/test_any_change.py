"""Any change to a file of labels: the data set is read, or a line says why not. Pictures are decoded, masks drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.bad_inputs.answers import Found, read_reference
from benchmarks.bad_inputs.good_sets import NAMES, WRITERS, write_good
from lavise.configs.errors import UserError

# Parquet is left to pyarrow, which some damaged files end.
KINDS = sorted(WRITERS.keys() - {"huggingface"})
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "x",
    "../../x",
    "a\0b",
    "\ud800",
    [],
    {},
)
TEXTS = ("", "x", "-1", "nan", "1e308", "9" * 5000, "²", "../../x", "a\0b", "\x1b[31m", '"', ";", "0x10")
QUIET = settings(max_examples=8, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any], tuple[Path, ...]]]:
    """Folder, settings and files of labels of a whole data set of each kind."""
    found = {}
    for kind in KINDS:
        root = tmp_path_factory.mktemp(kind)
        own = write_good(kind, root)
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".jpg")
        found[kind] = (root, own, tuple(files))
    return found


def list_places(content: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place, *(deeper for key, value in inner for deeper in list_places(value, (*place, key)))]


def change_json(data: st.DataObject, text: str) -> str:
    content = json.loads(text)
    *above, last = data.draw(st.sampled_from(list_places(content)[1:]))
    node = content
    for key in above:
        node = node[key]
    node[last] = data.draw(st.sampled_from(VALUES))
    return json.dumps(content)


def change_text(data: st.DataObject, text: str) -> str:
    parts = re.split(r"([\s,;=:#<>\[\]]+)", text)
    parts[data.draw(st.integers(0, len(parts) - 1))] = data.draw(st.sampled_from(TEXTS))
    return "".join(parts)


def change(data: st.DataObject, content: bytes, path: Path) -> bytes:
    if data.draw(st.integers(0, 3)) == 0:
        return content[: data.draw(st.integers(0, len(content)))]
    if path.suffix in (".png", ".tar"):
        place, byte = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 255))
        return content[:place] + bytes([byte]) + content[place + 1 :]
    changed = change_json if path.suffix == ".json" else change_text
    return changed(data, content.decode()).encode("utf-8", "surrogatepass")


def read(settings: dict[str, Any]) -> Found | None:
    try:
        return read_reference(settings)
    except UserError:
        return None


@pytest.mark.parametrize("kind", KINDS)
@QUIET
@given(data=st.data())
def test_any_change_is_read_or_refused(good: Any, kind: str, data: st.DataObject) -> None:
    _, own, files = good[kind]
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    try:
        path.write_bytes(change(data, content, path))
        found = read(own)
        assert found is None or found.good <= len(NAMES)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_data_sets_are_read_whole(good: Any, kind: str) -> None:
    found = read(good[kind][1])
    assert found is not None
    assert found.good == len(NAMES)
    assert not found.left_out
