"""The section of the analysis `causes`: what happens where a word's filters are taken away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lavise.tasks.charts.figures import (
    SVG,
    draw_causes,
)
from lavise.tasks.classifier import ablation
from lavise.tasks.report.filter_entries import read_changes, read_rows
from lavise.tasks.report.sections.common import make_anchor, make_chart
from lavise.tasks.report.sections.section import Found, Section

_ANSWERS_SHOWN = 3


def describe_causes(layer: str, folder: Path) -> Found:
    """What happens where a word's filters are taken away."""
    facts = json.loads((folder / ablation.SUMMARY_FILE).read_text("utf-8"))
    rows = [
        {
            **row,
            "hrefs": [{"filter": u, "href": make_anchor(layer, u)} for u in row["filters"]],
            "changes": read_changes(row["classes"]),
            "answers_changed": json.loads(row.get("answers") or "[]")[:_ANSWERS_SHOWN],
        }
        for row in read_rows(folder / ablation.WORDS_FILE)
    ]
    rows.sort(key=lambda r: (not r["used"], r["own_logit"] if r["own_logit"] is not None else 0.0, r["word"]))
    alt = "Change of the predicted logit without the filters of a word, beside random sets; figures are in the table"
    return {
        "layer": layer,
        "head": "softmax",
        **facts,
        "rows": rows,
        "chart": make_chart(draw_causes(rows, SVG), alt) if rows else None,
        "num_used": sum(bool(r["used"]) for r in rows),
        "has_masks": any(r["num_with"] is not None for r in rows),
        "has_accuracy": any(r["accuracy_before_with"] is not None for r in rows),
    }


def draw_chart(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The chart as a file, where words were ablated."""
    if rows := read_rows(folder / ablation.WORDS_FILE):
        yield "causes", draw_causes(rows)


SECTION = Section(
    analysis=ablation.STAGE.name,
    link="Causes",
    describe=describe_causes,
    template="causes.html.j2",
    draw=draw_chart,
)
