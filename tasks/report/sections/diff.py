"""The section on what changed since an earlier audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lavise.tasks.charts.figures import (
    SVG,
    draw_diff,
)
from lavise.tasks.report.filter_entries import DiffPart
from lavise.tasks.report.sections.common import make_anchor, make_chart

_MAX_DIFF_ROWS = 300


@dataclass(frozen=True)
class DescribedDiff:
    """What the templates show of a comparison.

    Attributes:
        layers: of diff.json, with their names.
        num_not_same: filters, of which `rows` has the first.
        rows: of diff.parquet, each with the link of its filter.
    """

    old_run: str
    old_name: str
    old_checkpoint: str
    same_at: float
    related_at: float
    num_images: int
    layers: Sequence[Mapping[str, Any]]
    chart: Mapping[str, str]
    num_not_same: int
    rows: Sequence[Mapping[str, Any]]


def describe_diff(diff: DiffPart, with_links: bool) -> DescribedDiff:
    other = [r for r in diff.rows if r["status"] != "same"]
    other.sort(key=lambda r: (-2.0 if r["similarity"] is None else r["similarity"], r["layer"]))
    return DescribedDiff(
        old_run=diff.old_run,
        old_name=diff.old_name,
        old_checkpoint=diff.old_checkpoint,
        same_at=diff.settings.same_at,
        related_at=diff.settings.related_at,
        num_images=max(found["num_images"] for found in diff.summary.values()),
        layers=[{"name": layer, **found} for layer, found in diff.summary.items()],
        chart=make_chart(
            draw_diff(diff.rows, diff.summary, SVG),
            "Numbers of filters by status, and the distribution of the correlation of matched filters",
        ),
        num_not_same=len(other),
        rows=[
            {**row, "anchor": make_anchor(row["layer"], row["new_filter"]) if with_links else ""}
            for row in other[:_MAX_DIFF_ROWS]
        ],
    )
