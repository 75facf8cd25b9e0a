"""Imports point one way: flows -> tasks -> storage -> configs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOMS = ["configs", "storage", "tasks", "flows"]
ROOT = Path(__file__).resolve().parents[2]


def find_imports(source: str) -> set[str]:
    """Top-level names of everything that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room"
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_a_later_one(room: str) -> None:
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules
    forbidden = {*ROOMS[ROOMS.index(room) + 1 :], "tests", "benchmarks"}
    wrong = {str(m.relative_to(ROOT)): bad for m in modules if (bad := find_imports(m.read_text("utf-8")) & forbidden)}
    assert wrong == {}


def test_sees_imports_inside_functions() -> None:
    assert find_imports("def f():\n    from flows.audit import run_audit\n    import tasks.train") == {"flows", "tasks"}
