"""Predicates and tables of somebody else: any text is read, or a line says why not."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import Annotation, ImageRecord, resolve_inside
from lavise.storage.datasets.csv_tables import PictureNames, clean_name, read_table
from lavise.storage.datasets.predicates import parse_predicate

CONCEPTS = ("dog", "hot dog", "person", "and")
WORDS = ('"dog"', "dog", "hot_dog", '"hot dog"', "and", "or", "not", "(", ")", ">=", "3", "==", '"', "cat", "\0", "é")
QUIET = settings(max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
# A predicate, and the same in Python over the numbers of each category.
Trees: Any = st.recursive(
    st.tuples(st.sampled_from(CONCEPTS), st.sampled_from([">=", "<=", "==", ">", "<"]), st.integers(0, 3)),
    lambda inner: st.tuples(st.just("not"), inner) | st.tuples(st.sampled_from(["and", "or"]), inner, inner),
    max_leaves=6,
)


def check_line(error: UserError, start: str) -> None:
    """It says whose fault it is."""
    assert str(error).startswith(start)


def make_record(counts: dict[str, int]) -> ImageRecord:
    annotations = tuple(Annotation(name) for name, number in counts.items() for _ in range(number))
    return ImageRecord("a", Path("a"), annotations)


def write_tree(tree: Any) -> str:
    if tree[0] == "not":
        return f"not ({write_tree(tree[1])})"
    if tree[0] in ("and", "or") and isinstance(tree[1], tuple):
        return f"({write_tree(tree[1])}) {tree[0]} ({write_tree(tree[2])})"
    name, comparison, number = tree
    return f'"{name}" {comparison} {number}'


def compute_tree(tree: Any, counts: dict[str, int]) -> bool:
    if tree[0] == "not":
        return not compute_tree(tree[1], counts)
    if tree[0] in ("and", "or") and isinstance(tree[1], tuple):
        found = [compute_tree(part, counts) for part in tree[1:]]
        return all(found) if tree[0] == "and" else any(found)
    name, comparison, number = tree
    return bool(eval(f"{counts.get(name, 0)} {comparison} {number}"))


@settings(max_examples=40, derandomize=True)
@given(Trees, st.dictionaries(st.sampled_from(CONCEPTS), st.integers(0, 4)))
def test_predicate_is_what_python_makes_of_it(tree: Any, counts: dict[str, int]) -> None:
    found = parse_predicate(write_tree(tree), CONCEPTS, "bias.groups")
    assert found(make_record(counts)) is compute_tree(tree, counts)


@QUIET
@given(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=40))
def test_any_text_is_a_predicate_or_refused(text: str) -> None:
    try:
        found = parse_predicate(text, CONCEPTS, "bias.groups")
    except UserError as err:
        check_line(err, "bias.groups: ")
        return
    assert found(make_record({"dog": 1})) in (True, False)


@QUIET
@given(st.lists(st.lists(st.text(max_size=8), min_size=3, max_size=3), min_size=1, max_size=5))
def test_table_is_read_back(tmp_path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([["image", "a", "b"], *rows])
    path = tmp_path / "a.csv"
    try:
        path.write_text(text.getvalue(), "utf-8", newline="")
    except UnicodeEncodeError:
        return  # half a character cannot be written
    try:
        table = read_table(path, "field")
    except UserError:
        table = None
    if table is None:
        assert "\0" in text.getvalue()  # Python 3.11 refuses zero bytes
        return
    assert table.header == ("image", "a", "b")
    assert [list(cells) for _, cells in table.rows] == rows


@QUIET
@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"a", b",", b'"', b"\n", b"\r", b"\0", b"\xff", b"1.png"])).map(b"".join)
)
def test_any_bytes_are_a_table_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    try:
        table = read_table(path, "field")
    except UserError as err:
        check_line(err, "field: ")
        return
    assert all(len(cells) == len(table.header) for _, cells in table.rows)


@QUIET
@given(
    st.lists(st.sampled_from(["a", "b", "..", ".", "/", "\\", "C:", "1.png", "", "\0"]), max_size=6).map("/".join),
    st.text(),
)
def test_a_cell_names_a_picture_of_the_data_set_or_none(path: str, text: str) -> None:
    keys = ("a/1.png", "b/1.png", "b/2.png")
    for cell in (path, text):
        found = PictureNames(keys).find(cell)
        assert found is None or found in keys
        assert clean_name(cell).isprintable()


@QUIET
@given(
    st.lists(st.sampled_from(["a", "..", ".", "", "/", "link", "\0", "\ud800", "x" * 300]), max_size=6).map("/".join)
)
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    if not (root / "link").is_symlink():
        (root / "link").symlink_to(tmp_path)
    try:
        path = resolve_inside(root, name)
    except UserError:
        return
    assert path.resolve().is_relative_to(root.resolve())
    assert not path.is_file()  # it can be asked


def test_names_that_no_file_can_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of 5,000 characters; allowed: names of up to 255 bytes"):
        resolve_inside(tmp_path, "9" * 5000)
