"""Imports point one way, between rooms and between the wings of a room, and no files import each other in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ["configs", "storage", "tasks", "flows"]
# Wings of a room, by level: those of one level know nothing of each other, nor of any later one.
WINGS = {
    "storage": [
        {"array_files", "array_types", "packed_list", "state", "table_rows"},
        {"map_summaries", "words", "images"},
        {"datasets"},
        {"models"},
        {"activations", "tracking_addresses", "loopback"},
        {"tracking_client", "moved_store"},
        {"tracking"},
        {"checkpoint_sources"},
    ],
    "tasks": [
        {"numerics", "engine"},
        {"inputs", "activations", "charts"},
        {"masks"},
        {"explainer"},
        {"words"},
        {"evaluation", "group_bias", "classifier", "expectations"},
        {"analyses"},
        {"report"},
        {"history"},
    ],
    "flows": [
        {"shared", "serving"},
        {"past_audits"},
        {"audit"},
        {"repeats"},
        {"orchestration"},
        {"doctor", "notebook"},
        {"command_line"},
    ],
}


def list_modules(room: str) -> dict[str, Path]:
    """Modules of a room by the names that they are imported by."""
    found = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(["lavise", *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


def find_imports(source: str) -> set[str]:
    """Dotted names of everything that a module imports: `from a.b import c` is a.b and a.b.c."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_room(module: str) -> str:
    """lavise.storage.words.lemmas -> storage; numpy.linalg -> numpy."""
    parts = module.split(".")
    return parts[1] if parts[0] == "lavise" and len(parts) > 1 else parts[0]


def name_wing(module: str) -> str:
    """lavise.storage.words.lemmas -> words; an empty text for the room itself."""
    return [*module.split("."), ""][2]


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_a_later_one(room: str) -> None:
    modules = list_modules(room)
    assert modules
    forbidden = {*ROOMS[ROOMS.index(room) + 1 :], "tests", "benchmarks"}
    imported = {m: {name_room(i) for i in find_imports(p.read_text("utf-8"))} for m, p in modules.items()}
    assert {m: bad for m, own in imported.items() if (bad := own & forbidden)} == {}


@pytest.mark.parametrize("room", sorted(WINGS))
def test_no_wing_imports_a_later_one_or_one_beside_it(room: str) -> None:
    level_of = {wing: level for level, wings in enumerate(WINGS[room]) for wing in wings}
    modules = {m: p for m, p in list_modules(room).items() if m != f"lavise.{room}"}
    assert {name_wing(m) for m in modules} == set(level_of), "a new wing has to be given its place here"
    wrong = []
    for module, path in modules.items():
        own = name_wing(module)
        for imported in find_imports(path.read_text("utf-8")):
            other = name_wing(imported) if imported.startswith(f"lavise.{room}.") else own
            if other and other != own and level_of[other] >= level_of[own]:
                wrong.append(f"{module} imports {imported}")
    assert sorted(wrong) == []


def test_our_code_is_imported_by_its_own_name() -> None:
    """`tasks` is the user's folder; ours is `lavise.tasks`."""
    modules = [p for folder in (*ROOMS, "src", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    assert {str(p) for p in modules for i in find_imports(p.read_text("utf-8")) if i.split(".")[0] in ROOMS} == set()


def test_no_module_is_too_long_to_be_read() -> None:
    lines = {m: p.read_text("utf-8").count("\n") for room in ROOMS for m, p in list_modules(room).items()}
    assert {module: num for module, num in lines.items() if num > 500} == {}


def test_no_circle_of_files() -> None:
    modules = {m: p for room in ROOMS for m, p in list_modules(room).items()}
    graph = {m: find_imports(p.read_text("utf-8")) & (set(modules) - {m}) for m, p in modules.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the files
    assert set(order) == set(modules)


def test_sees_imports_inside_functions() -> None:
    source = "def f():\n    from lavise.flows.audit import run\n    import lavise.tasks.explainer.training"
    assert find_imports(source) == {"lavise.flows.audit", "lavise.flows.audit.run", "lavise.tasks.explainer.training"}


def test_tells_wings_apart() -> None:
    assert name_room("lavise.storage.words.lemmas") == "storage"
    assert name_room("numpy.linalg") == "numpy"
    assert name_wing("lavise.storage.words.lemmas") == "words"
    assert name_wing("lavise.storage.tracking") == "tracking"
    assert name_wing("lavise.storage") == ""
