"""One fault put into a whole data set, and what the data set has to come to then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bad_inputs.answers import COUNTED, READ, REFUSED, Case, Found, read_reference
from benchmarks.bad_inputs.good_sets import H, W, write_good, write_picture, write_text

Change = Callable[[Path], object]
Row = tuple[str, Change, tuple[str, ...]]
"""What it is, how it is put in, and what may come of it."""
NAN, INF = float("nan"), float("inf")
LONG = "9" * 5000
NESTED = "[" * 100_000
LINE, COUNT, FINE, ANY = (REFUSED,), (COUNTED,), (READ,), (REFUSED, COUNTED, READ)


def make_cases(tables: Mapping[str, tuple[Row, ...]]) -> Iterator[Case]:
    """Of tables by the kind of the data set."""
    for kind, rows in tables.items():
        for what, change, expected in rows:
            yield Case(kind, what, partial(_read, kind, change), expected)


def _read(kind: str, change: Change, folder: Path) -> Found:
    settings = write_good(kind, folder)
    change(folder)
    return read_reference(settings)


def set_json(name: str, *path: str | int, value: Any) -> Change:
    """Another value at a place of a JSON file; the place [-1] of a list is behind its last."""

    def change(root: Path) -> None:
        content = json.loads((root / name).read_text("utf-8"))
        node = content
        for key in path[:-1]:
            node = node[key]
        if isinstance(node, list) and path[-1] == -1:
            node.append(value)
        else:
            node[path[-1]] = value
        (root / name).write_text(json.dumps(content), "utf-8")

    return change


def drop_json(name: str, *path: str | int) -> Change:
    def change(root: Path) -> None:
        content = json.loads((root / name).read_text("utf-8"))
        node = content
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]
        (root / name).write_text(json.dumps(content), "utf-8")

    return change


def set_text(name: str, content: str | bytes) -> Change:
    return lambda root: (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


def set_lines(name: str, *lines: str) -> Change:
    return lambda root: write_text(root / name, *lines)


def add_lines(name: str, *lines: str) -> Change:
    def change(root: Path) -> None:
        with (root / name).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    return change


def cut(name: str, share: float = 0.5) -> Change:
    def change(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(share * len(content))])

    return change


def remove(name: str) -> Change:
    return lambda root: (root / name).unlink()


def put_folder(name: str) -> Change:
    """A folder in the place of a file."""

    def change(root: Path) -> None:
        (root / name).unlink()
        (root / name).mkdir()

    return change


def put_link(name: str, target: str) -> Change:
    """A link in the place of a file."""

    def change(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)

    return change


def break_picture(name: str) -> Change:
    return cut(name)


def resize(name: str) -> Change:
    return lambda root: write_picture(root / name, 9, 2 * H, W)


def in_turn(*changes: Change) -> Change:
    """All of them."""

    def change(root: Path) -> None:
        for own in changes:
            own(root)

    return change


def clear(name: str) -> Change:
    """No file in a folder any more."""

    def change(root: Path) -> None:
        for path in (root / name).iterdir():
            path.unlink()

    return change
