"""The section of the analysis `classes`: which filters the classes lean on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lavise.tasks.analyses.analysis import Rows
from lavise.tasks.charts.figures import (
    SVG,
    draw_classes,
)
from lavise.tasks.classifier import attribution
from lavise.tasks.report.filter_entries import TARGET, read_rows
from lavise.tasks.report.sections.common import SAFE, make_anchor, make_chart
from lavise.tasks.report.sections.section import Found, Section, ShownImage

_MAX_CLASSES, _CLASS_WORDS, _CLASS_FILTERS, _CLASS_IMAGES = 30, 2, 5, 4


def describe_classes(layer: str, folder: Path) -> Found:
    """Which filters the classes lean on."""
    facts = json.loads((folder / attribution.SUMMARY_FILE).read_text("utf-8"))
    rows_of: dict[int, Rows] = {}
    for row in read_rows(folder / attribution.TABLE_FILE):
        rows_of.setdefault(row["class"], []).append({**row, "href": make_anchor(layer, row["filter"])})
    highest = max((abs(r["contribution"]) for rows in rows_of.values() for r in rows), default=1.0) or 1.0
    shown = []
    for entry in facts["classes"][:_MAX_CLASSES]:
        rows = sorted(rows_of.get(entry["class"], []), key=lambda r: r["rank"])
        leans = [_name_filter(r) for r in rows[:_CLASS_FILTERS]]
        examples = list(entry.get("examples", []))[:_CLASS_IMAGES]
        anchor = make_class_anchor(layer, entry["class"])
        shown.append({**entry, "anchor": anchor, "rows": rows, "leans": leans, "examples": examples, "pictures": []})
    alt = "Contribution of filters to the logits of the classes that are named most; figures are in the tables below"
    return {
        "layer": layer,
        "head": "softmax",
        **facts,
        "shown": shown,
        "num_classes": len(facts["classes"]),
        "highest": highest,
        "chart": make_chart(draw_classes([r for rows in rows_of.values() for r in rows], SVG), alt) if shown else None,
    }


def make_class_anchor(layer: str, number: int) -> str:
    """The id of a class in the page: the window of a filter leads to it."""
    return f"class-{quote(layer, safe=SAFE, errors='replace')}-{number}"


def number_class_images(found: Found, find_number: Callable[[ShownImage], int | None]) -> None:
    """Numbers in the page of each class's examples."""
    for entry in found.get("shown", []):
        numbers = [find_number((TARGET, key)) for key in entry["examples"]]
        entry["pictures"] = [n for n in numbers if n is not None]


@dataclass(frozen=True)
class LeanedOn:
    """A filter that a class leans on: its link, and its first words."""

    filter: int
    href: str
    words: str


def _name_filter(row: Mapping[str, Any]) -> LeanedOn:
    return LeanedOn(row["filter"], row["href"], ", ".join(list(row["words"] or [])[:_CLASS_WORDS]))


def draw_chart(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The chart as a file, where there are classes."""
    if rows := read_rows(folder / attribution.TABLE_FILE):
        yield "classes", draw_classes(rows)


SECTION = Section(
    analysis=attribution.STAGE.name,
    link="Classes",
    describe=describe_classes,
    template="classes.html.j2",
    draw=draw_chart,
    number_images=number_class_images,
)
