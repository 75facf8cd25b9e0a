"""What the parts share: their counts, and how they are written and shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import save_result

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """Of the command line.

    Attributes:
        work: folder that everything is made in.
        rounds: how often, where a part repeats itself; None for its own number.
        seed: of what is drawn.
    """

    work: Path
    rounds: int | None
    seed: int


Part = Callable[[Options], Mapping[str, Any]]


def finish(name: str, rows: Sequence[Row], **facts: Any) -> dict[str, Any]:
    """Print a table, write results/faults-NAME-DATE.json."""
    show(rows)
    content = {"part": name, **facts, "rows": list(rows)}
    save_result(f"faults-{name}", content)
    return content


def note(path: Path, row: Row) -> None:
    """A line for a round that is over, so that nothing is lost where the rest is stopped."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def show(rows: Sequence[Row]) -> None:
    """A table in Markdown."""
    if not rows:
        return
    names = list(rows[0])
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row.get(name, "")).replace("|", "/") for name in names) + " |")
