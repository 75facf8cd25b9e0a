"""Files below a folder by patterns as they are written for archives in parts: `train-{000..127}.tar`, `*.tar`."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

from lavise.configs.errors import UserError
from lavise.storage.datasets.base import resolve_inside

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000


def find_files(root: Path, pattern: str, field: str) -> list[Path]:
    """Files of a pattern: in the order of braces; what `*` stands for is sorted.

    Raises:
        UserError: a file that braces name is not there, lies outside of the root, or there is none at all.
    """
    found: list[Path] = []
    for name in expand_braces(pattern, field):
        if any(c in name for c in "*?["):
            own = sorted((p for p in root.glob(name) if p.is_file()), key=lambda p: p.as_posix())
        else:
            own = [resolve_inside(root, name)]
            if not own[0].is_file():
                raise UserError(f"{field}: found no file {name!r} below {root}; allowed: names of files that are there")
        found += [resolve_inside(root, p.relative_to(root).as_posix()) for p in own]
    if not found:
        raise UserError(f"{field}: found no file {pattern!r} below {root}; set {field} to the names of the files")
    return list(dict.fromkeys(found))


def list_missing(root: Path, pattern: str, field: str) -> tuple[str, ...]:
    """Names below the root that a pattern needs: files that are there, or the pattern where something is missing."""
    try:
        return tuple(p.relative_to(root).as_posix() for p in find_files(root, pattern, field))
    except UserError:
        return (pattern,)


def expand_braces(pattern: str, field: str) -> list[str]:
    """`a{08..10}` is a08, a09, a10; `{x,y}` is x, y.

    Raises:
        UserError: braces with something else in them, or more than a million names.
    """
    parts: list[list[str]] = []
    end, number = 0, 1
    for match in _BRACES.finditer(pattern):
        parts.append([pattern[end : match.start()]])
        end = match.end()
        inner = match.group(1)
        if ends := _RANGE.fullmatch(inner):
            first, last = ends.groups()
            number *= abs(int(last) - int(first)) + 1
            if number <= _MOST:
                step = 1 if int(last) >= int(first) else -1
                width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
                parts.append([f"{i:0{width}d}" for i in range(int(first), int(last) + step, step)])
        elif "," in inner:
            parts.append(inner.split(","))
            number *= len(parts[-1])
        else:
            raise UserError(f"{field}: found {match.group()!r}; allowed: {{000..127}} or {{a,b}}")
        if number > _MOST:
            raise UserError(f"{field}: {pattern!r} stands for {number:,} names; allowed: up to {_MOST:,}")
    parts.append([pattern[end:]])
    assert math.prod(map(len, parts)) == number
    return ["".join(names) for names in itertools.product(*parts)]
