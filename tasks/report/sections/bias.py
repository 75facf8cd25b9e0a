"""The section of the analysis `bias`: where groups of pictures differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lavise.tasks.analyses.analysis import Rows
from lavise.tasks.charts.figures import (
    PNG,
    SVG,
    ShareRow,
    draw_shares,
)
from lavise.tasks.group_bias import analysis
from lavise.tasks.report.filter_entries import read_rows
from lavise.tasks.report.sections.common import make_anchor, make_chart
from lavise.tasks.report.sections.section import Found, Section, ShownImage

_MAX_BIAS_ROWS, _BIAS_IMAGE_ROWS, _BIAS_CHART_ROWS, _BIAS_CHARTS = 50, 12, 14, 4
_WORDS = 3


def describe_bias(layer: str, folder: Path) -> Found:
    """Where groups of pictures differ."""
    facts = json.loads((folder / analysis.BIAS_FILE).read_text("utf-8"))
    filters, words = read_contrasts(folder)
    shown = [
        {**r, "words": list(r["words"] or [])[:_WORDS], "href": make_anchor(layer, r["filter"])}
        for r in filters[:_MAX_BIAS_ROWS]
    ]
    for row in shown[:_BIAS_IMAGE_ROWS]:
        row["has_pictures"] = bool(row["found"] and (row["pictures_group"] or row["pictures_other"]))
    return {
        "layer": layer,
        **facts,
        "filters": shown,
        "with_pictures": [r for r in shown if r.get("has_pictures")],
        "num_filter_rows": len(filters),
        "words": [
            {**r, "hrefs": [{"filter": u, "href": make_anchor(layer, u)} for u in r["filters"]]}
            for r in words[:_MAX_BIAS_ROWS]
        ],
        "num_word_rows": len(words),
        "charts": [_chart_contrast(c, filters, words) for c in facts["contrasts"][:_BIAS_CHARTS]],
    }


def read_contrasts(folder: Path) -> tuple[Rows, Rows]:
    """Rows of filters and of words, the strongest evidence first."""
    files = (analysis.FILTERS_FILE, analysis.WORDS_FILE)
    filters, words = (_order_contrasts(read_rows(folder / file)) for file in files)
    return filters, words


def list_bias_images(bias: Found) -> list[ShownImage]:
    """Those of both groups, filter by filter."""
    keys = [(r["pictures_group"] or []) + (r["pictures_other"] or []) for r in bias["with_pictures"]]
    return [(str(bias["images"]), key) for own in keys for key in own]


def number_bias_images(bias: Found, find_number: Callable[[ShownImage], int | None]) -> None:
    """Beside the keys of both groups' pictures, their numbers in the page."""
    for row in bias["with_pictures"]:
        for side in ("pictures_group", "pictures_other"):
            numbers = [find_number((str(bias["images"]), key)) for key in row[side] or []]
            row[f"{side}_numbers"] = [n for n in numbers if n is not None]


def draw_contrasts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """A chart of each contrast."""
    filters, words = read_contrasts(folder)
    contrasts = json.loads((folder / analysis.BIAS_FILE).read_text("utf-8"))["contrasts"]
    for number, contrast in enumerate(contrasts, start=1):
        yield f"bias-{number}" if len(contrasts) > 1 else "bias", draw_contrast(contrast, filters, words)


def _order_contrasts(rows: Rows) -> Rows:
    """What was found first, then the smallest q values, then the largest differences; ties as they come."""

    def place(row: Mapping[str, Any]) -> tuple[bool, float, float]:
        q_value = row["q_value"] if row["q_value"] is not None else 1.0
        return (not row["found"], q_value, -abs(row["difference"] or 0.0))

    return sorted(rows, key=place)


def draw_contrast(
    contrast: Mapping[str, Any],
    filters: Sequence[Mapping[str, Any]],
    words: Sequence[Mapping[str, Any]],
    kind: str = PNG,
) -> bytes:
    """Shares of both groups, of what has the strongest evidence: words, or filters where no word differs."""

    def own(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [r for r in rows if (r["group"], r["other"]) == (contrast["group"], contrast["other"])]

    chosen, what = own(words)[:_BIAS_CHART_ROWS], "words"
    if not any(r["found"] for r in chosen):
        chosen, what = own(filters)[:_BIAS_CHART_ROWS], "filters"
    rows = [ShareRow(_label(r), r["share_group"] or 0.0, r["share_other"] or 0.0, bool(r["found"])) for r in chosen]
    title = f"The {len(rows)} {what} with the strongest evidence"
    return draw_shares(title, contrast["group"], contrast["other"], rows, kind)


def _chart_contrast(contrast: Mapping[str, Any], filters: Any, words: Any) -> dict[str, str]:
    alt = (
        f"Shares of qualified pictures in {contrast['group']} and {contrast['other']}; figures are in the tables below"
    )
    return make_chart(draw_contrast(contrast, filters, words, SVG), alt)


def _label(row: Mapping[str, Any]) -> str:
    if "word" in row:
        return str(row["word"])
    words = ", ".join(list(row["words"] or [])[:2])
    return f"{row['filter']}: {words}" if words else str(row["filter"])


SECTION = Section(
    analysis=analysis.STAGE.name,
    link="Groups",
    describe=describe_bias,
    template="bias.html.j2",
    draw=draw_contrasts,
    list_images=list_bias_images,
    number_images=number_bias_images,
)
