"""What each stage's results depend on in our own code, so that its version cannot be forgotten.

The file beside this one holds, for every stage, its version and a hash of each module that it rests on (docstrings and
comments do not count). `make stages` says which stages rest on code that has changed, and writes the file anew for
those whose version was raised; `make stages SAME="NAME ..."` also for those whose results are the same as before.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import io
import json
import pkgutil
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lavise.tasks.engine.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("stage_sources.json")
# What runs stages and keeps their artefacts changes no result.
_LEFT_OUT = ("lavise.storage.state", "lavise.storage.tracking", "lavise.tasks.engine", "lavise.configs")
# Libraries by the names that they are imported by; torch is in the digests of whatever computes with it.
DECIDING = {"scipy": "scipy", "simplemma": "simplemma", "gensim": "gensim", "wn": "wn", "PIL": "pillow"}


def list_found_by_name() -> dict[str, tuple[str, ...]]:
    """Of a module: what it imports at run time, which no import statement tells."""
    from lavise.configs.registry import RANKINGS
    from lavise.tasks.report import sections

    folder = tuple(f"{sections.__name__}.{module.name}" for module in pkgutil.iter_modules(sections.__path__))
    return {"lavise.tasks.words.explain": RANKINGS.homes, "lavise.tasks.report.sections.section": folder}


def list_stages() -> dict[str, tuple[str, Stage]]:
    """By name: the module that defines a stage, and the stage."""
    import lavise.tasks

    found: dict[str, tuple[str, Stage]] = {}
    for module in pkgutil.walk_packages(lavise.tasks.__path__, "lavise.tasks."):
        if module.ispkg:
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Stage) and _defines_stage(module.name):
                found[value.name] = (module.name, value)
    return dict(sorted(found.items()))


def hash_sources(module: str) -> dict[str, str]:
    """Of a module and all of ours that it rests on: module -> hash."""
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name.startswith(_LEFT_OUT):
            continue
        code, imported = _read(name)
        seen[name] = hashlib.sha256(code.encode()).hexdigest()[:16]
        waiting += [i for i in imported if i.startswith(("lavise.tasks", "lavise.storage"))]
        waiting += list_found_by_name().get(name, ())
    return dict(sorted(seen.items()))


def find_libraries(modules: Mapping[str, str]) -> set[str]:
    """Packages whose version can change what these modules compute."""
    imported = {i.split(".")[0] for name in modules for i in _read(name)[1]}
    return {package for name, package in DECIDING.items() if name in imported}


def list_changes(known: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """(stage, the module that defines it, modules that changed) of each stage whose version is as it was."""
    for name, (module, stage) in list_stages().items():
        before = known.get(name, {"version": None, "sources": {}})
        now = hash_sources(module)
        changed = sorted(m for m in {*now, *before["sources"]} if now.get(m) != before["sources"].get(m))
        if changed and stage.version == before["version"]:
            yield name, module, changed


def read_known() -> dict[str, Any]:
    known: dict[str, Any] = json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {}
    return known


def _defines_stage(module: str) -> bool:
    return "=Stage(" in _read(module)[0]


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """What a module says without docstrings, comments, blanks and trailing commas, and what it imports anywhere.

    The text and not the syntax tree, which every version of Python writes differently.
    """
    base = ROOT / Path(*module.split(".")[1:])
    path = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
    source = path.read_text("utf-8")
    lines, imported = source.splitlines(), []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.append(str(node.module))
            imported += [f"{node.module}.{a.name}" for a in node.names if _is_module(f"{node.module}.{a.name}")]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    code = re.sub(r",(?=[)\]}])", "", "".join("".join(lines).split()))
    return code, tuple(sorted({i for i in imported if not i.startswith("lavise") or _is_module(i)}))


def _is_module(name: str) -> bool:
    base = ROOT / Path(*name.split(".")[1:])
    return name.startswith("lavise.") and (base.with_suffix(".py").is_file() or (base / "__init__.py").is_file())


def main() -> None:
    """Write the file anew, but for stages that need a decision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("same", nargs="*", help="stages whose results are the same though their source changed; all")
    same = set(parser.parse_args().same)
    known, open_questions = read_known(), []
    for name, module, changed in list_changes(known):
        if name not in same and "all" not in same:
            open_questions.append(name)
            path = module.removeprefix("lavise.").replace(".", "/") + ".py"
            print(f"{name} (version in {path}) rests on code that changed: {', '.join(changed)}")
    for name, (module, stage) in list_stages().items():
        if name not in open_questions:
            known[name] = {"version": stage.version, "sources": hash_sources(module)}
    current = {name: known[name] for name in list_stages() if name in known}
    FILE.write_text(json.dumps(current, indent=1, sort_keys=True) + "\n", "utf-8")
    if open_questions:
        print(
            f'raise these versions; where nothing that is computed changed: make stages SAME="{open_questions[0]} ..."'
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
