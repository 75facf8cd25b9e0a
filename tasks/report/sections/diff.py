"""The section on what changed since an earlier audit."""

from __future__ import annotations

from typing import Any

from lavise.tasks.charts.figures import (
    SVG,
    draw_diff,
)
from lavise.tasks.report.filter_entries import DiffPart
from lavise.tasks.report.sections.common import make_anchor, make_chart

_MAX_DIFF_ROWS = 300


def describe_diff(diff: DiffPart, with_links: bool) -> dict[str, Any]:
    other = [r for r in diff.rows if r["status"] != "same"]
    other.sort(key=lambda r: (-2.0 if r["similarity"] is None else r["similarity"], r["layer"]))
    return {
        "old_run": diff.old_run,
        "old_name": diff.old_name,
        "old_checkpoint": diff.old_checkpoint,
        "same_at": diff.settings.same_at,
        "related_at": diff.settings.related_at,
        "num_images": max(found["num_images"] for found in diff.summary.values()),
        "layers": [{"name": layer, **found} for layer, found in diff.summary.items()],
        "chart": make_chart(
            draw_diff(diff.rows, diff.summary, SVG),
            "Numbers of filters by status, and the distribution of the correlation of matched filters",
        ),
        "num_not_same": len(other),
        "rows": [
            {**row, "anchor": make_anchor(row["layer"], row["new_filter"]) if with_links else ""}
            for row in other[:_MAX_DIFF_ROWS]
        ],
    }
